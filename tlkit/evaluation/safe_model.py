"""A model from somebody else, loaded without running any code that it brings."""

import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from tlkit.data.decoding import decoder
from tlkit.data.limits import MAX_PIXELS
from tlkit.errors import ArgumentError, ExportError
from tlkit.evaluation.forward import forward_of
from tlkit.evaluation.names import check_class_names, num_classes_of
from tlkit.evaluation.outputs import THRESHOLD
from tlkit.evaluation.prediction import Prediction, image_size_of, predict
from tlkit.models.heads import head_kind, probabilities

KERAS_FILE = "model.keras"
NAMES_FILE = "class_names.json"


class SafeModel:
    """The classifier of a run, or of any folder with `model.keras` and `class_names.json`.

    A SavedModel is a program: TensorFlow runs whatever its graph holds, which may read and write
    files (https://github.com/tensorflow/tensorflow/blob/master/SECURITY.md). A `.keras` file says
    which of Keras's own layers make the network, and in Keras's safe mode no code is taken from it:
    a file with `Lambda` layers or classes of its own is refused. tlkit itself decodes the images.

    Args:
        folder: Holds both files.

    Attributes:
        class_names: In the order of the probabilities.
        kind: The head's: "softmax", "binary" or "multi_label".
        threshold: From which a multi-label head gives a label, 0...1.
        max_pixels: The most pixels that an image may have.

    Raises:
        ArgumentError: A file is missing, or the model does not take images.
        ExportError: A file is damaged, or the model cannot be loaded without running code.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        for name in (KERAS_FILE, NAMES_FILE):
            if not Path(folder, name).is_file():
                raise ArgumentError(
                    f"`folder` must hold {KERAS_FILE} and {NAMES_FILE} to be loaded safely. "
                    f"Received: folder={str(folder)!r}, without {name}. Ask for both files, or "
                    "load the SavedModel if you trust whoever made it."
                )
        self.model = _load(Path(folder, KERAS_FILE))
        self._image_size = image_size_of(self.model)
        self.class_names = _names_in(Path(folder, NAMES_FILE), num_classes_of(self.model))
        self.kind = head_kind(self.model)
        self.threshold, self.max_pixels = THRESHOLD, MAX_PIXELS

    def ask(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Takes whole image files, a string tensor `(n,)`; returns `probabilities`, `(n, C)`."""
        decode: Callable[[tf.Tensor], tf.Tensor] = decoder(self._image_size, self.max_pixels)
        pixels = tf.stack([decode(one) for one in image_bytes])
        return {"probabilities": probabilities(forward_of(self.model)(pixels), self.model)}


def predict_safely(
    folder: str | os.PathLike[str], images: list[str] | tuple[str, ...]
) -> tuple[Prediction, ...]:
    """Says what is on image files by a `SafeModel`; whether they are known is not asked.

    Raises:
        ArgumentError: See `SafeModel`.
        ExportError: Likewise.
        DataError: Files are missing or cannot be decoded.
    """
    safe = SafeModel(folder)
    return predict(safe.model, images, safe.class_names, max_pixels=safe.max_pixels)


def _load(file: Path) -> keras.Model:
    try:
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except (
        OSError,
        ValueError,
        RecursionError,
        KeyError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportError(
            "A model must be a whole .keras file without code of its own to be loaded safely. "
            f"Received: {str(file)!r} ({reason}). Ask for one that is made of Keras's own layers."
        ) from error


def _names_in(file: Path, num_classes: int) -> tuple[str, ...]:
    try:
        names = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(
            f"{NAMES_FILE} must be a list of names in JSON. Received: {str(file)!r} ({error}). "
            "Ask for the file once more."
        ) from error
    return check_class_names(names, num_classes)
