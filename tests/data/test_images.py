import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.data.augmentation import AUGMENTATIONS, augmentation_layers
from tlkit.data.random_views import ImageSeeds, RandomCropAndFlip, random_view
from tlkit.errors import ArgumentError


@pytest.fixture(scope="module")
def data():
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(40)  # identifies the images
    return tlkit.load_arrays(images, np.arange(40) % 2, batch_size=8, splits=(0.6, 0.4, 0), seed=3)


def epochs_of(dataset, num_images):
    """Returns the images and labels of a dataset, epoch by epoch."""
    images = np.concatenate([batch for batch, _ in dataset.as_numpy_iterator()])
    labels = np.concatenate([batch for _, batch in dataset.as_numpy_iterator()])
    shape = (-1, num_images)
    return images.reshape(*shape, *images.shape[1:]), labels.reshape(shape)


def marks(images):
    return images[..., 0, 0, 0].astype(int).tolist()


def test_batches_are_raw_pixels_with_known_shapes(data):
    dataset = data.train.dataset()
    images, labels = dataset.element_spec
    assert images.shape.as_list() == [None, 12, 12, 3]
    assert images.dtype == "float32"
    assert labels.dtype == "int64"
    count = data.train.num_images
    sizes = [len(batch) for batch, _ in dataset]
    assert sizes == [8] * (count // 8) + [count % 8] * (count % 8 > 0)
    assert len(dataset) == len(sizes)
    assert next(len(batch) for batch, _ in data.train.dataset(batch_size=5)) == 5


def test_every_epoch_has_its_own_order_of_the_whole_split(data):
    count = data.train.num_images
    dataset = data.train.dataset(shuffle=True, epochs=range(3))
    images, labels = epochs_of(dataset, count)
    orders = marks(images)
    assert [sorted(order) for order in orders] == [sorted(orders[0])] * 3
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert np.array_equal(labels, np.array(orders) % 2)
    assert len(dataset) == 3 * -(-count // 8)


def test_only_training_shuffles_by_default(data):
    count = data.train.num_images
    (by_default,), _ = epochs_of(data.train.dataset(epochs=range(1)), count)
    (shuffled,), _ = epochs_of(data.train.dataset(shuffle=True, epochs=range(1)), count)
    (in_order,), labels = epochs_of(data.train.dataset(shuffle=False), count)
    np.testing.assert_array_equal(by_default, shuffled)
    assert not np.array_equal(by_default, in_order)
    np.testing.assert_array_equal(labels[0], data.train.labels)
    for split in (data.validation, dataclasses.replace(data.train, name="test")):
        labels = np.concatenate([batch for _, batch in split.dataset()])
        np.testing.assert_array_equal(labels, split.labels)
    rows = np.array([5, 2, 9])
    labels = np.concatenate([batch for _, batch in data.train.dataset(indices=rows)])
    np.testing.assert_array_equal(labels, data.train.labels[rows])


def test_iterations_differ_in_order_and_repeat_in_every_program(data):
    def two_passes():
        dataset = data.train.dataset()
        return [marks(epochs_of(dataset, data.train.num_images)[0])[0] for _ in range(2)]

    first, second = two_passes()
    assert sorted(first) == sorted(second)
    assert first != second
    assert two_passes() == [first, second]


def test_a_batch_is_at_most_as_large_as_the_split(data):
    count = data.train.num_images
    batches = data.train.dataset(shuffle=True, epochs=range(2), batch_size=2**40)
    assert [len(images) for images, _ in batches] == [count, count]
    rest = data.train.dataset(epochs=range(2), batch_size=2**40, first_batch=1)
    assert [len(images) for images, _ in rest] == [count]
    assert list(data.train.dataset(indices=np.array([], np.int64), batch_size=2**40)) == []


@pytest.mark.parametrize("augment", ["none", "default"])
def test_an_epoch_does_not_depend_on_the_first_epoch(data, augment):
    count = data.train.num_images
    whole, _ = epochs_of(data.train.dataset(True, augment, epochs=range(5)), count)
    resumed, _ = epochs_of(data.train.dataset(True, augment, epochs=range(3, 5)), count)
    assert np.array_equal(whole[3:], resumed)
    assert not np.array_equal(whole[0], whole[1])


def test_no_batch_spans_two_epochs(data):
    count = data.train.num_images
    sizes = [len(batch) for batch, _ in data.train.dataset(epochs=range(2), batch_size=count - 1)]
    assert sizes == [count - 1, 1] * 2


def test_passes_differ_and_repeat_in_a_new_program(data):
    def passes():
        dataset = data.train.dataset(shuffle=True, augment="light")
        return [
            np.concatenate([batch for batch, _ in dataset.as_numpy_iterator()]) for _ in range(2)
        ]

    first, second = passes(), passes()
    assert not np.array_equal(first[0], first[1])
    assert np.array_equal(first, second)


@pytest.mark.parametrize("augment", ["light", "default", "strong"])
def test_a_view_depends_only_on_seed_epoch_and_image(data, augment):
    split = data.train
    rows = np.arange(split.num_images)
    views, _ = epochs_of(split.dataset(shuffle=False, augment=augment, epochs=range(2)), len(rows))
    assert not np.array_equal(views[0], views[1])
    backwards = split.dataset(augment=augment, epochs=range(2), indices=rows[::-1], batch_size=3)
    assert np.array_equal(epochs_of(backwards, len(rows))[0], views[:, ::-1])
    few = split.subset(rows[5:9]).dataset(shuffle=False, augment=augment, epochs=range(1, 2))
    assert np.array_equal(epochs_of(few, 4)[0][0], views[1, 5:9])


def test_copies_of_an_image_are_augmented_differently():
    images = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), np.uint8)[[0, 0, 1, 2, 3]]
    data = tlkit.load_arrays(images, [0, 0, 0, 1, 1], splits=(1, 0, 0))
    ((views, _),) = data.train.dataset(
        shuffle=False, augment="default", epochs=range(1)
    ).as_numpy_iterator()
    assert not np.array_equal(views[0], views[1])


def test_indices_select_rows_in_their_order(data):
    images, _ = epochs_of(data.train.dataset(indices=np.array([4, 1, 1])), 3)
    everything, _ = epochs_of(data.train.dataset(shuffle=False), data.train.num_images)
    assert np.array_equal(images[0], everything[0][[4, 1, 1]])
    subset = data.train.subset([4, 1])
    assert subset.paths == (data.train.paths[4], data.train.paths[1])
    assert np.array_equal(epochs_of(subset.dataset(shuffle=False), 2)[0][0], everything[0][[4, 1]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"augment": "lite"}, "`augment` must be one of .* Did you mean 'light'"),
        ({"epochs": range(3, 3)}, "`epochs` must be a range with at least one epoch"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"indices": [0, 99]}, "`indices` must be whole numbers from 0 to"),
        ({"indices": [0.5]}, "`indices` must be"),
    ],
)
def test_invalid_arguments_raise(data, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        data.train.dataset(**arguments)


def test_at_size_accepts_a_single_number(data):
    assert data.at_size(9).train.image_size == data.at_size((9, 9)).image_size == (9, 9)
    assert data.at_size((np.int64(4), np.int64(6))).image_size == (4, 6)
    with pytest.raises(ArgumentError, match="`image_size` must be a positive number"):
        data.at_size(0)


def test_validation_and_test_are_not_augmented(data):
    with pytest.raises(ArgumentError, match="`augment` must be 'none' for validation and test"):
        data.validation.dataset(augment="light")


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_presets_are_keras_layers_that_keep_range_and_shape(name):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        layers = augmentation_layers(name)
        assert all(isinstance(layer, keras.layers.Layer) for layer in layers)
        images = np.random.default_rng(0).uniform(0, 255, (4, 9, 11, 3)).astype("float32")
        outputs = images
        for layer in layers:
            outputs = layer(outputs, training=True)
        assert outputs.shape == images.shape
        assert outputs.dtype == "float32"
        assert 0 <= np.min(outputs) <= np.max(outputs) <= 255
        for layer in layers:
            images = layer(images, training=False)
        assert np.allclose(images, np.random.default_rng(0).uniform(0, 255, (4, 9, 11, 3)))
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_light_view_is_the_image_or_its_mirror_image():
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype("float32")
    layers = augmentation_layers("light")
    views = [random_view(image, layers, np.array([0, number])) for number in range(40)]
    is_same = [np.array_equal(view, image) for view in views]
    is_mirrored = [np.array_equal(view, image[:, ::-1]) for view in views]
    assert all(np.array(is_same) ^ np.array(is_mirrored))
    assert 10 < sum(is_mirrored) < 30


def test_crops_keep_the_specified_fraction_of_the_area():
    layer = RandomCropAndFlip(area=(0.5, 0.8), stretch=1.2)
    boxes = layer.get_random_transformation(
        np.zeros((500, 8, 8, 3)), seed=ImageSeeds([0, 1])
    ).numpy()
    heights, widths = boxes[:, 2] - boxes[:, 0], np.abs(boxes[:, 3] - boxes[:, 1])
    assert np.all((boxes >= 0) & (boxes <= 1 + 1e-6))
    assert 0.499 < (heights * widths).min() < 0.52
    assert 0.78 < (heights * widths).max() < 0.801
    assert (widths / heights).max() < 1.21
    assert (widths / heights).min() > 1 / 1.21
    clone = RandomCropAndFlip.from_config(layer.get_config())
    assert (clone.area, clone.stretch) == (layer.area, layer.stretch)


def test_by_default_objects_become_as_often_smaller_as_larger():
    (layer,) = augmentation_layers("default")
    boxes = layer.get_random_transformation(
        np.zeros((1000, 8, 8, 3)), seed=ImageSeeds([0, 1])
    ).numpy()
    heights, widths = boxes[:, 2] - boxes[:, 0], np.abs(boxes[:, 3] - boxes[:, 1])
    areas = heights * widths
    assert 0.499 < areas.min() < 0.52
    assert 1.48 < areas.max() < 1.501
    assert 0.45 < (areas < 1).mean() < 0.55
    tops, lefts = boxes[:, 0], np.minimum(boxes[:, 1], boxes[:, 3])
    for starts, sizes in ((tops, heights), (lefts, widths)):  # within the image, or around it
        ends = starts + sizes
        assert np.all((starts >= -1e-6) & (ends <= 1 + 1e-6) | (starts <= 0) & (ends >= 1))


def test_around_an_image_there_is_its_reflection():
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    boxes = np.array([[-2 / 7, 0, 1 + 1 / 7, 1], [0.1, 0.9, 0.6, 0.3]], "float32")
    layer = RandomCropAndFlip(area=(0.5, 1.5))
    views = layer.transform_images(images, boxes)
    around = np.pad(images[:1], [(0, 0), (2, 1), (0, 0), (0, 0)], "reflect")
    expected = tf.image.crop_and_resize(around, [[0, 0, 1, 1]], [0], (8, 8))
    np.testing.assert_allclose(views[:1], expected, atol=1e-2)
    within = RandomCropAndFlip(area=(0.5, 1.0)).transform_images(images[1:], boxes[1:])
    np.testing.assert_allclose(views[1:], within, atol=1e-2)
    whole = layer.transform_images(images, np.array([[0, 0, 1, 1]] * 2, "float32"))
    np.testing.assert_array_equal(whole, images)


def test_the_fingerprint_depends_on_contents_labels_and_names(data):
    images = np.arange(4 * 48, dtype=np.uint8).reshape(4, 4, 4, 3)
    prints = {
        tlkit.load_arrays(images, labels, names, splits=(1, 0, 0)).fingerprint
        for labels, names in [
            ([0, 0, 1, 1], ["a", "b"]),
            ([0, 0, 1, 1], ["a", "c"]),
            ([0, 1, 0, 1], ["a", "b"]),
        ]
    }
    assert len(prints) == 3
    assert data.fingerprint == data.fingerprint


def test_a_splits_source_has_its_paths_labels_and_pixels():
    images = np.random.default_rng(0).integers(0, 255, (6, 4, 4, 3), np.uint8)
    split = tlkit.load_arrays(images, [0, 1] * 3, splits=(1, 0, 0), seed=3).train
    source = split.source
    assert (source.paths, source.digests, source.seed) == (split.paths, split.digests, 3)
    assert source.pixels.tolist() == images[[int(path[7:-1]) for path in split.paths]].tolist()
    chosen = split.subset(np.array([4, 1])).source
    assert chosen.paths == (split.paths[4], split.paths[1])
    assert chosen.keys.tolist() == source.keys[[4, 1]].tolist()
    twice = split.subset(np.array([2, 2])).source
    assert twice.keys[0] == source.keys[2] != twice.keys[1]  # a copy has its own random views
