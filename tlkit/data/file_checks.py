"""Whether a file is an image that can be used: found out by decoding it, then remembered."""

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tlkit.data.decoder_messages import (
    error_in,
    listening,
    pass_on,
    plain_message,
    warning_in,
    without_log,
)
from tlkit.data.foreign_formats import known_to_pillow, pillow_advice
from tlkit.data.formats import HEAD_BYTES, NOT_AN_IMAGE, recognise
from tlkit.data.limits import DECODER_VERSION
from tlkit.data.reading import content_digest, open_image
from tlkit.errors import DataError
from tlkit.utils.cache import cache_folder, open_index
from tlkit.utils.progress import track

DAMAGED = "truncated or damaged"
FILES_TOGETHER = 64
"""So many are decoded, in parallel, before it is asked which of them a decoder warned of."""

CHECKED_SIZE = (32, 32)
"""Small, so that large JPEG files are decoded at a fraction of their size, and no smaller: what has
less than its fourfold pixels is decoded in the fewest steps."""

FILE_CHECKS_FOLDER = "files"
INDEX_NAME = "verdicts-4.sqlite"
"""Another number for another schema, and where other files are refused than before, whose pixels
stay as they are (for those there is `DECODER_VERSION`): old indexes are left alone."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS verdicts (
    path TEXT, decoder TEXT, max_pixels INTEGER,
    size INTEGER, modified INTEGER, changed INTEGER,
    digest TEXT, format TEXT, height INTEGER, width INTEGER,
    reason TEXT, warning TEXT, checksum INTEGER,
    PRIMARY KEY (path, decoder, max_pixels)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class FileCheck:
    """What is known of one file; `reason` is empty if it can be used.

    `warning` is what the decoder says of one that it decodes although it is damaged, `checksum`
    that of `tlkit.data.checksums`. Height and width are the stored ones, before any EXIF
    orientation is applied. What is not `is_lasting` may change without the file, such as a
    permission.
    """

    digest: str = ""
    format: str = ""
    height: int = 0
    width: int = 0
    reason: str = ""
    is_lasting: bool = True
    warning: str = ""
    checksum: int = 0


Decoder = Callable[[bytes], tuple[int, int, str, int]]


def check_files(
    paths: Sequence[str],
    *,
    max_pixels: int,
    root: str | os.PathLike[str] | None = None,
    notes: list[str] | None = None,
) -> list[FileCheck]:
    """Checks each file, decoding those of which no check is remembered.

    That is done in parallel, with a progress bar. A check holds for a path as long as the file
    keeps its size and its times of change, for one version of the decoder, and for one bound.
    Where nothing can be looked up or remembered (another process holds the index), every file is
    decoded.

    Args:
        paths: The files.
        max_pixels: The most pixels that an image may have.
        root: The cache's folder, as `cache_folder` takes it.
        notes: Is told if nothing can be looked up or remembered.
    """
    file = cache_folder(FILE_CHECKS_FOLDER, root) / INDEX_NAME
    states = [_state(path) for path in paths]
    checks: list[FileCheck | None] = [None] * len(paths)
    is_usable = False
    with working_without(file, notes), closing(open_index(file, SCHEMA)) as index:
        checks = [
            _recall(index, path, state, max_pixels)
            for path, state in zip(paths, states, strict=True)
        ]
        is_usable = True
    unknown = [row for row, checked in enumerate(checks) if checked is None]
    done = 0
    try:
        new_checks = _check_all([paths[row] for row in unknown], max_pixels)
        for row, checked in zip(unknown, new_checks, strict=True):
            checks[row] = checked
            done += 1
    finally:  # also when the user stops it half way
        if is_usable and done:
            with working_without(file, notes), closing(open_index(file, SCHEMA)) as index:
                index.execute("BEGIN IMMEDIATE")
                for row in unknown[:done]:
                    _remember(index, paths[row], states[row], max_pixels, checks[row])
                index.execute("COMMIT")
    return [checked for checked in checks if checked is not None]


@contextmanager
def working_without(file: Path, notes: list[str] | None) -> Iterator[None]:
    """Goes on where the index stays locked, or cannot be opened or written to, and notes it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if notes is not None:
            notes.append(
                f"the cache's index {file} cannot be used ({error}): what was found of the "
                "images is not remembered (TLKIT_CACHE names another folder)"
            )


def _check_all(paths: list[str], max_pixels: int) -> Iterator[FileCheck]:
    if not paths:
        return
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        checks = _check_listening(paths, _decoder(max_pixels), pool)
        yield from track(checks, "checking images", len(paths), "files")
    finally:
        pool.shutdown(cancel_futures=True)


def _check_listening(
    paths: list[str], decoder: Decoder, pool: ThreadPoolExecutor
) -> Iterator[FileCheck]:
    """Yields the checks of files; those that a decoder spoke of are decoded again, one by one."""
    for start in range(0, len(paths), FILES_TOGETHER):
        some = paths[start : start + FILES_TOGETHER]
        found: list[FileCheck] = []
        stopped: BaseException | None = None
        with listening() as heard:
            try:
                for checked in pool.map(lambda path: check_file(path, decoder), some):
                    found.append(checked)
            except BaseException as error:  # raised below, behind what was found
                stopped = error
        yield from _told_apart(some, found, heard.lines, decoder)
        if stopped is not None:
            raise stopped


def _told_apart(
    paths: list[str], checks: list[FileCheck], lines: tuple[str, ...], decoder: Decoder
) -> list[FileCheck]:
    """Returns the checks with what libjpeg said of each, and passes on what it did not say."""
    left = Counter(without_log(lines))
    logged = Counter(lines) - left
    told = []
    for path, checked in zip(paths, checks, strict=False):
        if checked.format != "jpeg" or not left:
            told.append(checked)
            continue
        with listening() as heard:
            again = check_file(path, decoder)
        left -= Counter(heard.lines)
        if not again.reason:
            again = replace(again, warning=warning_in(heard.lines))
        elif again.reason.startswith(DAMAGED) and (said := error_in(heard.lines)):
            again = replace(again, reason=f"{DAMAGED} {again.format.upper()}: {said}")
        told.append(again)
    pass_on(tuple((logged + left).elements()))
    return told


def check_file(path: str, decoder: Decoder) -> FileCheck:
    """Reads one file, and decodes it unless its first bytes already rule that out.

    Args:
        path: The file.
        decoder: Returns height, width, what is wrong or "", with "{}" for the format, and the
            checksum.
    """
    try:
        with open_image(path) as file:
            head = file.read(HEAD_BYTES)
            name, reason = recognise(head, path)
            if reason:
                known = known_to_pillow(file) if reason == NOT_AN_IMAGE else ""
                return FileCheck(reason=pillow_advice(known) if known else reason)
            image_bytes = head + file.read()
    except PermissionError:
        return FileCheck(reason="permission denied", is_lasting=False)
    except DataError:  # since it was listed
        return FileCheck(reason="neither a file nor a folder", is_lasting=False)
    except OSError as error:
        return FileCheck(reason=f"cannot be read: {error.strerror}", is_lasting=False)
    height, width, reason, checksum = decoder(image_bytes)
    reason = reason.replace("{}", name.upper(), 1)
    digest = content_digest(image_bytes)
    return FileCheck(digest, name, height, width, reason, checksum=checksum)


@cache
def _decoder(max_pixels: int) -> Decoder:
    """Builds what decodes a file as training will do, only to a smaller size.

    It is traced here: TensorFlow counts one trace for each thread that waits for the first, and
    warns of too many.
    """
    import tensorflow as tf

    from tlkit.data.checksums import checksum
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
    def size_and_image(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # what is not returned is left out of the graph, and damage with it
        image = decoder(CHECKED_SIZE, max_pixels)(image_bytes)
        return size(image_bytes), checksum(image_bytes), image

    def check(image_bytes: bytes) -> tuple[int, int, str, int]:
        image = tf.constant(image_bytes)
        try:
            numbers, number, _ = size_and_image(image)
        except damage as error:
            return (*unsound(image, plain_message(error)), 0)
        height, width, _ = numbers.numpy().tolist()
        return height, width, "", int(number)

    def unsound(image: tf.Tensor, message: str) -> tuple[int, int, str]:
        height = width = pixels = 0
        with suppress(*damage):
            height, width, pixels = size(image).numpy().tolist()
        if pixels > max_pixels:
            bound = f"the bound of {max_pixels} (raise `max_pixels`)"
            return height, width, f"has {pixels} pixels, more than {bound}"
        return height, width, f"{DAMAGED} {{}}: {message}"

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
) -> FileCheck | None:
    if state is None:
        return None
    row = index.execute(
        "SELECT digest, format, height, width, reason, warning, checksum FROM verdicts "
        "WHERE path = ? AND decoder = ? AND max_pixels = ? "
        "AND size = ? AND modified = ? AND changed = ?",
        (os.path.abspath(path), DECODER_VERSION, max_pixels, *state),
    ).fetchone()
    if row is None:
        return None
    digest, name, height, width, reason, warning, checksum = row
    return FileCheck(digest, name, height, width, reason, warning=warning, checksum=checksum)


def _remember(
    index: sqlite3.Connection,
    path: str,
    state: State | None,
    max_pixels: int,
    checked: FileCheck | None,
) -> None:
    if state is None or checked is None or not checked.is_lasting:
        return
    key = (os.path.abspath(path), DECODER_VERSION, max_pixels, *state)
    size = (checked.height, checked.width)
    said = (checked.reason, checked.warning, checked.checksum)
    row = (checked.digest, checked.format, *size, *said)
    index.execute(f"REPLACE INTO verdicts VALUES ({', '.join('?' * 13)})", key + row)
