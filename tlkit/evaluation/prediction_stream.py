"""Predictions for many image files, in batches, with as much memory as one batch needs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

from tlkit.data.conversion import ConversionError, readable
from tlkit.data.decoder_messages import capture_stderr, find_warning, forward_lines
from tlkit.data.decoding import DECODER_ERRORS
from tlkit.data.file_checks import FileCheck, check_contents
from tlkit.data.formats import HEAD_BYTES, detect_format
from tlkit.data.given_images import GivenImage, ImageReader, ReadImage, find_images
from tlkit.errors import ArgumentError, check_count
from tlkit.evaluation.exported import ExportedModel, saved_model_in
from tlkit.evaluation.image_files import Paths, unusable_files_error
from tlkit.evaluation.prediction import Prediction, predictions_from
from tlkit.evaluation.thresholds import Threshold, check_threshold
from tlkit.utils.progress import bar


class FileClassifier(Protocol):
    """What classifies image files: an `ExportedModel` or a `SafeModel`."""

    class_names: tuple[str, ...]
    kind: str
    threshold: Threshold
    max_pixels: int

    def predict(self, *, image_bytes: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """Returns "probabilities", `(n, num_classes)`, and perhaps "known", `(n,)`."""


@dataclass(frozen=True)
class ClassifiedFile:
    """An image file and its prediction.

    Attributes:
        image: The file, as it was given.
        content: Its bytes; empty if it cannot be read.
        prediction: The prediction, with the reason if the file cannot be used.
    """

    image: GivenImage
    content: bytes
    prediction: Prediction


def classify_files(
    model: FileClassifier,
    images: Sequence[GivenImage],
    threshold: Threshold | None = None,
    batch_size: int = 32,
) -> Iterator[ClassifiedFile]:
    """Yields each image with its prediction, in their order.

    The next batch is read while one is classified. A batch is decoded once, as part of the model;
    only if that fails, or a decoder writes a message, are its files checked one by one.

    Args:
        model: The classifier.
        images: The files.
        threshold: The probability, 0...1, from which a multi-label head assigns a label;
            that of the model by default.
        batch_size: Images per forward pass.
    """
    threshold = model.threshold if threshold is None else threshold
    with ImageReader() as reader, ThreadPoolExecutor(1) as ahead:
        pending = ahead.submit(reader.read, images[:batch_size])
        for start in range(0, len(images), batch_size):
            read = pending.result()
            end = start + batch_size
            pending = ahead.submit(reader.read, images[end : end + batch_size])
            predictions = _classified(model, read, threshold)
            for number, (one, found) in enumerate(zip(read, predictions, strict=True)):
                yield ClassifiedFile(one.image, one.content, replace(found, index=start + number))


def _classified(
    model: FileClassifier, read: Sequence[ReadImage], threshold: Threshold
) -> list[Prediction]:
    """Returns the prediction for each image of a batch; their indices are not set."""
    checks = [FileCheck(reason=one.problem) for one in read]
    unlikely = [
        row
        for row, one in enumerate(read)
        if not one.problem and detect_format(one.content[:HEAD_BYTES], one.image.path)[1]
    ]
    _check(read, unlikely, model.max_pixels, checks)
    try:
        answers = _answers(model, read, checks)
        is_clean = not answers.warning
    except (*DECODER_ERRORS, ConversionError):
        is_clean = False
    if not is_clean:
        usable = [row for row, checked in enumerate(checks) if not checked.reason]
        _check(read, usable, model.max_pixels, checks)
        answers = _answers(model, read, checks)
    paths = [
        one.image.path for one, checked in zip(read, checks, strict=True) if not checked.reason
    ]
    predictions = iter(
        predictions_from(
            answers.probabilities,
            model.class_names,
            model.kind,
            threshold,
            paths,
            known=answers.known,
        )
    )
    return [
        Prediction(0, one.image.path, "", (), nan, {}, reason=checked.reason)
        if checked.reason
        else replace(next(predictions), warning=checked.warning)
        for one, checked in zip(read, checks, strict=True)
    ]


def _check(
    read: Sequence[ReadImage], rows: Sequence[int], max_pixels: int, checks: list[FileCheck]
) -> None:
    """Replaces the checks of some files by what their contents show."""
    contents = [(read[row].image.path, read[row].content) for row in rows]
    for row, checked in zip(rows, check_contents(contents, max_pixels), strict=True):
        checks[row] = checked


@dataclass(frozen=True)
class _Answers:
    """The model's outputs for the usable files of a batch.

    Attributes:
        probabilities: `(n, num_classes)`.
        known: Whether each image is in-distribution; `None` without a rejection.
        warning: The decoder's message about a damaged file among them, else empty.
    """

    probabilities: np.ndarray
    known: list[bool] | None
    warning: str


def _answers(
    model: FileClassifier, read: Sequence[ReadImage], checks: Sequence[FileCheck]
) -> _Answers:
    contents = [
        readable(one.content, model.max_pixels)
        for one, check in zip(read, checks, strict=True)
        if not check.reason
    ]
    if not contents:
        return _Answers(np.empty((0, len(model.class_names)), np.float32), None, "")
    with capture_stderr() as captured:
        outputs = model.predict(image_bytes=tf.constant(contents))
        probabilities = outputs["probabilities"].numpy()
        known = outputs["known"].numpy().tolist() if "known" in outputs else None
    forward_lines(captured.lines)
    return _Answers(probabilities, known, find_warning(captured.lines))


def predict_exported(
    folder: str | os.PathLike[str],
    files: Paths,
    threshold: float | Sequence[float] | None = None,
    *,
    batch_size: int = 32,
) -> tuple[Prediction, ...]:
    """Predicts the classes of image files by a SavedModel that `export_model` wrote.

    Args:
        folder: The folder of the SavedModel, or one that contains it as `saved_model`.
        files: Files, folders, patterns or archives, see `find_images`; one or several.
        threshold: As for `predict`; that of the export by default.
        batch_size: Images per forward pass.

    Raises:
        ArgumentError: If `folder` has no such SavedModel, or another argument is invalid.
        DataError: If no file can be decoded; see `predict`.
        ExportError: If the SavedModel is damaged.
    """
    check_count("batch_size", batch_size)
    root = saved_model_in(Path(folder))
    if root is None:
        raise ArgumentError(
            "`folder` must contain a SavedModel that `export_model` wrote. "
            f"Received: folder={str(folder)!r}. Export one with `formats=('saved_model',)`."
        )
    exported = ExportedModel(root)
    if threshold is not None:
        threshold = check_threshold(threshold, len(exported.class_names))
    return classify_all(exported, find_images(files, "files"), threshold, batch_size)


def classify_all(
    model: FileClassifier,
    images: Sequence[GivenImage],
    threshold: Threshold | None = None,
    batch_size: int = 32,
    argument: str = "files",
) -> tuple[Prediction, ...]:
    """Returns the predictions for all images, with a progress bar.

    Args:
        model: The classifier.
        images: The files.
        threshold: See `classify_files`; that of the model by default.
        batch_size: Images per forward pass.
        argument: The name of the files' argument in errors.

    Raises:
        DataError: None of the files can be used.
    """
    predictions = []
    with bar("prediction", len(images), "images") as advance:
        for classified in classify_files(model, images, threshold, batch_size):
            predictions.append(classified.prediction)
            advance(1)
    if all(one.reason for one in predictions):
        raise unusable_files_error([(one.path or "", one.reason) for one in predictions], argument)
    return tuple(predictions)
