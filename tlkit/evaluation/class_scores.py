"""How each class fares, and the accuracy in which all classes count the same."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from tlkit.evaluation.intervals import Interval, mean_share_interval, wilson_interval
from tlkit.evaluation.reports import ClassScore


def score_classes(
    targets: np.ndarray,
    predicted: np.ndarray,
    class_names: Sequence[str],
    roc_auc: Sequence[float | None],
) -> tuple[ClassScore, ...]:
    """Returns one score for each class.

    Args:
        targets: Whole numbers `(n,)`; with several labels rows of 0/1 `(n, num_classes)`.
        predicted: In the same form.
        class_names: Of all classes, in their order.
        roc_auc: That of each class.
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

    With several labels: the mean over labels of recall and specificity, halved, where images with
    and without the label are there; `None` where there is no such label. That has no interval:
    the labels of an image hang together.

    Args:
        is_class: bool `(n, num_classes)`, whether image i is of class j.
        predicted: Whole numbers `(n,)`; with several labels rows of 0/1.
        kind: The head: "softmax", "binary" or "multi_label".

    Reference:
        scikit-learn's `balanced_accuracy_score`; the interval is `mean_share_interval`'s.
    """
    if kind != "multi_label":
        sizes = is_class.sum(axis=0)
        is_right = is_class[np.arange(len(predicted)), predicted]
        right = (is_class & is_right[:, np.newaxis]).sum(axis=0)
        there = sizes > 0
        recalls = right[there] / sizes[there]
        return float(recalls.mean()), mean_share_interval(recalls, sizes[there])
    shares = []
    for members, given in zip(is_class.T, predicted.T == 1, strict=True):
        if 0 < members.sum() < len(members):
            shares.append((given[members].mean() + (~given[~members]).mean()) / 2)
    return (float(np.mean(shares)) if shares else None), None
