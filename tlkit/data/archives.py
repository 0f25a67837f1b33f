"""Reads the files in ZIP and tar archives."""

import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import PurePosixPath
from types import TracebackType
from typing import IO

from tlkit.errors import DataError
from tlkit.utils.formatting import reason_of

ARCHIVE_SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tbz2", ".txz", ".tar", ".zip")
"""Suffixes of archives, in any case; longer ones stand before their endings."""

ARCHIVE_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,  # an encrypted member of a ZIP archive, or an unknown compression
    ValueError,  # a damaged number in a header
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    LZMAError,
)
"""Exceptions about files that are no archives, and about damaged ones."""

_ENCRYPTED = 0x1
"""Flag of a member of a ZIP archive."""
_DOS = 0
"""The system of ZIP archives in whose names backslashes may separate folders."""


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: Its path in the archive, with "/" between folders.
        size: Its size in bytes once it is unpacked.
        number: Its position in the archive.
        problem: Why it cannot be read; empty if it can.
        is_encrypted: Whether it can be read with a password only.
    """

    name: str
    size: int
    number: int
    problem: str = ""
    is_encrypted: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of its folders and its own."""
        return PurePosixPath(self.name).parts


class Archive:
    """A ZIP or tar archive, open for reading; a context manager.

    Args:
        path: The archive, whose suffix decides which of the two it is.

    Attributes:
        path: The archive.

    Raises:
        Exception: One of `ARCHIVE_ERRORS`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        is_zip = self.path.lower().endswith(".zip")
        self._archive: zipfile.ZipFile | tarfile.TarFile
        self._archive = zipfile.ZipFile(path) if is_zip else tarfile.TarFile.open(path)
        self._entries: list[zipfile.ZipInfo | tarfile.TarInfo] = []
        self._by_name: dict[str, Member] = {}

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the archive."""
        self._archive.close()

    def members(self) -> Iterator[Member]:
        """Yields the files in their order; folders are left out.

        Raises:
            Exception: One of `ARCHIVE_ERRORS`.
        """
        self._entries = []
        archive = self._archive
        for entry in archive.infolist() if isinstance(archive, zipfile.ZipFile) else archive:
            member = _zip_member if isinstance(entry, zipfile.ZipInfo) else _tar_member
            if (found := member(entry, len(self._entries))) is not None:  # type: ignore[arg-type]
                self._entries.append(entry)
                yield found

    def open(self, member: Member) -> AbstractContextManager[IO[bytes]]:
        """Opens one of the files of `members` for reading.

        Raises:
            Exception: One of `ARCHIVE_ERRORS`.
        """
        entry = self._entries[member.number]
        if isinstance(self._archive, zipfile.ZipFile):
            return self._archive.open(entry)  # type: ignore[arg-type]
        file = self._archive.extractfile(entry)  # type: ignore[arg-type]
        if file is None:
            raise tarfile.ReadError(f"{member.name!r} is no file")
        return file

    def read(self, name: str) -> bytes:
        """Returns the content of the file with this name.

        Raises:
            Exception: One of `ARCHIVE_ERRORS`.
        """
        if not self._by_name:
            self._by_name = {member.name: member for member in self.members()}
        with self.open(self._by_name[name]) as file:
            return file.read()


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether a path has the suffix of an archive, and is no folder."""
    return os.fspath(path).lower().endswith(ARCHIVE_SUFFIXES) and not os.path.isdir(path)


def archive_stem(name: str) -> str:
    """Returns a name without the suffix of an archive.

    Example:
        >>> from tlkit.data.archives import archive_stem
        >>> archive_stem("flowers.tar.gz"), archive_stem("flowers.v2")
        ('flowers', 'flowers.v2')
    """
    suffix = next((one for one in ARCHIVE_SUFFIXES if name.lower().endswith(one)), "")
    return name[: len(name) - len(suffix)]


def damaged_archive_error(path: str, argument: str, error: BaseException) -> DataError:
    """Returns the error about an archive that cannot be read."""
    return DataError(
        f"`{argument}` must name an intact archive. Received: {path!r} ({reason_of(error)}). Make "
        "or download it again."
    )


def _zip_member(info: zipfile.ZipInfo, number: int) -> Member | None:
    name = info.filename
    if info.create_system == _DOS and "/" not in name:
        name = name.replace("\\", "/")
    if name.endswith("/"):
        return None
    is_encrypted = bool(info.flag_bits & _ENCRYPTED)
    return Member(name, info.file_size, number, is_encrypted=is_encrypted)


def _tar_member(info: tarfile.TarInfo, number: int) -> Member | None:
    if info.isdir():
        return None
    what = "link" if info.issym() or info.islnk() else "device"
    problem = "" if info.isfile() else f"a {what} in an archive, which is not followed"
    return Member(info.name, info.size, number, problem)
