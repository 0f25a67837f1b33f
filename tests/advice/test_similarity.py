"""Similarity by the images' statistics and those stored in the network."""

import dataclasses

import keras
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

import tlkit
from tests.conftest import write_photos
from tlkit.advice.similarity import (
    SimilarityReport,
    _hellinger,
    measure_similarity,
    statistic_distances,
)
from tlkit.errors import ArgumentError, DataError

WEIGHTS = "weights/mobilenet_2_5_224_tf_no_top.h5"


def normalising(data, mean, variance):
    """A model with one batch normalisation that has stored these statistics."""
    x = keras.Input((*data.image_size, 3))
    y = keras.layers.BatchNormalization(name="norm")(x)
    y = keras.layers.Conv2D(4, 3, activation="relu")(y)
    y = keras.layers.GlobalAveragePooling2D()(y)
    model = keras.Model(x, keras.layers.Dense(data.num_classes)(y))
    model.get_layer("norm").moving_mean.assign(mean)
    model.get_layer("norm").moving_variance.assign(variance)
    return model


def test_the_distance_is_hellingers_distance():
    first, second = norm(1.0, 2.0), norm(2.5, 0.7)
    overlap, _ = quad(lambda x: np.sqrt(first.pdf(x) * second.pdf(x)), -30, 30)
    found = _hellinger(np.array([1.0]), np.array([4.0]), np.array([2.5]), np.array([0.49]), 0.0)
    assert found[0] == pytest.approx(np.sqrt(1 - overlap), abs=1e-6)


def test_equal_statistics_have_distance_zero(data):
    pixels = np.concatenate([images for images, _ in data.train.dataset()]).reshape(-1, 3)
    model = normalising(data, pixels.mean(axis=0), pixels.var(axis=0))
    (own,) = statistic_distances(model, data.train).values()
    assert own < 0.01
    (shifted,) = statistic_distances(
        normalising(data, pixels.mean(axis=0) + 50, pixels.var(axis=0)), data.train
    ).values()
    (further,) = statistic_distances(
        normalising(data, pixels.mean(axis=0) + 100, pixels.var(axis=0)), data.train
    ).values()
    assert own < shifted < further <= 1


@pytest.mark.slow
def test_the_model_is_unchanged_and_the_report_reproducible(data):
    model = tlkit.build_classifier("resnet20", data.class_names, image_size=32)
    before = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    first, second = (measure_similarity(model, data, seed=3) for _ in range(2))
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable))
    assert first == second
    assert list(first.distances) == ["stage1", "stage2", "stage3"]
    assert first.distance == first.distances["stage3"]
    assert first.num_images == data.train.num_images
    assert measure_similarity(model, data, max_images=30).num_images == 30


def test_a_rare_class_is_kept_in_a_sample(tmp_path):
    photos = write_photos(tmp_path / "photos", {"green": 60, "red": 4})
    data = tlkit.load_folder(photos, image_size=32, splits=(1, 0, 0))
    model = tlkit.build_classifier("resnet20", data.class_names)
    assert measure_similarity(model, data, max_images=20, seed=1).num_images == 20
    train = data.train.subset(np.arange(61))  # sorted by class: a single red one
    with pytest.raises(
        DataError, match=r"two different training images of each class.*'red' has one"
    ):
        measure_similarity(model, dataclasses.replace(data, train=train))


@pytest.mark.slow
def test_a_network_without_batch_normalisation_has_no_distance(data):
    model = tlkit.build_classifier("vgg16", data.class_names, image_size=32, weights=None)
    report = measure_similarity(model, data)
    assert report.distance is None
    assert report.level == "unknown"
    assert "the network has no batch normalisation" in report.verdict


def report_of(accuracy=0.9, random=0.5, distance=0.1):
    spread = 0.05
    return SimilarityReport(
        accuracy=accuracy,
        interval=(accuracy - spread, accuracy + spread),
        random_accuracy=random,
        random_interval=(random - spread, random + spread),
        distances={"conv5": distance},
        distance=distance,
        num_images=100,
        num_classes=2,
    )


def test_the_verdict_agrees_with_the_figures():
    assert "images are similar to" in report_of(distance=0.1).verdict
    assert "moderately similar to" in report_of(distance=0.2).verdict
    assert "images differ from" in report_of(distance=0.4).verdict
    assert "pretrained weights help: accuracy 90.0 %, 50.0 % with" in report_of().verdict
    assert "no significant gain" in report_of(accuracy=0.58).verdict
    assert report_of(accuracy=0.75).gain == pytest.approx(0.5)
    few = dataclasses.replace(report_of(), interval=None, random_interval=None)
    assert not few.knows_more_than_chance
    assert "no intervals: they need 20 different images" in str(few)
    assert "95 % CI" not in str(few)
    assert "no intervals" not in str(report_of())
    assert "conv5 0.10" in report_of()._repr_html_()


def test_invalid_arguments_raise(data):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, image_size=32, weights=None)
    with pytest.raises(ArgumentError, match="`data` must be the result of load_folder"):
        measure_similarity(model, data.train.dataset())
    larger = tlkit.build_classifier("tiny_resnet", data.class_names, image_size=48, weights=None)
    with pytest.raises(ArgumentError, match=r"image size of the model, \(48, 48\)"):
        measure_similarity(larger, data)
    with pytest.raises(ArgumentError, match="`max_images` must be a whole number"):
        measure_similarity(model, data, max_images=1)


@pytest.mark.slow
@pytest.mark.shared_data
def test_images_are_nearer_than_digits_and_digits_than_noise(shared):
    weights = shared / WEIGHTS
    found = {}
    for name in ("flowers", "hymenoptera"):
        found[name] = tlkit.load_folder(shared / "data" / name, image_size=96)
    with np.load(shared / "data" / "mnist.npz") as digits:
        some = slice(None, None, len(digits["y_train"]) // 100)  # sorted by class
        images = np.repeat(digits["x_train"][some].reshape(-1, 28, 28, 1), 3, axis=-1)
        labels = digits["y_train"][some].astype(int)
    names = [str(digit) for digit in range(10)]
    found["digits"] = tlkit.load_arrays(images, labels, names, splits=(1, 0, 0), image_size=96)
    random = np.random.default_rng(0)
    pixels, labels = next(iter(found["flowers"].train.dataset(shuffle=True, batch_size=100)))
    shuffled = [random.permutation(image.reshape(-1, 3)) for image in pixels.numpy()]
    found["noise"] = tlkit.load_arrays(
        np.stack(shuffled).reshape(pixels.shape).astype("uint8"),
        labels.numpy(),
        found["flowers"].class_names,
        splits=(1, 0, 0),
    )
    distance = {}
    for name, data in found.items():
        model = tlkit.build_classifier(
            "mobilenet_025", data.class_names, image_size=96, weights=weights
        )
        split = data.train.subset(np.arange(0, data.train.num_images, 4))
        distance[name] = list(statistic_distances(model, split).values())[-1]
    assert max(distance["flowers"], distance["hymenoptera"]) < distance["digits"]
    assert distance["digits"] < distance["noise"]
