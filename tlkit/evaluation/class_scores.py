"""Scores of each class, and the balanced accuracy."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from tlkit.evaluation.intervals import Interval, mean_proportion_interval, wilson_interval
from tlkit.evaluation.reports import ClassScore


def score_classes(
    targets: np.ndarray,
    predicted: np.ndarray,
    class_names: Sequence[str],
    roc_auc: Sequence[float | None],
) -> tuple[ClassScore, ...]:
    """Returns the scores of each class.

    Args:
        targets: Whole numbers `(n,)`; for a multi-label head rows of 0/1 `(n, num_classes)`.
        predicted: The predicted classes in the same form.
        class_names: The names of all classes, in their order.
        roc_auc: The ROC-AUC of each class.
    """
    columns = precision_recall_fscore_support(
        targets, predicted, labels=np.arange(len(class_names)), zero_division=0
    )
    return tuple(
        ClassScore(
            name=name,
            precision=float(precision),
            recall=float(recall),
            f1=float(f1),
            num_images=int(count),
            recall_interval=wilson_interval(float(recall), int(count)) if count else None,
            roc_auc=area,
        )
        for name, precision, recall, f1, count, area in zip(
            class_names, *columns, roc_auc, strict=True
        )
    )


def balanced_accuracy(
    is_class: np.ndarray, predicted: np.ndarray, kind: str
) -> tuple[float | None, Interval | None]:
    """Returns the mean recall of the classes that have images, and its 95 % interval.

    For a multi-label head it is the mean of (recall + specificity) / 2 over the labels that have
    images with and without them, `None` without such labels. It has no interval, since the labels
    of an image are dependent.

    Args:
        is_class: bool `(n, num_classes)`, whether image i is of class j.
        predicted: Whole numbers `(n,)`; for a multi-label head rows of 0/1.
        kind: The kind of head: "softmax", "binary" or "multi_label".

    Reference:
        scikit-learn's `balanced_accuracy_score`; the interval is `mean_proportion_interval`'s.
    """
    if kind != "multi_label":
        sizes = is_class.sum(axis=0)
        is_correct = is_class[np.arange(len(predicted)), predicted]
        num_correct = (is_class & is_correct[:, np.newaxis]).sum(axis=0)
        has_images = sizes > 0
        recalls = num_correct[has_images] / sizes[has_images]
        return float(recalls.mean()), mean_proportion_interval(recalls, sizes[has_images])
    recall_means = []
    for members, is_assigned in zip(is_class.T, predicted.T == 1, strict=True):
        if 0 < members.sum() < len(members):
            recall_means.append((is_assigned[members].mean() + (~is_assigned[~members]).mean()) / 2)
    return (float(np.mean(recall_means)) if recall_means else None), None
