"""An exported model, loaded once and asked many times."""

import os
from pathlib import Path

import tensorflow as tf

from tlkit.data.decoder_messages import plain_message
from tlkit.data.exif import read_orientation
from tlkit.data.formats import HEAD_BYTES, detect_format
from tlkit.data.headers import (
    is_jpeg,
    jpeg_size,
    limit_scans,
    non_jpeg_size,
    without_trailing_bytes,
)
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.exported import ExportedModel, saved_model_in
from tlkit.evaluation.prediction import predictions_from
from tlkit.evaluation.safe_model import SafeModel
from tlkit.export.tensorflow_serving import check_no_versions

_DAMAGE = (
    tf.errors.InvalidArgumentError,
    tf.errors.UnimplementedError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)


class TooManyPixelsError(DataError):
    """An image has more pixels than are decoded here."""


class ServedModel:
    """The SavedModel of a run or an export, in memory.

    Any number of threads may ask it at once.

    Args:
        folder: A run, an export, or one version of an export: holds the SavedModel, itself or in
            a folder `saved_model`.
        max_pixels: The most pixels an image may have; not above what the export allows.
        safe: Whether `model.keras` is taken in Keras's safe mode instead, see `SafeModel`.

    Attributes:
        class_names: In the order of the probabilities.
        max_pixels: The most pixels an image may have.

    Raises:
        ArgumentError: If `folder` holds no SavedModel that `export_model` wrote.
        ExportError: If it is damaged.
    """

    def __init__(
        self, folder: str | os.PathLike[str], max_pixels: int, *, safe: bool = False
    ) -> None:
        self._exported = SafeModel(folder) if safe else _exported_in(Path(folder))
        self.class_names = self._exported.class_names
        self.max_pixels = min(max_pixels, self._exported.max_pixels)
        self.answer(tf.io.encode_png(tf.zeros((8, 8, 3), tf.uint8)).numpy())  # the first is slow

    def answer(self, image_bytes: bytes) -> dict[str, object]:
        """Returns what is on an image, as `Prediction.as_dict` says it, without index and path.

        An export with a rejection also says "known", whether the image is like those that the
        model was trained on.

        Args:
            image_bytes: The whole file.

        Raises:
            TooManyPixelsError: If the image has more than `max_pixels`.
            DataError: If it is no image, or a damaged one.
        """
        try:
            pixels, content = _bounded(tf.constant(image_bytes))
            num_pixels = int(pixels)
            if num_pixels > self.max_pixels:
                raise TooManyPixelsError(
                    f"The image must have at most {self.max_pixels:,} pixels. "
                    f"Received: {num_pixels:,} pixels. Send a smaller one."
                )
            answers = self._exported.ask(image_bytes=content[tf.newaxis])
        except _DAMAGE as error:
            _, reason = detect_format(image_bytes[:HEAD_BYTES])
            why = f" ({reason or plain_message(error)})"
            raise DataError(
                "The body must be a whole JPEG, PNG, GIF, BMP or WebP file. "
                f"Received: {len(image_bytes):,} bytes that are none{why}. Send the file as it is."
            ) from error
        (prediction,) = predictions_from(
            answers["probabilities"].numpy(),
            self.class_names,
            self._exported.kind,
            self._exported.threshold,
            (None,),
        )
        said = prediction.as_dict()
        for name in ("index", "path"):
            del said[name]
        if "known" in answers:
            said["known"] = bool(answers["known"].numpy()[0])
        return said


def _exported_in(folder: Path) -> ExportedModel:
    root = saved_model_in(folder)
    if root is None:
        check_no_versions(folder)
        raise ArgumentError(
            "`folder` must be that of a finished run, or hold a SavedModel that `export_model` "
            f"wrote. Received: folder={str(folder)!r}. Make one with tlkit train PHOTOS --out RUN."
        )
    return ExportedModel(root)


@tf.function(input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
def _bounded(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns how many pixels the header claims, 0 for what is no image, and what is decoded.

    Exports of earlier versions set no bounds of their own to what takes long.
    """

    def jpeg() -> tuple[tf.Tensor, tf.Tensor]:
        with tf.control_dependencies([read_orientation(image_bytes)]):
            return jpeg_size(image_bytes)[2], limit_scans(image_bytes)

    def other() -> tuple[tf.Tensor, tf.Tensor]:
        height, width, num_pixels = non_jpeg_size(image_bytes)
        return num_pixels, without_trailing_bytes(image_bytes, height, width)

    return tf.cond(is_jpeg(image_bytes), jpeg, other)
