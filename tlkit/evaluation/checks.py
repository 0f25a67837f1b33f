"""What evaluation asks of its arguments."""

import numpy as np
import tensorflow as tf

from tlkit.errors import ArgumentError, DataError


def check_dataset(
    dataset: tf.data.Dataset, batch_size: int | None, input_shape: tuple[int | None, ...]
) -> None:
    """Raises `ArgumentError` unless the dataset gives batches for the model, and ends."""
    if not isinstance(dataset, tf.data.Dataset):
        raise ArgumentError(
            "`images` must be an ImageSplit or a tf.data.Dataset. Received: an object of type "
            f"{type(dataset).__name__}. Give `data.test`, or wrap arrays with "
            "`tlkit.load_arrays(...)`."
        )
    if batch_size is not None:
        raise ArgumentError(
            "`batch_size` must be left out for a dataset, which brings its own batches. "
            f"Received: batch_size={batch_size!r}. Use `dataset.rebatch(...)`."
        )
    check_batches("images", dataset, input_shape)


def check_batches(
    argument: str, dataset: tf.data.Dataset, input_shape: tuple[int | None, ...]
) -> None:
    """Raises `ArgumentError` unless the dataset ends, and gives (images, labels) for the model."""
    spec = dataset.element_spec
    if (
        not isinstance(spec, tuple)
        or len(spec) not in {2, 3}
        or spec[0].shape.rank not in {None, len(input_shape)}
    ):
        raise ArgumentError(
            f"`{argument}` must give batches of (images, labels), images of the shape "
            f"(batch, {', '.join(map(str, input_shape[1:]))}). Received: {argument}={spec}. "
            "Use `dataset.batch(...)`."
        )
    if not spec[0].shape.is_compatible_with(input_shape):
        raise ArgumentError(
            f"`{argument}` must have the shape that the model takes, {tuple(input_shape)}. "
            f"Received: {tuple(spec[0].shape)}. Resize them to that."
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ArgumentError(
            f"`{argument}` must end after one pass over the images. Received: an infinite "
            "dataset. Leave out `repeat()`, or use `dataset.take(...)`."
        )


def check_size(
    argument: str, image_size: tuple[int, int], input_shape: tuple[int | None, ...]
) -> None:
    """Raises `ArgumentError` unless pictures of this size are what the model takes."""
    sides = tuple(input_shape[1:3])
    if any(side not in (None, given) for side, given in zip(sides, image_size, strict=True)):
        raise ArgumentError(
            f"`{argument}` must have the image size of the model, {sides}. Received: image_size="
            f"{image_size}. Load them with load_folder(..., image_size={sides})."
        )


def check_outputs(outputs: np.ndarray, num_columns: int, kind: str) -> None:
    """Raises unless the outputs `(n, num_columns)` are finite and there are any."""
    if outputs.ndim != 2 or outputs.shape[1] != num_columns:
        raise ArgumentError(
            f"`probabilities` must have the shape (n, {num_columns}) for these `class_names` and "
            f"kind={kind!r}. Received: {outputs.shape}."
        )
    if len(outputs) == 0:
        raise DataError("`images` must hold at least one image. Received: none.")
    num_bad = int((~np.isfinite(outputs)).any(axis=1).sum())
    if num_bad:
        raise ArgumentError(
            "`model` must give finite outputs. Received: NaN or infinite ones for "
            f"{num_bad} of {len(outputs)} images. Train it again with a lower learning rate."
        )


def check_targets(labels: np.ndarray, kind: str, num_images: int, num_classes: int) -> np.ndarray:
    """Returns labels as int64: numbers `(num_images,)`, with several labels rows of 0 and 1.

    Raises:
        DataError: If they are not among the classes, or of another shape.
    """
    labels = np.asarray(labels)
    if kind == "multi_label":
        return check_rows(labels, (num_images, num_classes))
    return check_indices(labels, num_images, num_classes)


def check_indices(labels: np.ndarray, num_images: int, num_classes: int) -> np.ndarray:
    """Returns labels, given as whole numbers or one-hot rows, as int64 `(num_images,)`."""
    if labels.ndim == 2 and labels.shape[1] == num_classes and _is_one_hot(labels):
        labels = labels.argmax(axis=1)
    if labels.shape == (num_images, 1):
        labels = labels[:, 0]
    if labels.shape != (num_images,):
        raise DataError(
            f"`labels` must be one whole number for each of {num_images} images. "
            f"Received: an array of the shape {labels.shape}."
        )
    fits = (labels == np.floor(labels)) & (labels >= 0) & (labels < num_classes)
    if not fits.all():
        position = int(np.flatnonzero(~fits)[0])
        raise DataError(
            f"`labels` must be whole numbers from 0 to {num_classes - 1}, as the model has "
            f"{num_classes} classes. Received: {labels[position]} for image {position}."
        )
    return labels.astype(np.int64)


def _is_one_hot(labels: np.ndarray) -> bool:
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all())


def check_rows(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the labels of a multi-label head, rows of 0 and 1, as int64."""
    if labels.shape != shape or not np.isin(labels, (0, 1)).all():
        raise DataError(
            f"`labels` must be rows of 0 and 1 of the shape {shape} for a multi-label head. "
            f"Received: an array of the shape {labels.shape}."
        )
    return labels.astype(np.int64)
