"""Nested subsets: stratified, of whole groups, and disjoint from the images they are tested on."""

import numpy as np

from tlkit.advice.subsets import nested_folds, nested_rows
from tlkit.training.labelled import LabelledFeatures


def rows_of(labels, groups=None):
    return LabelledFeatures(np.zeros((len(labels), 1)), labels, groups)


def test_every_beginning_is_stratified():
    labels = np.repeat([0, 1, 2], [20, 40, 60])
    order = nested_rows(rows_of(labels), np.arange(120), np.arange(0), np.random.default_rng(0))
    for size in (12, 30, 60, 90):
        counts = np.bincount(labels[order.train[:size]], minlength=3)
        assert np.abs(counts - size * np.array([1, 2, 3]) / 6).max() <= 1


def test_folds_partition_the_rows_and_are_stratified():
    """As many classes as folds, of the same number of images: no fold may be one class."""
    labels = np.repeat(np.arange(5), 20)
    folds = nested_folds(rows_of(labels), 5, np.random.default_rng(0))
    assert np.sort(np.concatenate([fold.test for fold in folds])).tolist() == list(range(100))
    for fold in folds:
        assert np.bincount(labels[fold.test]).tolist() == [4] * 5
        assert sorted([*fold.train, *fold.test]) == list(range(100))


def test_groups_are_divided_neither_by_folds_nor_by_subsets():
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 30, 200)
    labels = groups % 3
    for fold in nested_folds(rows_of(labels, groups), 5, generator):
        assert not set(groups[fold.test]) & set(groups[fold.train])
        for size in fold.sizes([20, 50, 100]):
            assert not set(groups[fold.train[:size]]) & set(groups[fold.train[size:]])


def test_rows_with_several_labels_are_drawn_without_regard_to_them():
    labels = np.random.default_rng(0).integers(0, 2, (50, 3))
    folds = nested_folds(rows_of(labels), 5, np.random.default_rng(0))
    assert sorted(len(fold.test) for fold in folds) == [10] * 5
