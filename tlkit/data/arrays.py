"""Images from arrays in memory."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tlkit.data.array_splits import Arrays, check_pair, checked_labels, split_arrays
from tlkit.data.images import ImageData
from tlkit.data.settings import GREY, RGB, STRETCH, check_settings
from tlkit.errors import ArgumentError

_MAX_CHANNELS = 64
"""More are taken for images with the channels first."""


def load_arrays(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    validation: Arrays | None = None,
    test: Arrays | None = None,
    groups: Sequence[str | int | None] | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: str = STRETCH,
    channels: int | None = None,
    batch_size: int = 32,
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> ImageData:
    """Loads images from arrays and splits them by the same rule as `load_folder`.

    Args:
        images: Integer values in 0...255, RGB `(n, height, width, 3)` or greyscale `(n, height,
            width)` or `(n, height, width, 1)`, or with any other number of channels. Stored as
            uint8.
        labels: Integers from 0 to `num_classes - 1`, `(n,)` or `(n, 1)`; for multi-label images 0
            and 1, `(n, num_classes)`.
        class_names: The class names in the order of the labels; "0", "1" and so on by default.
        validation: Images and labels of the user's own validation split.
        test: Images and labels of the user's own test split.
        groups: The key of each image's group, such as a patient or a scene; all images of a group
            go into one split, see `load_folder`. `None` or "" for an image without a group. Not
            allowed together with `validation` or `test`.
        image_size: Height and width that images are resized to; their own size by default.
        resize: "stretch", "crop" or "pad", see `load_folder`.
        channels: The number of channels that `images` have; or 3, the default for greyscale images,
            which repeats their channel. Greyscale images stay grey with 1, for
            `build_classifier(channels=1)`.
        batch_size: Images per batch.
        splits: Fractions of training, validation and test; ignored if `validation` or `test` is
            given.
        seed: Seed of the split, the order and the augmentation.

    Raises:
        ArgumentError: An argument is invalid.
        DataError: There are fewer than two classes, or fewer than two different images of a class;
            or there are so few groups that a split would be empty.

    Example:
        >>> import numpy as np
        >>> import tlkit
        >>> images = np.arange(20 * 64, dtype=np.int64).reshape(20, 8, 8) % 251
        >>> data = tlkit.load_arrays(images, [0, 1] * 10, ["even", "odd"], splits=(0.5, 0.5, 0))
        >>> next(iter(data.train.dataset()))[0].shape[1:]
        TensorShape([8, 8, 3])
    """
    sources = {"images": (images, labels), "validation": validation, "test": test}
    checked = {
        name: _checked_source(name, source)
        for name, source in sources.items()
        if source is not None
    }
    own_size = checked["images"][0].shape[1:3]
    num_channels = _checked_channels(channels, {name: one[0] for name, one in checked.items()})
    settings = check_settings(
        own_size if image_size is None else image_size, batch_size, splits, seed, resize=resize
    )
    return split_arrays(
        checked,
        class_names,
        groups,
        settings=replace(settings, channels=num_channels),
    )


def _checked_channels(channels: int | None, images: dict[str, np.ndarray]) -> int:
    """Returns the number of channels of all images."""
    found = {name: array.shape[-1] for name, array in images.items()}
    own = max(found.values())
    wanted = (RGB if own == GREY else own) if channels is None else channels
    is_possible = type(wanted) is int and all(
        one == wanted or (one, wanted) == (GREY, RGB) for one in found.values()
    )
    if not is_possible:
        shown = ", ".join(f"{name} with {number}" for name, number in found.items())
        raise ArgumentError(
            "`channels` must be the number of channels of the images, or 3 for greyscale images. "
            f"Received: channels={channels!r}, {shown}. Leave `channels` out, or give images with "
            "the same channels in every split."
        )
    return wanted


def _checked_source(name: str, source: Arrays) -> Arrays:
    """Returns images as `_checked_images` does, and labels as `checked_labels` does."""
    check_pair(name, source, "images")
    return _checked_images(name, source[0]), checked_labels(name, source[1])


def _checked_images(name: str, images: np.ndarray) -> np.ndarray:
    """Returns the images as uint8 `(n, height, width, channels)`."""
    array = np.asarray(images)
    if array.ndim == 3:
        array = array[..., np.newaxis]
    if array.ndim != 4 or array.shape[-1] > _MAX_CHANNELS or 0 in array.shape:
        raise ArgumentError(
            f"`{name}` must be images of one size, (n, height, width) or (n, height, width, "
            f"channels) with at most {_MAX_CHANNELS} channels. Received: {name} of shape "
            f"{np.shape(images)}. Resize them to one size, with the channels last."
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f" and array.max() <= 1:
        raise ArgumentError(
            f"`{name}` must have values in 0...255. Received: {name} of {array.dtype} with the "
            f"maximum {array.max()}. Multiply by 255 and round."
        )
    is_pixel = array.dtype.kind in "iuf" and bool(
        np.all((array >= 0) & (array <= 255) & (array == np.floor(array)))
    )
    if not is_pixel:
        raise ArgumentError(
            f"`{name}` must be integers in 0...255. Received: {name} of {array.dtype} with "
            "other values. Undo any normalisation: the model applies its own."
        )
    return array.astype(np.uint8)
