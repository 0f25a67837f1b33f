"""ROC-AUC of each class against the rest, with a confidence interval of the mean."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import rankdata

from tlkit.evaluation.intervals import Interval, Z

MIN_IMAGES = 10
"""Minimum number of images of each class, and of the rest, for an interval."""


@dataclass(frozen=True)
class RankingScore:
    """ROC-AUC of each class against the rest.

    Attributes:
        per_class: ROC-AUC of each class; `None` for a class with no image, or with all images.
        mean: Unweighted mean of those that are not `None`; `None` if all are.
        interval: 95 % confidence interval of the mean; `None` if a class in the mean has fewer than
            10 images, or fewer than 10 others, and if the ranking is perfect for every class
            (DeLong's interval would be a point).
        remark: Why there is no mean, or no interval.
    """

    per_class: tuple[float | None, ...]
    mean: float | None
    interval: Interval | None
    remark: str | None = None


def score_ranking(is_class: np.ndarray, probabilities: np.ndarray) -> RankingScore:
    """Returns ROC-AUC by class: the probability that an image of it scores higher than another.

    Ties count half. The interval is the normal one on the log-odds scale, with DeLong's variance:
    for the mean over classes, each image's components in all classes are added before squaring,
    since each image contributes to every class.

    Args:
        is_class: bool `(n, num_classes)`, whether image i is of class j.
        probabilities: `(n, num_classes)`; any scores that increase with the model's confidence.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.ranking import score_ranking
        >>> is_class = np.array([[True], [False], [True], [False]])
        >>> score_ranking(is_class, np.array([[0.9], [0.5], [0.4], [0.1]])).per_class
        (0.75,)

    Reference:
        DeLong, DeLong and Clarke-Pearson (1988), https://doi.org/10.2307/2531595, computed from
        ranks as in Sun and Xu (2014), https://doi.org/10.1109/LSP.2014.2337313. The mean over
        classes is scikit-learn's `roc_auc_score(multi_class="ovr", average="macro")`.
    """
    columns = [
        _area(members, scores) if 0 < members.sum() < len(members) else None
        for members, scores in zip(is_class.T, probabilities.T, strict=True)
    ]
    per_class = tuple(None if column is None else column[0] for column in columns)
    defined = [column for column in columns if column is not None]
    if not defined:
        return RankingScore(
            per_class, None, None, "no ROC-AUC: it needs images of at least two classes"
        )
    mean = float(np.mean([area for area, _ in defined]))
    sizes = is_class.sum(axis=0)
    smallest = min(
        min(size, len(is_class) - size)
        for size, column in zip(sizes, columns, strict=True)
        if column is not None
    )
    influence = np.mean([components for _, components in defined], axis=0)
    error = math.sqrt(float(np.square(influence).sum()))
    if smallest < MIN_IMAGES:
        remark = (
            f"no interval for ROC-AUC: it needs {MIN_IMAGES} images of each class and "
            f"{MIN_IMAGES} others"
        )
        return RankingScore(per_class, mean, None, remark)
    if not error or not 0 < mean < 1:
        remark = "no interval for ROC-AUC: its estimated variance is zero"
        return RankingScore(per_class, mean, None, remark)
    centre, half = math.log(mean / (1 - mean)), Z * error / (mean * (1 - mean))
    return RankingScore(per_class, mean, (float(expit(centre - half)), float(expit(centre + half))))


def _area(members: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the area, and each image's influence `(n,)`, whose squares sum to the variance.

    The components of both groups are scaled so that the squares give DeLong's variance, with n - 1.
    """
    ranks, group_ranks = rankdata(scores), np.empty(len(scores))
    influence = np.empty(len(scores))
    for group in (members, ~members):
        group_ranks[group] = rankdata(scores[group])
    # The fraction of the other group that each image outranks, ties half
    fraction_outranked = ranks - group_ranks
    fraction_outranked[members] /= (~members).sum()
    fraction_outranked[~members] /= members.sum()
    area = float(fraction_outranked[members].mean())
    for group in (members, ~members):
        size = group.sum()
        scale = math.sqrt(size * max(size - 1, 1))
        influence[group] = (fraction_outranked[group] - fraction_outranked[group].mean()) / scale
    influence[~members] *= -1
    return area, influence
