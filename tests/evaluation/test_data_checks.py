"""One check in every function that takes images: unsuitable data raise before any work."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.advice.similarity import measure_similarity
from tlkit.continual.adding_classes import Replay, learn_classes
from tlkit.continual.class_means import mean_features
from tlkit.continual.expansion import expand
from tlkit.data.missing_files import missing_files_named
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.data_checks import check_images

layers = keras.layers

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 12, 12, 3)).astype("float32")
LABELS = np.arange(48) % 3


def classifier(shape=(12, 12, 3), num_classes=3, scales=True):
    inputs = keras.Input(shape)
    x = layers.Rescaling(1 / 255)(inputs) if scales else inputs
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(x))
    return keras.Model(inputs, layers.Dense(num_classes)(x))


def batches(*parts):
    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0]).batch(16)


FUNCTIONS = {
    "train_head": tlkit.train_head,
    "fine_tune": lambda model, data: tlkit.fine_tune(model, data, epochs=1),
    "evaluate": tlkit.evaluate,
    "calibrate": tlkit.calibrate,
    "compare_models": lambda model, data: tlkit.compare_models(model, model, data),
    "estimate_importance": lambda model, data: tlkit.estimate_importance(
        model, data, method="empirical_fisher"
    ),
    "choose_anchor": lambda model, data: tlkit.choose_anchor(model, data, validation=data),
    "find_learning_rate": tlkit.find_learning_rate,
    "fit_rejection": lambda model, data: tlkit.fit_rejection(model, data, validation=data),
}

BAD = {
    "zero to one": (lambda: batches(PIXELS / 255, LABELS), "must contain pixels 0...255"),
    "one class more": (lambda: batches(PIXELS, np.arange(48) % 4), "from 0 to 2.* Received: 3"),
    "one channel": (
        lambda: batches(PIXELS[..., :1], LABELS),
        r"Received: \(batch, 12, 12, 1\). Use tf.image.grayscale_to_rgb",
    ),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_raises_and_leaves_the_model_unchanged(function, bad):
    model = classifier()
    before = model.get_weights()
    flags = [layer.trainable for layer in model.layers]
    make, message = BAD[bad]
    with pytest.raises(tlkit.TlkitError, match=f"`(data|images|dataset)`.*{message}"):
        FUNCTIONS[function](model, make())
    assert [layer.trainable for layer in model.layers] == flags
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.where(LABELS, LABELS, -1), "Received: -1 for image 0 of a batch. Leave images without"),
        (LABELS + 1, "Received: 3 for image 2 of a batch. Number the classes from 0 on"),
        (LABELS + 0.5, "Received: 0.5 .* train a regression in plain Keras"),
        (np.array(["a", "b", "c"])[LABELS], "labels that are numbers. Received: 'a'"),
        (np.eye(4)[LABELS], r"one whole number for each of 16 .* shape \(16, 4\)"),
        (np.full(48, np.nan), "Received: nan"),
    ],
)
def test_a_label_without_an_output_raises(labels, message):
    with pytest.raises(DataError, match=message):
        check_images("data", batches(PIXELS, labels), classifier())


@pytest.mark.parametrize(
    "labels", [LABELS, LABELS[:, None], LABELS.astype("float64"), np.eye(3)[LABELS]]
)
def test_labels_may_be_columns_floats_or_one_hot_rows(labels):
    images = check_images("data", batches(PIXELS, labels), classifier())
    np.testing.assert_array_equal(np.concatenate([one for _, one in images]), labels)


def test_soft_labels_can_be_trained_on_but_not_evaluated():
    soft = batches(PIXELS, 0.9 * np.eye(3)[LABELS] + 0.1 / 3)
    check_images("data", soft, classifier(), labels="soft")
    with pytest.raises(DataError, match="rows of 3 with a single 1"):
        check_images("data", soft, classifier())


@pytest.mark.parametrize(
    "values", [PIXELS / 127.5 - 1, (PIXELS - 120) / 58, PIXELS - 110, PIXELS * 257, PIXELS / 255]
)
def test_other_values_than_pixels_raise_for_a_model_with_preprocessing(values):
    with pytest.raises(ArgumentError, match=r"must contain pixels 0...255, because model="):
        check_images("data", batches(values, LABELS), classifier())
    check_images("data", batches(values, LABELS), classifier(scales=False))


def of_unit_values():
    inputs = keras.Input((12, 12, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(inputs * 2 - 1))
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_pixels_raise_for_a_model_that_expects_unit_values(function):
    with pytest.raises(ArgumentError, match=r"values 0\.\.\.1, because .*pixels\. Divide.* by 255"):
        FUNCTIONS[function](of_unit_values(), batches(PIXELS, LABELS))


def test_a_split_raises_for_a_model_that_expects_unit_values(tmp_path):
    data = tlkit.load_arrays(PIXELS.astype("uint8"), LABELS)
    refused = pytest.raises(ArgumentError, match=r"must take pixels.*Rescaling\(1 / 255\) in front")
    model = of_unit_values()
    for train in (tlkit.train_head, tlkit.fine_tune, tlkit.find_learning_rate):
        with refused:
            train(model, data)
    with refused:
        tlkit.evaluate(model, data.train)
    with refused:
        tlkit.predict(model, PIXELS[:1].astype("uint8"), ["a", "b", "c"])
    with refused:
        measure_similarity(model, data)
    with refused:
        mean_features(model, data.train)
    with refused:
        learn_classes(model, data.train, ["d"], ["a", "b", "c"], replay=Replay(0))
    with refused:
        expand(model, data)
    with refused:
        tlkit.export_model(model, tmp_path / "exported", ["a", "b", "c"], formats=("keras",))
    remedied = [keras.Input((12, 12, 3)), layers.Rescaling(1 / 255), model]
    assert tlkit.evaluate(keras.Sequential(remedied), data.train).num_images


@pytest.mark.parametrize(
    "values",
    [PIXELS / 255, PIXELS / 127.5 - 1, (PIXELS - 120) / 58, 1.4 * PIXELS / 255, 0 * PIXELS],
    ids=["unit", "signed", "normalised", "brighter", "black"],
)
def test_other_values_pass_for_a_model_that_expects_unit_values(values):
    images = check_images("data", batches(values, LABELS), of_unit_values())
    assert sum(len(batch) for batch, _ in images) == 48


def test_pixels_after_a_dark_first_batch_raise():
    values = np.concatenate([PIXELS[:16] % 9, PIXELS[16:]])
    images = check_images("data", batches(values, LABELS), of_unit_values())
    with (
        pytest.raises(ArgumentError, match=r"to 255, which are pixels"),
        missing_files_named([images]),
    ):
        list(images)


@pytest.mark.parametrize("train", [tlkit.train_head, FUNCTIONS["fine_tune"]])
def test_unusual_values_are_noted_for_a_model_without_preprocessing(train):
    note = "`data` has values from 0 to 1, which the model takes without preprocessing"
    for values, scales in ((PIXELS / 255, False), (PIXELS, False), (PIXELS, True)):
        report = train(classifier(scales=scales), batches(values, LABELS))
        assert str(report).count(note) == (values is not PIXELS)
    grey = train(classifier((12, 12, 1), scales=False), batches(PIXELS[..., :1] / 255, LABELS))
    assert "image files" in str(grey)


@pytest.mark.parametrize(
    "values",
    [0 * PIXELS, (PIXELS > 128).astype("uint8"), PIXELS - 40, 1.4 * PIXELS],
    ids=["black", "dark", "darker", "brighter"],
)
def test_dark_and_augmented_images_pass(values):
    images = check_images("data", batches(values, LABELS), classifier())
    assert sum(len(batch) for batch, _ in images) == 48


def test_the_range_is_checked_after_a_black_first_batch():
    values = np.concatenate([0 * PIXELS[:16], PIXELS[16:] / 255])
    images = check_images("data", batches(values, LABELS), classifier())
    with (
        pytest.raises(ArgumentError, match=r"values from 0 to 1\. Multiply them by 255"),
        missing_files_named([images]),
    ):
        list(images)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (lambda: tf.data.Dataset.from_tensor_slices((PIXELS, LABELS)), r"Use `dataset.batch\("),
        (lambda: batches(PIXELS), "with labels beside the images"),
        (lambda: batches({"a": PIXELS, "b": PIXELS}, LABELS), "Select one input of a dictionary"),
        (lambda: batches(PIXELS, {"y": LABELS}), "Select one input of a dictionary"),
        (
            lambda: batches(PIXELS, tf.RaggedTensor.from_row_lengths(LABELS, [1] * 48)),
            "ragged tensors with",
        ),
        (lambda: batches(PIXELS, tf.sparse.eye(48, 3)), "sparse ones with `tf.sparse.to_dense`"),
        (lambda: batches(PIXELS[:, :8], LABELS), r"tf.image.resize\(images, \(12, 12\)\)"),
        (lambda: batches(np.zeros((48, 12, 12, 4)), LABELS), r"images\[..., :3\]"),
        (lambda: batches(np.array(["text"] * 48), LABELS), "must contain numbers.* Received: text"),
        (lambda: batches(PIXELS, LABELS).repeat(), "an infinite dataset"),
        (lambda: PIXELS, "an object of type ndarray"),
    ],
)
def test_datasets_without_suitable_batches_raise(dataset, message):
    with pytest.raises(ArgumentError, match=message):
        check_images("data", dataset(), classifier())


@pytest.mark.parametrize(
    ("weights", "received"),
    [
        (np.ones((48, 3)), r"an array of the shape \(16, 3\)"),
        (-np.ones(48), "values from -1 to -1"),
        (np.full(48, np.nan), "values from nan"),
    ],
)
def test_weights_must_be_one_number_per_image(weights, received):
    with pytest.raises(
        DataError, match=f"one weight, 0 or more, for each image.* Received: {received}"
    ):
        check_images("data", batches(PIXELS, LABELS, weights), classifier())
    column = check_images("data", batches(PIXELS, LABELS, np.ones((48, 1))), classifier())
    assert column.element_spec[2].shape.as_list() == [None]


def test_values_that_are_not_finite_raise():
    values = PIXELS.copy()
    values[40, 0, 0, 0] = np.inf
    images = check_images("data", batches(values, LABELS), classifier())
    with (
        pytest.raises(DataError, match="must contain finite values"),
        missing_files_named([images]),
    ):
        list(images)


def test_empty_datasets_raise():
    with pytest.raises(DataError, match=r"`data` must contain images. Received: none"):
        check_images("data", batches(PIXELS[:0], LABELS[:0]), classifier())


@pytest.mark.parametrize("head", ["binary", "multi_label"])
def test_labels_are_checked_for_other_heads(head):
    inputs = keras.Input((12, 12, 3))
    units = 1 if head == "binary" else 3
    output = layers.Dense(units, "sigmoid")(layers.GlobalAveragePooling2D()(inputs))
    model = keras.Model(inputs, output)
    good, bad = (LABELS % 2, LABELS) if head == "binary" else (np.eye(3)[LABELS], LABELS)
    check_images("data", batches(PIXELS, good), model)
    with pytest.raises(DataError, match="`data` must have labels that are"):
        check_images("data", batches(PIXELS, bad), model)


def test_unknown_shapes_are_taken_from_the_first_batch():
    known = batches(PIXELS, LABELS)
    unknown = tf.data.Dataset.from_generator(
        known.as_numpy_iterator, output_types=(tf.float32, tf.int64)
    )
    images = check_images("data", unknown, classifier())
    assert [spec.shape.as_list() for spec in images.element_spec] == [[None, 12, 12, 3], [None]]
    report = tlkit.fine_tune(classifier(), unknown, unfreeze="all", epochs=1)
    assert report.stages[-1].weight_change["head"] > 0
    grey = check_images("data", unknown.map(lambda x, y: (x[..., 0], y)), classifier((12, 12, 1)))
    assert [one.shape[1:] for one, _ in grey] == [(12, 12, 1)] * 3


def test_integer_inputs_train_like_floats():
    inputs = keras.Input((12, 12, 3))  # a convolution does not take integers
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    dataset = batches(PIXELS.astype("uint8"), LABELS)
    report = tlkit.fine_tune(model, dataset, unfreeze="all", epochs=1)
    assert report.stages[-1].weight_change["head"] > 0


def test_a_later_batch_of_another_shape_raises():
    def grows():
        yield PIXELS[:16], LABELS[:16]
        yield PIXELS[:16, :8], LABELS[:16]

    dataset = tf.data.Dataset.from_generator(grows, output_types=(tf.float32, tf.int64))
    with pytest.raises(ArgumentError, match=r"Received: \(batch, 8, 12, 3\)"):
        tlkit.evaluate(classifier(), dataset)


def test_single_input_dictionaries_and_a_missing_last_axis_are_accepted():
    model = classifier()
    report = tlkit.evaluate(model, batches({"image": PIXELS}, LABELS))
    assert report.loss == tlkit.evaluate(model, batches(PIXELS, LABELS)).loss
    grey = classifier((12, 12, 1))
    images = check_images("data", batches(PIXELS[..., 0], LABELS), grey)
    assert images.element_spec[0].shape.as_list() == [None, 12, 12, 1]


def test_a_late_invalid_label_raises_and_leaves_the_model_unchanged():
    labels = LABELS.copy()
    labels[45] = 7
    model = classifier()
    model.layers[-1].bias.assign([0.1, 0.0, 0.0])  # a non-zero head is not solved anew
    before = model.get_weights()
    with pytest.raises(DataError, match="Received: 7 for image 13 of a batch"):
        tlkit.fine_tune(model, batches(PIXELS, labels), unfreeze="all", epochs=2)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_head_is_unchanged_after_a_late_invalid_label():
    labels = LABELS.copy()
    labels[45] = 7
    model = classifier()
    before = model.get_weights()
    with pytest.raises(DataError, match="Received: 7 for image 13 of a batch"):
        tlkit.train_head(model, batches(PIXELS, labels))
    assert all(layer.trainable for layer in model.layers)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", [(12, 12, 1), (12, 12, 4), (12, 12), (432,)])
@pytest.mark.parametrize("train", [tlkit.train_head, tlkit.fine_tune, tlkit.find_learning_rate])
def test_a_split_raises_for_a_model_of_other_images(train, shape):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inputs)))
    data = tlkit.load_arrays(PIXELS.astype("uint8"), LABELS)
    with pytest.raises(ArgumentError, match=r"`model` must take images \(batch, h.*3\)"):
        train(model, data)
    with pytest.raises(ArgumentError, match=r"`model` must take images \(batch, h.*3\)"):
        tlkit.evaluate(model, data.train)


def test_all_labels_of_a_split_are_checked_before_reading_images():
    data = tlkit.load_arrays(PIXELS.astype("uint8"), LABELS)
    with pytest.raises(DataError, match=r"`images` must have labels .* from 0 to 1"):
        tlkit.evaluate(classifier(num_classes=2), data.train)
    with pytest.raises(DataError, match="`old_data` must have labels"):
        tlkit.ForgettingGuard(classifier(num_classes=2), data.validation, budget=0.1)
    model = classifier(num_classes=2)
    with pytest.raises(DataError, match=r"`splits\['new'\]` must have labels"):
        tlkit.sweep_interpolation(model, model, {"new": data.train})


def test_a_data_set_is_checked_once_for_each_model():
    model = classifier()
    images = check_images("data", batches(PIXELS, LABELS), model)
    assert check_images("images", images, model) is images
    assert check_images("images", images, model, labels="given") is images
    assert check_images("images", images, classifier()) is not images


def test_a_teacher_takes_the_students_data_set():
    data = tlkit.load_arrays(PIXELS.astype("uint8"), LABELS)
    teacher = classifier((24, 24, 3))
    with pytest.raises(ArgumentError, match="distilled from a model with the same inputs"):
        tlkit.fine_tune(classifier(), data, epochs=1, anchor=tlkit.distill_from(teacher))


def test_tokens_beyond_the_embedding_raise():
    tokens = keras.Input((4,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(10, 2)(tokens))
    model = keras.Model(tokens, layers.Dense(3)(x))
    words = np.arange(48 * 4).reshape(48, 4) % 11
    with pytest.raises(DataError, match=r"whole numbers from 0 to 9.* Received: values from 0 to"):
        check_images("data", batches(words, LABELS), model)
    check_images("data", batches(words % 10, LABELS), model)


def test_checks_are_reused_and_do_not_keep_data_sets_alive():
    model, data = classifier(), batches(PIXELS, LABELS)
    before = set(vars(data))
    checked = check_images("data", data, model)
    assert set(vars(data)) == before
    assert set(vars(checked)) == set(vars(data.map(lambda *parts: parts)))
    assert check_images("data", checked, model) is checked
    assert check_images("data", checked, classifier()) is not checked
