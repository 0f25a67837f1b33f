"""Text as input: vocabularies in the model, strings in the feature store."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.errors import ArgumentError
from tlkit.evaluation.calibration import calibrate
from tlkit.models.flattening import above, below
from tlkit.models.graph import with_nested
from tlkit.models.heads import feature_cut
from tlkit.models.model_spec import describe_model
from tlkit.models.signature import graph_signature, signature
from tlkit.training.features import extract_features
from tlkit.training.frozen import FrozenPart

layers = keras.layers

LABELS = np.arange(48) % 2
TEXTS = np.array([f"{'good' if label else 'bad'} film {i}" for i, label in enumerate(LABELS)])
WORDS = np.array([["good" if label else "bad", "film"] for label in LABELS])


def vectorization(**given):
    layer = layers.TextVectorization(max_tokens=9, **given)
    layer.adapt(["good film", "bad film", "good film"])
    return layer


def classifier(lookup, shape=(), dtype="string"):
    inputs = keras.Input(shape, dtype=dtype)
    x = layers.Embedding(12, 4, name="words")(lookup(inputs))
    x = layers.Conv1D(6, 2, activation="relu", name="phrases")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(2, name="logits")(x))


MODELS = {
    "TextVectorization": (lambda: classifier(vectorization(output_sequence_length=3)), TEXTS),
    "a column of texts": (
        lambda: classifier(vectorization(output_sequence_length=3), (1,)),
        TEXTS[:, None],
    ),
    "texts for a column": (
        lambda: classifier(vectorization(output_sequence_length=3), (1,)),
        TEXTS,
    ),
    "StringLookup": (
        lambda: classifier(layers.StringLookup(vocabulary=["good", "bad", "film"]), (2,)),
        WORDS,
    ),
    "IntegerLookup": (
        lambda: classifier(layers.IntegerLookup(vocabulary=[30, 50]), (2,), "int64"),
        np.stack([30 + 20 * LABELS, 7 + 0 * LABELS], axis=1),
    ),
    "Hashing": (lambda: classifier(layers.Hashing(num_bins=12), (2,)), WORDS),
    "tokens": (
        lambda: classifier(layers.Identity(), (2,), "int32"),
        np.stack([LABELS, 7 + 0 * LABELS], axis=1),
    ),
}


def batches(texts):
    return tf.data.Dataset.from_tensor_slices((texts, LABELS)).batch(16)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_text_is_trained_and_evaluated_like_images(name):
    make, texts = MODELS[name]
    model, dataset = make(), batches(texts)
    report = tlkit.train_head(model, dataset, validation=dataset)
    assert report.accuracy_after == 1.0
    assert tlkit.evaluate(model, dataset).accuracy == 1.0
    tuned = tlkit.fine_tune(model, dataset, validation=dataset, unfreeze="all", epochs=1)
    assert set(tuned.stages[-1].weight_change) == {
        group.name for group in tlkit.layer_groups(model)
    }


def test_features_of_text_are_what_the_model_computes_and_are_stored_once():
    model = classifier(vectorization(output_sequence_length=3))
    prefix = keras.Model(model.inputs[0], feature_cut(model))
    features = extract_features(FrozenPart(prefix), batches(TEXTS), exact=True)
    live = prefix(tf.constant(TEXTS)).numpy()
    np.testing.assert_allclose(features.load(), live, rtol=1e-5)
    # the numbers are not in the vocabulary, but distinguish the texts
    assert features.num_forward_passes == len(set(features.keys)) == 48
    again = extract_features(FrozenPart(prefix), batches(TEXTS), exact=True)
    assert again.num_forward_passes == 0


def test_texts_that_differ_only_in_word_boundaries_have_different_keys():
    model = classifier(layers.Hashing(num_bins=12), (2,))
    words = np.array([["ab", "c"], ["a", "bc"], ["ab", "c"], ["", "abc"]])
    dataset = tf.data.Dataset.from_tensor_slices((words, [0, 1, 0, 1])).batch(4)
    part = FrozenPart(keras.Model(model.inputs[0], feature_cut(model)))
    keys = extract_features(part, dataset, exact=True).keys
    assert keys[0] == keys[2]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("name_of", [signature, graph_signature])
def test_another_vocabulary_is_another_model(name_of):
    model = classifier(vectorization(output_sequence_length=3))
    before = name_of(model)
    assert name_of(model) == before
    (lookup,) = (x for x in with_nested(model) if isinstance(x, layers.TextVectorization))
    lookup.set_vocabulary(["film", "good", "dull"])
    assert name_of(model) != before


def test_a_changed_vocabulary_takes_effect_in_the_next_evaluation():
    model = classifier(vectorization(output_sequence_length=3))
    dataset = batches(TEXTS)
    tlkit.train_head(model, dataset)
    assert tlkit.evaluate(model, dataset).accuracy == 1.0
    (lookup,) = (x for x in with_nested(model) if isinstance(x, layers.TextVectorization))
    lookup.set_vocabulary(["film", "bad", "good"])  # each word now has the other's vector
    assert tlkit.evaluate(model, dataset).accuracy == 0.0


@pytest.mark.parametrize("mode", ["multi_hot", "count", "tf_idf"])
@pytest.mark.parametrize(("shape", "between"), [((), layers.Identity), ((1,), layers.Flatten)])
def test_counted_words_train(mode, shape, between):
    inputs = keras.Input(shape, dtype="string")
    x = between()(vectorization(output_mode=mode)(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    assert tlkit.train_head(model, batches(TEXTS)).accuracy_after is None
    assert tlkit.evaluate(model, batches(TEXTS)).accuracy == 1


def counting(mode, hidden=False, num_outputs=2):
    """Counted words as most tutorials have them: Keras takes the outputs for (batch, 1, ...)."""
    model = keras.Sequential([keras.Input((1,), dtype="string"), vectorization(output_mode=mode)])
    if hidden:
        model.add(layers.Dense(6, activation="relu", name="hidden"))
        model.add(layers.Dropout(0.2))
    model.add(layers.Dense(num_outputs, "sigmoid" if num_outputs == 1 else None, name="logits"))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "hidden"), [("multi_hot", False), ("count", True), ("tf_idf", False)]
)
def test_counted_words_of_a_column_train(mode, hidden):
    for num_outputs, texts in ((1, TEXTS), (2, TEXTS[:, None])):
        model, dataset = counting(mode, hidden, num_outputs), batches(texts)
        assert describe_model(model).num_outputs == num_outputs
        report = tlkit.train_head(model, dataset, validation=dataset)
        assert report.accuracy_after == tlkit.evaluate(model, dataset).accuracy == 1.0
        (stage,) = report.stages
        assert not stage.history  # it was solved
        tuned = tlkit.fine_tune(model, dataset, validation=dataset, unfreeze="all", epochs=2)
        assert tuned.stages[-1].weight_change.keys() == {
            group.name for group in tlkit.layer_groups(model)
        }
        assert tuned.accuracy_after == tlkit.evaluate(model, dataset).accuracy
        assert calibrate(model, dataset).num_images == 48


def test_counted_words_of_a_column_have_the_shape_that_is_computed():
    model = counting("multi_hot", hidden=True)
    column = tf.constant(TEXTS[:, None])
    features = below(model, feature_cut(model))
    assert features.output_shape == (None, 6)
    head = above(model, feature_cut(model))
    np.testing.assert_array_equal(head(features(column)).numpy(), model(column).numpy())
    stored = extract_features(FrozenPart(features), batches(TEXTS[:, None]), exact=True).load()
    np.testing.assert_allclose(stored, features(column).numpy(), rtol=1e-5)


def test_counted_words_of_a_column_are_exported_by_keras_as_trained(tmp_path):
    model, column = counting("count"), tf.constant(TEXTS[:, None])
    tlkit.train_head(model, batches(TEXTS))
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    assert tlkit.evaluate(reloaded, batches(TEXTS)).accuracy == 1.0
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(column), model(column), rtol=1e-5)


def test_counted_words_whose_shape_is_not_known_are_told_what_helps():
    texts = keras.Input((1,), dtype="string")
    words = vectorization(output_mode="multi_hot")(texts)
    nested = keras.Model(texts, layers.Dense(4)(words))
    model = keras.Sequential([keras.Input((1,), dtype="string"), nested, layers.Dense(2)])
    with pytest.raises(ArgumentError, match=r"Flatten before its first Dense .*keras.Input\(\(\),"):
        tlkit.train_head(model, batches(TEXTS))


def test_text_and_images_are_not_taken_for_each_other():
    model = classifier(vectorization(output_sequence_length=3))
    pixels = np.zeros((48, 8, 8, 3), "uint8")
    with pytest.raises(tlkit.ArgumentError, match=r"must contain text.* Received: numbers, uint8"):
        tlkit.train_head(model, batches(pixels))
    data = tlkit.load_arrays(pixels + np.arange(48, dtype="uint8")[:, None, None, None], LABELS)
    with pytest.raises(tlkit.ArgumentError, match="which takes text"):
        tlkit.train_head(model, data)
    with pytest.raises(tlkit.ArgumentError, match="`samples` must be given"):
        tlkit.export_model(model, "exported", ["bad", "good"])


def of_any_length(lookup):
    inputs = keras.Input((), dtype="string")
    x = layers.LSTM(4, name="recurrent")(layers.Embedding(12, 4, name="words")(lookup(inputs)))
    return keras.Model(inputs, layers.Dense(2, name="logits")(x))


def test_a_head_that_reads_texts_of_any_length_trains_within_the_whole_graph():
    model = of_any_length(vectorization())
    dataset = batches(TEXTS)
    report = tlkit.fine_tune(model, dataset, validation=dataset, unfreeze="all", epochs=2)
    (stage,) = report.stages  # nothing could be solved on stored features
    assert len(stage.history) == 2
    assert all(change > 0 for change in stage.weight_change.values())
    assert report.accuracy_after == tlkit.evaluate(model, dataset).accuracy
    with pytest.raises(
        tlkit.ArgumentError, match=r"features of a fixed shape.* output_sequence_length"
    ):
        tlkit.train_head(model, dataset)
