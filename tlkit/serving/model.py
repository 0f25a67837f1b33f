"""The served model: an exported model that is loaded once and classifies many images."""

import os
from pathlib import Path

import tensorflow as tf

from tlkit.data.conversion import ConversionError, readable
from tlkit.data.decoder_messages import plain_message
from tlkit.data.decoding import DECODER_ERRORS
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


class TooManyPixelsError(DataError):
    """An image has more pixels than the server decodes."""


class ServedModel:
    """The SavedModel of a run or an export, in memory; may be used by many threads at once.

    Args:
        folder: A run, an export, or one version of an export: the SavedModel itself, or a folder
            that holds it in `saved_model`.
        max_pixels: Largest number of pixels of an image; limited to that of the export.
        safe: Whether `model.keras` is used in Keras's safe mode instead, see `SafeModel`.

    Attributes:
        class_names: Class names in the order of the probabilities.
        max_pixels: Largest number of pixels of an image.

    Raises:
        ArgumentError: If `folder` holds no SavedModel that `export_model` wrote.
        ExportError: If the SavedModel is damaged.
    """

    def __init__(
        self, folder: str | os.PathLike[str], max_pixels: int, *, safe: bool = False
    ) -> None:
        self._exported = SafeModel(folder) if safe else _exported_in(Path(folder))
        self.class_names = self._exported.class_names
        self.max_pixels = min(max_pixels, self._exported.max_pixels)
        # warm-up: the first call is slow
        self.answer(tf.io.encode_png(tf.zeros((8, 8, 3), tf.uint8)).numpy())

    def answer(self, image_bytes: bytes) -> dict[str, object]:
        """Returns the prediction for an image, as `Prediction.as_dict` without index and path.

        For an export with a rejection it also has "known", whether the image is one of the known
        classes and not out-of-distribution.

        Args:
            image_bytes: Content of the image file.

        Raises:
            TooManyPixelsError: If the image has more than `max_pixels` pixels.
            DataError: If the content is no image or a damaged one.
        """
        try:
            pixels, content = _read_bounded(tf.constant(readable(image_bytes, self.max_pixels)))
            num_pixels = int(pixels)
            if num_pixels > self.max_pixels:
                raise self._too_many(num_pixels)
            answers = self._exported.predict(image_bytes=content[tf.newaxis])
        except ConversionError as error:
            if error.num_pixels:
                raise self._too_many(error.num_pixels) from error
            raise _not_an_image(image_bytes, str(error).replace("{}", "file")) from error
        except DECODER_ERRORS as error:
            raise _not_an_image(image_bytes, plain_message(error)) from error
        (prediction,) = predictions_from(
            answers["probabilities"].numpy(),
            self.class_names,
            self._exported.kind,
            self._exported.threshold,
            (None,),
        )
        content = prediction.as_dict()
        for name in ("index", "path"):
            del content[name]
        if "known" in answers:
            content["known"] = bool(answers["known"].numpy()[0])
        return content

    def _too_many(self, num_pixels: int) -> TooManyPixelsError:
        return TooManyPixelsError(
            f"The image must have at most {self.max_pixels:,} pixels. "
            f"Received: {num_pixels:,} pixels. Send a smaller image."
        )


def _not_an_image(image_bytes: bytes, message: str) -> DataError:
    _, reason = detect_format(image_bytes[:HEAD_BYTES])
    return DataError(
        "The body must be a complete JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF or HEIC file. Received: "
        f"{len(image_bytes):,} bytes that are none ({reason or message}). Send the file unchanged."
    )


def _exported_in(folder: Path) -> ExportedModel:
    root = saved_model_in(folder)
    if root is None:
        check_no_versions(folder)
        raise ArgumentError(
            "`folder` must be a finished run, or hold a SavedModel that `export_model` wrote. "
            f"Received: folder={str(folder)!r}. Make a run with tlkit train PHOTOS --out RUN."
        )
    return ExportedModel(root)


@tf.function(input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
def _read_bounded(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the number of pixels in the header, 0 if it is no image, and the bytes to decode.

    The limits on scans and trailing bytes are checked here, as exports of earlier versions do not
    check them.
    """

    def jpeg() -> tuple[tf.Tensor, tf.Tensor]:
        with tf.control_dependencies([read_orientation(image_bytes)]):
            return jpeg_size(image_bytes)[2], limit_scans(image_bytes)

    def other() -> tuple[tf.Tensor, tf.Tensor]:
        height, width, num_pixels = non_jpeg_size(image_bytes)
        return num_pixels, without_trailing_bytes(image_bytes, height, width)

    return tf.cond(is_jpeg(image_bytes), jpeg, other)
