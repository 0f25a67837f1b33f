"""Folders and archives of images at addresses such as `s3://bucket/images`, copied to the cache."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tlkit.data.archives import ARCHIVE_SUFFIXES
from tlkit.data.reading import content_digest
from tlkit.data.unpacking import check_space, is_plain
from tlkit.errors import ArgumentError, DataError, TlkitError, did_you_mean
from tlkit.utils.cache import cache_folder
from tlkit.utils.files import staging_beside, storage_named, sweep_asides, write_json
from tlkit.utils.formatting import reason_of
from tlkit.utils.progress import track

REMOTE_FOLDER = "remote"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WEB = ("http", "https")
_VERSIONS = "versions.json"
_NUM_THREADS = 8
"""Files that are fetched at a time; more than processors, as they wait for the network."""
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "smb": "smbprotocol",
}
"""The package of a protocol beside fsspec, where its error does not name it."""
_VOLATILE = ("name", "url", "mimetype", "partial", "type")
"""Entries of a file's description that do not tell whether its content has changed."""


def is_address(path: object) -> bool:
    """Whether a path is an address with a protocol, such as `s3://bucket/images`.

    Example:
        >>> from tlkit.data.addresses import is_address
        >>> is_address("s3://bucket/images"), is_address("images.zip"), is_address("C:/images")
        (True, False, False)
    """
    return isinstance(path, str) and _ADDRESS.match(path) is not None


def fetch(
    address: str, *, argument: str = "path", cache: str | os.PathLike[str] | None = None
) -> Path:
    """Returns a copy, in the cache, of the folder or the archive at an address.

    Only files that are not there yet, or have changed since by size, time or ETag, as far as the
    place tells them, are fetched; those that have vanished are removed. Each file is written
    atomically, so that an interrupted call leaves complete files, which the next one does not fetch
    again.

    Args:
        address: A folder, or an archive in it; at `http://` and `https://` an archive.
        argument: The argument's name in errors.
        cache: The cache's folder, as `cache_folder` takes it.

    Returns:
        The folder or the file, which has the name of the original.

    Raises:
        ArgumentError: A package is missing, the protocol is unknown, or the address contains a
            password.
        DataError: There is nothing at the address, or it cannot be read.
        StorageError: The files do not fit on the cache's disk.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from tlkit.data.addresses import fetch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "images", "cats").mkdir(parents=True)
        ...     _ = Path(folder, "images", "cats", "1.jpg").write_bytes(b"")
        ...     copy = fetch(f"file://{folder}/images", cache=Path(folder, "cache"))
        ...     [path.name for path in copy.rglob("*")]
        ['cats', '1.jpg']
    """
    check_address(address, argument)
    with _access_named(address, argument):
        found = _find(address, argument)
    root = cache_folder(REMOTE_FOLDER, cache) / content_digest(address.encode())
    target = root / found.name
    with storage_named(root):
        root.mkdir(exist_ok=True)
        sweep_asides(root)
        _update(root, target, found, address, argument)
    os.utime(root)  # used now, see `CacheEntry`
    return target


@dataclass(frozen=True)
class _RemoteFile:
    """A file at an address.

    Attributes:
        address: Its own address, as the file system takes it.
        size: Its size in bytes; 0 if that is not known.
        version: A hash of what the place tells about its content.
    """

    address: str
    size: int
    version: str


@dataclass(frozen=True)
class _Found:
    """What lies at an address.

    Attributes:
        filesystem: The open file system of fsspec.
        name: The name of the folder or file.
        files: The files by their path below the folder; "" for a single file.
    """

    filesystem: Any
    name: str
    files: Mapping[str, _RemoteFile]


def check_address(address: str, argument: str) -> None:
    """Checks an address as far as that is possible without asking for it.

    Raises:
        ArgumentError: A package is missing, the protocol is unknown, or the address contains a
            password.
    """
    if urlsplit(address).password is not None:
        raise ArgumentError(
            f"`{argument}` must be an address without a password, as runs keep it. Received: one "
            "with a password. Leave it out, and set it where the package of the protocol looks."
        )
    protocol = address.partition("://")[0].lower()
    try:
        import fsspec
    except ImportError as error:
        raise ArgumentError(
            f"`{argument}` must be on this machine unless the extra remote is installed. Received: "
            f"{address!r}. Install it with: pip install 'tlkit[remote]'."
        ) from error
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        known = fsspec.available_protocols()
        raise ArgumentError(
            f"`{argument}` must be an address with a protocol of fsspec, such as s3, gs or https. "
            f"Received: {address!r}. Correct the protocol.{did_you_mean(protocol, known)}"
        ) from error
    except ImportError as error:
        what = "'tlkit[remote]'" if protocol in _WEB else _PACKAGES.get(protocol, "")
        remedy = f"Install it with: pip install {what}." if what else f"{reason_of(error)}."
        raise ArgumentError(
            f"`{argument}` must be an address whose package is installed. Received: {address!r}, "
            f"which needs another package. {remedy}"
        ) from error


@contextmanager
def _access_named(address: str, argument: str) -> Iterator[None]:
    """Turns the errors of file systems, which have no common class, into a `DataError`."""
    try:
        yield
    except (TlkitError, MemoryError):
        raise
    except Exception as error:
        reason = error.__cause__ or error  # of the web every error is a FileNotFoundError
        problem = f"{type(reason).__name__}: {reason_of(reason)}"
        if isinstance(reason, FileNotFoundError):
            problem = "which does not exist"
        raise DataError(
            f"`{argument}` must be an address that can be read from here. Received: {address!r} "
            f"({problem}). Check the address, the network and your access."
        ) from error


def _find(address: str, argument: str) -> _Found:
    from fsspec.core import url_to_fs

    filesystem, path = url_to_fs(address)
    filesystem.invalidate_cache()
    name = urlsplit(address).path.rstrip("/").rpartition("/")[2] or urlsplit(address).netloc
    protocol = address.partition("://")[0].lower()
    is_file = name.lower().endswith(ARCHIVE_SUFFIXES)
    if protocol in _WEB and not is_file:
        raise DataError(
            f"`{argument}` must be an archive, such as images.zip, at an address of the web, where "
            f"folders cannot be listed. Received: {address!r}. Give the address of an archive."
        )
    info = filesystem.info(path)
    if not is_plain((name,)) or (info["type"] == "file" and not is_file):
        raise DataError(
            f"`{argument}` must be the address of a folder or an archive "
            f"({', '.join(ARCHIVE_SUFFIXES)}). Received: {address!r}. Give one of these."
        )
    if info["type"] == "file":
        return _Found(filesystem, name, {"": _remote_file(path, info)})
    files = {}
    start = path.rstrip("/") + "/"
    for place, details in filesystem.find(path, detail=True).items():
        if place.endswith("/"):  # a folder of an object store
            continue
        relative = place.removeprefix(start)
        if not is_plain(relative.split("/")):
            raise DataError(
                f"`{argument}` must be a folder whose files have plain names. Received: "
                f"{address!r} with {place!r}. Rename it."
            )
        files[relative] = _remote_file(place, details)
    if not files:
        raise DataError(
            f"`{argument}` must be the address of a folder with images. Received: {address!r}, "
            "which holds no file. Give the folder that holds one folder for each class."
        )
    return _Found(filesystem, name, files)


def _remote_file(address: str, details: Mapping[str, Any]) -> _RemoteFile:
    told = sorted((str(name), str(value)) for name, value in details.items())
    version = repr([pair for pair in told if pair[0] not in _VOLATILE])
    return _RemoteFile(address, details.get("size") or 0, content_digest(version.encode()))


def _update(root: Path, target: Path, found: _Found, address: str, argument: str) -> None:
    """Fetches the files that are missing or have changed, and removes those that have vanished."""
    record = root / _VERSIONS
    versions: dict[str, str] = {}
    if record.is_file():
        versions = json.loads(record.read_text(encoding="utf-8"))
    for gone in versions.keys() - found.files.keys():
        target.joinpath(gone).unlink(missing_ok=True)
        del versions[gone]
    needed = {
        place: file
        for place, file in found.files.items()
        if versions.get(place) != file.version or not target.joinpath(place).is_file()
    }
    num_bytes = sum(file.size for file in needed.values())
    check_space(num_bytes, root, f"{address!r} with files", argument)
    try:
        with staging_beside(target) as staging:
            fetch_file = _fetcher(needed, found.filesystem, staging, target)

            def fetch_named(item: tuple[int, str]) -> str:
                with _access_named(address, argument):
                    return fetch_file(*item)

            for place in _in_threads(fetch_named, list(enumerate(needed))):
                versions[place] = needed[place].version
    finally:  # also if the user interrupts: complete files are not fetched again
        write_json(record, versions)


def _fetcher(
    needed: Mapping[str, _RemoteFile], filesystem: Any, staging: Path, target: Path
) -> Callable[[int, str], str]:
    """Returns a function that fetches a file, given with a number, and returns its place."""

    def fetch_file(number: int, place: str) -> str:
        aside, destination = staging / str(number), target.joinpath(place)
        filesystem.get_file(needed[place].address, str(aside))
        destination.parent.mkdir(parents=True, exist_ok=True)
        aside.replace(destination)
        return place

    return fetch_file


def _in_threads(
    fetch_file: Callable[[tuple[int, str]], str], items: list[tuple[int, str]]
) -> Iterator[str]:
    """Yields the results for all items, of which several are worked on at a time."""
    pool = ThreadPoolExecutor(_NUM_THREADS)
    try:
        yield from track(pool.map(fetch_file, items), "fetching", len(items), "files")
    finally:
        pool.shutdown(cancel_futures=True)
