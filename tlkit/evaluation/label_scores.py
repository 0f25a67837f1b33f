"""Scores of a model that may assign several labels to an image."""

from dataclasses import dataclass

import numpy as np

from tlkit.evaluation.intervals import Interval
from tlkit.evaluation.thresholds import Threshold, is_label
from tlkit.utils.formatting import confidence_interval, percent
from tlkit.utils.text_repr import ShownAsText

NUM_RESAMPLES = 400
_MAX_AT_ONCE = 2_000_000
"""Largest number of weights of resampled images that are in memory at once."""


@dataclass(frozen=True, eq=False)
class LabelScores(ShownAsText):
    """The scores over all labels, and the counts of each label.

    Intervals are those of 400 resamples of the images (percentile bootstrap), as the labels of an
    image are dependent.

    Attributes:
        mean_average_precision: Mean over the labels with images of the average precision (mAP),
            0...1, which needs no thresholds; `None` without such labels.
        mean_average_precision_interval: Its 95 % confidence interval.
        f1_micro: F1 of all label decisions together.
        f1_micro_interval: Its 95 % confidence interval.
        f1_macro: Mean over the labels of their F1, which is 0 for a label without images.
        f1_macro_interval: Its 95 % confidence interval.
        thresholds: The probability from which each label is assigned.
        average_precisions: The average precision of each label; `None` without images.
        counts: int64 `(num_labels, 2, 2)`: for each label the number of images
            `counts[label, truth, predicted]`, the confusion matrix of each label.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.label_scores import score_labels
        >>> labels = np.array([[1, 0], [1, 1], [0, 1]])
        >>> probabilities = np.array([[0.9, 0.6], [0.7, 0.8], [0.4, 0.3]])
        >>> scores = score_labels(labels, probabilities, 0.5)
        >>> scores.average_precisions, round(scores.f1_micro, 3), scores.counts[1].tolist()
        ((1.0, 0.8333333333333333), 0.75, [[0, 1], [1, 1]])

    Reference:
        Average precision as scikit-learn's `average_precision_score`, without interpolation;
        percentile bootstrap: Efron and Tibshirani (1993), An Introduction to the Bootstrap,
        section 13.3.
    """

    mean_average_precision: float | None
    mean_average_precision_interval: Interval | None
    f1_micro: float
    f1_micro_interval: Interval
    f1_macro: float
    f1_macro_interval: Interval
    thresholds: tuple[float, ...]
    average_precisions: tuple[float | None, ...]
    counts: np.ndarray

    def __str__(self) -> str:
        return "\n".join(self.figures)

    @property
    def figures(self) -> tuple[str, ...]:
        """The scores over all labels, each in one line with its interval."""
        lines = []
        if self.mean_average_precision is not None:
            lines.append(
                f"mean average precision (mAP) {percent(self.mean_average_precision)}"
                f"{_in_brackets(self.mean_average_precision_interval)}"
            )
        lines.append(f"F1 micro {percent(self.f1_micro)}{_in_brackets(self.f1_micro_interval)}")
        lines.append(f"F1 macro {percent(self.f1_macro)}{_in_brackets(self.f1_macro_interval)}")
        return tuple(lines)


def score_labels(
    labels: np.ndarray, probabilities: np.ndarray, threshold: Threshold
) -> LabelScores:
    """Returns the scores of predicted probabilities of labels.

    Args:
        labels: Rows of 0/1, `(n, num_labels)`.
        probabilities: `(n, num_labels)`, 0...1.
        threshold: The probability from which a label is assigned: one for all labels, or one for
            each.
    """
    members, assigned = labels == 1, is_label(probabilities, threshold)
    num_labels = labels.shape[1]
    outcomes = [(~members & ~assigned), (~members & assigned), (members & ~assigned)]
    outcomes.append(members & assigned)
    counts = np.stack([one.sum(axis=0) for one in outcomes], axis=1).reshape(num_labels, 2, 2)
    everything = np.ones((1, len(labels)))
    averages = _average_precisions(members, probabilities, everything)[0]
    micro, macro = _f1(members, assigned, everything)
    resampled = _resampled(members, assigned, probabilities)
    has_images = ~np.isnan(averages)
    return LabelScores(
        mean_average_precision=float(averages[has_images].mean()) if has_images.any() else None,
        mean_average_precision_interval=_interval(resampled[0]) if has_images.any() else None,
        f1_micro=float(micro[0]),
        f1_micro_interval=_interval(resampled[1]),
        f1_macro=float(macro[0]),
        f1_macro_interval=_interval(resampled[2]),
        thresholds=tuple(np.broadcast_to(threshold, num_labels).tolist()),
        average_precisions=tuple(None if np.isnan(one) else float(one) for one in averages),
        counts=counts.astype(np.int64),
    )


def _resampled(
    members: np.ndarray, assigned: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns mAP, micro F1 and macro F1 of each resample."""
    generator, num_images = np.random.default_rng(0), len(members)
    at_once = max(_MAX_AT_ONCE // num_images, 1)
    parts = []
    for start in range(0, NUM_RESAMPLES, at_once):
        number = min(at_once, NUM_RESAMPLES - start)
        weights = generator.multinomial(
            num_images, np.full(num_images, 1 / num_images), number
        ).astype(np.float64)
        averages = _average_precisions(members, probabilities, weights)
        has_images = ~np.isnan(averages)
        means = np.where(has_images, averages, 0).sum(axis=1) / np.maximum(
            has_images.sum(axis=1), 1
        )
        parts.append((means, *_f1(members, assigned, weights)))
    means, micro, macro = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return means, micro, macro


def _average_precisions(
    members: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Returns the average precision of each label, `(num_resamples, num_labels)`; NaN without.

    Args:
        members: Whether each image has each label, `(n, num_labels)`.
        probabilities: `(n, num_labels)`.
        weights: Number of times that each image is in a resample, `(num_resamples, n)`.
    """
    columns = []
    for has_label, scores in zip(members.T, probabilities.T, strict=True):
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        is_last = np.append(ranked[1:] != ranked[:-1], True)  # of equal probabilities
        taken = weights[:, order]
        correct = np.cumsum(taken * has_label[order], axis=1)[:, is_last]
        number = np.cumsum(taken, axis=1)[:, is_last]
        precision = correct / np.maximum(number, 1)
        total = correct[:, -1]
        gains = np.diff(correct, axis=1, prepend=0)
        with np.errstate(invalid="ignore"):
            columns.append(np.where(total > 0, (precision * gains).sum(axis=1) / total, np.nan))
    return np.stack(columns, axis=1)


def _f1(
    members: np.ndarray, assigned: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the micro and macro F1 of each resample, `(num_resamples,)`."""
    correct = weights @ (members & assigned)
    both = weights @ members + weights @ assigned
    micro = 2 * correct.sum(axis=1) / np.maximum(both.sum(axis=1), 1)
    return micro, np.asarray((2 * correct / np.maximum(both, 1)).mean(axis=1))


def _interval(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    return low, high


def _in_brackets(ends: Interval | None) -> str:
    return f" ({confidence_interval(ends)})" if ends else ""
