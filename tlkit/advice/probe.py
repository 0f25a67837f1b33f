"""How much a linear head can read off features: cross-validated accuracy, with an interval."""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from tlkit.data.splits import class_weights
from tlkit.errors import DataError
from tlkit.evaluation.intervals import Interval, mean_share_interval, wilson_interval
from tlkit.training.labelled import LabelledFeatures
from tlkit.training.linear import STRENGTHS, first_minimum, moments, row_space

MIN_FOR_INTERVAL = 20
"""With fewer different images no interval is given.

Answers of different folds come from heads that share most of their images, and the fewer there
are, the more those answers hang together, which Wilson's formula does not know. Where one model is
measured on images it has not seen, it serves any number: see `tlkit.evaluation.intervals`.
"""

NO_INTERVALS = f"no intervals: they take {MIN_FOR_INTERVAL} different images (or groups of them)"

_NUM_FOLDS = 5
_MAX_STEPS = 200  # a penalty that takes more is far too weak


@dataclass(frozen=True)
class ProbeScore:
    """What a linear head reads off features it was not fitted to.

    Attributes:
        accuracy: Share of right answers (of right label decisions where there are several), 0...1,
            each from a head that was fitted to the other folds; the mean of the classes' where they
            are to count the same.
        interval: Its 95 % interval, see `tlkit.evaluation.intervals`, `None` with fewer than 20
            different images. Heads of different folds share most of their images, which the formula
            does not know: it is a little too narrow.
        num_images: Different images; where they have groups, the groups.
        num_folds: Of the cross-validation.
        strength: scikit-learn's `C`, that with the smallest log loss over the folds; averaged over
            labels.
        is_right: For each row whether it is right, `(n,)`; of several labels the share.
    """

    accuracy: float
    interval: Interval | None
    num_images: int
    num_folds: int
    strength: float
    is_right: np.ndarray


def probe(
    rows: LabelledFeatures,
    *,
    class_weight: str | None = None,
    seed: int = 0,
) -> ProbeScore:
    """Measures a linear head on features by stratified cross-validation.

    The head is that of `tlkit.training.linear.solve_linear`: logistic regression on standardised
    features. Its penalty is chosen on the same folds that measure it, one number on all images,
    which flatters all networks alike and little.

    Args:
        rows: Their features are left as they are, and all count the same. Rows of 0/1 are measured
            label by label.
        class_weight: "balanced" lets each class count the same, in what is fitted, in what chooses
            the penalty, and in the accuracy; not of rows of 0/1.
        seed: Of the folds.

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
    labels, groups = rows.labels, rows.own_groups
    num_images = len(np.unique(groups))
    mean, scale = moments(rows.features)
    standard = ((rows.features - mean) / scale).astype(np.float32)
    basis = row_space(standard)
    if basis is not None:
        standard = standard @ basis
    tasks = [labels] if labels.ndim == 1 else [column.astype(np.int64) for column in labels.T]
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = [
            _out_of_fold(
                LabelledFeatures(standard, task, groups),
                is_label=labels.ndim == 2,
                class_weight=class_weight,
                seed=seed,
            )
            for task in tasks
        ]
    is_right = np.mean([right for right, _, _ in found], axis=0)
    accuracy = float(is_right.mean())
    interval = None
    if class_weight is not None:
        of_classes = [labels == name for name in np.unique(labels)]
        recalls = np.array([is_right[rows].mean() for rows in of_classes])
        accuracy = float(recalls.mean())
    if num_images >= MIN_FOR_INTERVAL and class_weight is not None:
        counts = np.array([len(np.unique(groups[rows])) for rows in of_classes])
        interval = mean_share_interval(recalls, counts)
    elif num_images >= MIN_FOR_INTERVAL:
        interval = wilson_interval(accuracy, num_images)
    return ProbeScore(
        accuracy=accuracy,
        interval=interval,
        num_images=num_images,
        num_folds=max(folds for _, _, folds in found),
        strength=float(np.mean([strength for _, strength, _ in found])),
        is_right=is_right,
    )


def _out_of_fold(
    rows: LabelledFeatures,
    *,
    is_label: bool,
    class_weight: str | None,
    seed: int,
) -> tuple[np.ndarray, float, int]:
    """Whether each row is right at the best strength, that strength, and the number of folds."""
    features, labels, groups = rows.features, rows.labels, rows.own_groups
    classes, positions = np.unique(labels, return_inverse=True)
    if len(classes) == 1 and is_label:  # one that all images carry, or none
        return np.ones(len(labels)), 0.0, 0
    smallest = min(len(np.unique(groups[labels == name])) for name in classes)
    if is_label and smallest < 2:  # a label on one image can be learnt from no other
        return (labels == np.median(labels)).astype(np.float64), 0.0, 0
    if smallest < 2 or len(classes) < 2:
        raise DataError(
            "`data` must hold at least two classes with two different training images each (of "
            "different groups, where they have any), to measure one by the other. "
            f"Received: {len(classes)} classes, the smallest with {smallest}. Add some, or leave "
            "the class out."
        )
    num_folds = min(_NUM_FOLDS, smallest)
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    folds = list(splitter.split(labels, labels, groups))
    # each fold's head goes on from where the penalty before left it
    given = {"max_iter": _MAX_STEPS, "warm_start": True, "class_weight": class_weight}
    heads = [LogisticRegression(**given) for _ in folds]
    weights = None
    if class_weight is not None:
        weights = class_weights(positions, len(classes))[positions]
    answers: dict[float, np.ndarray] = {}

    def loss_at(strength: float) -> float:
        loss, is_right = 0.0, np.zeros(len(labels))
        for (train, test), regression in zip(folds, heads, strict=True):
            taught = np.unique(labels[train])
            if len(taught) < 2:  # groups of several classes may leave one alone
                is_right[test] = labels[test] == taught[0]
                continue
            regression.set_params(C=strength).fit(features[train], labels[train])
            shares = regression.predict_proba(features[test])
            known = regression.classes_
            is_right[test] = known[shares.argmax(axis=1)] == labels[test]
            some = np.isin(labels[test], known)  # a fold of groups may hold all of a small class
            if some.any():
                own = None if weights is None else weights[test][some]
                of_fold = log_loss(
                    labels[test][some], shares[some], labels=known, sample_weight=own
                )
                loss += float(of_fold) / num_folds
        answers[strength] = is_right
        return loss

    strength = first_minimum(STRENGTHS, loss_at)
    return answers[strength], strength, num_folds
