"""Cross-validated accuracy of a linear head on features, with an interval."""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from tlkit.data.class_weighting import ClassWeighting
from tlkit.errors import DataError
from tlkit.evaluation.intervals import (
    Interval,
    mean_proportion_interval,
    mean_with_error,
    wilson_interval,
)
from tlkit.training.labelled import LabelledFeatures
from tlkit.training.linear import (
    STRENGTHS,
    first_minimum,
    mean_cross_entropy,
    row_space,
    standardisation,
)

MIN_FOR_INTERVAL = 20
"""Minimum number of different images for an interval.

Predictions of different folds come from heads that share most of their training images. With few
images they are strongly dependent, which Wilson's formula does not take into account. For one model
on unseen images it is valid for any number, see `tlkit.evaluation.intervals`.
"""

NO_INTERVALS = f"no intervals: they need {MIN_FOR_INTERVAL} different images (or groups of them)"

_NUM_FOLDS = 5
_MAX_STEPS = 200  # a penalty that needs more is far too weak


@dataclass(frozen=True)
class ProbeScore:
    """The cross-validated score of a linear head.

    Attributes:
        accuracy: Accuracy, 0...1, of predictions by heads fitted to the other folds; for
            multi-label data of label decisions, with class weights the balanced or weighted one.
        interval: 95 % confidence interval of the accuracy, see `tlkit.evaluation.intervals`, `None`
            with fewer than 20 different images. It is slightly too narrow, as heads of different
            folds share most of their images. With weights that are not balanced, it is that for
            the effective number of images, (sum of w)² / sum of w² (Kish, 1965).
        num_images: Number of different images, or of groups if there are any.
        num_folds: Number of folds.
        strength: scikit-learn's `C` with the smallest log loss over the folds, averaged over
            labels.
        is_correct: Whether each row is correct, `(n,)`; for multi-label data the fraction of
            correct labels, each with its weight.
        weights: The weight of each row in the accuracy, `(n,)`.
        groups: The group of each row, `(n,)`: copies of an image, or images of one group.
    """

    accuracy: float
    interval: Interval | None
    num_images: int
    num_folds: int
    strength: float
    is_correct: np.ndarray
    weights: np.ndarray
    groups: np.ndarray


def probe(
    rows: LabelledFeatures,
    *,
    weighting: ClassWeighting | None = None,
    seed: int = 0,
) -> ProbeScore:
    """Evaluates a linear head on features by stratified cross-validation.

    The head is that of `tlkit.training.linear.solve_linear`: logistic regression on standardised
    features. Its penalty, one number for all folds, is chosen on the folds that measure the
    accuracy, which is therefore slightly optimistically biased, equally for all networks.

    Args:
        rows: Features and labels, unweighted; they are not modified. For multi-label data, rows of
            0/1, each label is evaluated separately.
        weighting: How classes count in fitting, in choosing the penalty, and in the accuracy;
            `None` if all images count the same.
        seed: Seed of the folds.

    Raises:
        DataError: A class has fewer than two different images, or groups of them.

    Example:
        >>> import numpy as np
        >>> from tlkit.advice.probe import probe
        >>> from tlkit.training.labelled import LabelledFeatures
        >>> labels = np.arange(60) % 3
        >>> features = np.random.default_rng(0).normal(size=(60, 5)) + 9 * labels[:, np.newaxis]
        >>> probe(LabelledFeatures(features, labels)).accuracy
        1.0
    """
    weighting = ClassWeighting() if weighting is None else weighting
    labels, groups = rows.labels, rows.own_groups
    num_images = len(np.unique(groups))
    mean, scale = standardisation(rows.features)
    standard = ((rows.features - mean) / scale).astype(np.float32)
    basis = row_space(standard)
    if basis is not None:
        standard = standard @ basis
    tasks, of_tasks = [labels], [weighting]
    if labels.ndim == 2:
        tasks = [column.astype(np.int64) for column in labels.T]
        of_tasks = [weighting.of_label(number) for number in range(len(tasks))]
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        results = [
            _cross_validate(
                LabelledFeatures(standard, task, groups),
                is_label=labels.ndim == 2,
                weighting=own,
                seed=seed,
            )
            for task, own in zip(tasks, of_tasks, strict=True)
        ]
    is_correct = np.mean([correct for correct, _, _ in results], axis=0)
    accuracy = float(is_correct.mean())
    interval, weights = None, np.ones(len(labels))
    num_effective = float(num_images)
    if not weighting.is_plain:
        decisions = np.stack(
            [one.decision_weights(task) for one, task in zip(of_tasks, tasks, strict=True)]
        )
        num_effective *= decisions.sum() ** 2 / (decisions.size * (decisions**2).sum())
        if labels.ndim == 2:
            correct = np.array([correct for correct, _, _ in results])
            is_correct = np.mean(correct * decisions / decisions.mean(), axis=0)
        else:
            weights = decisions[0]
        accuracy = float(np.average(is_correct, weights=weights))
    if num_images >= MIN_FOR_INTERVAL and weighting.is_balanced and labels.ndim == 1:
        class_masks = [labels == name for name in np.unique(labels)]
        recalls = np.array([is_correct[rows].mean() for rows in class_masks])
        accuracy = float(recalls.mean())
        counts = np.array([len(np.unique(groups[rows])) for rows in class_masks])
        interval = mean_proportion_interval(recalls, counts)
    elif num_images >= MIN_FOR_INTERVAL:
        interval = wilson_interval(accuracy, max(round(num_effective), 1))
    return ProbeScore(
        accuracy=accuracy,
        interval=interval,
        num_images=num_images,
        num_folds=max(folds for _, _, folds in results),
        strength=float(np.mean([strength for _, strength, _ in results])),
        is_correct=is_correct,
        weights=weights,
        groups=groups,
    )


def difference_error(first: ProbeScore, second: ProbeScore) -> float:
    """Returns the standard error of the difference of two accuracies, paired by image.

    Rows of one group count as one. It is much smaller than the errors of the accuracies if both
    heads fail on the same images.

    Args:
        first: The score of one network.
        second: That of another on the same rows and folds.

    Example:
        >>> import numpy as np
        >>> from dataclasses import replace
        >>> from tlkit.advice.probe import difference_error, probe
        >>> from tlkit.training.labelled import LabelledFeatures
        >>> score = probe(LabelledFeatures(np.eye(4), np.array([0, 1, 0, 1])))
        >>> first = replace(score, is_correct=np.array([1.0, 1.0, 1.0, 0.0]))
        >>> difference_error(first, replace(first, is_correct=np.zeros(4)))
        0.21650635094610965
    """
    _, group_of = np.unique(first.groups, return_inverse=True)
    weights = np.bincount(group_of, first.weights)
    gains = np.bincount(group_of, first.weights * (first.is_correct - second.is_correct))
    return mean_with_error(gains / weights, weights)[1]


def _cross_validate(
    rows: LabelledFeatures,
    *,
    is_label: bool,
    weighting: ClassWeighting,
    seed: int,
) -> tuple[np.ndarray, float, int]:
    """Returns whether each row is correct, the best strength, and the number of folds."""
    features, labels, groups = rows.features, rows.labels, rows.own_groups
    classes = np.unique(labels)
    if len(classes) == 1 and is_label:  # a label that all images have, or none
        return np.ones(len(labels)), 0.0, 0
    smallest = min(len(np.unique(groups[labels == name])) for name in classes)
    if is_label and smallest < 2:  # a label of a single image cannot be learned from others
        return (labels == np.median(labels)).astype(np.float64), 0.0, 0
    if smallest < 2 or len(classes) < 2:
        raise DataError(
            "`data` must have at least two classes with two different training images each (of "
            "different groups, if there are any) for cross-validation. "
            f"Received: {len(classes)} classes, the smallest with {smallest}. Add images, or leave "
            "the class out."
        )
    num_folds = min(_NUM_FOLDS, smallest)
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    folds = list(splitter.split(labels, labels, groups))
    # each fold's head is warm-started from its fit with the previous penalty
    heads = [
        LogisticRegression(
            max_iter=_MAX_STEPS,
            warm_start=True,
            class_weight="balanced" if weighting.is_balanced else None,
        )
        for _ in folds
    ]
    weights = None if weighting.is_plain else weighting.decision_weights(labels)
    correct_by_strength: dict[float, np.ndarray] = {}

    def loss_at(strength: float) -> float:
        loss, is_correct = 0.0, np.zeros(len(labels))
        for (train, test), regression in zip(folds, heads, strict=True):
            train_labels = np.unique(labels[train])
            if len(train_labels) < 2:  # groups of several classes may leave a single class
                is_correct[test] = labels[test] == train_labels[0]
                continue
            own = None if weights is None or weighting.is_balanced else weights[train]
            regression.set_params(C=strength).fit(features[train], labels[train], own)
            probabilities = regression.predict_proba(features[test])
            fold_classes = regression.classes_
            is_correct[test] = fold_classes[probabilities.argmax(axis=1)] == labels[test]
            is_known = np.isin(
                labels[test], fold_classes
            )  # a fold of groups may contain all images of a small class
            if is_known.any():
                fold_weights = None if weights is None else weights[test][is_known]
                fold_loss = mean_cross_entropy(
                    probabilities[is_known], labels[test][is_known], fold_classes, fold_weights
                )
                loss += fold_loss / num_folds
        correct_by_strength[strength] = is_correct
        return loss

    strength = first_minimum(STRENGTHS, loss_at)
    return correct_by_strength[strength], strength, num_folds
