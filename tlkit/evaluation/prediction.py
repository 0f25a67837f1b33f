"""What a model says of images it has never seen: files, arrays, and exported models."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.checksums import file_reader
from tlkit.data.decoding import decoder
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.reading import read_image
from tlkit.errors import ArgumentError, check_count
from tlkit.evaluation.data_checks import check_takes_pixels
from tlkit.evaluation.exported import ExportedModel, saved_model_in
from tlkit.evaluation.forward import forward_of
from tlkit.evaluation.image_files import (
    GivenFiles,
    Paths,
    are_paths,
    look_at_files,
    pixels_of,
    resized,
)
from tlkit.evaluation.names import check_class_names, num_classes_of
from tlkit.evaluation.outputs import THRESHOLD
from tlkit.models.heads import head_kind
from tlkit.models.heads import probabilities as probabilities_of
from tlkit.models.model_spec import describe_model
from tlkit.utils.formatting import percent
from tlkit.utils.progress import bar
from tlkit.utils.text_repr import ShownAsText, in_line


@dataclass(frozen=True)
class Prediction(ShownAsText):
    """What the model says of one image.

    Attributes:
        index: The image's position in what was given.
        path: Its file, or `None` for an array.
        label: The most probable class; with a multi-label head all `labels`, joined with ", ",
            or "" where there is none.
        labels: The same one by one: one class, or as many as a multi-label head gives.
        probability: That of the most probable class, 0...1.
        probabilities: That of each class, in the order of the model's outputs.
        known: Whether the image is like those the model was trained on; `None` where the model
            was exported without a rejection, and for a model in memory.
        reason: Why nothing is said of a file, which cannot be read or decoded; else empty. Such an
            entry has no label, no probabilities, and the probability NaN.
        warning: What the decoder says of a file that is damaged and was used all the same.
    """

    _optional = ("known", "reason", "warning")

    index: int
    path: str | None
    label: str
    labels: tuple[str, ...]
    probability: float
    probabilities: Mapping[str, float]
    known: bool | None = None
    reason: str = ""
    warning: str = ""

    def __str__(self) -> str:
        source = in_line(self.path) if self.path is not None else f"image {self.index}"
        if self.reason:
            return f"{source}: nothing, for it cannot be used: {in_line(self.reason)}"
        said = f"{self.label or 'no label'} ({percent(self.probability)})"
        if self.known is False:
            said = f"none of these, else {said}"
        return f"{source}: {said}" + (f" (damaged: {self.warning})" if self.warning else "")


def predict(
    model: keras.Model,
    images: Paths | np.ndarray,
    class_names: Sequence[str],
    *,
    threshold: float = THRESHOLD,
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Prediction, ...]:
    """Says what is on images, decoded exactly as in training and in an exported model.

    All files are checked first. One that is missing or no image has an entry too, which says the
    `reason` and has no label, so that entries stand as the files do; there must be others.

    Args:
        model: From pixels 0...255 to logits or probabilities.
        images: One image file or several; or pixels 0...255, one image `(height, width, 3)` or
            a batch `(n, height, width, 3)`, which are rounded and stretched to the model's size.
        class_names: In the order of the model's outputs.
        threshold: From this probability on, 0...1, a multi-label head gives a label; other heads
            give their most probable class.
        batch_size: Images in one forward pass.
        max_pixels: The most pixels a file may have.

    Raises:
        ArgumentError: If an argument breaks its rule, such as a folder instead of files.
        DataError: If no file is there that can be decoded.

    Example:
        >>> import keras, numpy as np, tlkit
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D(),
        ...     keras.layers.Dense(2, kernel_initializer="zeros")])
        >>> prediction, = tlkit.predict(model, np.zeros((30, 20, 3), np.uint8), ["ant", "bee"])
        >>> prediction.label, prediction.probabilities
        ('ant', {'ant': 0.5, 'bee': 0.5})
    """
    names = check_class_names(class_names, num_classes_of(model))
    check_threshold(threshold)
    check_count("batch_size", batch_size)
    image_size = image_size_of(model)
    forward = forward_of(model)
    paths: tuple[str | None, ...]
    given: GivenFiles | None = None
    if are_paths(images):
        given = look_at_files(images, max_pixels, "images")
        paths = given.usable
        batches = _decoded_batches(given.usable, image_size, max_pixels, batch_size)
    else:
        pixels = pixels_of(images)
        paths = (None,) * len(pixels)
        batches = _resized_batches(pixels, image_size, batch_size)
    rows = [np.empty((0, len(names)), np.float32)]
    with bar("prediction", len(paths), "images") as advance:
        for batch in batches:
            rows.append(np.asarray(probabilities_of(forward(batch), model)))
            advance(len(batch))
    found = predictions_from(np.concatenate(rows), names, head_kind(model), threshold, paths)
    return found if given is None else _with_all_files(found, given)


def predict_exported(
    folder: str | os.PathLike[str],
    files: Paths,
    threshold: float | None = None,
    *,
    batch_size: int = 32,
) -> tuple[Prediction, ...]:
    """Says what is on image files by a SavedModel that `export_model` wrote.

    Args:
        folder: Holds the SavedModel, itself or in a folder `saved_model`.
        files: One image file or several.
        threshold: As for `predict`; the one of the export when not given.
        batch_size: Images in one forward pass.

    Raises:
        ArgumentError: If `folder` holds no such SavedModel, or another argument breaks its rule.
        DataError: If no file is there that can be decoded; see `predict`.
        ExportError: If the SavedModel is damaged.
    """
    check_count("batch_size", batch_size)
    root = saved_model_in(Path(folder))
    if root is None:
        raise ArgumentError(
            "`folder` must hold a SavedModel that `export_model` wrote. "
            f"Received: folder={str(folder)!r}. Export one with `formats=('saved_model',)`."
        )
    exported = ExportedModel(root)
    names = exported.class_names
    if threshold is None:
        threshold = exported.threshold
    check_threshold(threshold)
    given = look_at_files(files, exported.max_pixels, "files")
    paths = given.usable
    rows = [np.empty((0, len(names)), np.float32)]
    known: list[bool] = []
    with bar("prediction", len(paths), "images") as advance:
        for start in range(0, len(paths), batch_size):
            chunk = paths[start : start + batch_size]
            image_bytes = tf.constant([read_image(path) for path in chunk])
            answers = exported.ask(image_bytes=image_bytes)
            rows.append(answers["probabilities"].numpy())
            if "known" in answers:
                known.extend(answers["known"].numpy().tolist())
            advance(len(chunk))
    found = predictions_from(
        np.concatenate(rows), names, exported.kind, threshold, paths, known=known or None
    )
    return _with_all_files(found, given)


def _with_all_files(predictions: Sequence[Prediction], given: GivenFiles) -> tuple[Prediction, ...]:
    """Returns the predictions in the order of the files, with entries for those without."""
    left = iter(predictions)
    entries = []
    for index, path in enumerate(given.paths):
        if reason := given.reasons[index]:
            entries.append(Prediction(index, path, "", (), math.nan, {}, reason=reason))
        else:
            entries.append(replace(next(left), index=index, warning=given.warnings[index]))
    return tuple(entries)


def predictions_from(
    probabilities: np.ndarray,
    class_names: Sequence[str],
    kind: str,
    threshold: float,
    paths: Sequence[str | None],
    *,
    known: Sequence[bool] | None = None,
) -> tuple[Prediction, ...]:
    """Returns one record for each row of `probabilities`, `(n, num_classes)`."""
    predictions = []
    for index, (row, path) in enumerate(zip(probabilities, paths, strict=True)):
        if kind == "multi_label":
            labels = tuple(
                name
                for name, is_given in zip(class_names, is_label(row, threshold), strict=True)
                if is_given
            )
        else:
            labels = (class_names[int(row.argmax())],)
        predictions.append(
            Prediction(
                index=index,
                path=path,
                label=", ".join(labels),
                labels=labels,
                probability=float(row.max()),
                probabilities=dict(zip(class_names, map(float, row), strict=True)),
                known=None if known is None else known[index],
            )
        )
    return tuple(predictions)


def is_label(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Whether a multi-label head gives each label; compared in float32, as exports do."""
    return probabilities >= np.float32(threshold)


def check_threshold(threshold: float) -> None:
    """Raises `ArgumentError` unless `threshold` lies strictly between 0 and 1."""
    is_number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    if not is_number or not 0 < threshold < 1:
        raise ArgumentError(
            "`threshold` must lie between 0 and 1. "
            f"Received: threshold={threshold!r}. Give a probability such as 0.5."
        )


def image_size_of(model: keras.Model) -> tuple[int, int]:
    """Returns height and width of the images the model takes.

    Raises:
        ArgumentError: If the model does not take batches of RGB images of one fixed size, takes
            values 0...1 for certain, or gives no row of values for each.
    """
    spec = describe_model(model)
    shape = spec.input_shape
    if len(shape) != 4 or None in shape[1:3] or shape[3] != 3:
        raise ArgumentError(
            "`model` must take images of one fixed size, (batch, height, width, 3). "
            f"Received: a model of input_shape={shape}. Build it with `image_size=`."
        )
    check_takes_pixels(spec)
    return int(shape[1] or 0), int(shape[2] or 0)


def _decoded_batches(
    paths: tuple[str, ...], image_size: tuple[int, int], max_pixels: int, batch_size: int
) -> tf.data.Dataset:
    decode = decoder(image_size, max_pixels)
    read = file_reader(paths, ())
    plain = tf.autograph.experimental.do_not_convert
    return (
        tf.data.Dataset.range(len(paths))
        .map(plain(lambda row: decode(read(row))), num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size)
        .prefetch(1)
    )


def _resized_batches(
    pixels: np.ndarray, image_size: tuple[int, int], batch_size: int
) -> Iterator[tf.Tensor]:
    for start in range(0, len(pixels), batch_size):
        chunk = pixels[start : start + batch_size]
        yield tf.stack([resized(image, image_size) for image in chunk])
