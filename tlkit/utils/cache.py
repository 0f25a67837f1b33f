"""The user's cache folder, for results that need to be computed only once."""

import atexit
import math
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tlkit.errors import ArgumentError, check_not_negative
from tlkit.utils.formatting import GIGABYTE, megabytes
from tlkit.utils.text_repr import ShownAsText

FOLDERS = {
    "features": "stores of activations of frozen networks",
    "files": "indexes with results of checks of image files",
    "tfds": "data sets of tensorflow_datasets, written as files",
    "datasets": "data sets of Hugging Face's datasets, written as files",
    "archives": "unpacked archives of images",
    "remote": "copies of folders and archives at addresses",
}
"""The folders of the cache, and their contents."""

TAG_NAME = "CACHEDIR.TAG"
_TAG = """Signature: 8a477f597d28d172789f06886806bc55
# This folder was made by tlkit, which computes its content again if it is missing.
# See https://bford.info/cachedir/
"""
_LOCK_SECONDS = 60.0

DEFAULT_LIMIT = 20.0
"""Default limit of stored activations in GB; `TLKIT_CACHE_LIMIT` sets another."""

SECONDS_OF_DAY = 86_400
INDEX_SUFFIX = ".index"
"""Suffix of the index of a file with the same name."""


def cache_folder(name: str, root: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder `name` of tlkit's cache, which exists and is writable.

    The cache is in `root`, else in the folder given by the environment variable `TLKIT_CACHE`, else
    in `$XDG_CACHE_HOME/tlkit` or `~/.cache/tlkit`. If that is not writable (a read-only home, or
    none), a temporary folder is used until this process ends; everything works, but nothing is
    stored for later processes, and `cache_note` says so in the reports.

    New folders are tagged as a cache, by which backup programs and `clear_cache` recognise them.

    Args:
        name: The folder's name inside the cache, one of `FOLDERS`.
        root: The cache's own folder; overrides the environment.

    Example:
        >>> import tempfile
        >>> from tlkit.utils.cache import cache_folder
        >>> with tempfile.TemporaryDirectory() as root:
        ...     cache_folder("features", root).name
        'features'
    """
    folder = cache_root(root) / name
    if not _is_writable(folder):
        folder = _temporary_root() / name
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def cache_note(name: str, root: str | os.PathLike[str] | None = None) -> str:
    """Returns a note if `cache_folder` uses a temporary folder, else ""."""
    configured = _configured_root(root)
    if configured is not None and _is_writable(configured / name):
        return ""
    why = "this user has no home folder"
    if configured is not None:
        why = f"the cache {configured / name} is not writable"
    return f"{why}: results are stored for this process only (TLKIT_CACHE sets another folder)"


def cache_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder of the cache, which may not exist."""
    return _configured_root(root) or _temporary_root()


def _configured_root(root: str | os.PathLike[str] | None) -> Path | None:
    """Returns the configured folder of the cache; `None` if the user has no home folder."""
    if root is not None:
        return Path(root)
    if named := os.environ.get("TLKIT_CACHE"):
        return Path(named)
    if common := os.environ.get("XDG_CACHE_HOME"):
        return Path(common) / "tlkit"
    try:
        return Path.home() / ".cache" / "tlkit"
    except RuntimeError:  # the user is unknown to the system
        return None


@dataclass(frozen=True)
class ClearReport(ShownAsText):
    """The result of `clear_cache` or `trim_cache`.

    Attributes:
        root: The folder of the cache.
        num_bytes: Number of removed bytes.
        left: Files and folders there that were kept, as tlkit has not made them.
    """

    root: Path
    num_bytes: int
    left: tuple[Path, ...]

    def __str__(self) -> str:
        removed = f"{megabytes(self.num_bytes)} removed from {self.root}"
        if not self.left:
            return removed
        return f"{removed}; kept, as not made by tlkit: {', '.join(map(str, self.left))}"


def clear_cache(root: str | os.PathLike[str] | None = None) -> ClearReport:
    """Removes the folders of the cache with their content, and nothing else.

    The cache may be in a folder with other files, perhaps of the same names: only those of
    `FOLDERS` that `cache_folder` has made and tagged are removed. Links are kept.

    Args:
        root: The cache's own folder; overrides the environment.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from tlkit.utils.cache import cache_folder, clear_cache
        >>> with tempfile.TemporaryDirectory() as root:
        ...     _ = cache_folder("features", root)
        ...     _ = Path(root, "thesis.txt").write_text("years of work")
        ...     [path.name for path in clear_cache(root).left]
        ['thesis.txt']
    """
    folder = cache_root(root)
    num_bytes, left = 0, []
    for child in sorted(folder.iterdir()) if folder.is_dir() else ():
        is_ours = child.name in FOLDERS and (child / TAG_NAME).is_file()
        if child.is_symlink() or not is_ours:
            left.append(child)
            continue
        num_bytes += _num_bytes(child)
        shutil.rmtree(child)
    return ClearReport(folder, num_bytes, tuple(left))


def cache_limit() -> int:
    """Returns the largest number of bytes of all stored activations together.

    It is `TLKIT_CACHE_LIMIT` in GB (10⁹ bytes), 20 by default. Whenever activations are opened or
    added, the least recently used ones beyond the limit are removed.

    Raises:
        ArgumentError: The variable is not a number of 0 or more.

    Example:
        >>> from tlkit.utils.cache import cache_limit
        >>> cache_limit() // 10**9
        20
    """
    given = os.environ.get("TLKIT_CACHE_LIMIT", str(DEFAULT_LIMIT))
    try:
        limit = float(given)
    except ValueError:
        limit = math.nan
    if not 0 <= limit < math.inf:
        raise ArgumentError(
            "`TLKIT_CACHE_LIMIT` must be a number of GB, 0 or more. "
            f"Received: TLKIT_CACHE_LIMIT={given!r}. Set it to 20, for example, or unset it."
        )
    return round(limit * GIGABYTE)


@dataclass(frozen=True)
class CacheEntry:
    """An entry of the cache, which is kept or removed as a whole.

    Attributes:
        kind: Its folder, one of `FOLDERS`.
        paths: Its files and folders.
        num_bytes: Their size in bytes.
        used: Time of the last use, in seconds since the epoch.
    """

    kind: str
    paths: tuple[Path, ...]
    num_bytes: int
    used: float

    def remove(self) -> None:
        """Removes the entry, its index first."""
        for path in sorted(self.paths, key=lambda path: path.suffix != INDEX_SUFFIX):
            with suppress(FileNotFoundError):  # another process has just removed it
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def cache_entries(root: str | os.PathLike[str] | None = None) -> tuple[CacheEntry, ...]:
    """Returns all entries of the cache, the least recently used first."""
    entries = []
    for kind in FOLDERS:
        folder = cache_root(root) / kind
        if folder.is_symlink() or not (folder / TAG_NAME).is_file():
            continue
        by_name: dict[str, list[Path]] = {}
        for path in folder.iterdir():
            if path.name != TAG_NAME:
                by_name.setdefault(path.name.partition(".")[0], []).append(path)
        for paths in by_name.values():
            with suppress(FileNotFoundError):  # another process has just removed it
                used = max(path.lstat().st_mtime for path in paths)
                size = sum(_num_bytes(p) if p.is_dir() else p.lstat().st_size for p in paths)
                entries.append(CacheEntry(kind, tuple(paths), size, used))
    return tuple(sorted(entries, key=lambda entry: entry.used))


def check_bounds(**bounds: float | None) -> None:
    """Raises `ArgumentError` if a bound of `trim_cache` is negative."""
    for name, bound in bounds.items():
        if bound is not None:
            check_not_negative(name, bound)


def trim_cache(
    root: str | os.PathLike[str] | None = None,
    *,
    max_bytes: int | None = None,
    older_than: float | None = None,
) -> ClearReport:
    """Removes the least recently used entries of the cache.

    Args:
        root: The cache's own folder; overrides the environment.
        max_bytes: Largest number of bytes that are kept.
        older_than: Entries that were not used for this number of days are removed.

    Raises:
        ArgumentError: A bound is negative.

    Example:
        >>> import tempfile
        >>> from tlkit.utils.cache import trim_cache
        >>> with tempfile.TemporaryDirectory() as root:
        ...     trim_cache(root, max_bytes=10**9, older_than=30).num_bytes
        0
    """
    check_bounds(max_bytes=max_bytes, older_than=older_than)
    entries = cache_entries(root)
    left = sum(entry.num_bytes for entry in entries)
    oldest = -math.inf if older_than is None else time.time() - older_than * SECONDS_OF_DAY
    removed = 0
    for entry in entries:
        is_too_much = max_bytes is not None and left - removed > max_bytes
        if is_too_much or entry.used < oldest:
            entry.remove()
            removed += entry.num_bytes
    return ClearReport(cache_root(root), removed, ())


def describe_cache(root: str | os.PathLike[str] | None = None) -> str:
    """Returns a description of the cache: content and size of each folder, and the limit.

    Args:
        root: The cache's own folder; overrides the environment.
    """
    entries = cache_entries(root)
    lines = []
    for kind, what in FOLDERS.items():
        own = [entry for entry in entries if entry.kind == kind]
        size = megabytes(sum(entry.num_bytes for entry in own))
        lines.append(f"{size:>13}  {kind:8}  {len(own)} {what}{_oldest_use(own)}")
    total = megabytes(sum(entry.num_bytes for entry in entries))
    return "\n".join(
        [
            *lines,
            f"{total:>13} in {cache_root(root)}",
            f"Limit of activations: {cache_limit() / GIGABYTE:g} GB; the least recently used are "
            "removed first (TLKIT_CACHE_LIMIT sets the limit, TLKIT_CACHE the folder).",
            "To remove some of it, use --limit GB or --older-than DAYS; to remove all, --clear.",
        ]
    )


def _oldest_use(entries: list[CacheEntry]) -> str:
    if not entries:
        return ""
    day = time.strftime("%Y-%m-%d", time.localtime(entries[0].used))
    return f", one of them last used on {day}"


def open_index(
    path: Path, schema: str, remove: Callable[[], object] | None = None
) -> sqlite3.Connection:
    """Opens the SQLite file at `path`, for several processes at once, and creates its tables.

    A damaged file counts as lost, as may happen in a cache: it is removed and created again.

    Transactions are started explicitly (`BEGIN IMMEDIATE`). The connection may be used by several
    threads, one at a time.

    Args:
        path: The file, which may not exist; ":memory:" for a temporary index.
        schema: SQL statements that create the missing tables.
        remove: Removes a damaged index with what belongs to it; the index alone by default.

    Raises:
        sqlite3.OperationalError: The file stays locked, or cannot be opened or written to, which is
            not due to its content.
    """
    try:
        return _open_checked(path, schema)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        (remove or (lambda: remove_index(path)))()
        return _open_checked(path, schema)


def remove_index(path: Path) -> None:
    """Removes an index with the journal of an interrupted transaction."""
    for file in (path, path.with_name(f"{path.name}-journal")):
        file.unlink(missing_ok=True)


def _open_checked(path: Path, schema: str) -> sqlite3.Connection:
    """Opens an index; raises unless it is intact and writable."""
    connection = sqlite3.connect(
        path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(schema)
        ((result,), *_) = connection.execute("PRAGMA quick_check(1)")
        if result != "ok":
            raise sqlite3.DatabaseError(result)
        connection.executescript("BEGIN IMMEDIATE; ROLLBACK")
    except BaseException:
        connection.close()
        raise
    return connection


def _num_bytes(folder: Path) -> int:
    """Returns the bytes of all files in a folder; links are not followed."""
    paths = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
    return sum(path.lstat().st_size for path in paths)


def _is_writable(folder: Path) -> bool:
    try:
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        if is_new:
            (folder / TAG_NAME).write_text(_TAG, encoding="utf-8")
    except OSError:  # a read-only home is no error
        return False
    return os.access(folder, os.W_OK)


@cache
def _temporary_root() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tlkit-cache-"))
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not in a forked process, which ends earlier
        shutil.rmtree(folder, ignore_errors=True)
