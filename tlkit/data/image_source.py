"""The paths, labels and pixels of a split, as a pipeline reads them."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tlkit.data.settings import NO_CHANNELS, RGB, STRETCH


@dataclass(frozen=True, eq=False)
class ImageSource:
    """The images and labels of a split, without its name and batch size.

    Attributes:
        paths: The path of each image; for images in memory, a name such as "images[17]".
        labels: int64 `(n,)`; for multi-label images 0 and 1 as float32 `(n, num_classes)`.
        digests: A hash of each image's content.
        checksums: The expected `checksum` of each file; empty to skip the comparison.
        pixels: uint8 `(n, height, width, channels)` for images in memory; `(n, ...)` of any type
            for inputs of another kind; `None` for files.
        image_size: Height and width that images are resized to.
        max_pixels: Maximum number of pixels of a file.
        seed: Seed of the order and the augmentation.
        resize: "stretch", "crop" or "pad", see `load_folder`.
        channels: Number of channels; 0 for inputs that are no images.

    Example:
        >>> import numpy as np
        >>> import tlkit
        >>> images = np.arange(4 * 8 * 8 * 3).reshape(4, 8, 8, 3) % 251
        >>> source = tlkit.load_arrays(images, [0, 1] * 2, splits=(1, 0, 0)).train.source
        >>> source.num_images, source.image_size, source.keys.shape
        (4, (8, 8), (4,))
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    digests: tuple[str, ...]
    checksums: tuple[int, ...]
    pixels: np.ndarray | None
    image_size: tuple[int, int]
    max_pixels: int
    seed: int
    resize: str = STRETCH
    channels: int = RGB

    @property
    def has_images(self) -> bool:
        """Whether these are images, and not inputs of another kind."""
        return self.channels != NO_CHANNELS

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images in batches."""
        return (*self.image_size, self.channels)

    @property
    def num_images(self) -> int:
        """Number of images, copies included."""
        return len(self.paths)

    @cached_property
    def keys(self) -> np.ndarray:
        """A hash of each image's content and the copy's ordinal number, int64 `(n,)`."""
        seen: Counter[str] = Counter()
        keys = np.empty(self.num_images, np.int64)
        for row, digest in enumerate(self.digests):
            seen[digest] += 1
            content = hashlib.blake2b(f"{digest} {seen[digest]}".encode(), digest_size=8)
            keys[row] = int.from_bytes(content.digest(), "big", signed=True)
        return keys
