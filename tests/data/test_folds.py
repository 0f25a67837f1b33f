"""Folds: every image is a test image once, and groups, copies and classes are respected."""

import numpy as np
import pytest

import tlkit
from tlkit.data.folds import check_folds, folds_of_images
from tlkit.errors import ArgumentError, DataError


def images_of(count):
    return np.random.default_rng(0).integers(0, 255, (count, 8, 8, 3), "uint8")


def test_every_image_is_a_test_image_once_and_no_other_split_has_it():
    data = tlkit.load_arrays(images_of(90), np.arange(90) % 3, ["a", "b", "c"])
    everything = data.merged().train
    seen = []
    for fold, positions in folds_of_images(data, 5):
        seen += list(positions)
        assert fold.test.digests == tuple(everything.digests[row] for row in positions)
        np.testing.assert_array_equal(fold.test.labels, everything.labels[positions])
        digests = [set(one.digests) for one in (fold.train, fold.validation, fold.test)]
        assert sum(map(len, digests)) == 90 == len(set.union(*digests))
        assert np.bincount(fold.test.labels).tolist() == [6, 6, 6]
        assert [one.name for one in (fold.train, fold.validation, fold.test)] == [
            "train",
            "validation",
            "test",
        ]
        fraction = fold.validation.num_images / (90 - fold.test.num_images)
        expected = data.validation.num_images / (90 - data.test.num_images)
        assert fraction == pytest.approx(expected, abs=0.06)
    assert sorted(seen) == list(range(90))


def test_groups_are_not_divided_and_multi_label_images_have_folds():
    groups = [f"patient {number // 3}" for number in range(90)]
    data = tlkit.load_arrays(images_of(90), np.arange(90) // 3 % 3, groups=groups)
    labels = np.random.default_rng(0).integers(0, 2, (90, 3)).astype("float32")
    several = tlkit.load_arrays(images_of(90), labels, ["a", "b", "c"])
    for fold, _ in folds_of_images(data, 3):
        parts = [set(one.groups) for one in (fold.train, fold.validation, fold.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 30
    assert sum(fold.test.num_images for fold, _ in folds_of_images(several, 3)) == 90


def test_data_without_validation_has_folds_without():
    data = tlkit.load_arrays(images_of(30), np.arange(30) % 3, splits=(1, 0, 0))
    for fold, _ in folds_of_images(data, 3):
        assert fold.validation is None
        assert fold.train.num_images == 20


def test_too_many_folds_are_refused():
    labels = [0] * 40 + [1] * 4
    data = tlkit.load_arrays(images_of(44), labels, ["many", "few"])
    with pytest.raises(DataError, match=r"number of different images of each class.*'few' has 4"):
        check_folds(data, 5)
    check_folds(data, 4)
    with pytest.raises(ArgumentError, match="`folds` must be a whole number of at least 2"):
        next(folds_of_images(data, 1))
