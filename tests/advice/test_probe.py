"""Cross-validation of the linear head."""

import numpy as np
import pytest

from tlkit.advice.probe import probe
from tlkit.data.class_weighting import ClassWeighting
from tlkit.errors import DataError
from tlkit.training.labelled import LabelledFeatures


def noise(num_images, num_features=20, seed=0):
    return np.random.default_rng(seed).normal(size=(num_images, num_features)).astype("float32")


def test_noise_features_have_chance_accuracy():
    measured = probe(LabelledFeatures(noise(400, 300), np.arange(400) % 2))
    low, high = measured.interval
    assert low < 0.5 < high
    assert measured.accuracy == measured.is_correct.mean()


def test_copies_are_in_one_fold():
    features, labels = noise(60, 200), np.random.default_rng(1).integers(0, 2, 60)
    copies, labels = np.concatenate([features] * 4), np.concatenate([labels] * 4)
    apart = probe(LabelledFeatures(copies, labels))
    together = probe(LabelledFeatures(copies, labels, np.arange(240) % 60))
    assert apart.accuracy > 0.9
    assert together.accuracy < 0.75
    assert (apart.num_images, together.num_images) == (240, 60)


def test_balanced_class_weights_raise_the_recall_of_a_rare_class():
    """A rare class within a common one gains as much recall as the other loses."""
    labels = np.repeat([3, 5], [360, 40])
    features = noise(400) + 1.5 * (labels == 5)[:, np.newaxis] * (np.arange(20) == 0)
    rows = LabelledFeatures(features, labels)
    plain, balanced = (probe(rows, weighting=ClassWeighting(one)) for one in ("none", "balanced"))
    recalls = [balanced.is_correct[labels == name].mean() for name in (3, 5)]
    assert balanced.accuracy == pytest.approx(np.mean(recalls))
    low, high = balanced.interval
    assert low < balanced.accuracy < high
    assert high - low > 0.1  # forty images allow no more, however many others there are
    assert recalls[1] > plain.is_correct[labels == 5].mean() + 0.2
    assert balanced.is_correct.mean() < plain.accuracy


def test_features_are_not_modified():
    features = noise(40)
    before = features.copy()
    probe(LabelledFeatures(features, np.arange(40) % 2))
    np.testing.assert_array_equal(features, before)


def test_each_label_is_evaluated_separately():
    features = noise(80)
    labels = np.stack([features[:, 0] > 0, features[:, 1] > 0, np.ones(80), np.zeros(80)], axis=1)
    labels[0, 3] = 1  # a single image has it
    measured = probe(LabelledFeatures(features, labels.astype("float32")))
    assert measured.accuracy > 0.9
    assert measured.is_correct.shape == (80,)


def test_few_images_have_no_interval():
    features = noise(12) + 9 * (np.arange(12) % 2)[:, np.newaxis]
    assert probe(LabelledFeatures(features, np.arange(12) % 2)).interval is None


def test_a_class_of_one_image_raises():
    with pytest.raises(DataError, match=r"two different training images each.*smallest with 1"):
        probe(LabelledFeatures(noise(30), np.array([0] * 15 + [1] * 14 + [2])))
    labels, groups = np.array([0] * 28 + [1] * 2), np.array([*range(28), 28, 28])
    with pytest.raises(DataError, match="smallest with 1"):
        probe(LabelledFeatures(noise(30), labels, groups))


def test_a_fold_with_a_single_class_is_handled():
    groups = np.repeat([0, 1, 1, 2], [20, 1, 20, 100])  # their classes are 1, 0, 1 and 0
    labels = np.repeat([1, 0, 1, 0], [20, 1, 20, 100])
    features = noise(141) + 9 * labels[:, np.newaxis]
    measured = probe(LabelledFeatures(features, labels, groups))
    assert (measured.num_folds, measured.num_images) == (2, 3)
    assert 0 < measured.accuracy < 1
