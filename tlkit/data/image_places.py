"""Where the images of a folder, an archive or an address lie on the disk, and their shown names."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tlkit.data.addresses import fetch, is_address
from tlkit.data.archives import archive_stem, is_archive
from tlkit.data.folder_names import split_of_name
from tlkit.data.layouts import folders_only
from tlkit.data.reports import SkippedFile
from tlkit.data.unpacking import unpack
from tlkit.errors import check_path
from tlkit.utils.formatting import counted, megabytes

_MAX_DEPTH = 16
"""Maximum depth at which the folder of the classes is searched in an archive."""
_CACHED = re.compile(r"(?s)(?:.*[/\\])?(?:archives|remote|datasets)[/\\][0-9a-f]{32}[/\\](.+)")
"""Matches paths of files in these folders of the cache, below the folder of an entry."""


@dataclass(frozen=True)
class ImagePlace:
    """Where images lie on the disk.

    Attributes:
        folder: The folder with their classes or splits.
        skipped: Members of an archive that are not unpacked.
        notes: Notes for the report.
    """

    folder: Path
    skipped: tuple[SkippedFile, ...] = ()
    notes: tuple[str, ...] = ()


def locate(
    path: str | os.PathLike[str],
    *,
    argument: str = "path",
    cache: str | os.PathLike[str] | None = None,
) -> ImagePlace:
    """Returns where the images of a folder, an archive or an address lie on the disk.

    What is at an address is copied to the cache, and an archive is unpacked there. Folders of an
    archive that only enclose the folder of the classes or splits are passed.

    Args:
        path: The folder, the archive or the address.
        argument: The argument's name in errors.
        cache: The cache's folder, as `cache_folder` takes it.

    Raises:
        ArgumentError: It is neither, or its address needs another package.
        DataError: The archive or the address cannot be used, see `unpack` and `fetch`.
        StorageError: The files do not fit on the cache's disk.
    """
    notes: list[str] = []
    given = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
    if is_address(given):
        place = fetch(given, argument=argument, cache=cache)
        notes.append(f"{given} is copied to the cache: {place}")
    else:
        check_path(argument, path)
        place = Path(path)
    if not (is_archive(place) and place.is_file()):
        return ImagePlace(place, notes=tuple(notes))
    found = unpack(place, argument=argument, given=given, cache=cache, notes=notes)
    notes.append(
        f"{given} is unpacked in the cache: {counted(found.num_files, 'file')}, "
        f"{megabytes(found.num_bytes)}, in {found.folder}"
    )
    skipped = (
        SkippedFile(f"{found.folder.name}/{name}", "", reason) for name, reason in found.skipped
    )
    return ImagePlace(_inner_folder(found.folder), tuple(skipped), tuple(notes))


def shown_path(path: str) -> str:
    """Returns the name of an image in its archive, data set or address instead of in the cache.

    Other paths are returned as they are.

    Example:
        >>> from tlkit.data.image_places import shown_path
        >>> shown_path(f"/home/me/.cache/tlkit/archives/{'0' * 32}/images.zip/cats/1.jpg")
        'images.zip/cats/1.jpg'
    """
    match = _CACHED.fullmatch(path)
    return path if match is None else match[1]


def may_exist(path: str | os.PathLike[str]) -> bool:
    """Whether there may be images: a file or a folder, or an address, which is not asked here."""
    return is_address(path) or Path(path).exists()


def place_name(path: str) -> str:
    """Returns the name of a folder, an archive or a CSV file, without suffix."""
    name = Path(path).name
    if is_address(path) or not Path(path).is_dir():
        stem = archive_stem(name)
        return stem if stem != name or is_address(path) else Path(name).stem
    return name


def _inner_folder(folder: Path) -> Path:
    """Returns the folder of the classes or splits below folders that only enclose it."""
    name = archive_stem(folder.name)
    for _ in range(_MAX_DEPTH):
        outer = folders_only(str(folder))
        if len(outer) != 1 or split_of_name(outer[0]):
            break
        inner = folders_only(str(folder / outer[0]))
        if not inner:
            break
        is_split_or_named = bool(split_of_name(inner[0])) or outer[0] == name
        lies_deeper = bool(folders_only(str(folder / outer[0] / inner[0])))
        if not (len(inner) > 1 or is_split_or_named or lies_deeper):
            break
        folder /= outer[0]
    return folder
