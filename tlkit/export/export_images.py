"""Images that formats are calibrated and measured on, decoded at the model's size."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.images import ImageSplit
from tlkit.data.missing_files import missing_files_named
from tlkit.data.reading import read_image
from tlkit.errors import ArgumentError
from tlkit.evaluation.data_checks import check_images
from tlkit.evaluation.image_files import (
    are_paths,
    check_image_files,
    list_files,
    pixels_of,
    resize_pixels,
)
from tlkit.evaluation.prediction import decoder_for
from tlkit.export.integers import MAX_CALIBRATION_IMAGES
from tlkit.export.saved_model import Serving
from tlkit.models.heads import probabilities

MAX_TEST_IMAGES = 1000
"""Of more, so many are used: the accuracy of their interval is enough, and they fit into memory."""

_BATCH = 32


@dataclass(frozen=True, eq=False)
class ComparedImages:
    """Images that an export is run on, with the outputs that are expected.

    Attributes:
        images: uint8 `(n, height, width, channels)`.
        expected: Probabilities of the model in memory, `(n, num_classes)`.
        labels: True labels as in `ImageSplit`; `None` if they are not known.
    """

    images: np.ndarray
    expected: np.ndarray
    labels: np.ndarray | None = None

    @classmethod
    def of(cls, split: ImageSplit, model: keras.Model) -> "ComparedImages":
        """Returns labelled images, at most `MAX_TEST_IMAGES`, with the outputs of a model.

        Raises:
            ArgumentError: The split does not fit the model, or has no images.
        """
        images, labels = _read(split, model, "test", MAX_TEST_IMAGES)
        outputs = [
            model(images[start : start + _BATCH].astype(np.float32), training=False)
            for start in range(0, len(images), _BATCH)
        ]
        expected = np.asarray(probabilities(np.concatenate(outputs), model))
        return cls(images, expected, labels)


def calibration_images(
    given: ImageSplit | Sequence[str | os.PathLike[str]] | np.ndarray,
    model: keras.Model,
    serving: Serving,
) -> np.ndarray:
    """Returns images to calibrate, uint8 `(n, height, width, channels)`, n from 1 to 128.

    Args:
        given: A split, files, or pixels.
        model: The model.
        serving: Size and channels of its images.

    Raises:
        ArgumentError: The images do not fit the model, or there are none.
        DataError: A file cannot be used.
    """
    if isinstance(given, ImageSplit):
        return _read(given, model, "calibrate", MAX_CALIBRATION_IMAGES)[0]
    if are_paths(given):
        files = list_files(given, "calibrate")
        chosen = [files[row] for row in _evenly_spaced(len(files), MAX_CALIBRATION_IMAGES)]
        check_image_files(chosen, serving.max_pixels, "calibrate")
        decode = decoder_for(serving.image_shape, serving.max_pixels, serving.resize, "calibrate")
        images = [decode(tf.constant(read_image(file))) for file in chosen]
    else:
        pixels = pixels_of(given, "calibrate", serving.channels)
        chosen_pixels = pixels[_evenly_spaced(len(pixels), MAX_CALIBRATION_IMAGES)]
        images = [resize_pixels(one, serving.image_size, serving.resize) for one in chosen_pixels]
    if not images:
        raise ArgumentError(
            "`calibrate` must contain at least one image. Received: none. Add training images."
        )
    return np.stack(images)


def _read(
    split: ImageSplit, model: keras.Model, argument: str, at_most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels and labels of images of a split, evenly spaced."""
    check_images(argument, split, model)
    if not isinstance(split, ImageSplit):
        raise ArgumentError(
            f"`{argument}` must be a split of images, such as data.test. Received: a data set. "
            "Load the images with load_folder, or wrap arrays with load_arrays."
        )
    rows = _evenly_spaced(split.num_images, at_most)
    with missing_files_named([split]):
        batches = [
            (images.numpy().astype(np.uint8), labels.numpy())
            for images, labels in split.dataset(shuffle=False, indices=rows)
        ]
    return np.concatenate([one for one, _ in batches]), np.concatenate([one for _, one in batches])


def _evenly_spaced(number: int, at_most: int) -> np.ndarray:
    """Returns the rows to use; images of a split are sorted by class, so that each class has some.

    Example:
        >>> from tlkit.export.export_images import _evenly_spaced
        >>> _evenly_spaced(10, 4).tolist(), _evenly_spaced(3, 4).tolist()
        ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.linspace(0, number - 1, min(number, at_most)).round().astype(np.int64)
