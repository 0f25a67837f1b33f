"""The arguments that every loader takes, checked before anything is read."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

from tlkit.data.limits import MAX_PIXELS
from tlkit.errors import ArgumentError, check_choice, check_count, check_seed

KEEP, SKIP = "keep", "skip"
DAMAGED = (KEEP, SKIP)
"""What is done with images that are decoded although their decoder warns of damage."""


@dataclass(frozen=True)
class Settings:
    """What the loaders share: how images are read, resized, batched and split.

    Attributes:
        image_size: Height and width that images are resized to.
        batch_size: Images in a batch.
        splits: Fractions of training, validation and test.
        seed: Of the division, the order and the augmentation.
        class_names: The classes in the order wanted; `None` for those that are found, sorted.
        max_pixels: The most pixels that an image may have.
        damaged: "keep" or "skip", see `load_folder`.
        cache: The cache's folder, as `cache_folder` takes it.
    """

    image_size: tuple[int, int]
    batch_size: int
    splits: tuple[float, float, float]
    seed: int
    class_names: tuple[str, ...] | None = None
    max_pixels: int = MAX_PIXELS
    damaged: str = KEEP
    cache: str | os.PathLike[str] | None = None


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
) -> Settings:
    """Returns the settings in one form.

    Raises:
        ArgumentError: A size is no positive whole number; `splits` are not three shares that
            make up one; `seed` is not from 0 to 2**32 - 1; `class_names` has one more than once;
            `damaged` is neither "keep" nor "skip".
    """
    check_count("batch_size", batch_size)
    check_seed(seed)
    check_count("max_pixels", max_pixels)
    check_choice("damaged", damaged, DAMAGED)
    names = None if class_names is None else tuple(class_names)
    if names is not None and len(set(names)) < len(names):
        raise ArgumentError(
            "`class_names` must be different from each other. "
            f"Received: class_names={names!r}. Name each class once."
        )
    shares = check_splits(splits)
    size = check_image_size(image_size)
    return Settings(size, batch_size, shares, seed, names, max_pixels, damaged, cache)


def check_image_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns `(height, width)`; one number stands for a square.

    Raises:
        ArgumentError: A side is no positive whole number.
    """
    sides = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size,) * 2
    if len(sides) != 2 or not all(_is_positive(side) for side in sides):
        raise ArgumentError(
            "`image_size` must be a positive number of pixels, or two: (height, width). "
            f"Received: image_size={image_size!r}. Give what the backbone expects, such as 224."
        )
    return int(sides[0]), int(sides[1])


def _is_positive(side: object) -> bool:
    return isinstance(side, Integral) and not isinstance(side, bool) and int(side) > 0


def check_splits(splits: Sequence[float]) -> tuple[float, float, float]:
    """Returns the shares of training, validation and test.

    Raises:
        ArgumentError: They are not three non-negative numbers that make up one, the first of
            them above zero.
    """
    shares = tuple(splits) if isinstance(splits, tuple | list) else ()
    is_number = all(type(share) in (int, float) and share >= 0 for share in shares)
    if len(shares) != 3 or not is_number or not shares[0] > 0 or not math.isclose(sum(shares), 1):
        raise ArgumentError(
            "`splits` must be three shares that make up 1, for training (above zero), validation "
            f"and test. Received: splits={splits!r}. Give (0.8, 0.1, 0.1), say."
        )
    return shares[0], shares[1], shares[2]
