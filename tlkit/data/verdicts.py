"""Whether a file is a picture that can be used: found out by decoding it, then remembered."""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tlkit.cache import cache_folder, open_index
from tlkit.data.formats import HEAD_BYTES, recognise
from tlkit.data.limits import DECODER_VERSION
from tlkit.progress import track

DIGEST_BYTES = 16
CHECKED_SIZE = (32, 32)
"""Small, so that large JPEG files are decoded at a fraction of their size, and no smaller: what has
less than its fourfold pixels is decoded in the fewest steps."""

VERDICTS_FOLDER = "files"
INDEX_NAME = "verdicts-2.sqlite"  # another number for another schema: old indexes are left alone

SCHEMA = """
CREATE TABLE IF NOT EXISTS verdicts (
    path TEXT, decoder TEXT, max_pixels INTEGER,
    size INTEGER, modified INTEGER, changed INTEGER,
    digest TEXT, format TEXT, height INTEGER, width INTEGER, reason TEXT,
    PRIMARY KEY (path, decoder, max_pixels)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Verdict:
    """What is known of one file; `reason` is empty if it can be used.

    Height and width are the stored ones, before any EXIF orientation is applied. What is not
    `is_lasting` may change without the file, such as a permission.
    """

    digest: str = ""
    format: str = ""
    height: int = 0
    width: int = 0
    reason: str = ""
    is_lasting: bool = True


Decoder = Callable[[bytes], tuple[int, int, str]]


def content_digest(content: bytes) -> str:
    """The hash by which contents are told apart."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def check_files(
    paths: Sequence[str],
    *,
    max_pixels: int,
    root: str | os.PathLike[str] | None = None,
    notes: list[str] | None = None,
) -> list[Verdict]:
    """Returns a verdict for each file, decoding those that none is remembered for.

    That is done in parallel, with a progress bar. A verdict holds for a path as long as the file
    keeps its size and its times of change, for one version of the decoder, and for one bound.
    Where nothing can be looked up or remembered (another process holds the index), every file is
    decoded.

    Args:
        paths: The files.
        max_pixels: The most pixels that a picture may have.
        root: The cache's folder, as `cache_folder` takes it.
        notes: Is told if nothing can be looked up or remembered.
    """
    file = cache_folder(VERDICTS_FOLDER, root) / INDEX_NAME
    states = [_state(path) for path in paths]
    verdicts: list[Verdict | None] = [None] * len(paths)
    is_usable = False
    with working_without(file, notes), closing(open_index(file, SCHEMA)) as index:
        verdicts = [
            _recall(index, path, state, max_pixels)
            for path, state in zip(paths, states, strict=True)
        ]
        is_usable = True
    unknown = [row for row, verdict in enumerate(verdicts) if verdict is None]
    done = 0
    try:
        checks = _check_all([paths[row] for row in unknown], max_pixels)
        for row, verdict in zip(unknown, checks, strict=True):
            verdicts[row] = verdict
            done += 1
    finally:  # also when the user stops it half way
        if is_usable and done:
            with working_without(file, notes), closing(open_index(file, SCHEMA)) as index:
                index.execute("BEGIN IMMEDIATE")
                for row in unknown[:done]:
                    _remember(index, paths[row], states[row], max_pixels, verdicts[row])
                index.execute("COMMIT")
    return [verdict for verdict in verdicts if verdict is not None]


@contextmanager
def working_without(file: Path, notes: list[str] | None) -> Iterator[None]:
    """Goes on where the index stays locked, or cannot be opened or written to, and notes it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if notes is not None:
            notes.append(
                f"the cache's index {file} cannot be used ({error}): what was found of the "
                "pictures is not remembered (TLKIT_CACHE names another folder)"
            )


def _check_all(paths: list[str], max_pixels: int) -> Iterator[Verdict]:
    if not paths:
        return
    decoder = _decoder(max_pixels)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        checks = pool.map(lambda path: check_file(path, decoder), paths)
        yield from track(checks, "Checking pictures", len(paths))
    finally:
        pool.shutdown(cancel_futures=True)


def check_file(path: str, decoder: Decoder) -> Verdict:
    """Reads one file, and decodes it unless its first bytes already rule that out.

    Args:
        path: The file.
        decoder: Returns height, width, and what is wrong or "", with "{}" for the format.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            name, reason = recognise(head)
            if reason:
                return Verdict(reason=reason)
            image_bytes = head + file.read()
    except PermissionError:
        return Verdict(reason="permission denied", is_lasting=False)
    except OSError as error:
        return Verdict(reason=f"cannot be read: {error.strerror}", is_lasting=False)
    height, width, reason = decoder(image_bytes)
    digest = content_digest(image_bytes)
    return Verdict(digest, name, height, width, reason.format(name.upper()))


@cache
def _decoder(max_pixels: int) -> Decoder:
    """Builds what decodes a file as training will do, only to a smaller size.

    It is traced here: TensorFlow counts one trace for each thread that waits for the first, and
    warns of too many.
    """
    import tensorflow as tf

    from tlkit.data.decoding import decoder
    from tlkit.data.headers import is_jpeg, jpeg_size, other_size

    damage = (
        tf.errors.InvalidArgumentError,
        tf.errors.UnimplementedError,
        tf.errors.InternalError,
        tf.errors.UnknownError,
    )

    def traced(function: Callable[[tf.Tensor], Any]) -> Callable[[tf.Tensor], Any]:
        of_bytes = tf.TensorSpec((), tf.string)
        return tf.function(function, autograph=False).get_concrete_function(of_bytes)

    @traced
    def size(image_bytes: tf.Tensor) -> tf.Tensor:
        numbers = tf.cond(
            is_jpeg(image_bytes), lambda: jpeg_size(image_bytes), lambda: other_size(image_bytes)
        )
        return tf.stack(numbers)

    @traced
    def size_and_image(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # what is not returned is left out of the graph, and damage with it
        return size(image_bytes), decoder(CHECKED_SIZE, max_pixels)(image_bytes)

    def check(image_bytes: bytes) -> tuple[int, int, str]:
        image = tf.constant(image_bytes)
        try:
            numbers, _ = size_and_image(image)
        except damage:
            return unsound(image)
        height, width, _ = numbers.numpy().tolist()
        return height, width, ""

    def unsound(image: tf.Tensor) -> tuple[int, int, str]:
        height = width = pixels = 0
        with suppress(*damage):
            height, width, pixels = size(image).numpy().tolist()
        if pixels > max_pixels:
            bound = f"the bound of {max_pixels} (raise `max_pixels`)"
            return height, width, f"has {pixels} pixels, more than {bound}"
        return height, width, "truncated or damaged {}"

    return check


State = tuple[int, int, int]


def _state(path: str) -> State | None:
    """A file's size, its time of change, and that of its entry, which no program can set back.

    `None` if they cannot be had.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _recall(
    index: sqlite3.Connection, path: str, state: State | None, max_pixels: int
) -> Verdict | None:
    if state is None:
        return None
    row = index.execute(
        "SELECT digest, format, height, width, reason FROM verdicts WHERE path = ? "
        "AND decoder = ? AND max_pixels = ? AND size = ? AND modified = ? AND changed = ?",
        (os.path.abspath(path), DECODER_VERSION, max_pixels, *state),
    ).fetchone()
    return None if row is None else Verdict(*row)


def _remember(
    index: sqlite3.Connection,
    path: str,
    state: State | None,
    max_pixels: int,
    verdict: Verdict | None,
) -> None:
    if state is None or verdict is None or not verdict.is_lasting:
        return
    key = (os.path.abspath(path), DECODER_VERSION, max_pixels, *state)
    row = (verdict.digest, verdict.format, verdict.height, verdict.width, verdict.reason)
    index.execute(f"REPLACE INTO verdicts VALUES ({', '.join('?' * 11)})", key + row)
