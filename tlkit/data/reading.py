"""Reading image files: nothing is waited for, and what is read is what was checked."""

import hashlib
import os
from stat import S_ISREG
from typing import BinaryIO

from tlkit.errors import DataError

DIGEST_BYTES = 16
CHANGED = "holds other bytes than when it was checked"


def content_digest(content: bytes) -> str:
    """The hash by which contents are told apart."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def open_image(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens an image file for reading.

    A pipe that nobody writes to would be waited for without end, whenever it came to its place.

    Raises:
        DataError: It is no regular file, such as a pipe or a device.
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
        digest: The hash of the content that is wanted; any content if empty.

    Raises:
        DataError: It is no regular file, or holds another content.
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
            f"Images must stay as they are while they are read. Received: {os.fspath(path)!r}, "
            f"which {CHANGED}. Put the old one back, or begin anew."
        )
    return content


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
