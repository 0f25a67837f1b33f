"""Perceptual hashes of 255 bits, which differ in few bits for slightly changed copies."""

import dataclasses
import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing

import numpy as np

from tlkit.data.file_checks import FILE_CHECKS_FOLDER, tolerate_unusable_index
from tlkit.data.images import ImageSplit
from tlkit.data.limits import DECODER_VERSION
from tlkit.data.missing_files import missing_files_named
from tlkit.data.settings import BRIGHTNESS, RGB, STRETCH
from tlkit.utils.cache import cache_folder, open_index
from tlkit.utils.progress import bar

NUM_BITS = 255
NUM_BYTES = 32

_VERSION = f"dct-1-{DECODER_VERSION}"  # changed whenever an image's hash changes
_SIDE = 32
_NUM_FREQUENCIES = 16
_BATCH_SIZE = 256
_ROUNDING = 0.5  # bound of the rounding error of a coefficient that is zero
_LUMA = np.array(BRIGHTNESS, np.float32)

INDEX_NAME = "hashes-1.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS hashes (
    digest TEXT, version TEXT, hash BLOB,
    PRIMARY KEY (digest, version)
) WITHOUT ROWID
"""


def perceptual_hashes(images: np.ndarray) -> np.ndarray:
    """Returns a 255-bit hash of each image: the signs of its 16×16 lowest frequencies but the mean.

    The image is converted to grey (0.299 R + 0.587 G + 0.114 B) and transformed by the
    two-dimensional discrete cosine transform, DCT-II. The hash is invariant to scale and to uniform
    changes of brightness and contrast. A positive coefficient gives 1, any other 0; all bits of a
    single-coloured image are 0.

    Args:
        images: `(n, 32, 32, channels)`, 0...255; unless there are three channels, their mean is
            the grey image.

    Returns:
        uint8 `(n, 32)`, eight bits per byte, in row-major order of the frequencies; the last bit is
        0.

    Example:
        >>> import numpy as np
        >>> from tlkit.data.perceptual import num_differing, perceptual_hashes
        >>> images = np.random.default_rng(0).uniform(0, 200, (1, 32, 32, 3))
        >>> hashes = perceptual_hashes(np.concatenate([images, images + 50, images[:, ::-1]]))
        >>> num_differing(hashes[:1], hashes).tolist()
        [[0, 0, 128]]

    Reference:
        The pHash of Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions,
        2010, section 3.2.1, https://phash.org/docs/pubs/thesis_zauner.pdf, with more frequencies
        and with zero instead of the median as the threshold.
    """
    angles = np.pi / _SIDE * (np.arange(_SIDE) + 0.5)
    basis = np.cos(np.arange(_NUM_FREQUENCIES)[:, np.newaxis] * angles).astype(np.float32)
    pixels = np.asarray(images, np.float32)
    grey = pixels @ _LUMA if pixels.shape[-1] == len(_LUMA) else pixels.mean(axis=-1)
    grey = grey - grey.mean(axis=(1, 2), keepdims=True)
    frequencies = (basis @ grey @ basis.T).reshape(len(grey), -1)
    return np.packbits(frequencies[:, 1:] > _ROUNDING, axis=1)


def num_differing(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the number of differing bits of all pairs of hashes, int16 `(n, m)`."""
    signs = [2 * np.unpackbits(hashes, axis=1).astype(np.float32) - 1 for hashes in (first, second)]
    same = signs[0] @ signs[1].T  # number of equal bits minus number of differing bits, exact
    return ((8 * NUM_BYTES - same) / 2).astype(np.int16)


def hash_images(
    splits: Sequence[ImageSplit], *, cache: str | os.PathLike[str] | None, notes: list[str]
) -> np.ndarray:
    """Returns the perceptual hash of each image, decoding those without a cached hash.

    Images are decoded in parallel and in batches, with a progress bar, as for training but to 32×32
    pixels. Hashes are cached by content.

    Args:
        splits: The images.
        cache: The cache's folder, as `cache_folder` takes it.
        notes: Receives a note if the cache's index cannot be used.

    Returns:
        uint8 `(n, 32)`, in the order of the splits and of their images.

    Raises:
        DataError: Images are missing or have changed since they were checked.
    """
    file = cache_folder(FILE_CHECKS_FOLDER, cache) / INDEX_NAME
    digests = [digest for split in splits for digest in split.digests]
    known: dict[str, bytes] = {}
    with tolerate_unusable_index(file, notes), closing(open_index(file, SCHEMA)) as index:
        known = _load_hashes(index, digests)
    new: dict[str, bytes] = {}
    try:
        with missing_files_named(splits):
            _hash_missing(splits, known, new)
    finally:  # also if the user interrupts
        if new:
            with tolerate_unusable_index(file, notes), closing(open_index(file, SCHEMA)) as index:
                _store_hashes(index, new)
    found = known | new
    joined = b"".join(found[digest] for digest in digests)
    return np.frombuffer(joined, np.uint8).reshape(len(digests), NUM_BYTES)


def _hash_missing(
    splits: Sequence[ImageSplit], known: dict[str, bytes], new: dict[str, bytes]
) -> None:
    missing = []
    seen = set(known)
    for split in splits:
        rows = []
        for row, digest in enumerate(split.digests):
            if digest not in seen:
                seen.add(digest)
                rows.append(row)
        missing.append(rows)
    with bar("fingerprints of images", sum(map(len, missing)), "images") as advance:
        for split, rows in zip(splits, missing, strict=True):
            if not rows:
                continue
            channels = split.channels if split.is_in_memory else RGB  # as `inspect` reads files
            small = dataclasses.replace(
                split, image_size=(_SIDE, _SIDE), resize=STRETCH, channels=channels
            )
            dataset = small.dataset(shuffle=False, indices=np.array(rows), batch_size=_BATCH_SIZE)
            num_done = 0
            for images, _ in dataset.as_numpy_iterator():
                batch_rows = rows[num_done : num_done + len(images)]
                for row, found in zip(batch_rows, perceptual_hashes(images), strict=True):
                    new[split.digests[row]] = found.tobytes()
                num_done += len(images)
                advance(len(images))


def _load_hashes(index: sqlite3.Connection, digests: Iterable[str]) -> dict[str, bytes]:
    found = {}
    for digest in digests:
        row = index.execute(
            "SELECT hash FROM hashes WHERE digest = ? AND version = ?", (digest, _VERSION)
        ).fetchone()
        if row is not None:
            found[digest] = row[0]
    return found


def _store_hashes(index: sqlite3.Connection, hashes: dict[str, bytes]) -> None:
    index.execute("BEGIN IMMEDIATE")
    index.executemany(
        "REPLACE INTO hashes VALUES (?, ?, ?)",
        [(digest, _VERSION, content) for digest, content in hashes.items()],
    )
    index.execute("COMMIT")
