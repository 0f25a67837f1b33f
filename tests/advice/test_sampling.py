"""A sample keeps two independent images of each class, as cross-validation needs."""

import dataclasses

import numpy as np
import pytest

import tlkit
from tlkit.advice.sampling import check_no_lone_class, find_lone_class, sample_rows
from tlkit.errors import DataError


def split_of(counts, *, groups=None, copies=()):
    """Training images with dummy pixels, `counts` of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.random.default_rng(0).integers(0, 255, (len(labels), 4, 4, 3), "uint8")
    data = tlkit.load_arrays(images, labels, splits=(1, 0, 0))
    digests = list(data.train.digests)
    for row, original in copies:
        digests[row] = digests[original]
    train = dataclasses.replace(data.train, digests=tuple(digests), groups=groups or ())
    return dataclasses.replace(data, train=train)


@pytest.mark.parametrize("seed", range(10))
def test_a_rare_class_keeps_two_images(seed):
    train = split_of([398, 2]).train
    rows = sample_rows(train, 100, seed=seed)
    assert np.bincount(train.labels[rows]).tolist() == [98, 2]
    assert np.array_equal(rows, np.unique(rows))


@pytest.mark.parametrize("seed", range(20))
def test_copies_do_not_count_as_two_images(seed):
    # 16 copies of one image and another one, which most draws of two miss
    train = split_of([200, 17], copies=[(row, 200) for row in range(201, 216)]).train
    rows = sample_rows(train, 20, seed=seed)
    rare = rows[train.labels[rows] == 1]
    assert len({train.group_keys[row] for row in rare}) == 2


@pytest.mark.parametrize("seed", range(20))
def test_images_of_one_group_do_not_count_as_two(seed):
    groups = ("",) * 200 + ("g",) * 16 + ("h",)
    train = split_of([200, 17], groups=groups).train
    rows = sample_rows(train, 20, seed=seed)
    assert {train.groups[row] for row in rows if train.labels[row] == 1} == {"g", "h"}


@pytest.mark.parametrize("num_images", [1, 9, 10, 33, 61, 99, 100, 500])
def test_the_sample_has_the_requested_size_and_class_fractions(num_images):
    train = split_of([50, 30, 15, 3, 2]).train
    counts = np.bincount(train.labels[sample_rows(train, num_images)], minlength=5)
    assert counts.sum() == min(max(num_images, 10), 100)
    assert (counts >= 2).all()
    assert abs(counts[:3] - np.array([50, 30, 15]) * counts.sum() / 100).max() < 8
    everything = sample_rows(train, 100)
    assert everything.tolist() == list(range(100))


def test_multi_label_images_are_drawn_without_stratification():
    images = np.random.default_rng(0).integers(0, 255, (30, 4, 4, 3), "uint8")
    labels = np.random.default_rng(0).integers(0, 2, (30, 3))
    data = tlkit.load_arrays(images, labels, ["a", "b", "c"], splits=(1, 0, 0))
    assert len(sample_rows(data.train, 12)) == 12
    assert len(sample_rows(data.train, 1)) == 2
    assert find_lone_class(data) is None


def test_a_class_with_a_single_group_is_found():
    assert find_lone_class(split_of([9, 2])) is None
    two = split_of([9, 2])
    one = dataclasses.replace(two, train=two.train.subset(np.arange(10)))
    assert find_lone_class(one) == "'1' has one training image"
    assert find_lone_class(split_of([9, 2], copies=[(10, 9)])) == "'1' has one training image"
    grouped = split_of([4, 3], groups=("",) * 4 + ("g",) * 3)
    assert find_lone_class(grouped) == "'1' has one group of training images"
    train = split_of([4, 3]).train.subset(np.arange(4))
    assert find_lone_class(dataclasses.replace(grouped, train=train)) == "'1' has no training image"
    with pytest.raises(
        DataError, match=r"`photos` must have .*Received: photos in which '1' .* or sell it\."
    ):
        check_no_lone_class(grouped, "photos", "sell it")
