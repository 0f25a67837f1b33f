"""A linear head, solved to its optimum by scikit-learn."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from tlkit.data.splits import class_weights
from tlkit.training.labelled import LabelledFeatures

STRENGTHS = tuple(float(10**exponent) for exponent in np.arange(-4.0, 1.01, 0.5))
"""Inverse regularisation strengths that are tried, scikit-learn's `C`, strongest penalty first."""

MIN_VALIDATION = 300
"""With fewer validation images the strength is chosen by cross-validation on the training images:
the loss of a hundred images says too little."""

LEAST_DEVIATION = 1e-12
"""A column that differs by less is a constant: weights that make anything of it could not train."""

ROUNDING = 1e-6
"""A column that differs by less than this fraction of its mean is a constant but for float32."""

LEAST_OF_MEAN = LEAST_OF_OTHERS = 1e-4
"""No column is scaled as if it varied by less than these fractions of its own mean and of what
three quarters of the columns vary by at most. What varies less is next to constant, or a unit that
is all but dead: at unit variance its weights would make much of noise, and cancel against the bias
in more digits than float32 has."""

_NUM_FOLDS = 5
_FALLBACK_STRENGTH = 0.1


@dataclass(frozen=True)
class LinearSolution:
    """A Dense layer's weights and how they were chosen.

    Attributes:
        kernel: Shape `(num_features, units)`, for features as they come (not standardised).
        bias: Shape `(units,)`.
        strength: scikit-learn's `C`; one for each label of a multi-label head, averaged.
        chosen_by: What the strength was chosen on.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float
    chosen_by: str


def solve_linear(
    train: LabelledFeatures,
    *,
    num_units: int,
    validation: LabelledFeatures | None = None,
    class_weight: str | None = None,
    use_bias: bool = True,
    seed: int = 0,
) -> LinearSolution:
    """Solves (multinomial) logistic regression on standardised features, L2-penalised.

    The penalty's strength is the one with the smallest log loss: on the validation images where
    there are at least `MIN_VALIDATION`, else by stratified cross-validation. Images count in it as
    they do in what is solved, by `class_weight` and their weights. The objective is
    scikit-learn's: 1/2 |w|² + C * sum of the samples' log losses; the intercept is not
    penalised. The scale of the standardisation is folded into the weights that come back; it is the
    standard deviation, but never below what `LEAST_OF_MEAN` and `LEAST_OF_OTHERS` say.

    Args:
        train: What is solved, the features float32. They are standardised in place, and those of
            `validation` too: they are the largest thing in memory, and no copy of them is made.
            Rows of 0/1 are solved label by label. Groups apart would betray each other, and too
            weak a penalty be chosen.
        num_units: Units of the Dense layer: 1 for two classes told apart by one logit, else the
            number of classes or labels.
        validation: What the strength is chosen on; its groups do not matter.
        class_weight: "balanced" weighs each class by n / (num_classes * its count), on validation
            images by their own counts.
        use_bias: Whether there is an intercept. Without one features are scaled and not centred,
            and the bias that comes back is zero.
        seed: Of the folds.
    """
    mean, scale = moments(train.features, is_centred=use_bias)
    _standardise(train.features, mean, scale)
    if validation is not None:
        _standardise(validation.features, mean, scale)
    basis = row_space(train.features)
    if basis is not None:
        train = train.seen_as(train.features @ basis)
        validation = validation and validation.seen_as(validation.features @ basis)
    whole = _tasks(train, num_units, class_weight)
    held_out: Sequence[LabelledFeatures | None] = [None] * len(whole)
    if validation is not None:
        held_out = _tasks(validation, num_units, class_weight)
    # many small products: a second BLAS thread spends far longer waiting than computing
    with threadpool_limits(1, user_api="blas"):
        solutions = [
            _solve_one(
                rows,
                measured,
                class_weight=class_weight,
                sample_weight=train.weights,
                use_bias=use_bias,
                seed=seed,
            )
            for rows, measured in zip(whole, held_out, strict=True)
        ]
    coefficients = np.concatenate([solution[0] for solution in solutions])
    intercepts = np.concatenate([solution[1] for solution in solutions])
    if train.labels.ndim == 1:
        coefficients, intercepts = _for_units(coefficients, intercepts, num_units)
    if basis is not None:
        coefficients = coefficients @ basis.T
    coefficients = coefficients / scale
    return LinearSolution(
        kernel=coefficients.T.astype(np.float32),
        bias=(intercepts - coefficients @ mean).astype(np.float32),
        strength=float(np.mean([solution[2] for solution in solutions])),
        chosen_by=solutions[0][3],
    )


def _tasks(
    rows: LabelledFeatures, num_units: int, class_weight: str | None
) -> list[LabelledFeatures]:
    """What is solved by itself, each label of several or else all classes together.

    The rows count in a loss that is measured as scikit-learn weighs them where it solves.
    """
    labels = rows.labels
    tasks = [labels] if labels.ndim == 1 else [labels[:, i] for i in range(num_units)]
    weights = [rows.weights] * len(tasks)
    if class_weight is not None:
        balanced = [_balanced(own) for own in tasks]
        weights = [own if rows.weights is None else own * rows.weights for own in balanced]
    return [
        replace(rows, labels=own, weights=weight)
        for own, weight in zip(tasks, weights, strict=True)
    ]


def _balanced(labels: np.ndarray) -> np.ndarray:
    _, numbers = np.unique(labels, return_inverse=True)
    weights: np.ndarray = class_weights(numbers, int(numbers.max()) + 1)[numbers]
    return weights


def _solve_one(
    rows: LabelledFeatures,
    validation: LabelledFeatures | None,
    *,
    class_weight: str | None,
    sample_weight: np.ndarray | None,
    use_bias: bool,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, float, str]:
    features, labels = rows.features, rows.labels
    classes = np.unique(labels)
    if len(classes) == 1:  # a label that all images carry, or none: its prior odds, and no slope
        odds = np.log(len(labels) + 1.0) * (1 if classes[0] else -1) * use_bias
        return np.zeros((1, features.shape[1])), np.array([odds]), 0.0, "one class only"

    def head() -> LogisticRegression:
        return LogisticRegression(
            class_weight=class_weight, fit_intercept=use_bias, max_iter=1000, warm_start=True
        )

    def fitted(
        regression: LogisticRegression, strength: float, some: np.ndarray | slice
    ) -> LogisticRegression:
        weight = None if sample_weight is None else sample_weight[some]
        regression.set_params(C=strength)
        return regression.fit(features[some], labels[some], sample_weight=weight)

    # Heads go on from where the penalty before left them; the last one begins anew.
    everything = slice(None)
    if validation is not None and len(validation.labels) >= MIN_VALIDATION:
        chosen_by = f"{len(validation.labels)} validation images"
        whole = head()

        def loss(strength: float) -> float:
            return _log_loss(fitted(whole, strength, everything), validation)

    elif folds := _folds(rows, seed):
        chosen_by = f"{len(folds)}-fold cross-validation"
        heads = [head() for _ in folds]

        def loss(strength: float) -> float:
            losses = [
                _log_loss(fitted(one, strength, train), rows[test])
                for one, (train, test) in zip(heads, folds, strict=True)
            ]
            return float(np.mean(losses))

    else:
        solved = fitted(head(), _FALLBACK_STRENGTH, everything)
        return solved.coef_, solved.intercept_, _FALLBACK_STRENGTH, "default: too few images"
    strength = first_minimum(STRENGTHS, loss)
    solved = fitted(head(), strength, everything)
    return solved.coef_, solved.intercept_, strength, chosen_by


def _folds(rows: LabelledFeatures, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """As many folds as leave each class something to learn from, and at most five.

    Groups of several classes may leave one class alone in a fold, or only others to measure on, or
    only rows that count for nothing: such a fold says nothing, and is left out.
    """
    labels, groups = rows.labels, rows.own_groups
    smallest = min(len(np.unique(groups[labels == label])) for label in np.unique(labels))
    if smallest < 2:
        return []
    splitter = StratifiedGroupKFold(min(_NUM_FOLDS, smallest), shuffle=True, random_state=seed)

    def counting(some: np.ndarray) -> np.ndarray:
        return some if rows.weights is None else some[rows.weights[some] > 0]

    return [
        (train, test)
        for train, test in splitter.split(labels, labels, groups)
        if len(np.unique(labels[counting(train)])) > 1
        and np.isin(labels[counting(test)], labels[train]).any()
    ]


def _log_loss(regression: LogisticRegression, rows: LabelledFeatures) -> float:
    rows = rows[np.isin(rows.labels, regression.classes_)]
    probabilities = regression.predict_proba(rows.features)
    return float(
        log_loss(rows.labels, probabilities, labels=regression.classes_, sample_weight=rows.weights)
    )


def first_minimum(candidates: Sequence[float], loss: Callable[[float], float]) -> float:
    """Walks on while the loss falls, and past one rise; it is convex but for noise."""
    best, lowest, rises = candidates[0], np.inf, 0
    for candidate in candidates:
        value = loss(candidate)
        if value < lowest:
            best, lowest, rises = candidate, value, 0
        else:
            rises += 1
            if rises == 2:
                break
    return best


def moments(features: np.ndarray, *, is_centred: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and scale of each column, float64; a constant column's scale is infinite.

    The scale is the standard deviation, or the least that counts as one. Not centred, the mean is 0
    and the deviation that from 0.
    """
    mean, variance = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    for rows in _slices(len(features) if is_centred else 0):
        mean += features[rows].sum(axis=0, dtype=np.float64) / len(features)
    for rows in _slices(len(features)):
        variance += np.square(features[rows] - mean).sum(axis=0) / len(features)
    deviation = np.sqrt(variance)
    varies = deviation > np.maximum(LEAST_DEVIATION, ROUNDING * np.abs(mean))
    usual = np.quantile(deviation[varies], 0.75) if varies.any() else 1.0
    least = np.maximum(LEAST_OF_MEAN * np.abs(mean), LEAST_OF_OTHERS * usual)
    return mean, np.where(varies, np.maximum(deviation, least), np.inf)


def row_space(features: np.ndarray) -> np.ndarray | None:
    """Returns an orthonormal basis of what the rows span, `(num_features, n)`; `None` if n is more.

    Of all weights that answer the rows alike the penalty chooses those in their span, so solving in
    its n coordinates finds the same optimum, on any of the rows too.
    """
    if features.shape[1] <= len(features):
        return None
    return np.linalg.qr(features.T.astype(np.float64))[0].astype(features.dtype)


def _standardise(features: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> None:
    for rows in _slices(len(features)):
        features[rows] = (features[rows] - mean) / scale


def _slices(n: int, step: int = 1024) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, n, step))


def _for_units(
    coefficients: np.ndarray, intercepts: np.ndarray, num_units: int
) -> tuple[np.ndarray, np.ndarray]:
    """Two classes come solved as one logit z; two units hold it as (-z/2, z/2)."""
    if len(coefficients) == num_units:
        return coefficients, intercepts
    halves = np.array([-0.5, 0.5])
    return halves[:, None] * coefficients, halves * intercepts
