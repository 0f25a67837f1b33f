"""Nested random subsets of training images, to solve a head on fewer of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlkit.training.labelled import LabelledFeatures


@dataclass(frozen=True, eq=False)
class NestedRows:
    """Training rows of which every beginning is a random stratified subset, and rows to test on.

    Attributes:
        train: Row numbers in the order in which they are added, `(n,)`.
        ends: Positions in `train` at which a subset may end, ascending: no group is divided.
        test: Row numbers to test on, of other groups.
    """

    train: np.ndarray
    ends: np.ndarray
    test: np.ndarray

    def sizes(self, numbers: Sequence[float]) -> np.ndarray:
        """Returns for each number of rows the nearest size of a subset, `(len(numbers),)`."""
        nearest = np.abs(self.ends[:, np.newaxis] - np.asarray(numbers)).argmin(axis=0)
        return self.ends[nearest]


def nested_rows(
    rows: LabelledFeatures, train: np.ndarray, test: np.ndarray, generator: np.random.Generator
) -> NestedRows:
    """Draws the order in which rows are added.

    Groups are added as a whole, in a random order in which every beginning has nearly the same
    fraction of the groups of each class; a group of several classes counts as the class of its
    first row. Rows with several labels are drawn without regard to them.

    Args:
        rows: Labels and groups of all rows.
        train: Row numbers to order.
        test: Row numbers to test on.
        generator: Draws the order.

    Example:
        >>> import numpy as np
        >>> from tlkit.advice.subsets import nested_rows
        >>> from tlkit.training.labelled import LabelledFeatures
        >>> rows = LabelledFeatures(np.zeros((60, 1)), np.repeat([0, 1], [20, 40]))
        >>> order = nested_rows(rows, np.arange(60), np.arange(0), np.random.default_rng(0)).train
        >>> np.bincount(rows.labels[order[:30]]).tolist()
        [10, 20]
    """
    strata, members = _groups(rows, train)
    position = np.empty(len(strata))
    for stratum in np.unique(strata):
        own = np.flatnonzero(strata == stratum)
        position[generator.permutation(own)] = (np.arange(len(own)) + generator.random()) / len(own)
    place = np.argsort(np.argsort(position))[members]
    order = np.argsort(place, kind="stable")
    return NestedRows(train[order], np.cumsum(np.bincount(place)), test)


def nested_folds(
    rows: LabelledFeatures, num_folds: int, generator: np.random.Generator
) -> list[NestedRows]:
    """Draws folds of whole groups, stratified by class, and the order of the rows outside each.

    Args:
        rows: Labels and groups of all rows.
        num_folds: Number of folds.
        generator: Draws folds and orders.

    Example:
        >>> import numpy as np
        >>> from tlkit.advice.subsets import nested_folds
        >>> from tlkit.training.labelled import LabelledFeatures
        >>> rows = LabelledFeatures(np.zeros((60, 1)), np.repeat([0, 1], [20, 40]))
        >>> folds = nested_folds(rows, 5, np.random.default_rng(0))
        >>> [np.bincount(rows.labels[fold.test]).tolist() for fold in folds[:2]]
        [[4, 8], [4, 8]]
    """
    everything = np.arange(len(rows))
    strata, members = _groups(rows, everything)
    order = generator.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]  # class by class, else random
    fold_of_group = np.empty(len(strata), np.int64)
    fold_of_group[order] = np.arange(len(strata)) % num_folds
    fold_of = fold_of_group[members]
    return [
        nested_rows(rows, everything[fold_of != fold], everything[fold_of == fold], generator)
        for fold in range(num_folds)
    ]


def _groups(rows: LabelledFeatures, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the class of each group, or 0 with several labels, and the group of each row."""
    _, first, members = np.unique(rows.own_groups[some], return_index=True, return_inverse=True)
    if rows.labels.ndim > 1:
        return np.zeros(len(first), np.int64), members
    return rows.labels[some[first]], members
