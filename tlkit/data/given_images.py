"""Images as users give them for predictions: files, folders, patterns, archives, addresses."""

import glob
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from types import TracebackType

from tlkit.data.addresses import fetch, is_address
from tlkit.data.archives import (
    ARCHIVE_ERRORS,
    Archive,
    damaged_archive_error,
    is_archive,
)
from tlkit.data.file_checks import why_unreadable
from tlkit.data.folder_names import reason_to_ignore
from tlkit.data.listing import IGNORED, list_all_below
from tlkit.data.reading import read_image
from tlkit.errors import DataError, check_path, is_unicode

_NUM_READERS = 8
"""Threads that read files; more than processors, as they wait for disks and networks."""


@dataclass(frozen=True)
class GivenImage:
    """A file that is expected to be an image.

    Attributes:
        path: Its path; for a member of an archive, the archive's path and the member's name.
        archive: Path of the archive that holds it; empty for a file.
        member: Its name in the archive.
        problem: Why it cannot be read; empty if that is not known yet.
        copy: Path of the copy in the cache that is read, for a file at an address; else empty.
    """

    path: str
    archive: str = ""
    member: str = ""
    problem: str = ""
    copy: str = ""

    @property
    def name(self) -> str:
        """The file's name without folders."""
        return PurePosixPath(self.member).name if self.archive else os.path.basename(self.path)


@dataclass(frozen=True)
class ReadImage:
    """The content of a given image.

    Attributes:
        image: The given image.
        content: Its bytes; empty if it cannot be read.
        problem: Why it cannot be read, else empty.
    """

    image: GivenImage
    content: bytes
    problem: str


def find_images(
    given: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], argument: str
) -> list[GivenImage]:
    """Returns the images of files, folders, patterns, archives and addresses, in this order.

    A folder gives all files in it and in its subfolders, an archive all its members, and a pattern
    such as `photos/*.jpg` the files that match it; each in the order of their names, members in
    the order of the archive. Folders and archives may lie at an address, see `fetch`. Hidden files
    and those of operating systems are left out of folders and archives; no other file is.

    Args:
        given: One path or several.
        argument: The argument's name in errors.

    Raises:
        ArgumentError: Something given is no path, or an address needs another package.
        DataError: A folder, a pattern or an archive holds no file, or an archive is damaged; or an
            address cannot be read.
    """
    listed = [given] if isinstance(given, str | os.PathLike) else list(given)
    images = [image for path in listed for image in _images_of(path, argument)]
    if not images:
        raise DataError(
            f"`{argument}` must name an image at least. Received: {argument}={listed!r}. Give "
            "files, folders, or archives."
        )
    return images


class ImageReader:
    """Reads given images: files in several threads, members of archives one after the other.

    It is a context manager, at whose end archives are closed.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._pool = self._stack.enter_context(ThreadPoolExecutor(_NUM_READERS))
        self._archives: dict[str, Archive] = {}

    def __enter__(self) -> "ImageReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def read(self, images: Sequence[GivenImage]) -> list[ReadImage]:
        """Returns the contents of some images, in their order."""
        files = [image for image in images if not image.archive]
        read = dict(zip(map(id, files), self._pool.map(_read_file, files), strict=True))
        return [read[id(image)] if not image.archive else self._member(image) for image in images]

    def _member(self, image: GivenImage) -> ReadImage:
        if image.problem:
            return ReadImage(image, b"", image.problem)
        try:
            if image.archive not in self._archives:
                opened = self._archives[image.archive] = Archive(image.archive)
                self._stack.callback(opened.close)
            return ReadImage(image, self._archives[image.archive].read(image.member), "")
        except ARCHIVE_ERRORS as error:
            return ReadImage(image, b"", f"cannot be read from the archive: {error}")


def _images_of(path: str | os.PathLike[str], argument: str) -> Iterator[GivenImage]:
    if isinstance(path, str | os.PathLike) and not is_unicode(os.path.abspath(path)):
        yield GivenImage(os.fspath(path), problem="its name is not valid Unicode")
        return
    check_path(argument, path)
    name = os.fspath(path)
    if is_address(name):
        yield from _at_address(name, argument)
    elif os.path.isdir(name):
        yield from _in_folder(name, argument)
    elif is_archive(name) and os.path.isfile(name):
        yield from _in_archive(name, argument)
    elif glob.has_magic(name) and not os.path.lexists(name):
        matches = sorted(filter(os.path.isfile, glob.iglob(name, recursive=True)))
        if not matches:
            raise DataError(
                f"`{argument}` must match files. Received: {name!r}, which matches none. Check "
                "the pattern, or give the folder."
            )
        yield from map(GivenImage, matches)
    else:
        yield GivenImage(name)


def _at_address(address: str, argument: str) -> Iterator[GivenImage]:
    copy = str(fetch(address, argument=argument))
    images = _in_archive(copy, argument) if is_archive(copy) else _in_folder(copy, argument)
    for image in images:
        shown = address.rstrip("/") + image.path.removeprefix(copy)
        yield replace(image, path=shown, copy="" if image.archive else image.path)


def _in_folder(path: str, argument: str) -> Iterator[GivenImage]:
    listing = list_all_below(path)
    problems = {file.path: file.reason for file in listing.skipped}
    paths = sorted([*problems, *(file.path for file in listing.files)])
    if not paths:
        raise DataError(
            f"`{argument}` must name a folder with images. Received: {path!r}, which holds no "
            "file. Give the folder that holds them."
        )
    yield from (GivenImage(file, problem=problems.get(file, "")) for file in paths)


def _in_archive(path: str, argument: str) -> Iterator[GivenImage]:
    try:
        with Archive(path) as archive:
            members = [member.name for member in archive.members() if not member.problem]
    except ARCHIVE_ERRORS as error:
        raise damaged_archive_error(path, argument, error) from error
    members = [name for name in members if not _is_ignored(name)]
    if not members:
        raise DataError(
            f"`{argument}` must name an archive with images. Received: {path!r}, which holds no "
            "file. Give another one."
        )
    for name in members:
        problem = "" if is_unicode(name) else "its name is not valid Unicode"
        yield GivenImage(f"{path}/{PurePosixPath(name)}", path, name, problem)


def _is_ignored(member: str) -> bool:
    """Whether a member is hidden or of an operating system, or lies in such a folder."""
    return any(reason_to_ignore(part) in IGNORED for part in PurePosixPath(member).parts)


def _read_file(image: GivenImage) -> ReadImage:
    if image.problem:
        return ReadImage(image, b"", image.problem)
    try:
        return ReadImage(image, read_image(image.copy or image.path), "")
    except (DataError, OSError) as error:
        return ReadImage(image, b"", why_unreadable(error))
