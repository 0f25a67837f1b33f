"""A memory cache for the pixels of small splits, which are decoded only once."""

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
"""Limits for one pass; with more images or bytes, files are read when they are needed."""

MAX_CACHE_BYTES = 128 * 2**20
"""Maximum size of the cache, over all splits."""

Decoder = Callable[[tf.Tensor], tf.Tensor]
_Key = tuple[str, tuple[int, int, int], str]


class _PixelCache:
    """A least-recently-used cache of pixels by digest, shape and kind of resizing."""

    def __init__(self) -> None:
        self._pixels: OrderedDict[_Key, np.ndarray] = OrderedDict()
        self._num_bytes = 0
        self._lock = Lock()

    def get(self, key: _Key) -> np.ndarray | None:
        with self._lock:
            if key in self._pixels:
                self._pixels.move_to_end(key)
            return self._pixels.get(key)

    def put(self, key: _Key, pixels: np.ndarray) -> None:
        with self._lock:
            if key not in self._pixels:
                self._pixels[key] = pixels
                self._num_bytes += pixels.nbytes
            while self._num_bytes > MAX_CACHE_BYTES:
                _, oldest = self._pixels.popitem(last=False)
                self._num_bytes -= oldest.nbytes


_CACHE = _PixelCache()


def cached_pixels(source: ImageSource, rows: np.ndarray, decoder: Decoder) -> np.ndarray | None:
    """Returns the pixels of some rows, from memory if they were decoded before.

    Setting up a pipeline that decodes files takes TensorFlow a few tenths of a second in every
    pass; images of small splits are therefore decoded once, before the first pass.

    Args:
        source: A source of image files.
        rows: Rows of its images, in any order.
        decoder: A function from a file's bytes to uint8 `(height, width, channels)`.

    Returns:
        uint8 `(n, height, width, channels)`, an image for each row; `None` if there are too many.

    Raises:
        OSError: An image can no longer be read.
        DataError: An image has changed since it was checked.
        tf.errors.OpError: An image cannot be decoded.
    """
    num_bytes = prod(source.image_shape)
    if not 0 < len(rows) <= min(MAX_IMAGES, MAX_BYTES // num_bytes):
        return None

    def pixels_of(row: int) -> np.ndarray:
        key = source.digests[row], source.image_shape, source.resize
        pixels = _CACHE.get(key)
        if pixels is None:
            image_bytes = read_image(source.paths[row], source.digests[row])
            pixels = decoder(tf.constant(image_bytes)).numpy()
            _CACHE.put(key, pixels)
        return pixels

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(pixels_of, rows)))
