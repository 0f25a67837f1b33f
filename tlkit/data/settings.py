"""The common arguments of the loaders, and their checks."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from tlkit.data.limits import MAX_PIXELS
from tlkit.errors import ArgumentError, check_choice, check_count, check_image_size, check_seed

KEEP, SKIP = "keep", "skip"
DAMAGED = (KEEP, SKIP)
"""Choices for images that can be decoded although the decoder warns of damage."""

GREY, RGB = 1, 3
"""Numbers of channels that image files can be decoded to."""

NO_IMAGE_SIZE, NO_CHANNELS = (0, 0), 0
"""The image size and the number of channels of inputs that are no images, such as texts."""

BRIGHTNESS = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of a pixel, see ITU-R BT.601."""

STRETCH, CROP, PAD = "stretch", "crop", "pad"
PAD_VALUE = 127
"""Value of the borders of padded images: grey, which most preprocessing turns into about zero."""
RESIZES = {
    STRETCH: "stretched to the model's size, without keeping their aspect ratio",
    CROP: "cropped to the largest centred rectangle of the model's aspect ratio, then resized",
    PAD: "resized with their aspect ratio to fit into the model's size, centred on grey "
    f"({PAD_VALUE}, {PAD_VALUE}, {PAD_VALUE})",
}
"""How images are brought to the model's size, with a description for clients of a model."""


@dataclass(frozen=True)
class Settings:
    """How images are read, resized, batched and split.

    Attributes:
        image_size: Height and width that images are resized to.
        batch_size: Images per batch.
        splits: Fractions of training, validation and test.
        seed: Seed of the split, the order and the augmentation.
        class_names: The classes in the order of the labels; `None` for those found, sorted.
        max_pixels: Maximum number of pixels of an image.
        damaged: "keep" or "skip", see `load_folder`.
        cache: The cache's folder, as `cache_folder` takes it.
        resize: "stretch", "crop" or "pad", see `load_folder`.
        channels: Number of channels of the images.
        may_lack_classes: Whether some of `class_names` may have no image, or a single one.
    """

    image_size: tuple[int, int]
    batch_size: int
    splits: tuple[float, float, float]
    seed: int
    class_names: tuple[str, ...] | None = None
    max_pixels: int = MAX_PIXELS
    damaged: str = KEEP
    cache: str | os.PathLike[str] | None = None
    resize: str = STRETCH
    channels: int = RGB
    may_lack_classes: bool = False


def check_settings(
    image_size: int | tuple[int, int],
    batch_size: int,
    splits: Sequence[float],
    seed: int,
    *,
    class_names: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    damaged: str = KEEP,
    cache: str | os.PathLike[str] | None = None,
    resize: str = STRETCH,
    channels: int = RGB,
) -> Settings:
    """Returns the checked settings.

    Raises:
        ArgumentError: A size is not a positive whole number; `splits` are not three fractions that
            sum to 1; `seed` is not in 0...2**32 - 1; `class_names` has duplicates; `damaged` is
            neither "keep" nor "skip"; `resize` is not one of `RESIZES`; `channels` is neither 1
            nor 3.
    """
    check_count("batch_size", batch_size)
    check_seed(seed)
    check_count("max_pixels", max_pixels)
    check_choice("damaged", damaged, DAMAGED)
    check_choice("resize", resize, RESIZES)
    check_channels_of_files(channels)
    names = None if class_names is None else tuple(class_names)
    if names is not None and len(set(names)) < len(names):
        raise ArgumentError(
            "`class_names` must not have duplicates. "
            f"Received: class_names={names!r}. Name each class once."
        )
    fractions = check_splits(splits)
    sides = check_image_size(image_size)
    return Settings(
        sides, batch_size, fractions, seed, names, max_pixels, damaged, cache, resize, channels
    )


def check_channels_of_files(channels: int) -> None:
    """Raises `ArgumentError` unless image files can be decoded to so many channels."""
    if type(channels) is not int or channels not in (GREY, RGB):
        raise ArgumentError(
            "`channels` must be 3, or 1 to make images grey. "
            f"Received: channels={channels!r}. Give images with other channels as an array, "
            "load_arrays(images, labels)."
        )


def check_splits(splits: Sequence[float]) -> tuple[float, float, float]:
    """Returns the fractions of training, validation and test.

    Raises:
        ArgumentError: They are not three non-negative numbers that sum to 1, the first of them
            above zero.
    """
    fractions = tuple(splits) if isinstance(splits, tuple | list) else ()
    is_number = all(type(fraction) in (int, float) and fraction >= 0 for fraction in fractions)
    if (
        len(fractions) != 3
        or not is_number
        or not fractions[0] > 0
        or not math.isclose(sum(fractions), 1)
    ):
        raise ArgumentError(
            "`splits` must be three fractions that sum to 1, for training (above zero), validation "
            f"and test. Received: splits={splits!r}. The default is (0.8, 0.1, 0.1)."
        )
    return fractions[0], fractions[1], fractions[2]
