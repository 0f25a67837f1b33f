"""Where the pixels and labels of a split come from: what a pipeline reads."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class ImageSource:
    """What is read of a split, without the split's own order, batches or name.

    Attributes:
        paths: Where each image is; of images in memory a name such as "images[17]".
        labels: int64 `(n,)`, or 0 and 1 as float32 `(n, num_classes)` for several labels each.
        digests: A hash of each image's content.
        checksums: Of what each file must hold, see `checksum`; empty where nothing is compared.
        pixels: uint8 `(n, height, width, 3)` of images in memory; `None` where they are files.
        image_size: Height and width that images are resized to.
        max_pixels: The most pixels that a file may have.
        seed: Of order and augmentation.

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

    @property
    def num_images(self) -> int:
        """How many images there are; copies count."""
        return len(self.paths)

    @cached_property
    def keys(self) -> np.ndarray:
        """A number for each image, int64 `(n,)`: of its content, and which copy of it this is."""
        seen: Counter[str] = Counter()
        keys = np.empty(self.num_images, np.int64)
        for row, digest in enumerate(self.digests):
            seen[digest] += 1
            content = hashlib.blake2b(f"{digest} {seen[digest]}".encode(), digest_size=8)
            keys[row] = int.from_bytes(content.digest(), "big", signed=True)
        return keys
