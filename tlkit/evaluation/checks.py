"""Checks of outputs and labels."""

from dataclasses import dataclass

import numpy as np

from tlkit.errors import ArgumentError, DataError


def check_outputs(outputs: np.ndarray, num_columns: int, kind: str) -> None:
    """Raises unless there are outputs `(n, num_columns)` and all are finite."""
    if outputs.ndim != 2 or outputs.shape[1] != num_columns:
        raise ArgumentError(
            f"`probabilities` must have the shape (n, {num_columns}) for these `class_names` and "
            f"kind={kind!r}. Received: {outputs.shape}. Give one column for each class."
        )
    if len(outputs) == 0:
        raise DataError("`images` must contain at least one image. Received: none. Add images.")
    num_bad = int((~np.isfinite(outputs)).any(axis=1).sum())
    if num_bad:
        raise ArgumentError(
            "`model` must give finite outputs. Received: NaN or infinite values for "
            f"{num_bad} of {len(outputs)} images. Train it again with a lower learning rate."
        )


def check_targets(
    labels: np.ndarray,
    kind: str,
    num_images: int,
    num_classes: int,
    *,
    argument: str | None = None,
    is_batch: bool = False,
    allows_soft: bool = False,
) -> np.ndarray:
    """Returns checked labels as int64: `(num_images,)`, or rows of 0 and 1 for a multi-label head.

    Args:
        labels: The labels as the caller passed them.
        kind: The kind of head: "softmax", "binary" or "multi_label".
        num_images: Number of images.
        num_classes: Number of classes of the model.
        argument: The argument that contains the labels, for errors; `labels` by default.
        is_batch: Whether the labels are those of one of several batches.
        allows_soft: Whether rows may be probabilities, of which the largest counts.

    Raises:
        DataError: If labels are not among the classes, or have another shape.
    """
    labels = np.asarray(labels)
    rule = _LabelRule(
        "`labels` must be" if argument is None else f"`{argument}` must have labels that are",
        num_images,
        num_classes,
        where=" of a batch" if is_batch else "",
        allows_soft=allows_soft,
    )
    if labels.dtype.kind not in "iufb":
        names = [_text(value) for value in labels.ravel()[:1]]
        raise DataError(
            f"{rule.subject} numbers. Received: {', '.join(names) or labels.dtype}. Number the "
            "classes in the order of the model's outputs, from 0 on."
        )
    return rule.rows(labels) if kind == "multi_label" else rule.indices(labels)


@dataclass(frozen=True)
class _LabelRule:
    """What labels must be, and the beginning of error messages."""

    subject: str
    num_images: int
    num_classes: int
    where: str
    allows_soft: bool

    def indices(self, labels: np.ndarray) -> np.ndarray:
        """Returns labels, given as whole numbers or one-hot rows, as int64 `(num_images,)`."""
        has_rows = labels.ndim == 2 and labels.shape[1] == self.num_classes
        if has_rows and _is_one_hot(labels, self.allows_soft):
            labels = labels.argmax(axis=1)
        if labels.shape == (self.num_images, 1):
            labels = labels[:, 0]
        if labels.shape != (self.num_images,):
            rows = f", or rows of {self.num_classes} with a single 1" if labels.ndim == 2 else ""
            raise DataError(
                f"{self.subject} one whole number for each of {self.num_images} images"
                f"{self.where}{rows}. Received: an array of the shape {labels.shape}. Number the "
                "classes from 0 on."
            )
        is_valid = (labels == np.floor(labels)) & (labels >= 0) & (labels < self.num_classes)
        if not is_valid.all():
            position = int(np.flatnonzero(~is_valid)[0])
            raise DataError(
                f"{self.subject} whole numbers from 0 to {self.num_classes - 1}, as the model has "
                f"{self.num_classes} classes. Received: {labels[position]} for image {position}"
                f"{self.where}. {_remedy(labels)}"
            )
        return labels.astype(np.int64)

    def rows(self, labels: np.ndarray) -> np.ndarray:
        """Returns the labels of a multi-label head, rows of 0 and 1, as int64."""
        shape = (self.num_images, self.num_classes)
        is_soft = self.allows_soft and np.all((labels >= 0) & (labels <= 1))
        if labels.shape != shape or not (is_soft or np.isin(labels, (0, 1)).all()):
            values = "" if labels.shape != shape else " with other values"
            raise DataError(
                f"{self.subject} rows of 0 and 1 of the shape {shape} for a multi-label head. "
                f"Received: an array of the shape {labels.shape}{values}. Give each image a row "
                "with a 1 for each of its labels."
            )
        return np.round(labels).astype(np.int64)


def _remedy(labels: np.ndarray) -> str:
    if not np.all(labels == np.floor(labels)):
        return (
            "The model is a classifier: number the classes, or train a regression in plain Keras."
        )
    if labels.min() < 0:
        return "Leave images without a label out."
    return (
        "Number the classes from 0 on, or build the model for all of them (build_classifier, "
        "add_classes)."
    )


def _is_one_hot(labels: np.ndarray, allows_soft: bool) -> bool:
    if allows_soft and np.all((labels >= 0) & (labels <= 1)):
        return bool(np.allclose(labels.sum(axis=1), 1, atol=1e-3))
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all())


def _text(value: object) -> str:
    return repr(value.decode(errors="replace") if isinstance(value, bytes) else str(value))
