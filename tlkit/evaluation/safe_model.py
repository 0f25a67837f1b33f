"""Loads untrusted models without running code that they contain."""

import json
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import tensorflow as tf

from tlkit.data.limits import MAX_PIXELS
from tlkit.data.settings import RESIZES, STRETCH
from tlkit.errors import ArgumentError, ExportError, check_choice
from tlkit.evaluation.exported import SERVING_FILE
from tlkit.evaluation.forward import forward_of
from tlkit.evaluation.names import check_class_names, num_classes_of
from tlkit.evaluation.prediction import decoder_for, image_shape_of
from tlkit.evaluation.thresholds import THRESHOLD, Threshold, check_threshold
from tlkit.models.heads import head_kind, probabilities
from tlkit.models.keras_files import KerasFileError, load_keras_file

KERAS_FILE = "model.keras"
NAMES_FILE = "class_names.json"
_MAX_SETTINGS_BYTES = 2**16


class SafeModel:
    """The classifier of a run, or of any folder with `model.keras` and `class_names.json`.

    A SavedModel is a program: TensorFlow runs its graph, which may read and write files
    (https://github.com/tensorflow/tensorflow/blob/master/SECURITY.md). A `.keras` file lists Keras
    layers, and in Keras's safe mode no code in it is run: files with `Lambda` layers or custom
    classes raise an error. tlkit itself decodes the images, resizes them and assigns labels as the
    settings say that `export_model` has stored in the file; without settings images are stretched,
    and labels assigned from a probability of 0.5.

    Args:
        folder: The folder with both files.

    Attributes:
        class_names: The class names in the order of the probabilities.
        kind: The kind of head: "softmax", "binary" or "multi_label".
        threshold: The probability, 0...1, from which a multi-label head assigns a label: one for
            all labels, or one for each.
        max_pixels: Maximum number of pixels of an image.
        resize: "stretch", "crop" or "pad", see `load_folder`.

    Raises:
        ArgumentError: A file is missing, or the model does not take images.
        ExportError: A file is damaged, or the model cannot be loaded without running code.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        for name in (KERAS_FILE, NAMES_FILE):
            if not Path(folder, name).is_file():
                raise ArgumentError(
                    f"`folder` must contain {KERAS_FILE} and {NAMES_FILE} to be loaded safely. "
                    f"Received: folder={str(folder)!r}, without {name}. Request both files, or "
                    "load the SavedModel if you trust its author."
                )
        self.model = _load(Path(folder, KERAS_FILE))
        self._image_shape = image_shape_of(self.model)
        self.class_names = _names_in(Path(folder, NAMES_FILE), num_classes_of(self.model))
        self.kind = head_kind(self.model)
        self.max_pixels = MAX_PIXELS
        settings = _settings_in(Path(folder, KERAS_FILE), len(self.class_names))
        self.resize, self.threshold = settings.resize, settings.threshold

    def predict(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns `probabilities`, `(n, num_classes)`, of image files, strings `(n,)`."""
        pixels = self._decoded(image_bytes)
        return {"probabilities": probabilities(forward_of(self.model)(pixels), self.model)}

    @cached_property
    def _decoded(self) -> Callable[[tf.Tensor], tf.Tensor]:
        shape = self._image_shape
        decode = decoder_for(shape, self.max_pixels, self.resize, "image_bytes")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
        def decoded(image_bytes: tf.Tensor) -> tf.Tensor:
            pixels = tf.TensorSpec(shape, tf.uint8)
            return tf.map_fn(decode, image_bytes, fn_output_signature=pixels)

        function: Callable[[tf.Tensor], tf.Tensor] = decoded
        return function


def _load(file: Path) -> keras.Model:
    try:
        return load_keras_file(file)
    except KerasFileError as error:
        raise ExportError(
            "A model must be an intact .keras file without custom code to be loaded safely. "
            f"Received: {str(file)!r} ({error}). Request one that uses only Keras's layers."
        ) from error


@dataclass(frozen=True)
class _Settings:
    """What a model's file says about its use."""

    resize: str = STRETCH
    threshold: Threshold = THRESHOLD


def _settings_in(file: Path, num_classes: int) -> _Settings:
    """Returns the settings in a model's file; files of other programs have none."""
    try:
        with zipfile.ZipFile(file) as archive:
            if SERVING_FILE not in archive.namelist():
                return _Settings()
            if archive.getinfo(SERVING_FILE).file_size > _MAX_SETTINGS_BYTES:
                raise ValueError("too large")
            settings = json.loads(archive.read(SERVING_FILE))
        resize = settings.get("resize", STRETCH)
        check_choice("resize", resize, RESIZES)
        threshold = check_threshold(settings.get("threshold", THRESHOLD), num_classes)
    except (
        OSError,
        ValueError,
        AttributeError,
        RecursionError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ExportError(
            f"{SERVING_FILE} must hold a model's settings. Received: {str(file)!r} ({error}). "
            "Request the file again."
        ) from error
    return _Settings(str(resize), threshold)


def _names_in(file: Path, num_classes: int) -> tuple[str, ...]:
    try:
        names = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(
            f"{NAMES_FILE} must be a JSON list of names. Received: {str(file)!r} ({error}). "
            "Request the file again."
        ) from error
    return check_class_names(names, num_classes)
