"""The probabilities from which labels are assigned, and their choice on validation images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from tlkit.errors import ArgumentError, DataError, quoted
from tlkit.utils.text_repr import ShownAsText

THRESHOLD = 0.5
"""The threshold of labels for which none was chosen."""

FEW_IMAGES = 10
"""With fewer validation images of a label, its threshold is uncertain."""

Threshold = float | tuple[float, ...]
"""One threshold for all labels, or one for each in the order of the model's outputs."""


@dataclass(frozen=True)
class LabelThresholds(ShownAsText):
    """The probability from which each label is assigned, and how it was chosen.

    Attributes:
        class_names: The labels, in the order of the model's outputs.
        values: The threshold of each label, between 0 and 1.
        f1: The F1 of each label with it on the images that it was chosen on, therefore
            optimistically biased; empty if it was given.
        counts: Number of these images with each label; empty if it was given.
        num_images: Number of these images; 0 if it was given.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.thresholds import choose_thresholds
        >>> probabilities = np.array([[0.9, 0.3], [0.4, 0.25], [0.2, 0.1], [0.1, 0.05]])
        >>> labels = np.array([[1, 1], [0, 1], [0, 0], [0, 0]])
        >>> print(choose_thresholds(probabilities, labels, ["sea", "sun"]))
        thresholds of the labels, with the highest F1 on 4 validation images: sea 0.650, sun 0.175
        fewer than 10 validation images, so that the threshold is uncertain: 'sea', 'sun'

    Reference:
        Lipton et al. (2014), https://arxiv.org/abs/1402.1892: the mean F1 over labels (macro F1)
        is largest if that of each label is.
    """

    class_names: tuple[str, ...]
    values: tuple[float, ...]
    f1: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    num_images: int = 0

    def __str__(self) -> str:
        pairs = zip(self.class_names, self.values, strict=True)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in pairs)
        if not self.num_images:
            return f"thresholds of the labels, as given: {shown}"
        text = (
            f"thresholds of the labels, with the highest F1 on {self.num_images:,} validation "
            f"images: {shown}"
        )
        few = [
            name
            for name, count in zip(self.class_names, self.counts, strict=True)
            if count < FEW_IMAGES
        ]
        if few:
            text += (
                f"\nfewer than {FEW_IMAGES} validation images, so that the threshold is uncertain: "
                f"{quoted(few)}"
            )
        return text

    def to_json(self) -> dict[str, object]:
        """Returns the content of `run.json`."""
        return {
            "values": dict(zip(self.class_names, self.values, strict=True)),
            "f1": list(self.f1),
            "counts": list(self.counts),
            "num_images": self.num_images,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "LabelThresholds":
        """Reads the output of `to_json`.

        Raises:
            KeyError: An entry is missing.
            TypeError: An entry has the wrong type.
            ArgumentError: A value is not a threshold.
        """
        names = tuple(content["values"])
        values = check_threshold(tuple(content["values"].values()), len(names))
        return cls(
            names,
            values if isinstance(values, tuple) else (values,) * len(names),
            tuple(content["f1"]),
            tuple(content["counts"]),
            int(content["num_images"]),
        )


def choose_thresholds(
    probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> LabelThresholds:
    """Returns the threshold of each label that has the highest F1 on some images.

    It lies in the middle between two neighbouring probabilities of these images; of several that
    are equally good, it is the one closest to 0.5.

    Args:
        probabilities: `(n, num_labels)`, 0...1, compared in float32 as in exports.
        labels: Rows of 0/1, `(n, num_labels)`.
        class_names: The labels, in the order of the columns.

    Raises:
        DataError: A label has no image, see `check_can_choose`.

    Example:
        See `LabelThresholds`.
    """
    check_can_choose(labels, class_names)
    chosen = [
        _best_threshold(column.astype(np.float32), members)
        for column, members in zip(probabilities.T, labels.T == 1, strict=True)
    ]
    return LabelThresholds(
        tuple(class_names),
        tuple(value for value, _ in chosen),
        tuple(f1 for _, f1 in chosen),
        tuple(int(count) for count in (labels == 1).sum(axis=0)),
        len(labels),
    )


def check_can_choose(labels: np.ndarray | None, class_names: Sequence[str]) -> None:
    """Raises `DataError` if there is a label without images that its threshold can be chosen on.

    Args:
        labels: Labels of validation images, rows of 0/1; `None` without any.
        class_names: The labels.
    """
    remedy = "Add some, or give all labels one threshold, such as threshold=0.5."
    if labels is None:
        raise DataError(
            "There must be validation images, on which the threshold of each label is chosen. "
            f"Received: none. {remedy}"
        )
    absent = [name for name, column in zip(class_names, labels.T, strict=True) if not column.any()]
    if absent:
        raise DataError(
            "Every label must have validation images, on which its threshold is chosen. "
            f"Received: none of {quoted(absent)} among {len(labels):,}. {remedy}"
        )


def _best_threshold(probabilities: np.ndarray, members: np.ndarray) -> tuple[float, float]:
    """Returns the threshold with the highest F1 for one label, and that F1."""
    order = np.argsort(-probabilities, kind="stable")
    ranked, num_members = probabilities[order], members.sum()
    is_last = np.append(ranked[1:] != ranked[:-1], True)  # of equal probabilities
    num_assigned = np.flatnonzero(is_last) + 1
    num_correct = np.cumsum(members[order])[is_last]
    f1 = 2 * num_correct / (num_assigned + num_members)
    values = np.append(ranked[is_last], np.float32(0))
    middles = (values[:-1].astype(np.float64) + values[1:]) / 2
    middles = np.clip(middles.astype(np.float32), np.float32(1e-6), np.float32(1 - 1e-6))
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    chosen = best[np.argmin(np.abs(middles[best] - THRESHOLD))]
    return float(middles[chosen]), float(f1[chosen])


def is_label(probabilities: np.ndarray, threshold: Threshold) -> np.ndarray:
    """Whether a multi-label head assigns each label, compared in float32 as in exports.

    Args:
        probabilities: `(n, num_labels)`, or `(num_labels,)` of one image.
        threshold: One for all labels, or one for each.
    """
    return np.asarray(probabilities >= np.asarray(threshold, np.float32))


def check_threshold(threshold: float | Sequence[float], num_classes: int | None) -> Threshold:
    """Returns one threshold, or one for each label as a tuple.

    Args:
        threshold: A number for all labels, or a sequence with one for each.
        num_classes: Number of labels; `None` if it is not known.

    Raises:
        ArgumentError: One is not strictly between 0 and 1, or there is another number of them.
    """
    is_one = isinstance(threshold, str) or not isinstance(threshold, Sequence | np.ndarray)
    values: tuple[Any, ...] = (threshold,) if is_one else tuple(threshold)  # type: ignore[arg-type]
    for value in values:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not 0 < float(value) < 1:
            raise ArgumentError(
                "`threshold` must be between 0 and 1. "
                f"Received: threshold={value!r}. Give a probability such as 0.5."
            )
    if is_one:
        return float(values[0])
    if num_classes is not None and len(values) != num_classes:
        raise ArgumentError(
            "`threshold` must be one number, or one for each label in the order of the model's "
            f"outputs. Received: {len(values)} for {num_classes} labels. Give one for each."
        )
    return tuple(map(float, values))
