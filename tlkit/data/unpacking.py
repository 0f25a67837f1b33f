"""Unpacks archives of images into the cache, once for each content."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tlkit.data.archives import ARCHIVE_ERRORS, Archive, Member, damaged_archive_error
from tlkit.data.file_checks import FILE_CHECKS_FOLDER, tolerate_unusable_index
from tlkit.data.reading import DIGEST_BYTES, content_digest
from tlkit.errors import DataError, StorageError
from tlkit.utils.cache import cache_folder, open_index
from tlkit.utils.files import staging_beside, storage_named, sweep_asides
from tlkit.utils.formatting import GIGABYTE, megabytes
from tlkit.utils.progress import track

ARCHIVES_FOLDER = "archives"
MAX_RATIO = 100
"""Largest size of more than a gigabyte of files in relation to their archive: images are compressed
already, and what unpacks to more than that is a decompression bomb."""

_SUMMARY = "summary.json"
_INDEX_NAME = "archives-1.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS archives (
    path TEXT PRIMARY KEY, size INTEGER, modified INTEGER, changed INTEGER, digest TEXT
) WITHOUT ROWID
"""
_CHUNK = 2**20


@dataclass(frozen=True)
class Unpacked:
    """An archive in the cache.

    Attributes:
        folder: The folder with its files, which has the archive's name.
        num_files: Number of files in it.
        num_bytes: Their size.
        skipped: Members that are not unpacked, with the reason.
    """

    folder: Path
    num_files: int
    num_bytes: int
    skipped: tuple[tuple[str, str], ...]


def unpack(
    path: str | os.PathLike[str],
    *,
    argument: str = "path",
    given: str = "",
    cache: str | os.PathLike[str] | None = None,
    notes: list[str] | None = None,
) -> Unpacked:
    """Returns an archive's files in the cache, which are unpacked if they are not there yet.

    They are found again by the archive's name and content: one that was moved is not unpacked
    again, and one that has changed is. The folder is written atomically. Before, the sizes are
    compared with the free space, and all names are checked: nothing is written outside. Links and
    devices are left out.

    Args:
        path: The archive.
        argument: The argument's name in errors.
        given: What the user gave for the archive, for errors; its path by default.
        cache: The cache's folder, as `cache_folder` takes it.
        notes: Receives a note if the cache's index cannot be used.

    Raises:
        DataError: The archive is damaged, encrypted, empty or a decompression bomb, or has a name
            that leads out of it.
        StorageError: Its files do not fit on the cache's disk.

    Example:
        >>> import tempfile, zipfile
        >>> from pathlib import Path
        >>> from tlkit.data.unpacking import unpack
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with zipfile.ZipFile(Path(folder, "images.zip"), "w") as archive:
        ...         archive.writestr("cats/1.jpg", b"")
        ...     found = unpack(Path(folder, "images.zip"), cache=Path(folder, "cache"))
        ...     [path.name for path in sorted(found.folder.rglob("*"))]
        ['cats', '1.jpg']
    """
    path, given = os.fspath(path), given or os.fspath(path)
    name = os.path.basename(path)
    try:
        digest = _digest_of(path, cache, notes)
    except OSError as error:
        raise damaged_archive_error(given, argument, error) from error
    root = cache_folder(ARCHIVES_FOLDER, cache) / content_digest(f"{digest} {name}".encode())
    if not root.is_dir():
        sweep_asides(root.parent, [root.name])
        with storage_named(root), staging_beside(root) as staging:
            try:
                skipped = _write_files(path, staging / root.name / name, argument, given)
            except ARCHIVE_ERRORS as error:
                if isinstance(error, DataError | StorageError):
                    raise
                raise damaged_archive_error(given, argument, error) from error
            _write_summary(staging / root.name, name, skipped)
            publish(staging / root.name, root)
    os.utime(root)  # used now, see `CacheEntry`
    summary = json.loads((root / _SUMMARY).read_text(encoding="utf-8"))
    return Unpacked(
        root / name,
        summary["num_files"],
        summary["num_bytes"],
        tuple((member, reason) for member, reason in summary["skipped"]),
    )


def publish(staged: Path, folder: Path) -> None:
    """Moves a complete folder to its place, unless another process has put an equal one there."""
    try:
        staged.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not folder.is_dir():
            raise


def check_space(num_bytes: int, folder: Path, what: str, argument: str) -> None:
    """Raises `StorageError` unless a folder's disk has room for some bytes.

    Args:
        num_bytes: The number of bytes to write.
        folder: The folder to write to.
        what: What is to be written, for the error.
        argument: The argument's name in the error.
    """
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise StorageError(
            f"`{argument}` must fit on the cache's disk. Received: {what} of "
            f"{megabytes(num_bytes)}, where {megabytes(free)} are free in {str(folder)!r}. Free "
            "some space there (tlkit cache), or set TLKIT_CACHE to another folder."
        )


def is_plain(parts: Sequence[str]) -> bool:
    """Whether the parts of a relative path lead to a place below its start on any system."""
    return bool(parts) and not any(
        part in ("", ".", "..") or "/" in part or "\0" in part or (number == 0 and part[1:2] == ":")
        for number, part in enumerate(parts)
    )


def _write_files(path: str, folder: Path, argument: str, given: str) -> list[tuple[str, str]]:
    """Writes an archive's files to a new folder; returns what is not written, with the reason."""
    folder.mkdir(parents=True)
    with Archive(path) as archive:
        members: dict[tuple[str, ...], Member] = {}
        total, skipped = 0, []
        for member in archive.members():
            _check_member(member, argument, given)
            if member.problem:
                skipped.append((member.name, member.problem))
                continue
            total += member.size
            if total > max(GIGABYTE, MAX_RATIO * os.path.getsize(path)):
                raise DataError(
                    f"`{argument}` must name an archive of images. Received: {given!r} of "
                    f"{megabytes(os.path.getsize(path))}, whose files have more than "
                    f"{megabytes(total)}, as those of a decompression bomb. Unpack it yourself if "
                    "you trust it."
                )
            check_space(total, folder, f"{given!r} with files", argument)
            members[member.parts] = member  # of members with one name the last counts
        if not members:
            raise DataError(
                f"`{argument}` must name an archive with images. Received: {given!r}, which holds "
                "no file. Give another one."
            )
        for member in track(members.values(), "unpacking", len(members), "files"):
            target = folder.joinpath(*member.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
    return skipped


def _check_member(member: Member, argument: str, given: str) -> None:
    if member.is_encrypted:
        raise DataError(
            f"`{argument}` must name an archive without a password. Received: {given!r}, whose "
            f"member {member.name!r} is encrypted. Unpack it, and give the folder."
        )
    if not is_plain(member.parts):
        raise DataError(
            f"`{argument}` must name an archive whose files lie inside it. Received: {given!r} "
            f"with {member.name!r}. Do not unpack it: such archives overwrite other files."
        )


def _write_summary(root: Path, name: str, skipped: list[tuple[str, str]]) -> None:
    sizes = [path.stat().st_size for path in (root / name).rglob("*") if path.is_file()]
    summary = {"num_files": len(sizes), "num_bytes": sum(sizes), "skipped": skipped}
    (root / _SUMMARY).write_text(json.dumps(summary), encoding="utf-8")


def _digest_of(path: str, cache: str | os.PathLike[str] | None, notes: list[str] | None) -> str:
    """Returns a hash of an archive's content, from the cache's index while its times stay."""
    status = os.stat(path)
    state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    file = cache_folder(FILE_CHECKS_FOLDER, cache) / _INDEX_NAME
    key = os.path.abspath(path)
    with tolerate_unusable_index(file, notes), closing(open_index(file, _SCHEMA)) as index:
        row = index.execute(
            "SELECT digest FROM archives WHERE path = ? "
            "AND size = ? AND modified = ? AND changed = ?",
            (key, *state),
        ).fetchone()
        if row is not None:
            return str(row[0])
    hashed = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with open(path, "rb") as content:
        while chunk := content.read(_CHUNK):
            hashed.update(chunk)
    digest = hashed.hexdigest()
    with tolerate_unusable_index(file, notes), closing(open_index(file, _SCHEMA)) as index:
        index.execute("REPLACE INTO archives VALUES (?, ?, ?, ?, ?)", (key, *state, digest))
    return digest
