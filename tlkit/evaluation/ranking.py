"""How well a model's probabilities put images of a class before all others: ROC-AUC."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import rankdata

from tlkit.evaluation.intervals import Interval, Z

MIN_IMAGES = 10
"""Images that each class, and the rest, must have for an interval to be given."""


@dataclass(frozen=True)
class RankingScore:
    """ROC-AUC of each class against the rest.

    Attributes:
        per_class: `None` for a class with no image, or with every image.
        mean: Plain mean of those there are; `None` where there are none.
        interval: 95 % interval of the mean; `None` where a class that counts has fewer than 10
            images, or fewer than 10 others, and where every image of every class is in its place
            (DeLong's interval would be a point).
        remark: Why there is no mean, or no interval.
    """

    per_class: tuple[float | None, ...]
    mean: float | None
    interval: Interval | None
    remark: str | None = None


def score_ranking(is_class: np.ndarray, probabilities: np.ndarray) -> RankingScore:
    """Returns the probability that an image of a class gets more than one of another, by class.

    Ties count half. The interval is the normal one on the scale of the log odds. Its variance is
    DeLong's: of the mean over classes, each image's components in all classes are added before
    they are squared, since one image counts in every class.

    Args:
        is_class: bool `(n, num_classes)`, whether image i is of class j.
        probabilities: `(n, num_classes)`; any numbers that rise with the model's confidence.

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
    counted = [column for column in columns if column is not None]
    if not counted:
        return RankingScore(
            per_class, None, None, "no ROC-AUC: it takes images of a class and of another"
        )
    mean = float(np.mean([area for area, _ in counted]))
    sizes = is_class.sum(axis=0)
    fewest = min(
        min(size, len(is_class) - size)
        for size, column in zip(sizes, columns, strict=True)
        if column is not None
    )
    influence = np.mean([components for _, components in counted], axis=0)
    error = math.sqrt(float(np.square(influence).sum()))
    if fewest < MIN_IMAGES:
        remark = (
            f"no interval for ROC-AUC: it takes {MIN_IMAGES} images of each class and "
            f"{MIN_IMAGES} others"
        )
        return RankingScore(per_class, mean, None, remark)
    if not error or not 0 < mean < 1:
        remark = "no interval for ROC-AUC: the images give no spread to draw one from"
        return RankingScore(per_class, mean, None, remark)
    centre, half = math.log(mean / (1 - mean)), Z * error / (mean * (1 - mean))
    return RankingScore(per_class, mean, (float(expit(centre - half)), float(expit(centre + half))))


def _area(members: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """The area, and what each image adds to its error, `(n,)`: their squares sum to the variance.

    Both groups' components are scaled so that the squares give DeLong's variance, with n - 1.
    """
    ranks, inside = rankdata(scores), np.empty(len(scores))
    influence = np.empty(len(scores))
    for group in (members, ~members):
        inside[group] = rankdata(scores[group])
    # How many of the other group each image outranks, ties half, as a share
    outranked = ranks - inside
    outranked[members] /= (~members).sum()
    outranked[~members] /= members.sum()
    area = float(outranked[members].mean())
    for group in (members, ~members):
        size = group.sum()
        scale = math.sqrt(size * max(size - 1, 1))
        influence[group] = (outranked[group] - outranked[group].mean()) / scale
    influence[~members] *= -1
    return area, influence
