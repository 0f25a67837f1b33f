"""Predictions for image files and arrays, by models in memory and exported models."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.checksums import file_reader
from tlkit.data.examples import examples_of
from tlkit.data.file_decoding import file_decoder
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.settings import GREY, RESIZES, RGB, STRETCH
from tlkit.errors import ArgumentError, check_choice, check_count
from tlkit.evaluation.data_checks import check_takes_pixels
from tlkit.evaluation.example_checks import check_examples
from tlkit.evaluation.forward import forward_of
from tlkit.evaluation.image_files import (
    CheckedFiles,
    Paths,
    are_paths,
    check_given_files,
    pixels_of,
    resize_pixels,
)
from tlkit.evaluation.names import check_class_names, num_classes_of
from tlkit.evaluation.thresholds import THRESHOLD, Threshold, check_threshold, is_label
from tlkit.models.heads import head_kind
from tlkit.models.heads import probabilities as probabilities_of
from tlkit.models.model_spec import describe_model
from tlkit.utils.formatting import percent
from tlkit.utils.progress import bar
from tlkit.utils.text_repr import ShownAsText, in_line


@dataclass(frozen=True)
class Prediction(ShownAsText):
    """The prediction for one image.

    Attributes:
        index: The image's position in the argument.
        path: Its file, or `None` for an array.
        label: The most probable class; for a multi-label head all `labels`, joined by ", ", or ""
            if there are none.
        labels: The same as a tuple: one class, or all labels that a multi-label head assigns.
        probability: The probability of the most probable class, 0...1.
        probabilities: The probability of each class, in the order of the model's outputs.
        known: Whether the image is in-distribution, by its OOD score; `None` if the model was
            exported without a rejection, and for a model in memory.
        reason: Why a file cannot be read or decoded, else empty. Such an entry has no label, no
            probabilities, and the probability NaN.
        warning: The decoder's message about a damaged file that was used, else empty.
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
            return f"{source}: no prediction, the file cannot be used: {in_line(self.reason)}"
        text = f"{self.label or 'no label'} ({percent(self.probability)})"
        if self.known is False:
            text = f"none of these, else {text}"
        return f"{source}: {text}" + (f" (damaged: {self.warning})" if self.warning else "")


def predict(
    model: keras.Model,
    images: Paths | np.ndarray,
    class_names: Sequence[str],
    *,
    threshold: float | Sequence[float] = THRESHOLD,
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
    resize: str = STRETCH,
) -> tuple[Prediction, ...]:
    """Predicts the classes of images, decoded exactly as in training and in an exported model.

    All files are checked first. A file that is missing or not an image has an entry with the
    `reason` and without a label, so that entries are in the order of the files; at least one file
    must be usable.

    Args:
        model: A model from pixels 0...255, or from inputs of another kind, to logits or
            probabilities.
        images: One image file or several; or pixels 0...255, one image `(height, width, 3)` or a
            batch `(n, height, width, 3)`, which are rounded and resized to the model's size. A
            model of other channels takes as many; files are decoded for 3 and for 1. For a model
            that takes no images, its inputs, `(n, ...)`, such as a list of texts.
        class_names: The class names in the order of the model's outputs.
        threshold: The probability, 0...1, from which a multi-label head assigns a label: one for
            all labels, or one for each in the order of the outputs. That of a run is
            `run.threshold`. Other heads assign the most probable class.
        batch_size: Images per forward pass.
        max_pixels: Maximum number of pixels of a file.
        resize: "stretch", "crop" or "pad", as the model's training images were resized; see
            `load_folder`. That of a run is `run.resize`.

    Raises:
        ArgumentError: If an argument is invalid, such as a folder instead of files.
        DataError: If no file can be decoded.

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
    thresholds = check_threshold(threshold, len(names))
    check_count("batch_size", batch_size)
    check_choice("resize", resize, RESIZES)
    paths: tuple[str | None, ...]
    files_given: CheckedFiles | None = None
    if not (spec := describe_model(model)).takes_images:
        examples = examples_of("images", images)
        check_examples("images", examples, spec)
        return _predict_batches(
            model, _batches_of(examples, batch_size), names, thresholds, (None,) * len(examples)
        )
    image_shape = image_shape_of(model)
    if are_paths(images):
        files_given = check_given_files(images, max_pixels, "images")
        paths = files_given.usable
        decode = decoder_for(image_shape, max_pixels, resize, "images")
        batches = _decoded_batches(files_given.usable, decode, batch_size)
    else:
        pixels = pixels_of(images, channels=image_shape[-1])
        paths = (None,) * len(pixels)
        batches = _resized_batches(pixels, image_shape[:2], batch_size, resize)
    predictions = _predict_batches(model, batches, names, thresholds, paths)
    return predictions if files_given is None else _add_unusable_files(predictions, files_given)


def _predict_batches(
    model: keras.Model,
    batches: Iterable[tf.Tensor],
    class_names: Sequence[str],
    thresholds: Threshold,
    paths: Sequence[str | None],
) -> tuple[Prediction, ...]:
    """Returns the prediction for each input of some batches, which are `len(paths)` in all."""
    forward = forward_of(model)
    rows = [np.empty((0, len(class_names)), np.float32)]
    with bar("prediction", len(paths), "images") as advance:
        for batch in batches:
            rows.append(np.asarray(probabilities_of(forward(batch), model)))
            advance(len(batch))
    return predictions_from(np.concatenate(rows), class_names, head_kind(model), thresholds, paths)


def _batches_of(examples: np.ndarray, batch_size: int) -> Iterator[tf.Tensor]:
    for start in range(0, len(examples), batch_size):
        yield tf.constant(examples[start : start + batch_size])


def _add_unusable_files(
    predictions: Sequence[Prediction], files_given: CheckedFiles
) -> tuple[Prediction, ...]:
    """Returns the predictions in the order of the files, with entries for unusable ones."""
    remaining = iter(predictions)
    entries = []
    for index, path in enumerate(files_given.paths):
        if reason := files_given.reasons[index]:
            entries.append(Prediction(index, path, "", (), math.nan, {}, reason=reason))
        else:
            entries.append(
                replace(next(remaining), index=index, warning=files_given.warnings[index])
            )
    return tuple(entries)


def predictions_from(
    probabilities: np.ndarray,
    class_names: Sequence[str],
    kind: str,
    threshold: Threshold,
    paths: Sequence[str | None],
    *,
    known: Sequence[bool] | None = None,
) -> tuple[Prediction, ...]:
    """Returns one prediction for each row of `probabilities`, `(n, num_classes)`."""
    predictions = []
    for index, (row, path) in enumerate(zip(probabilities, paths, strict=True)):
        if kind == "multi_label":
            labels = tuple(
                name
                for name, is_assigned in zip(class_names, is_label(row, threshold), strict=True)
                if is_assigned
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


def image_shape_of(model: keras.Model) -> tuple[int, int, int]:
    """Returns the height, width and number of channels of a model's images.

    Raises:
        ArgumentError: If the model does not take batches of images of one fixed size, its
            preprocessing expects values 0...1, or its output is not one row of values per image.
    """
    spec = describe_model(model)
    shape = spec.input_shape
    if not spec.takes_images or None in shape[1:]:
        remedy = "Build it with `image_size=`."
        if not spec.takes_images:
            remedy = f"It takes {spec.input_dtype}: this works on images only."
        raise ArgumentError(
            "`model` must take images of one fixed size, (batch, height, width, 3). "
            f"Received: a model of input_shape={shape}. {remedy}"
        )
    check_takes_pixels(spec)
    height, width, channels = (int(side or 0) for side in shape[1:])
    return height, width, channels


def decoder_for(
    image_shape: tuple[int, int, int], max_pixels: int, resize: str, argument: str
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from an image file's bytes to the images of a model.

    Args:
        image_shape: The result of `image_shape_of`.
        max_pixels: Maximum number of pixels of a file.
        resize: "stretch", "crop" or "pad".
        argument: The name of the files' argument in errors.

    Raises:
        ArgumentError: Files cannot be decoded to so many channels.
    """
    channels = image_shape[-1]
    if channels not in (GREY, RGB):
        raise ArgumentError(
            f"`{argument}` must be arrays for a model of images with {channels} channels. "
            "Received: files, which have 1 or 3. Give pixels (n, "
            f"{', '.join(map(str, image_shape))}), 0...255."
        )
    return file_decoder(image_shape[:2], max_pixels, resize, channels)


def _decoded_batches(
    paths: tuple[str, ...], decode: Callable[[tf.Tensor], tf.Tensor], batch_size: int
) -> tf.data.Dataset:
    read = file_reader(paths, ())
    without_autograph = tf.autograph.experimental.do_not_convert
    return (
        tf.data.Dataset.range(len(paths))
        .map(without_autograph(lambda row: decode(read(row))), num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size)
        .prefetch(1)
    )


def _resized_batches(
    pixels: np.ndarray, image_size: tuple[int, int], batch_size: int, resize: str
) -> Iterator[tf.Tensor]:
    for start in range(0, len(pixels), batch_size):
        chunk = pixels[start : start + batch_size]
        yield tf.stack([resize_pixels(image, image_size, resize) for image in chunk])
