"""Calibration: whether confidence agrees with accuracy."""

from dataclasses import dataclass

import numpy as np

from tlkit.evaluation.intervals import Interval, wilson_interval
from tlkit.utils.formatting import interval, percent
from tlkit.utils.text_repr import ShownAsText

NUM_BINS = 15
MIN_IMAGES = 20
"""Minimum number of images for the range of the calibration error by chance."""

_NUM_DRAWS = 2000


@dataclass(frozen=True, eq=False)
class Reliability(ShownAsText):
    """Confidence and accuracy in bins of confidence.

    Attributes:
        edges: The edges of the bins, `(num_bins + 1,)`, 0...1; a bin contains its upper edge.
        counts: Number of decisions in each bin, int64 `(num_bins,)`.
        confidence: Mean confidence in each bin, `(num_bins,)`; NaN in an empty one.
        accuracy: Accuracy in each bin, `(num_bins,)`; NaN in an empty one.
        accuracy_interval: The 95 % confidence interval of each bin's accuracy, by Wilson's formula,
            `(num_bins, 2)`; NaN in an empty bin.
        error: Expected calibration error: mean absolute difference between confidence and accuracy,
            weighted by the decisions in each bin, 0...1.
        error_by_chance: The 95 % range of the error of a perfectly calibrated model with the same
            confidences on as many images; an `error` inside it is no evidence of miscalibration.
            `None` for fewer than 20 decisions, and for dependent ones (the labels of a multi-label
            image).
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    accuracy_interval: np.ndarray
    error: float
    error_by_chance: Interval | None

    def __str__(self) -> str:
        text = f"expected calibration error {percent(self.error)}"
        if self.error_by_chance is None:
            is_small = self.counts.sum() < MIN_IMAGES
            return f"{text} (too few images to compare it with chance)" if is_small else text
        return f"{text} (of a perfectly calibrated model {interval(self.error_by_chance)})"


def measure_reliability(
    confidence: np.ndarray, is_correct: np.ndarray, *, independent: bool = True, seed: int = 0
) -> Reliability:
    """Returns confidence and accuracy in 15 bins of equal width.

    The range by chance is simulated with 2,000 draws of the number of correct decisions in each
    bin, binomial with the bin's mean confidence.

    Args:
        confidence: The probability of each decision, `(n,)`, 0...1.
        is_correct: Whether each decision is correct, bool `(n,)`.
        independent: Whether no two decisions belong to the same image.
        seed: Seed of the draws.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.reliability import measure_reliability
        >>> print(measure_reliability(np.array([0.9, 0.9, 0.6, 0.6]), np.array([1, 1, 1, 0]) > 0))
        expected calibration error 10.0 % (too few images to compare it with chance)

    Reference:
        Guo et al. (2017), equation 3, https://arxiv.org/abs/1706.04599. The range by chance follows
        the consistency resampling of Bröcker and Smith (2007), https://doi.org/10.1175/WAF993.1,
        who also resample the confidences; here the given confidences are kept, and so are the
        numbers of decisions in the bins.
    """
    confidence = np.asarray(confidence, np.float64)
    edges = np.linspace(0, 1, NUM_BINS + 1)
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    sums = np.bincount(bins, weights=confidence, minlength=NUM_BINS)
    num_correct = np.bincount(bins, weights=is_correct, minlength=NUM_BINS)
    is_filled = counts > 0
    means = np.full(NUM_BINS, np.nan)
    accuracies = np.full(NUM_BINS, np.nan)
    means[is_filled] = sums[is_filled] / counts[is_filled]
    accuracies[is_filled] = num_correct[is_filled] / counts[is_filled]
    ends = np.full((NUM_BINS, 2), np.nan)
    for index in np.flatnonzero(is_filled):
        ends[index] = wilson_interval(float(accuracies[index]), int(counts[index]))
    by_chance = None
    if independent and len(confidence) >= MIN_IMAGES:
        drawn = np.random.default_rng(seed).binomial(
            counts[is_filled], np.minimum(means[is_filled], 1.0), (_NUM_DRAWS, int(is_filled.sum()))
        )
        errors = np.abs(drawn - sums[is_filled]).sum(axis=1) / len(confidence)
        low, high = np.quantile(errors, [0.025, 0.975])
        by_chance = (float(low), float(high))
    return Reliability(
        edges=edges,
        counts=counts.astype(np.int64),
        confidence=means,
        accuracy=accuracies,
        accuracy_interval=ends,
        error=float(np.abs(num_correct - sums).sum() / len(confidence)),
        error_by_chance=by_chance,
    )
