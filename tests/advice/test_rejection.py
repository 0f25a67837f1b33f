"""OOD images are rejected, and in-distribution images are accepted at the stated rate."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.advice.rejection import fit_rejection, measure_rejection
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.rejection import fit_threshold, ood_scores

NAMES = ("blue", "green", "red")


def coloured(num_images, seed=0):
    """Images of three classes with labels: noise around one colour."""
    generator = np.random.default_rng(seed)
    labels = np.arange(num_images) % 3
    images = generator.uniform(0, 120, (num_images, 32, 32, 3))
    images[np.arange(num_images), :, :, labels] += 120
    return images.astype(np.uint8), labels


def ood_images(num_images=40):
    """Black bars on white of different width and orientation."""
    images = np.full((num_images, 32, 32, 3), 255, np.uint8)
    for index, image in enumerate(images):
        bars = image if index % 2 else image.transpose(1, 0, 2)
        bars[:: 2 + index % 7] = 0
    return images


def batches(images, labels=None):
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(32)


@pytest.fixture
def data():
    return tlkit.load_arrays(*coloured(300), NAMES, splits=(0.6, 0.2, 0.2))


@pytest.fixture
def model():
    return tlkit.build_classifier("resnet20", NAMES)


def test_ood_images_are_rejected_and_others_accepted(model, data):
    rejection = fit_rejection(model, data)
    validation = measure_rejection(model, data.validation, rejection)
    assert rejection.num_images == validation.num_images == data.validation.num_images
    assert rejection.wrongly_rejected == validation.rate <= 0.05
    assert rejection.interval[0] <= 0.05 <= rejection.interval[1]
    test = measure_rejection(model, data.test, rejection)
    assert test.interval[0] <= 0.05
    refused = measure_rejection(model, batches(ood_images()), rejection)
    assert refused.rate >= 0.8
    assert refused.interval[0] < refused.rate <= refused.interval[1]
    assert f"validation images (n = {rejection.num_images}, " in str(rejection)
    assert "(n = 40, 95 % CI " in str(refused)
    assert sum(total for _, total in rejection.by_class.values()) == rejection.num_images
    content = json.loads(json.dumps(rejection.as_dict()))
    assert content["num_images"] == rejection.num_images
    assert "neighbours" not in content


def test_features_are_computed_once(model, data, monkeypatch):
    tlkit.train_head(model, data)

    def refuse(*_):
        raise AssertionError("an image was computed again")

    monkeypatch.setattr("tlkit.training.features._Filler._compute", refuse)
    fit_rejection(model, data)


def test_the_model_is_unchanged(model, data):
    weights = model.get_weights()
    fit_rejection(model, data)
    assert all(map(np.array_equal, model.get_weights(), weights))


def test_the_ood_score_is_the_cosine_distance_to_the_kth_neighbour():
    generator = np.random.default_rng(0)
    stored = generator.normal(size=(30, 8)).astype(np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    features = generator.normal(size=(7, 8)).astype(np.float32)
    cosines = features @ stored.T / np.linalg.norm(features, axis=1, keepdims=True)
    expected = 1 - np.sort(cosines, axis=1)[:, -5]
    np.testing.assert_allclose(ood_scores(features, stored, 5), expected, atol=1e-6)
    np.testing.assert_allclose(ood_scores(3 * features, stored, 5), expected, atol=1e-6)
    spatial = np.stack([features + 1, features - 1], axis=1)[:, :, None]
    np.testing.assert_allclose(ood_scores(spatial, stored, 5), expected, atol=1e-6)
    assert np.isfinite(ood_scores(np.zeros((1, 8)), stored, 5)).all()


def test_the_threshold_accepts_new_in_distribution_images():
    generator = np.random.default_rng(0)
    rates, covered = [], 0
    for _ in range(400):
        threshold, (low, high) = fit_threshold(generator.exponential(size=60), 0.9)
        rate = float(np.exp(-threshold))  # the fraction of the distribution above it
        rates.append(rate)
        covered += low <= rate <= high
    assert np.mean(rates) == pytest.approx(1 - 55 / 61, abs=0.006)
    assert 0.92 < covered / 400 < 0.98
    assert fit_threshold(np.arange(19), 0.95)[0] == 18


def test_multi_label_and_binary_heads_work():
    images, labels = coloured(200)
    rows = np.stack([labels > 0, labels < 2], axis=1).astype(int)
    data = tlkit.load_arrays(images, rows, ["a", "b"], splits=(0.7, 0.3, 0))
    model = tlkit.build_classifier("resnet20", data.class_names, multi_label=True)
    rejection = fit_rejection(model, data)
    assert rejection.by_class == {}
    assert measure_rejection(model, batches(ood_images()), rejection).rate >= 0.8
    data = tlkit.load_arrays(images, np.minimum(labels, 1), ["a", "b"], splits=(0.7, 0.3, 0))
    model = tlkit.build_classifier("resnet20", data.class_names, binary=True)
    assert set(fit_rejection(model, data).by_class) == {"a", "b"}


def test_datasets_are_accepted_and_missing_classes_noted(model):
    images, labels = coloured(200)
    some = labels[100:] != 1
    rejection = fit_rejection(
        model,
        batches(images[:100], labels[:100]),
        validation=batches(images[100:][some], labels[100:][some]),
    )
    assert rejection.by_class["1"] == (0, 0)
    assert "no validation images of '1'" in rejection.notes[0]
    assert rejection.notes[0] in str(rejection)


def test_many_training_images_are_sampled(model, data, monkeypatch):
    monkeypatch.setattr("tlkit.advice.rejection.MAX_STORED", 50)
    rejection = fit_rejection(model, data)
    assert rejection.neighbours.shape == (50, 96)
    assert "uses 50 of" in rejection.notes[0]
    np.testing.assert_array_equal(rejection.neighbours, fit_rejection(model, data).neighbours)


def test_unsuitable_data_and_arguments_raise(model, data):
    images, labels = coloured(60)
    small = tlkit.load_arrays(images, labels, NAMES, splits=(0.8, 0.2, 0))
    with pytest.raises(
        DataError, match=r"`validation` must have at least 19 images to accept 95 %"
    ):
        fit_rejection(model, small)
    without = tlkit.load_arrays(images, labels, NAMES, splits=(1, 0, 0))
    with pytest.raises(DataError, match="`data` must have a validation split"):
        fit_rejection(model, without)
    with pytest.raises(DataError, match=r"at least 5 training images\. Received: 4"):
        fit_rejection(
            model, batches(images[:4], labels[:4]), validation=batches(images[4:], labels[4:])
        )
    with pytest.raises(ArgumentError, match="`keep` must be a number from 0 to less than 1"):
        fit_rejection(model, data, keep=1.0)


def test_batches_without_labels_raise(model, data):
    rejection = fit_rejection(model, data)
    bare = batches(ood_images()).map(lambda images, labels: images)
    with pytest.raises(ArgumentError, match=r"`images` must give batches of \(images, labels\)"):
        measure_rejection(model, bare, rejection)


def test_a_rejection_of_other_features_raises(model, data):
    rejection = fit_rejection(model, data)
    model.get_layer("logits").kernel.assign_add(keras.ops.ones((96, 3)))
    assert measure_rejection(model, data.test, rejection).num_images == data.test.num_images
    model.trainable_variables[0].assign_add(keras.ops.ones(model.trainable_variables[0].shape))
    with pytest.raises(ArgumentError, match="`rejection` must have been fitted to the current"):
        measure_rejection(model, data.test, rejection)
