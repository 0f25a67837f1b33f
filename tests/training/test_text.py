"""Text as input: tables of words within the model, strings in the feature store."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.errors import ArgumentError
from tlkit.models.graph import with_nested
from tlkit.models.heads import feature_cut
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


@pytest.mark.parametrize("name", MODELS)
def test_text_trains_and_is_measured_as_images_are(name):
    make, texts = MODELS[name]
    model, dataset = make(), batches(texts)
    report = tlkit.train_head(model, dataset, validation=dataset)
    assert report.accuracy_after == 1.0
    assert tlkit.evaluate(model, dataset).accuracy == 1.0
    tuned = tlkit.fine_tune(model, dataset, validation=dataset, unfreeze="all", epochs=1)
    assert set(tuned.stages[-1].moved) == {group.name for group in tlkit.layer_groups(model)}


def test_features_of_text_are_what_the_model_computes_and_are_stored_once():
    model = classifier(vectorization(output_sequence_length=3))
    prefix = keras.Model(model.inputs[0], feature_cut(model))
    features = extract_features(FrozenPart(prefix), batches(TEXTS), exact=True)
    live = prefix(tf.constant(TEXTS)).numpy()
    np.testing.assert_allclose(features.load(), live, rtol=1e-5)
    # the numbers are no words of the vocabulary, and still tell the texts apart
    assert features.num_forward_passes == len(set(features.keys)) == 48
    again = extract_features(FrozenPart(prefix), batches(TEXTS), exact=True)
    assert again.num_forward_passes == 0


def test_texts_that_differ_in_where_a_word_ends_are_told_apart():
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


def test_the_words_learned_anew_count_in_the_next_measurement():
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


def test_counted_words_whose_shape_keras_does_not_know_are_told_what_helps():
    inputs = keras.Input((1,), dtype="string")
    x = vectorization(output_mode="multi_hot")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    with pytest.raises(ArgumentError, match=r"Flatten before its first Dense .*keras.Input\(\(\),"):
        tlkit.train_head(model, batches(TEXTS))


def test_text_and_images_are_not_taken_for_each_other():
    model = classifier(vectorization(output_sequence_length=3))
    pixels = np.zeros((48, 8, 8, 3), "uint8")
    with pytest.raises(tlkit.ArgumentError, match=r"must hold text.* Received: numbers, uint8"):
        tlkit.train_head(model, batches(pixels))
    data = tlkit.load_arrays(pixels + np.arange(48, dtype="uint8")[:, None, None, None], LABELS)
    with pytest.raises(tlkit.ArgumentError, match="which takes text"):
        tlkit.train_head(model, data)
    with pytest.raises(tlkit.ArgumentError, match="`model` must take images of one fixed size"):
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
    assert all(change > 0 for change in stage.moved.values())
    assert report.accuracy_after == tlkit.evaluate(model, dataset).accuracy
    with pytest.raises(tlkit.ArgumentError, match=r"features of one size.* output_sequence_length"):
        tlkit.train_head(model, dataset)
