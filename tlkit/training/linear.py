"""Logistic regression: a linear head solved to its optimum by scikit-learn."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from tlkit.data.class_weighting import ClassWeighting
from tlkit.training.labelled import LabelledFeatures

MAX_ITERATIONS = 1000
STRENGTHS = tuple(float(10**exponent) for exponent in np.arange(-4.0, 1.01, 0.5))
"""Inverse regularisation strengths to try, scikit-learn's `C`, strongest penalty first."""

MIN_VALIDATION = 300
"""With fewer validation images the strength is chosen by cross-validation on the training images:
the loss on a hundred images is too noisy."""

LEAST_DEVIATION = 1e-12
"""A column whose standard deviation is smaller counts as constant: weights large enough to use it
could not be trained."""

ROUNDING = 1e-6
"""A column whose standard deviation is smaller than this fraction of its mean counts as constant:
it varies by rounding in float32 only."""

LEAST_OF_MEAN = LEAST_OF_OTHERS = 1e-4
"""The scale of a column is at least these fractions of its own mean and of the 75th percentile of
the columns' standard deviations. A column that varies less is almost constant, or a unit that is
almost dead: at unit variance its weights would amplify noise, and cancel against the bias in more
digits than float32 has."""

FEW_IMAGES = 20
"""Number of images with which a column's own standard deviation counts as much as that of all
columns, see `standardisation`. Chosen on classes of CIFAR-100, see benchmarks/README.md."""

_NUM_FOLDS = 5
_FALLBACK_STRENGTH = 0.1
_HALVES = np.array([-0.5, 0.5])
_NEVER = -100.0
"""A logit with which a class has no probability."""


@dataclass(frozen=True)
class LinearSolution:
    """The weights of a Dense layer and how they were chosen.

    Attributes:
        kernel: Shape `(num_features, units)`, for features that are not standardised.
        bias: Shape `(units,)`.
        strength: scikit-learn's `C`; for a multi-label head the mean over its labels.
        chosen_by: The images that the strength was chosen on, in words.
        out_of_fold: Logits of each row by a solution on the other folds, `(n, units)`; NaN for rows
            in no fold. `None` unless asked for, and if there are too few images for folds.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float
    chosen_by: str
    out_of_fold: np.ndarray | None = None


def solve_linear(
    train: LabelledFeatures,
    *,
    num_units: int,
    validation: LabelledFeatures | None = None,
    weighting: ClassWeighting | None = None,
    use_bias: bool = True,
    seed: int = 0,
    predicts_folds: bool = False,
) -> LinearSolution:
    """Solves L2-penalised (multinomial) logistic regression on standardised features.

    The strength of the penalty is the one with the smallest log loss: on the validation images if
    there are at least `MIN_VALIDATION`, else by stratified cross-validation. That loss is weighted
    by `weighting` and the sample weights, as the objective is. The objective is scikit-learn's:
    1/2 |w|² + C * sum of the samples' log losses; the intercept is not penalised. The scale of the
    standardisation is folded into the returned weights, see `standardisation`.

    Args:
        train: The rows to solve on, features in float32. The features are standardised in place,
            and so are those of `validation`: they are too large to copy. Labels in rows of 0/1 are
            solved label by label. Rows of one group must not be split over folds: that would leak,
            and choose too weak a penalty.
        num_units: Units of the Dense layer: 1 for two classes with one logit, else the number of
            classes or labels.
        validation: The rows to choose the strength on; their groups are ignored.
        weighting: How classes count, on validation images by their own counts; `None` if all images
            count the same. With rows of 0/1, see `ClassWeighting.of_label`.
        use_bias: Whether there is an intercept. Without one, features are scaled but not centred,
            and the returned bias is zero.
        seed: Seed of the folds.
        predicts_folds: Whether to predict each fold from the others, for `out_of_fold`.
    """
    mean, scale = standardisation(train.features, is_centred=use_bias)
    _standardise(train.features, mean, scale)
    if validation is not None:
        _standardise(validation.features, mean, scale)
    basis = row_space(train.features)
    if basis is not None:
        train = train.with_features(train.features @ basis)
        validation = validation and validation.with_features(validation.features @ basis)
    weighting = ClassWeighting() if weighting is None else weighting
    tasks = _tasks(train, num_units, weighting)
    held_out: Sequence[LabelledFeatures | None] = [None] * len(tasks)
    if validation is not None:
        held_out = _tasks(validation, num_units, weighting)
    # the products are small: a second BLAS thread spends far longer waiting than computing
    with threadpool_limits(1, user_api="blas"):
        solutions = [
            _solve_one(
                rows,
                measured,
                is_balanced=weighting.is_balanced,
                sample_weight=train.weights,
                use_bias=use_bias,
                seed=seed,
                predicts_folds=predicts_folds,
            )
            for rows, measured in zip(tasks, held_out, strict=True)
        ]
    coefficients = np.concatenate([solution.coefficients for solution in solutions])
    intercepts = np.concatenate([solution.intercepts for solution in solutions])
    predictions = [one.out_of_fold for one in solutions if one.out_of_fold is not None]
    out_of_fold = None
    if predictions and len(predictions) == len(solutions):
        out_of_fold = np.concatenate(predictions, axis=1)
    if train.labels.ndim == 1:
        coefficients, intercepts = _expand_to_units(coefficients, intercepts, num_units)
        if out_of_fold is not None and out_of_fold.shape[1] < num_units:
            out_of_fold = out_of_fold * _HALVES
    if basis is not None:
        coefficients = coefficients @ basis.T
    coefficients = coefficients / scale
    return LinearSolution(
        kernel=coefficients.T.astype(np.float32),
        bias=(intercepts - coefficients @ mean).astype(np.float32),
        strength=float(np.mean([solution.strength for solution in solutions])),
        chosen_by=solutions[0].chosen_by,
        out_of_fold=out_of_fold,
    )


@dataclass(frozen=True, eq=False)
class _Solution:
    """The solution of one problem: `(classes, num_features)`, or one row for two classes."""

    coefficients: np.ndarray
    intercepts: np.ndarray
    strength: float
    chosen_by: str
    out_of_fold: np.ndarray | None = None


def _tasks(
    rows: LabelledFeatures, num_units: int, weighting: ClassWeighting
) -> list[LabelledFeatures]:
    """Returns the problems to solve: one for each label of a multi-label head, else one.

    Their weights include the class weights, so that a loss measured on them is weighted as
    scikit-learn's objective is.
    """
    labels = rows.labels
    tasks = [labels] if labels.ndim == 1 else [labels[:, i] for i in range(num_units)]
    weights = [rows.weights] * len(tasks)
    if not weighting.is_plain:
        of_tasks = [weighting] if labels.ndim == 1 else map(weighting.of_label, range(num_units))
        factors = [one.decision_weights(own) for one, own in zip(of_tasks, tasks, strict=True)]
        weights = [own if rows.weights is None else own * rows.weights for own in factors]
    return [
        replace(rows, labels=own, weights=weight)
        for own, weight in zip(tasks, weights, strict=True)
    ]


def _solve_one(
    rows: LabelledFeatures,
    validation: LabelledFeatures | None,
    *,
    is_balanced: bool,
    sample_weight: np.ndarray | None,
    use_bias: bool,
    seed: int,
    predicts_folds: bool,
) -> _Solution:
    features, labels = rows.features, rows.labels
    classes = np.unique(labels)
    if len(classes) == 1:  # all images have this label, or none has: the prior odds, zero slope
        odds = np.log(len(labels) + 1.0) * (1 if classes[0] else -1) * use_bias
        return _Solution(np.zeros((1, features.shape[1])), np.array([odds]), 0.0, "one class only")

    # the library balances each fold by its own counts; other weights are those of all rows
    sample_weight = sample_weight if is_balanced else rows.weights

    def head() -> LogisticRegression:
        return LogisticRegression(
            class_weight="balanced" if is_balanced else None,
            fit_intercept=use_bias,
            max_iter=MAX_ITERATIONS,
            warm_start=True,
        )

    def fitted(
        regression: LogisticRegression, strength: float, some: np.ndarray | slice
    ) -> LogisticRegression:
        weight = None if sample_weight is None else sample_weight[some]
        regression.set_params(C=strength)
        with warnings.catch_warnings():
            # on nearly constant features the line search stops where the loss is flat to rounding,
            # which is the minimum; the limit of iterations is reported below
            warnings.simplefilter("ignore", ConvergenceWarning)
            return regression.fit(features[some], labels[some], sample_weight=weight)

    # Each penalty warm-starts from the solution of the previous one; the final fit starts anew.
    everything = slice(None)
    folds: list[tuple[np.ndarray, np.ndarray]] = []
    if validation is not None and len(validation.labels) >= MIN_VALIDATION:
        chosen_by = f"{len(validation.labels)} validation images"
        regression = head()

        def loss(strength: float) -> float:
            return _log_loss(fitted(regression, strength, everything), validation)

    elif folds := folds_of(rows, seed):
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
        chosen_by = f"default: too few images{_limit_note(solved)}"
        return _Solution(solved.coef_, solved.intercept_, _FALLBACK_STRENGTH, chosen_by)
    strength = first_minimum(STRENGTHS, loss)
    solved = fitted(head(), strength, everything)
    out_of_fold = None
    if predicts_folds and folds:
        num_columns = 1 if len(classes) == 2 else len(classes)
        out_of_fold = np.full((len(labels), num_columns), np.nan)
        for train, test in folds:
            one = fitted(head(), strength, train)
            out_of_fold[test] = _logits_of(one, features[test], classes)
    chosen_by += _limit_note(solved)
    return _Solution(solved.coef_, solved.intercept_, strength, chosen_by, out_of_fold)


def _logits_of(
    regression: LogisticRegression, features: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Returns one logit for two classes, else one for each; very low for classes not trained on."""
    logits = regression.decision_function(features)
    if len(classes) == 2:
        return logits[:, np.newaxis]
    if len(regression.classes_) == 2:
        logits = logits[:, np.newaxis] * _HALVES
    columns = np.full((len(features), len(classes)), _NEVER)
    columns[:, np.searchsorted(classes, regression.classes_)] = logits
    return columns


def _limit_note(solved: LogisticRegression) -> str:
    if solved.n_iter_.max() < MAX_ITERATIONS:
        return ""
    return f"; not converged after {MAX_ITERATIONS:,} iterations"


def folds_of(rows: LabelledFeatures, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the rows to train and to test on in at most five folds.

    There are as many as the smallest class has groups; rows with several labels are drawn.

    With groups of several classes, a fold may train on one class only, test on none of the trained
    classes, or have only rows of weight 0: such a fold is uninformative and left out.
    """
    labels, groups = rows.labels, rows.own_groups
    if labels.ndim > 1:
        order = np.random.default_rng(seed).permutation(np.unique(groups))
        parts = [np.isin(groups, order[start::_NUM_FOLDS]) for start in range(_NUM_FOLDS)]
        return [(np.flatnonzero(~part), np.flatnonzero(part)) for part in parts if part.any()]
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
    return mean_cross_entropy(probabilities, rows.labels, regression.classes_, rows.weights)


def mean_cross_entropy(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: np.ndarray,
    weights: np.ndarray | None = None,
) -> float:
    """Returns the weighted mean of -ln p of the labels, with p at least the float type's epsilon.

    The same as `sklearn.metrics.log_loss`, whose checks take half as long as a fit to few images.

    Args:
        probabilities: `(rows, classes)`, each row with the sum 1.
        labels: The label of each row, one of `classes`.
        classes: The labels of the columns, sorted.
        weights: The weight of each row; 1 by default.

    Example:
        >>> import numpy as np
        >>> from tlkit.training.linear import mean_cross_entropy
        >>> probabilities = np.array([[0.5, 0.5], [0.0, 1.0]])
        >>> round(mean_cross_entropy(probabilities, np.array([3, 7]), np.array([3, 7])), 3)
        0.347
    """
    given = probabilities[np.arange(len(labels)), np.searchsorted(classes, labels)]
    smallest = np.finfo(probabilities.dtype).eps
    return float(np.average(-np.log(np.maximum(given, smallest)), weights=weights))


def first_minimum(candidates: Sequence[float], loss: Callable[[float], float]) -> float:
    """Returns the candidate of the first minimum: stops after two candidates without a lower loss.

    The loss is convex apart from noise.
    """
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
    """Returns the mean and the scale of each column, float64; infinite for a constant column.

    The scale is the standard deviation, or the minimum set by `LEAST_OF_MEAN` and
    `LEAST_OF_OTHERS`. If not centred, the mean is 0 and the deviation is taken from 0.
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


def standardisation(
    features: np.ndarray, *, is_centred: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the scale that a column is standardised with, as `moments` does.

    With few images a column's deviation is mostly chance, and dividing by it would amplify columns
    that happen to vary little. So the logarithm of the scale is a mean of that of the column's own
    deviation, with the weight n, and the mean over all columns, with the weight `FEW_IMAGES`.

    Args:
        features: `(n, num_features)`.
        is_centred: Whether to subtract the mean.

    Example:
        >>> import numpy as np
        >>> from tlkit.training.linear import standardisation
        >>> rows = np.array([[1.0, 100.0], [-1.0, -100.0]] * 10)
        >>> standardisation(rows)[1].round(1).tolist()
        [3.2, 31.6]
    """
    mean, scale = moments(features, is_centred=is_centred)
    varies = np.isfinite(scale)
    if varies.any():
        logarithms = np.log(scale[varies])
        own = len(features) / (len(features) + FEW_IMAGES)
        scale[varies] = np.exp(own * logarithms + (1 - own) * logarithms.mean())
    return mean, scale


def row_space(features: np.ndarray) -> np.ndarray | None:
    """Returns an orthonormal basis of the rows' span, `(num_features, n)`.

    Among weights with equal logits on the rows the penalty prefers those in their span, so solving
    in its n coordinates finds the same optimum, also on a subset of the rows. `None` if there are
    at least as many rows as features.
    """
    if features.shape[1] <= len(features):
        return None
    return np.linalg.qr(features.T.astype(np.float64))[0].astype(features.dtype)


def _standardise(features: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> None:
    for rows in _slices(len(features)):
        features[rows] = (features[rows] - mean) / scale


def _slices(n: int, step: int = 1024) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, n, step))


def _expand_to_units(
    coefficients: np.ndarray, intercepts: np.ndarray, num_units: int
) -> tuple[np.ndarray, np.ndarray]:
    """Expands the one logit z that two classes are solved with to (-z/2, z/2) for two units."""
    if len(coefficients) == num_units:
        return coefficients, intercepts
    return _HALVES[:, None] * coefficients, _HALVES * intercepts
