"""Checks whether files are usable images by decoding them; results are cached."""

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from tlkit.data.conversion import ConversionError, needs_extra, readable
from tlkit.data.decoder_messages import (
    capture_stderr,
    drop_log_lines,
    find_error,
    find_warning,
    forward_lines,
    plain_message,
)
from tlkit.data.foreign_formats import known_to_pillow, pillow_advice
from tlkit.data.formats import HEAD_BYTES, NOT_AN_IMAGE, detect_format
from tlkit.data.limits import DECODER_VERSION
from tlkit.data.reading import content_digest, open_image
from tlkit.errors import DataError
from tlkit.utils.cache import cache_folder, open_index
from tlkit.utils.progress import track

DAMAGED = "truncated or damaged"
FILES_PER_CAPTURE = 64
"""Files decoded in parallel under one capture of the decoders' warnings."""

CHECKED_SIZE = (32, 32)
"""Small, so that large JPEG files are decoded at a fraction of their size. Not smaller, because
files with less than four times its pixels take the decoder's fast path."""

FILE_CHECKS_FOLDER = "files"
INDEX_NAME = "verdicts-5.sqlite"
"""The number changes with the schema, and when other files are rejected than before; changed pixels
change `DECODER_VERSION` instead. Indexes of other versions are left untouched."""

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
    """The result of checking one file; `reason` is empty if the file can be used.

    `warning` is the decoder's message about a file that it decodes although it is damaged,
    `checksum` that of `tlkit.data.checksums`. Height and width are the stored ones, before any EXIF
    orientation is applied. If `is_lasting` is false, the result may change although the file does
    not, for example with its permissions, and is not cached.
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
    """Checks each file, decoding those without a cached result.

    Files are decoded in parallel, with a progress bar. A cached result is valid for a path while
    the file's size and times of change stay the same, for one version of the decoder and one
    `max_pixels`. If the cache's index cannot be used (another process holds it), every file is
    decoded.

    Args:
        paths: The paths of the files.
        max_pixels: Maximum number of pixels of an image.
        root: The cache's folder, as `cache_folder` takes it.
        notes: Receives a note if the cache's index cannot be used.
    """
    file = cache_folder(FILE_CHECKS_FOLDER, root) / INDEX_NAME
    states = [_file_state(path) for path in paths]
    checks: list[FileCheck | None] = [None] * len(paths)
    is_usable = False
    with tolerate_unusable_index(file, notes), closing(open_index(file, SCHEMA)) as index:
        checks = [
            _load_check(index, path, state, max_pixels)
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
    finally:  # also if the user interrupts
        if is_usable and done:
            with tolerate_unusable_index(file, notes), closing(open_index(file, SCHEMA)) as index:
                index.execute("BEGIN IMMEDIATE")
                for row in unknown[:done]:
                    _store_check(index, paths[row], states[row], max_pixels, checks[row])
                index.execute("COMMIT")
    return [checked for checked in checks if checked is not None]


@contextmanager
def tolerate_unusable_index(file: Path, notes: list[str] | None) -> Iterator[None]:
    """Ignores, with a note, that the index stays locked or cannot be opened or written."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if notes is not None:
            notes.append(
                f"the cache's index {file} cannot be used ({error}): the results of checking the "
                "images are not cached (TLKIT_CACHE sets another folder)"
            )


def _check_all(paths: list[str], max_pixels: int) -> Iterator[FileCheck]:
    if not paths:
        return
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        checks = _check_in_captures(paths, _decoder(max_pixels), pool)
        yield from track(checks, "checking images", len(paths), "files")
    finally:
        pool.shutdown(cancel_futures=True)


def _check_in_captures(
    paths: list[str], decoder: Decoder, pool: ThreadPoolExecutor
) -> Iterator[FileCheck]:
    """Yields the check of each file; with decoder messages, files are decoded again one by one."""
    for start in range(0, len(paths), FILES_PER_CAPTURE):
        chunk = paths[start : start + FILES_PER_CAPTURE]
        checks: list[FileCheck] = []
        interruption: BaseException | None = None
        with capture_stderr() as captured:
            try:
                for checked in pool.map(lambda path: check_file(path, decoder), chunk):
                    checks.append(checked)
            except BaseException as error:  # raised below, after the checks so far
                interruption = error
        yield from _attribute_messages(chunk, checks, captured.lines, decoder)
        if interruption is not None:
            raise interruption


def _attribute_messages(
    paths: list[str], checks: list[FileCheck], lines: tuple[str, ...], decoder: Decoder
) -> list[FileCheck]:
    """Returns the checks with libjpeg's messages for each file; forwards all other lines."""
    remaining = Counter(drop_log_lines(lines))
    logged = Counter(lines) - remaining
    attributed = []
    for path, checked in zip(paths, checks, strict=False):
        if checked.format != "jpeg" or not remaining:
            attributed.append(checked)
            continue
        with capture_stderr() as captured:
            rechecked = check_file(path, decoder)
        remaining -= Counter(captured.lines)
        attributed.append(_with_message(rechecked, captured.lines))
    forward_lines(tuple((logged + remaining).elements()))
    return attributed


def check_contents(contents: Sequence[tuple[str, bytes]], max_pixels: int) -> list[FileCheck]:
    """Checks the contents of image files, given with their names; results are not cached.

    Args:
        contents: Name and content of each file.
        max_pixels: Maximum number of pixels of an image.
    """
    decoder, checks = _decoder(max_pixels), []
    for file_name, image_bytes in contents:
        name, reason = _format_of(image_bytes[:HEAD_BYTES], BytesIO(image_bytes), file_name)
        if reason:
            checks.append(FileCheck(reason=reason))
            continue
        with capture_stderr() as captured:
            checked = _decoded(name, image_bytes, decoder)
        checks.append(_with_message(checked, captured.lines))
        forward_lines(captured.lines)
    return checks


def check_file(path: str, decoder: Decoder) -> FileCheck:
    """Reads a file, and decodes it unless its first bytes show that it is not a usable image.

    Args:
        path: The file.
        decoder: Returns the height, the width, the problem (with "{}" for the format) or "", and
            the checksum.
    """
    try:
        with open_image(path) as file:
            head = file.read(HEAD_BYTES)
            name, reason = _format_of(head, file, path)
            if reason:
                return FileCheck(reason=reason, is_lasting=not needs_extra(reason))
            image_bytes = head + file.read()
    except (DataError, OSError) as error:
        return FileCheck(reason=why_unreadable(error), is_lasting=False)
    return _decoded(name, image_bytes, decoder)


def why_unreadable(error: DataError | OSError) -> str:
    """Returns why `open_image` or `read_image` could not read a file."""
    if isinstance(error, DataError):  # replaced since it was listed
        return "neither a file nor a folder"
    if isinstance(error, PermissionError):
        return "permission denied"
    return f"cannot be read: {error.strerror}"


def _format_of(head: bytes, file: BinaryIO, file_name: str) -> tuple[str, str]:
    """Returns the format of a file, or the reason why it cannot be used."""
    name, reason = detect_format(head, file_name)
    if reason == NOT_AN_IMAGE and (known := known_to_pillow(file)):
        reason = pillow_advice(known)
    return name, reason


def _decoded(name: str, image_bytes: bytes, decoder: Decoder) -> FileCheck:
    height, width, reason, checksum = decoder(image_bytes)
    reason = reason.replace("{}", name.upper(), 1)
    digest = content_digest(image_bytes)
    return FileCheck(digest, name, height, width, reason, checksum=checksum)


def _with_message(checked: FileCheck, lines: tuple[str, ...]) -> FileCheck:
    """Returns the check of a JPEG file with libjpeg's message about it."""
    if checked.format != "jpeg":
        return checked
    if not checked.reason:
        return replace(checked, warning=find_warning(lines))
    if checked.reason.startswith(DAMAGED) and (message := find_error(lines)):
        return replace(checked, reason=f"{DAMAGED} {checked.format.upper()}: {message}")
    return checked


@cache
def _decoder(max_pixels: int) -> Decoder:
    """Returns a decoder that works as in training, but to a smaller size.

    It is traced here, in one thread: TensorFlow counts a trace for each thread that waits for the
    first one, and warns about too many.
    """
    import tensorflow as tf

    from tlkit.data.checksums import checksum
    from tlkit.data.decoding import DECODER_ERRORS, decoder
    from tlkit.data.headers import is_jpeg, jpeg_size, non_jpeg_size

    def traced(function: Callable[[tf.Tensor], Any]) -> Callable[[tf.Tensor], Any]:
        of_bytes = tf.TensorSpec((), tf.string)
        return tf.function(function, autograph=False).get_concrete_function(of_bytes)

    @traced
    def size(image_bytes: tf.Tensor) -> tf.Tensor:
        numbers = tf.cond(
            is_jpeg(image_bytes), lambda: jpeg_size(image_bytes), lambda: non_jpeg_size(image_bytes)
        )
        return tf.stack(numbers)

    @traced
    def size_and_image(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # returned so that it is not pruned from the graph, and its errors with it
        image = decoder(CHECKED_SIZE, max_pixels)(image_bytes)
        return size(image_bytes), checksum(image_bytes), image

    checksum_of = traced(checksum)

    def check(image_bytes: bytes) -> tuple[int, int, str, int]:
        try:
            decoded = readable(image_bytes, max_pixels)
        except ConversionError as error:
            return 0, 0, str(error), 0
        image = tf.constant(decoded)
        try:
            numbers, number, _ = size_and_image(image)
        except DECODER_ERRORS as error:
            return (*describe_failure(image, plain_message(error)), 0)
        height, width, _ = numbers.numpy().tolist()
        if decoded is not image_bytes:
            number = checksum_of(tf.constant(image_bytes))
        return height, width, "", int(number)

    def describe_failure(image: tf.Tensor, message: str) -> tuple[int, int, str]:
        height = width = pixels = 0
        with suppress(*DECODER_ERRORS):
            height, width, pixels = size(image).numpy().tolist()
        if pixels > max_pixels:
            bound = f"the bound of {max_pixels} (raise `max_pixels`)"
            return height, width, f"has {pixels} pixels, more than {bound}"
        return height, width, f"{DAMAGED} {{}}: {message}"

    return check


FileState = tuple[int, int, int]


def _file_state(path: str) -> FileState | None:
    """Returns a file's size, mtime and ctime (which programs cannot set back), in nanoseconds.

    `None` if they cannot be read.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _load_check(
    index: sqlite3.Connection, path: str, state: FileState | None, max_pixels: int
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


def _store_check(
    index: sqlite3.Connection,
    path: str,
    state: FileState | None,
    max_pixels: int,
    checked: FileCheck | None,
) -> None:
    if state is None or checked is None or not checked.is_lasting:
        return
    key = (os.path.abspath(path), DECODER_VERSION, max_pixels, *state)
    size = (checked.height, checked.width)
    result = (checked.reason, checked.warning, checked.checksum)
    row = (checked.digest, checked.format, *size, *result)
    index.execute(f"REPLACE INTO verdicts VALUES ({', '.join('?' * 13)})", key + row)
