"""Sums over training images that determine a ridge regression on a fixed map of features."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

_LEAST_PENALTY = 1e-11
"""Fraction of the trace of `Sums.gram` that is added to its diagonal: copies among the landmarks,
or few features, would make it singular."""

_ROWS_AT_ONCE = 2048


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over some training images, which determine a solution; float64.

    Attributes:
        gram: Sum of w h h^T, `(num_values + 1,) * 2`: h is an image's values, the output of the
            map, and 1 for the bias; w is its weight.
        cross: Sum of w h y^T, `(num_values + 1, num_targets)`: y is 1 for its classes, else 0. The
            last row has the total weight of each class.
        squares: Sum of w |y|².
    """

    gram: np.ndarray
    cross: np.ndarray
    squares: float

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.gram + other.gram, self.cross + other.cross, self.squares + other.squares)

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(self.gram - other.gram, self.cross - other.cross, self.squares - other.squares)

    def on(self, columns: np.ndarray) -> "Sums":
        """Returns the sums for some of the entries of h."""
        return Sums(self.gram[np.ix_(columns, columns)], self.cross[columns], self.squares)

    def solve(self, penalty: np.ndarray) -> np.ndarray:
        """Returns the W that minimises the sum of w |W^T h - y|² plus trace(W^T penalty W)."""
        matrix = self.gram + penalty
        matrix[np.diag_indices_from(matrix)] += _LEAST_PENALTY * np.trace(self.gram)
        solution: np.ndarray = cho_solve(cho_factor(matrix, lower=True), self.cross)
        return solution

    def error(self, weights: np.ndarray) -> float:
        """Returns the sum of w |weights^T h - y|²."""
        return float(np.sum(self._without_squares(weights)) + self.squares)

    def error_by_class(self, weights: np.ndarray) -> np.ndarray:
        """Returns the sum of w (weights^T h - y)² for each class, whose y are 0 or 1."""
        squares: np.ndarray = self.cross[-1]
        return self._without_squares(weights) + squares

    def _without_squares(self, weights: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.sum(weights * (self.gram @ weights - 2 * self.cross), axis=0)
        return found


@dataclass(frozen=True, eq=False)
class RegressionRows:
    """What a regression is solved on.

    Attributes:
        features: One row for each image, `(n, num_features)`.
        targets: `(n, num_targets)`, float64.
        weights: `(n,)`, float64.
    """

    features: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


def sums_of(
    given: RegressionRows,
    rows: np.ndarray,
    values: Callable[[np.ndarray], np.ndarray],
    num_values: int,
) -> Sums:
    """Returns the sums over some images; their values are in memory a part at a time.

    Args:
        given: The images.
        rows: The positions of those that are summed.
        values: The map: from features `(n, num_features)` to values `(n, num_values)`.
        num_values: The number of values of an image.
    """
    gram = np.zeros((num_values + 1, num_values + 1))
    cross = np.zeros((num_values + 1, given.targets.shape[1]))
    for some in _slices(rows):
        found = with_one(values(given.features[some]))
        weighted = found * given.weights[some, np.newaxis]
        gram += weighted.T @ found
        cross += weighted.T @ given.targets[some]
    squares = given.weights[rows] @ np.square(given.targets[rows]).sum(axis=1)
    return Sums(gram, cross, float(squares))


def with_one(values: np.ndarray) -> np.ndarray:
    """Returns values with a column of ones, for the bias."""
    return np.concatenate([values, np.ones((len(values), 1))], axis=1)


def _slices(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE))
