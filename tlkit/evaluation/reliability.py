"""Whether probabilities mean what they say: of images given 80 %, are 80 % right?"""

from dataclasses import dataclass

import numpy as np

from tlkit.evaluation.intervals import Interval, wilson_interval
from tlkit.utils.formatting import interval, percent
from tlkit.utils.text_repr import ShownAsText

NUM_BINS = 15
MIN_IMAGES = 20
"""Images below which nothing is said of what chance alone would show."""

_NUM_DRAWS = 2000


@dataclass(frozen=True, eq=False)
class Reliability(ShownAsText):
    """Confidence against the share that is right, in bins of confidence.

    Attributes:
        edges: Of the bins, `(num_bins + 1,)`, 0...1; a bin contains its upper edge.
        counts: Decisions in each bin, int64 `(num_bins,)`.
        confidence: Mean confidence in each bin, `(num_bins,)`; NaN in an empty one.
        accuracy: Share of right decisions in each bin, `(num_bins,)`; NaN in an empty one.
        accuracy_interval: Its 95 % interval in each bin, by Wilson's formula, `(num_bins, 2)`; NaN
            in an empty one.
        error: Expected calibration error: mean over all decisions of the distance between both,
            0...1.
        error_by_chance: What a perfectly calibrated model with the same confidences shows in
            95 % of cases on so many images; an `error` inside says nothing against the model.
            `None` for fewer than 20 decisions, and where decisions hang together (several labels
            of one image).
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    accuracy_interval: np.ndarray
    error: float
    error_by_chance: Interval | None

    def __str__(self) -> str:
        text = f"calibration error {percent(self.error)}"
        if self.error_by_chance is None:
            is_small = self.counts.sum() < MIN_IMAGES
            return f"{text} (too few images to tell from chance)" if is_small else text
        return (
            f"{text} (chance alone gives a perfectly calibrated model "
            f"{interval(self.error_by_chance)})"
        )


def measure_reliability(
    confidence: np.ndarray, is_right: np.ndarray, *, independent: bool = True, seed: int = 0
) -> Reliability:
    """Returns how confidence and right decisions go together.

    Bins are 15 of equal width. What chance gives is drawn 2,000 times: in each bin as many right
    decisions as a binomial draw with the bin's mean confidence gives.

    Args:
        confidence: The probability of each decision, `(n,)`, 0...1.
        is_right: Whether it was right, bool `(n,)`.
        independent: Whether no two decisions belong to the same image.
        seed: Of the draws.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.reliability import measure_reliability
        >>> print(measure_reliability(np.array([0.9, 0.9, 0.6, 0.6]), np.array([1, 1, 1, 0]) > 0))
        calibration error 10.0 % (too few images to tell from chance)

    Reference:
        Guo et al. (2017), equation 3, https://arxiv.org/abs/1706.04599. The range by chance is
        after the consistency resampling of Bröcker and Smith (2007),
        https://doi.org/10.1175/WAF993.1, who draw the confidences anew too; here those that were
        given stay, and with them how many decisions each bin holds.
    """
    confidence = np.asarray(confidence, np.float64)
    edges = np.linspace(0, 1, NUM_BINS + 1)
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    sums = np.bincount(bins, weights=confidence, minlength=NUM_BINS)
    right = np.bincount(bins, weights=is_right, minlength=NUM_BINS)
    filled = counts > 0
    means = np.full(NUM_BINS, np.nan)
    shares = np.full(NUM_BINS, np.nan)
    means[filled] = sums[filled] / counts[filled]
    shares[filled] = right[filled] / counts[filled]
    ends = np.full((NUM_BINS, 2), np.nan)
    for index in np.flatnonzero(filled):
        ends[index] = wilson_interval(float(shares[index]), int(counts[index]))
    by_chance = None
    if independent and len(confidence) >= MIN_IMAGES:
        drawn = np.random.default_rng(seed).binomial(
            counts[filled], np.minimum(means[filled], 1.0), (_NUM_DRAWS, int(filled.sum()))
        )
        errors = np.abs(drawn - sums[filled]).sum(axis=1) / len(confidence)
        low, high = np.quantile(errors, [0.025, 0.975])
        by_chance = (float(low), float(high))
    return Reliability(
        edges=edges,
        counts=counts.astype(np.int64),
        confidence=means,
        accuracy=shares,
        accuracy_interval=ends,
        error=float(np.abs(right - sums).sum() / len(confidence)),
        error_by_chance=by_chance,
    )
