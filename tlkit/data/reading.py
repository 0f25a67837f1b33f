"""Reads image files without blocking on pipes, and verifies their digests."""

import hashlib
import os
from stat import S_ISREG
from typing import BinaryIO

from tlkit.errors import DataError

DIGEST_BYTES = 16
CHANGED = "holds other bytes than when it was checked"


def content_digest(content: bytes) -> str:
    """Returns the BLAKE2b hash that identifies a content, as hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def open_image(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens an image file for reading.

    The file type is checked here each time, as reading a pipe without a writer would block forever.

    Raises:
        DataError: It is not a regular file, but for example a pipe or a device.
        OSError: It cannot be opened.
    """
    file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 - the caller closes it
    if not S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DataError(
            f"An image must be a regular file. Received: {os.fspath(path)!r}, which is neither a "
            "file nor a folder. Remove it, or put the image in its place."
        )
    return file


def read_image(path: str | os.PathLike[str], digest: str = "") -> bytes:
    """Returns an image file's bytes.

    Args:
        path: The file.
        digest: The expected hash of the content; if empty, any content is accepted.

    Raises:
        DataError: It is not a regular file, or has another content.
        OSError: It cannot be read.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> from tlkit.data.reading import read_image
        >>> with NamedTemporaryFile() as file:
        ...     _ = file.write(b"GIF89a")
        ...     file.flush()
        ...     read_image(file.name)
        b'GIF89a'
    """
    with open_image(path) as file:
        content = file.read()
    if digest and content_digest(content) != digest:
        raise DataError(
            f"Images must not change while they are read. Received: {os.fspath(path)!r}, "
            f"which {CHANGED}. Restore the old file, or start again."
        )
    return content


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
