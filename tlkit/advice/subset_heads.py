"""Heads solved on nested subsets of training images, and their accuracy on held-out images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from tlkit.advice.subsets import NestedRows
from tlkit.data.class_weighting import ClassWeighting
from tlkit.evaluation.outputs import image_accuracies
from tlkit.models.kernel_head import KernelMap, directions
from tlkit.training.closed_form import DEFAULT_SHARPNESS, PENALTIES, SHARPNESSES
from tlkit.training.labelled import LabelledFeatures
from tlkit.training.linear import first_minimum, standardisation
from tlkit.training.sums import Sums

MAX_LANDMARKS = 1000
"""Number of landmarks that are used of more training images."""

_ROWS_AT_ONCE = 2048


@dataclass(frozen=True, eq=False)
class CurveTask:
    """The images that a learning curve is measured on.

    Attributes:
        rows: Features and labels of all images.
        draws: For each draw the nested subsets of each fold; no two folds test the same
            row.
        numbers: Numbers of training images to solve on, ascending, `(k,)`.
        weighting: How classes count.
    """

    rows: LabelledFeatures
    draws: Sequence[Sequence[NestedRows]]
    numbers: np.ndarray
    weighting: ClassWeighting = field(default_factory=ClassWeighting)


@dataclass(frozen=True, eq=False)
class SubsetAccuracies:
    """The accuracy of each test image, by draw and size of the subset.

    Attributes:
        sizes: The mean numbers of training images, ascending, `(k,)`.
        test: The row numbers of the test images, `(n,)`.
        accuracies: `(num_draws, k, n)`: 0 or 1; with several labels the fraction of
            correct ones.
    """

    sizes: np.ndarray
    test: np.ndarray
    accuracies: np.ndarray


def measure_subsets(task: CurveTask) -> SubsetAccuracies:
    """Solves a closed-form head on every subset and tests it on the images held out from it.

    The head is that of `tlkit.training.closed_form.solve_closed_form`: on up to `MAX_LANDMARKS`
    images all are landmarks. The sharpness of its kernel is chosen once, and the penalty for each
    size, by the squared error on the held-out images of the first draw: two numbers for all their
    predictions. Statistics of the features are those of all images.

    Args:
        task: The images, their subsets, and the sizes.
    """
    rows = task.rows
    is_multi_label = rows.labels.ndim == 2
    targets = (
        rows.labels if is_multi_label else rows.labels[:, np.newaxis] == np.unique(rows.labels)
    )
    weights = np.ones(len(rows))
    if not task.weighting.is_plain:
        weights = task.weighting.decision_weights(rows.labels)
    units = directions(rows.features, *standardisation(rows.features))
    given = _Given(units, targets.astype(np.float64), weights)
    kind = "multi_label" if is_multi_label else "softmax"
    labels = rows.labels if is_multi_label else np.unique(rows.labels, return_inverse=True)[1]
    test = np.sort(np.concatenate([fold.test for fold in task.draws[0]]))
    accuracies = np.empty((len(task.draws), len(task.numbers), len(test)))
    sizes = np.empty((len(task.draws), len(task.numbers)))
    # the products are small: a second BLAS thread spends far longer waiting than computing
    with threadpool_limits(1, user_api="blas"):
        sharpness = _best_sharpness(given, task)
        penalties: dict[int, float] = {}
        for draw, folds in enumerate(task.draws):
            parts = [_Fold(given, fold, sharpness) for fold in folds]
            for number, wanted in enumerate(task.numbers):
                used = [fold.sizes([wanted])[0] for fold in folds]
                for part, size in zip(parts, used, strict=True):
                    part.grow(size)
                if draw == 0:
                    penalties[number] = _best_penalty(parts)
                for part, fold in zip(parts, folds, strict=True):
                    logits = part.scores(penalties[number]) - 0.5
                    accuracies[draw, number, np.searchsorted(test, fold.test)] = image_accuracies(
                        logits, labels[fold.test], kind, True
                    )
                sizes[draw, number] = np.mean(used)
    return SubsetAccuracies(sizes.mean(axis=0), test, accuracies)


@dataclass(frozen=True, eq=False)
class _Given:
    """Directions of the features, targets `(n, num_targets)` and weights of all rows."""

    units: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def _best_penalty(parts: "Sequence[_Fold]") -> float:
    """Returns the penalty with the lowest error on the test rows of all folds."""
    return first_minimum(PENALTIES, lambda penalty: sum(part.error(penalty) for part in parts))


def _best_sharpness(given: _Given, task: CurveTask) -> float:
    """Returns the sharpness with the lowest error on the first fold, with the most images."""
    fold = task.draws[0][0]
    size = fold.sizes([min(task.numbers[-1], MAX_LANDMARKS)])[0]
    errors: dict[float, float] = {}
    for sharpness in SHARPNESSES:
        part = _Fold(given, fold, sharpness)
        part.grow(size)
        errors[sharpness] = min(part.error(penalty) for penalty in PENALTIES)
    return min(SHARPNESSES, key=lambda one: (errors[one], abs(one - DEFAULT_SHARPNESS)))


class _Fold:
    """One fold: the sums over its subset, which grows, and its test rows."""

    def __init__(self, given: _Given, fold: NestedRows, sharpness: float) -> None:
        self._given, self._fold = given, fold
        landmarks = given.units[fold.train[:MAX_LANDMARKS]]
        self._kernel_map = KernelMap(np.zeros(1), np.ones(1), landmarks, sharpness)
        self._penalty_matrix = np.zeros((len(landmarks) + 1,) * 2)
        self._penalty_matrix[:-1, :-1] = self._kernel_map.values_at(landmarks)
        self._test_values = self._values(fold.test)
        size, num_targets = len(landmarks) + 1, given.targets.shape[1]
        self._sums = Sums(np.zeros((size, size)), np.zeros((size, num_targets)), 0.0)
        self._size, self._columns = 0, np.arange(0)
        self._scores: dict[float, np.ndarray] = {}

    def grow(self, size: int) -> None:
        """Adds rows to the subset until it has `size`."""
        num_landmarks = len(self._kernel_map.landmarks)
        for start, rows in _slices(self._fold.train, self._size, size):
            values = self._values(rows, start)
            targets = self._given.targets[rows]
            weighted = values * self._given.weights[rows, np.newaxis]
            squares = float(self._given.weights[rows] @ np.square(targets).sum(axis=1))
            self._sums += Sums(weighted.T @ values, weighted.T @ targets, squares)
        self._size, self._scores = size, {}
        self._columns = np.append(np.arange(min(size, num_landmarks)), num_landmarks)

    def scores(self, penalty: float) -> np.ndarray:
        """Returns the scores of the test rows, `(num_test, num_targets)`."""
        if penalty not in self._scores:
            columns = self._columns
            matrix = penalty * self._penalty_matrix[np.ix_(columns, columns)]
            solution = self._sums.on(columns).solve(matrix)
            self._scores[penalty] = self._test_values[:, columns] @ solution
        return self._scores[penalty]

    def error(self, penalty: float) -> float:
        """Returns the weighted squared error on the test rows."""
        test = self._fold.test
        squares = np.square(self.scores(penalty) - self._given.targets[test]).sum(axis=1)
        return float(self._given.weights[test] @ squares)

    def _values(self, rows: np.ndarray, start: int | None = None) -> np.ndarray:
        """Returns the kernel values of some rows, and 1 for the bias.

        Args:
            rows: Row numbers.
            start: Position of the first in the training rows; `None` for test rows.
        """
        if start is not None and start + len(rows) < len(self._penalty_matrix):  # landmarks
            values = self._penalty_matrix[start : start + len(rows), :-1]
        else:
            values = self._kernel_map.values_at(self._given.units[rows])
        return np.concatenate([values, np.ones((len(values), 1))], axis=1)


def _slices(rows: np.ndarray, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields parts of `rows[start:stop]`, each with the position of its first row."""
    for first in range(start, stop, _ROWS_AT_ONCE):
        yield first, rows[first : min(first + _ROWS_AT_ONCE, stop)]
