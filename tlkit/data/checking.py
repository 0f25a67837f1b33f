"""Each file decoded once, and what came of it remembered."""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tlkit.cache import cache_folder, open_index
from tlkit.data.limits import DECODER_VERSION
from tlkit.progress import track

_CHECKED_SIZE = (32, 32)  # small, so that JPEG files are decoded at an eighth
_LOOKUPS_AT_ONCE = 400
_SCHEMA = """
CREATE TABLE IF NOT EXISTS verdicts (
    key TEXT PRIMARY KEY, digest TEXT NOT NULL, format TEXT NOT NULL, reason TEXT
) WITHOUT ROWID;
"""
_FORMATS = (
    (b"\xff\xd8\xff", 0, "jpeg"),
    (b"\x89PNG", 0, "png"),
    (b"GIF8", 0, "gif"),
    (b"WEBP", 8, "webp"),
    (b"BM", 0, "bmp"),
)
_UNSUPPORTED = (
    (b"II*\0", 0, "TIFF"),
    (b"MM\0*", 0, "TIFF"),
    (b"ftypheic", 4, "HEIC"),
    (b"ftypmif1", 4, "HEIC"),
    (b"ftypavif", 4, "AVIF"),
    (b"%PDF", 0, "PDF"),
    (b"<svg", 0, "SVG"),
)


@dataclass(frozen=True)
class Verdict:
    """What is known of one file.

    Attributes:
        digest: Hash of its bytes, hexadecimal; "" where they could not be read.
        format: "jpeg", "png", "gif", "webp" or "bmp"; "" for no picture.
        reason: Why it cannot be used, or `None`.
    """

    digest: str
    format: str
    reason: str | None


def check_files(
    paths: Sequence[str], max_pixels: int, cache: str | os.PathLike[str] | None = None
) -> list[Verdict]:
    """Decodes every file that is not remembered, in parallel; one verdict per path.

    Remembered is by path, size, time of change, pixel bound and version of the decoder. Where two
    processes check at once, both are right.
    """
    keys = [_key(path, max_pixels) for path in paths]
    index = open_index(cache_folder("files", cache) / "verdicts.sqlite", _SCHEMA)
    try:
        known = _recall(index, [key for key in keys if key])
        unknown = [i for i, key in enumerate(keys) if key not in known]
        verdicts = [known[key] if key in known else Verdict("", "", None) for key in keys]
        if unknown:
            decode = _decoder(max_pixels)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                found = pool.map(lambda i: _check(paths[i], decode, max_pixels), unknown)
                for i, verdict in zip(
                    unknown, track(found, "checking pictures", len(unknown)), strict=True
                ):
                    verdicts[i] = verdict
            _remember(index, [(keys[i], verdicts[i]) for i in unknown if keys[i]])
        return verdicts
    finally:
        index.close()


def _key(path: str, max_pixels: int) -> str:
    """Identifies a file's present content without reading it; "" where it cannot be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    where = f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}"
    how = f"{max_pixels}\0{DECODER_VERSION}"
    return hashlib.blake2b(f"{where}\0{how}".encode("utf-8", "surrogateescape")).hexdigest()


def _recall(index: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Verdict]:
    known = {}
    for start in range(0, len(keys), _LOOKUPS_AT_ONCE):
        some = keys[start : start + _LOOKUPS_AT_ONCE]
        marks = ",".join("?" * len(some))
        rows = index.execute(
            f"SELECT key, digest, format, reason FROM verdicts WHERE key IN ({marks})", some
        )
        known.update({key: Verdict(*fields) for key, *fields in rows})
    return known


def _remember(index: sqlite3.Connection, verdicts: list[tuple[str, Verdict]]) -> None:
    index.execute("BEGIN IMMEDIATE")
    index.executemany(
        "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?)",
        [(key, one.digest, one.format, one.reason) for key, one in verdicts],
    )
    index.execute("COMMIT")


def _decoder(max_pixels: int) -> Callable[[bytes], None]:
    """Returns the decoding of training and export, compiled once."""
    import tensorflow as tf

    from tlkit.data.decoding import decode_image

    function = tf.function(
        lambda image_bytes: decode_image(image_bytes, _CHECKED_SIZE, max_pixels),
        input_signature=[tf.TensorSpec((), tf.string)],
    ).get_concrete_function()
    return lambda content: function(tf.constant(content))


def _check(path: str, decode: Callable[[bytes], None], max_pixels: int) -> Verdict:
    import tensorflow as tf

    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        return Verdict("", "", f"cannot be read ({(error.strerror or str(error)).lower()})")
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    if not content:
        return Verdict(digest, "", "empty file")
    found = _named(content, _FORMATS)
    if not found:
        other = _named(content, _UNSUPPORTED)
        reason = f"{other} is not supported: convert it to JPEG or PNG" if other else "not an image"
        return Verdict(digest, "", reason)
    try:
        decode(content)
    except (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError) as error:
        if "max_pixels" in str(error):
            return Verdict(
                digest, found, f"has more pixels than max_pixels={max_pixels:,} allows"
            )
        return Verdict(digest, found, f"truncated or damaged {found.upper()}")
    return Verdict(digest, found, None)


def _named(content: bytes, signatures: tuple[tuple[bytes, int, str], ...]) -> str:
    for magic, at, name in signatures:
        if content[at : at + len(magic)] == magic:
            return name
    return ""
