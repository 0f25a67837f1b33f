"""Kernel ridge regression on landmarks: a head that is not linear, solved in closed form.

The solution depends on the training images through sums only, see `Sums`: those of the folds of a
cross-validation are subtracted from the total.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
from threadpoolctl import threadpool_limits

from tlkit.evaluation.calibration import best_factor
from tlkit.models.kernel_head import KernelMap, directions
from tlkit.training.labelled import LabelledFeatures
from tlkit.training.linear import first_minimum, standardisation
from tlkit.training.sums import RegressionRows, Sums, sums_of, with_one

MAX_LANDMARKS = 2000
"""Number of landmarks that are drawn from more images than that."""

MAX_FEATURES = 4096
"""With more features the landmarks would make up most of the model."""

MAX_SEARCHED, MAX_LANDMARKS_SEARCHED = 2000, 1000
"""Numbers of rows and landmarks with which sharpness and penalty are chosen: the time grows with
the cube of the landmarks."""

SHARPNESSES = (0.5, 1.0, 2.0)
PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5)
DEFAULT_SHARPNESS, DEFAULT_PENALTY, DEFAULT_FACTOR = 1.0, 0.1, 8.0

LOG_FACTORS = (-2.0, 6.0)


@dataclass(frozen=True, eq=False)
class ClosedFormTask:
    """The images that a closed-form head is solved on.

    Attributes:
        rows: Features and labels, one row for each image or view of it.
        targets: 1 for the classes of each row, else 0, `(n, num_targets)`; two columns for one
            logit.
        weights: The weight of each row, `(n,)`; their mean is 1.
        folds: The rows of each fold; empty if there are too few images for cross-validation.
        candidates: Rows that may be landmarks: one for each image.
        kind: The kind of head: "softmax", "binary" or "multi_label".
        seed: Seed of the landmarks that are drawn.
    """

    rows: LabelledFeatures
    targets: np.ndarray
    weights: np.ndarray
    folds: Sequence[np.ndarray]
    candidates: np.ndarray
    kind: str
    seed: int


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """A solved closed-form head.

    Attributes:
        kernel_map: The map from features to kernel values.
        kernel: `(num_landmarks, num_outputs)`, from kernel values to logits, float32.
        bias: `(num_outputs,)`, float32.
        penalty: The factor of the penalty.
        chosen_by: The images that sharpness and penalty were chosen on, in words.
        out_of_fold: Logits of each row by a solution on the other folds, `(n, num_outputs)`; NaN
            for rows in no fold.
    """

    kernel_map: KernelMap
    kernel: np.ndarray
    bias: np.ndarray
    penalty: float
    chosen_by: str
    out_of_fold: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Returns the logits of images with the given features, `(n, num_outputs)`."""
        return self.kernel_map.values(features) @ self.kernel + self.bias


def solve_closed_form(task: ClosedFormTask) -> ClosedForm:
    """Solves kernel ridge regression on landmarks, which are directions of training images.

    With h(x) an image's kernel values and y its targets, scores W^T h + b minimise the sum of
    w |W^T h + b - y|² plus penalty * trace(W^T K W), K the kernel of the landmarks; with all images
    as landmarks that is kernel ridge regression. The sharpness of the kernel and the penalty are
    those with the lowest squared error in cross-validation, in which a fold's own images are no
    landmarks. The logits are the scores times the factor with the lowest cross-entropy out of fold.

    Reference:
        Rahimi and Recht (2007), Random Features for Large-Scale Kernel Machines, section 1 (ridge
        regression on a fixed map of features); Smola and Schölkopf (2000), Sparse Greedy Matrix
        Approximation for Machine Learning (a subset of the images as landmarks). The factor is the
        inverse of the temperature of Guo et al. (2017), https://arxiv.org/abs/1706.04599.
    """
    rows = task.rows
    is_all = len(task.candidates) == len(rows)  # a copy would take as much memory again
    mean, scale = standardisation(rows.features if is_all else rows.features[task.candidates])
    generator = np.random.default_rng(task.seed)
    chosen = _drawn(task.candidates, MAX_LANDMARKS, generator)
    landmarks = directions(rows.features[chosen], mean, scale)
    kernel_map = KernelMap(mean, scale, landmarks, DEFAULT_SHARPNESS)
    penalty, factor, chosen_by = DEFAULT_PENALTY, DEFAULT_FACTOR, "default: too few images"
    scores = np.full(task.targets.shape, np.nan)
    mix, shift = _readout(task.kind, task.targets.shape[1])
    if task.folds:
        searched = _drawn(np.arange(len(rows)), MAX_SEARCHED, generator)
        few = _drawn(np.arange(len(chosen)), MAX_LANDMARKS_SEARCHED, generator)
        kernel_maps = [
            KernelMap(mean, scale, landmarks[few], sharpness) for sharpness in SHARPNESSES
        ]
        # the products are small: a second BLAS thread spends far longer waiting than computing
        with threadpool_limits(1, user_api="blas"):
            tried = [_CrossValidation(task, one, searched, chosen[few]) for one in kernel_maps]
            best = min(tried, key=lambda one: one.error)
            scores = best.scores()
        kernel_map = replace(kernel_map, sharpness=best.kernel_map.sharpness)
        used = np.flatnonzero(np.isfinite(scores).all(axis=1))
        penalty = best.penalty
        factor = best_factor(
            scores[used] @ mix + shift,
            rows.labels[used],
            task.kind,
            task.weights[used],
            LOG_FACTORS,
        )
        chosen_by = f"{len(task.folds)}-fold cross-validation"
    sums = _sums(task, np.arange(len(rows)), kernel_map)
    solution = sums.solve(penalty * penalty_matrix(kernel_map))
    return ClosedForm(
        kernel_map,
        kernel=(factor * solution[:-1] @ mix).astype(np.float32),
        bias=(factor * (solution[-1] @ mix + shift)).astype(np.float32),
        penalty=penalty,
        chosen_by=chosen_by,
        out_of_fold=factor * (scores @ mix + shift),
    )


class _CrossValidation:
    """The cross-validation of one kernel: each fold is predicted from the others.

    A fold's own images are no landmarks of the solution that predicts it, as images to come are
    not: they would be predicted too well.

    Attributes:
        kernel_map: The map from features to kernel values.
        penalty: The penalty with the lowest error.
        error: The sum of w |score - y|² with it, over all folds.
    """

    def __init__(
        self, task: ClosedFormTask, kernel_map: KernelMap, rows: np.ndarray, landmarks: np.ndarray
    ) -> None:
        self._task, self.kernel_map = task, kernel_map
        number_of = np.full(len(task.rows), -1)
        for number, fold in enumerate(task.folds):
            number_of[fold] = number
        self._rows = {n: rows[number_of[rows] == n] for n in range(len(task.folds))}
        parts = {n: _sums(task, some, kernel_map) for n, some in self._rows.items()}
        total = reduce(add, parts.values()) + _sums(task, rows[number_of[rows] < 0], kernel_map)
        matrix = penalty_matrix(kernel_map)
        self._kept = {
            number: np.flatnonzero(np.append(number_of[landmarks] != number, True))
            for number in self._rows
        }
        outside = {n: (total - parts[n]).on(kept) for n, kept in self._kept.items()}
        inside = {n: parts[n].on(kept) for n, kept in self._kept.items()}
        penalties = {n: matrix[np.ix_(kept, kept)] for n, kept in self._kept.items()}
        solved: dict[float, dict[int, np.ndarray]] = {}
        errors: dict[float, float] = {}

        def error_with(penalty: float) -> float:
            solutions = {n: sums.solve(penalty * penalties[n]) for n, sums in outside.items()}
            solved[penalty] = solutions
            errors[penalty] = sum(inside[n].error(solution) for n, solution in solutions.items())
            return errors[penalty]

        self.penalty = first_minimum(PENALTIES, error_with)
        self.error, self._solutions = errors[self.penalty], solved[self.penalty]

    def scores(self) -> np.ndarray:
        """Returns the scores of each row by the solution on the other folds, else NaN."""
        scores = np.full(self._task.targets.shape, np.nan)
        for number, solution in self._solutions.items():
            rows = self._rows[number]
            values = with_one(self.kernel_map.values(self._task.rows.features[rows]))
            scores[rows] = values[:, self._kept[number]] @ solution
        return scores


def _sums(task: ClosedFormTask, rows: np.ndarray, kernel_map: KernelMap) -> Sums:
    given = RegressionRows(task.rows.features, task.targets, task.weights)
    return sums_of(given, rows, kernel_map.values, len(kernel_map.landmarks))


def penalty_matrix(kernel_map: KernelMap) -> np.ndarray:
    """Returns the kernel of the landmarks, and zeros for the bias."""
    matrix = np.zeros((len(kernel_map.landmarks) + 1,) * 2)
    matrix[:-1, :-1] = kernel_map.values_at(kernel_map.landmarks)
    return matrix


def _readout(kind: str, num_targets: int) -> tuple[np.ndarray, float]:
    """Returns M and c for which scores @ M + c are logits, up to a factor."""
    if kind == "binary":
        return np.array([[-1.0], [1.0]]), 0.0
    return np.eye(num_targets), -0.5 if kind == "multi_label" else 0.0


def _drawn(rows: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
    """Returns at most `number` of the rows, in their order."""
    return rows if len(rows) <= number else np.sort(generator.permutation(rows)[:number])
