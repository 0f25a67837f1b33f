"""Copies of models with vocabularies, and closed-form heads on stacks of Dense layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.continual.distillation import distill_from
from tlkit.models.vocabularies import with_same_vocabularies

layers = keras.layers
TEXTS = tf.constant(["good film", "bad film", "good plot", "film"])


def model_of(lookup, inputs):
    x = layers.Flatten()(lookup(inputs))
    x = layers.Dense(4, activation="relu", name="hidden")(layers.Rescaling(1.0)(x))
    return keras.Model(inputs, layers.Dense(2, name="logits")(x))


def text_vectorization(**given):
    layer = layers.TextVectorization(**given)
    layer.adapt(TEXTS)
    return model_of(layer, keras.Input((), dtype="string")), TEXTS


def string_lookup():
    layer = layers.StringLookup(output_mode="int")
    layer.adapt(tf.constant([["good"], ["bad"]]))
    words = tf.constant([["good", "bad"], ["bad", "other"]])
    return model_of(layer, keras.Input((2,), dtype="string")), words


def integer_lookup():
    layer = layers.IntegerLookup(num_oov_indices=2)
    layer.adapt(np.array([30, 50, 50]))
    return model_of(layer, keras.Input((2,), dtype="int64")), tf.constant([[30, 50], [50, 7]])


MODELS = {
    "int": lambda: text_vectorization(output_sequence_length=3),
    "multi_hot": lambda: text_vectorization(output_mode="multi_hot"),
    "tf_idf": lambda: text_vectorization(output_mode="tf_idf"),
    "padded": lambda: text_vectorization(
        output_mode="tf_idf", max_tokens=9, pad_to_max_tokens=True
    ),
    "StringLookup": string_lookup,
    "IntegerLookup": integer_lookup,
}


@pytest.mark.parametrize("name", MODELS)
def test_copies_compute_the_same(name):
    model, inputs = MODELS[name]()
    expected = model(inputs).numpy()
    copy = with_same_vocabularies(model)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(copy(inputs), expected)
    wider = tlkit.add_classes(model, ["new"])
    np.testing.assert_array_equal(wider(inputs)[:, :2], expected)
    np.testing.assert_allclose(tlkit.consolidate(wider)(inputs)[:, :2], expected, atol=1e-6)
    np.testing.assert_array_equal(tlkit.interpolate_weights(model, model, 1.0)(inputs), expected)
    np.testing.assert_array_equal(distill_from(model)._teacher(inputs), expected)


def test_nested_models_keep_their_vocabulary():
    inner, _ = text_vectorization(output_sequence_length=3)
    texts = keras.Input((), dtype="string")
    model = keras.Model(texts, layers.Dense(2, name="last")(inner(texts)))
    wider = tlkit.add_classes(model, ["new"])
    np.testing.assert_array_equal(wider(TEXTS)[:, :2], model(TEXTS))


@pytest.mark.parametrize("hidden", [1, 2])
def test_a_closed_form_head_on_dense_layers_is_one_head(hidden):
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    rows = generator.normal(size=(90, 6)).astype("float32") + 2 * np.eye(6)[labels]
    x = inputs = keras.Input((6,))
    for number in range(hidden):
        x = layers.Dense(8, activation="relu", name=f"dense{number}")(x)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    data = tlkit.load_examples(rows, labels, splits=(0.6, 0.4, 0))
    report = tlkit.train_head(model, data, head="closed-form")
    head = tlkit.layer_groups(model)[-1]
    assert {"head_normalization", "head_landmarks", "logits"} <= set(head.layers)
    assert report.accuracy_after == tlkit.evaluate(model, data.validation).accuracy > 0.7
    assert all(not name.startswith("head_") for name in tlkit.layer_groups(model)[0].layers)
    # solving it again replaces the same layers
    tlkit.train_head(model, data, head="closed-form", solve_head=True)
    assert sum(layer.name == "head_landmarks" for layer in model.layers) == 1
