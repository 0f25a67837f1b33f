"""Inputs that are no images: loading, splitting, and what rejects them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.sentences import RESTAURANT, reviews, text_model, vocabulary
from tlkit.data.examples import examples_of
from tlkit.errors import ArgumentError, DataError


def load_reviews(**given):
    texts, labels = reviews(RESTAURANT, 60, seed=0)
    return tlkit.load_examples(texts, labels, ["negative", "positive"], **given)


def read(split):
    return np.concatenate([batch for batch, _ in split.dataset(shuffle=False).as_numpy_iterator()])


def test_texts_are_split_by_content_as_images_are():
    texts, labels = reviews(RESTAURANT, 60, seed=0)
    data = tlkit.load_examples(texts, labels)
    order = np.random.default_rng(1).permutation(len(texts))
    shuffled = tlkit.load_examples(texts[order].tolist(), labels[order])
    for name in ("train", "validation", "test"):
        assert set(getattr(data, name).digests) == set(getattr(shuffled, name).digests)
    assert not data.has_images
    assert data.image_size == (0, 0)
    assert str(data.train).startswith(f"train: {data.train.num_images} texts of 2 classes")


def test_batches_are_what_was_given():
    texts = ["grün", "", "a\0b", "a"]
    data = tlkit.load_examples(texts, [0, 1, 1, 0], splits=(1, 0, 0))
    assert [text.decode() for text in read(data.train)] == texts
    numbers = np.arange(24, dtype=np.int32).reshape(6, 2, 2)
    assert np.array_equal(
        read(tlkit.load_examples(numbers, [0, 1] * 3, splits=(1, 0, 0)).train), numbers
    )
    wide = np.linspace(0, 1, 12).reshape(6, 2)
    batch = read(tlkit.load_examples(wide, [0, 1] * 3, splits=(1, 0, 0)).train)
    assert batch.dtype == np.float32
    np.testing.assert_allclose(batch, wide, rtol=1e-6)


def test_each_epoch_has_another_order_and_the_same_texts():
    train = load_reviews().train
    batches = train.dataset(epochs=range(2), batch_size=train.num_images)
    first, second = (texts.numpy().tolist() for texts, _ in batches)
    assert first != second
    assert sorted(first) == sorted(second)


def test_copies_groups_and_a_users_split():
    data = tlkit.load_examples(["a", "b", "a", "c", "a b", "d"], [0, 1, 1, 0, 1, 0])
    assert data.report.conflicts == (("inputs[0]", "inputs[2]"),)
    groups = [f"author {number % 6}" for number in range(60)]
    texts, labels = reviews(RESTAURANT, 30, seed=0)
    data = tlkit.load_examples(texts, labels, groups=groups, splits=(0.6, 0.2, 0.2))
    of_split = [set(split.groups) for split in (data.train, data.validation, data.test)]
    assert not of_split[0] & of_split[1]
    assert not of_split[0] & of_split[2]
    own = tlkit.load_examples(["a", "b"] * 2, [0, 1] * 2, test=(["a", "e", "f"], [0, 1, 0]))
    assert own.test.paths == ("test[1]", "test[2]")


def test_keras_fits_and_predicts_on_texts():
    data = load_reviews()
    model = text_model(vocabulary(read(data.train)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(data.train, validation_data=data.validation, epochs=1, verbose=0)
    predicted = model.predict(data.test, verbose=0)
    np.testing.assert_allclose(predicted, model(tf.constant(read(data.test))), rtol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "rule"),
    [
        ([[1, 2], [3]], "Received: inputs of different shapes"),
        (["a", None, "b"], "Received: None of type NoneType at position 1"),
        ("one text", r"n at least 1. Received: an array of the shape \(\)"),
        (np.zeros((0, 3)), r"Received: an array of the shape \(0, 3\)"),
        (np.zeros(3, complex), "Received: an array of complex128"),
        ([1.0, np.nan], "finite in float32. Received: NaN"),
        ([1.0, 1e300], "finite in float32"),
        (["\ud800"], "at position 0, which is not valid Unicode"),
    ],
)
def test_inputs_that_are_neither_texts_nor_numbers_are_named(inputs, rule):
    with pytest.raises(ArgumentError, match=rule):
        examples_of("inputs", inputs)


def test_arguments_that_do_not_fit_are_named():
    texts, labels = ["a", "b", "c", "d"], [0, 1, 0, 1]
    with pytest.raises(ArgumentError, match="one label for each of the inputs"):
        tlkit.load_examples(texts, labels[:3])
    with pytest.raises(ArgumentError, match="`validation` must have inputs like those of"):
        tlkit.load_examples(texts, labels, validation=([[1], [2]], [0, 1]))
    with pytest.raises(ArgumentError, match=r"must be two arrays, \(inputs, labels\)"):
        tlkit.load_examples(texts, labels, test=["a"])
    with pytest.raises(ArgumentError, match="`groups` must be as many as the inputs"):
        tlkit.load_examples(texts, labels, groups=[1])
    with pytest.raises(DataError, match="at least two classes"):
        tlkit.load_examples(texts, [0] * 4)


def test_functions_of_images_reject_texts():
    data = load_reviews()
    model = text_model(vocabulary(read(data.train)))
    calls = {
        "`augment` must be left out for .* for texts": [
            lambda: tlkit.fine_tune(model, data, augment="light"),
            lambda: tlkit.fine_tune(model, data, augment="mixup"),
            lambda: tlkit.fine_tune(model, data, augment=keras.layers.RandomFlip()),
            lambda: tlkit.train_head(model, data, augment="default", views=2),
            lambda: tlkit.find_learning_rate(model, data, augment="strong"),
            lambda: tlkit.estimate_cost(model, data, augment="strong"),
            lambda: tlkit.expand(model, data, augment="light"),
            lambda: data.train.dataset(augment="light"),
        ],
        "must contain images. Received: texts": [
            lambda: data.at_size(32),
            lambda: tlkit.find_near_duplicates(data),
            lambda: tlkit.compare_backbones(data, ["resnet20"]),
        ],
        r"`model` must take images.*It takes string": [lambda: tlkit.explain(model, "photo.jpg")],
        r"`model` must take images, .*can be flipped": [lambda: tlkit.average_flips(model)],
        "`model` must compute .* from images": [lambda: tlkit.at_image_size(model, 32)],
    }
    before = model.get_weights()
    for message, some in calls.items():
        for call in some:
            with pytest.raises(ArgumentError, match=message):
                call()
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_model_and_inputs_of_another_kind_are_named_before_any_work():
    data = load_reviews()
    texts = text_model(vocabulary(read(data.train)))
    tokens = keras.Sequential(
        [keras.Input((4,), dtype="int32"), keras.layers.Embedding(9, 2), keras.layers.Flatten()]
    )
    tokens.add(keras.layers.Dense(2))
    column = keras.Sequential(
        [keras.Input((1,), dtype="string"), keras.layers.Hashing(9), keras.layers.Embedding(9, 2)]
    )
    column.add(keras.layers.Flatten())
    column.add(keras.layers.Dense(2))
    labels = np.arange(20) % 2
    pixels = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), "uint8")
    numbers = np.random.default_rng(0).integers(0, 9, (20, 4))

    def load(inputs):
        return tlkit.load_examples(inputs, labels, splits=(0.5, 0.5, 0))

    cases = [
        (
            texts,
            tlkit.load_arrays(pixels, labels),
            "which takes text. Load what it takes with load",
        ),
        (texts, load(numbers), "must contain text, .* Received: numbers, int64"),
        (tokens, data, "must contain numbers, .* Received: text, string"),
        (tokens, load(numbers / 2), r"whole numbers, int32, .*float32. .*astype\('int32'\)"),
        (tokens, load(numbers[:, :3]), r"input, \(batch, 4\). Received: \(batch, 3\)"),
        (column, data, r"\(batch, 1\). Received: \(batch,\). Add an axis: inputs\[..., np.newaxis"),
    ]
    for model, given, message in cases:
        with pytest.raises(ArgumentError, match=message):
            tlkit.train_head(model, given)
        with pytest.raises(ArgumentError, match=message):
            tlkit.fine_tune(model, given)
    with pytest.raises(DataError, match=r"whole numbers from 0 to 8, .*Embedding has 9 rows"):
        tlkit.train_head(tokens, load(numbers + 1))
    fractions = tf.data.Dataset.from_tensor_slices((numbers / 2, labels)).batch(4)
    with pytest.raises(ArgumentError, match="must contain whole numbers, int32"):
        tlkit.train_head(tokens, fractions)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.TextVectorization(output_sequence_length=3),
        keras.layers.StringLookup(),
        keras.layers.IntegerLookup(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_without_a_vocabulary_is_named(layer):
    is_text = not isinstance(layer, keras.layers.IntegerLookup)
    is_word = isinstance(layer, keras.layers.StringLookup)
    shape = () if isinstance(layer, keras.layers.TextVectorization) else (3,)
    inputs = keras.Input(shape, dtype="string" if is_text else "int64")
    x = keras.layers.Embedding(9, 2)(layer(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    values = np.array(["a", "b"] * 10) if is_text else np.arange(20)
    rows = np.stack([values] * 3, axis=1) if is_word or not is_text else values
    dataset = tf.data.Dataset.from_tensor_slices((rows, np.arange(20) % 2)).batch(4)
    message = f"whose {type(layer).__name__} .* has none. Call its adapt"
    for call in (
        lambda: tlkit.train_head(model, dataset),
        lambda: tlkit.fine_tune(model, dataset),
        lambda: tlkit.evaluate(model, dataset),
        lambda: tlkit.estimate_importance(model, dataset),
        lambda: tlkit.export_model(model, "exported", ["a", "b"], samples=rows),
    ):
        with pytest.raises(ArgumentError, match=message):
            call()
