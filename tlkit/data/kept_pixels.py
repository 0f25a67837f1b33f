"""Pixels of few images, decoded once and kept in memory for later passes."""

import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from threading import Lock

import numpy as np
import tensorflow as tf

from tlkit.data.image_source import ImageSource
from tlkit.data.reading import read_image

MAX_IMAGES = 1024
MAX_BYTES = 32 * 2**20
"""Of one pass: with more images, or more bytes of pixels, files are read as they are needed."""

KEPT_BYTES = 128 * 2**20
"""Of all pixels that are kept together, whatever splits they are of."""

Decoder = Callable[[tf.Tensor], tf.Tensor]
_Key = tuple[str, tuple[int, int]]


class _Kept:
    """Pixels by content and size; those that were not wanted for longest go first."""

    def __init__(self) -> None:
        self._pixels: OrderedDict[_Key, np.ndarray] = OrderedDict()
        self._num_bytes = 0
        self._lock = Lock()

    def find(self, key: _Key) -> np.ndarray | None:
        with self._lock:
            if key in self._pixels:
                self._pixels.move_to_end(key)
            return self._pixels.get(key)

    def keep(self, key: _Key, pixels: np.ndarray) -> None:
        with self._lock:
            if key not in self._pixels:
                self._pixels[key] = pixels
                self._num_bytes += pixels.nbytes
            while self._num_bytes > KEPT_BYTES:
                _, oldest = self._pixels.popitem(last=False)
                self._num_bytes -= oldest.nbytes


_KEPT = _Kept()


def kept_pixels(source: ImageSource, rows: np.ndarray, decoder: Decoder) -> np.ndarray | None:
    """Returns the pixels of some rows, from memory as far as they were decoded before.

    A pipeline that decodes files takes TensorFlow a few tenths of a second to set up, at every
    pass; few images are decoded all at once before the first pass, and then no more.

    Args:
        source: Of image files.
        rows: Which of its images, in any order.
        decoder: From a file's bytes to uint8 `(height, width, 3)`.

    Returns:
        uint8 `(n, height, width, 3)`, an image for each row; `None` where they are too many.

    Raises:
        OSError: An image cannot be read any longer.
        DataError: It is another one than was checked.
        tf.errors.OpError: It cannot be decoded.
    """
    num_bytes = 3 * prod(source.image_size)
    if not 0 < len(rows) <= min(MAX_IMAGES, MAX_BYTES // num_bytes):
        return None

    def pixels_of(row: int) -> np.ndarray:
        key = source.digests[row], source.image_size
        pixels = _KEPT.find(key)
        if pixels is None:
            image_bytes = read_image(source.paths[row], source.digests[row])
            pixels = decoder(tf.constant(image_bytes)).numpy()
            _KEPT.keep(key, pixels)
        return pixels

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(pixels_of, rows)))
