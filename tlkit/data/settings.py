"""The arguments that every loader takes, checked before anything is read."""

import math
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
    """How pictures are resized, batched and split, and what is done with damaged ones."""

    image_size: tuple[int, int]
    batch_size: int
    splits: tuple[float, float, float]
    seed: int
    damaged: str = KEEP


def check_settings(
    image_size: int | tuple[int, int],
    batch_size: int,
    splits: Sequence[float],
    seed: int,
    *,
    class_names: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    damaged: str = KEEP,
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
    if class_names is not None and len(set(class_names)) < len(tuple(class_names)):
        raise ArgumentError(
            "`class_names` must be different from each other. "
            f"Received: class_names={tuple(class_names)!r}. Name each class once."
        )
    shares = check_splits(splits)
    return Settings(check_image_size(image_size), batch_size, shares, seed, damaged)


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
