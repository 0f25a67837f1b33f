"""Where things that need computing only once are kept: the user's cache folder."""

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
    "files": "indexes of what was found out about image files",
    "tfds": "data sets of tensorflow_datasets, written out as files",
}
"""All folders of the cache, and what is in each."""

TAG_NAME = "CACHEDIR.TAG"
_TAG = """Signature: 8a477f597d28d172789f06886806bc55
# This folder was made by tlkit, which computes anew what is missing here.
# See https://bford.info/cachedir/
"""
_SECONDS_TO_WAIT = 60.0

DEFAULT_LIMIT = 20.0
"""GB that stored activations may take together; `TLKIT_CACHE_LIMIT` sets another."""

SECONDS_OF_DAY = 86_400
INDEX_SUFFIX = ".index"
"""What names the rows of a file of the same name."""


def cache_folder(name: str, root: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder `name` of tlkit's cache, which exists and can be written to.

    The cache lies in `root`, else in the folder that the environment variable `TLKIT_CACHE`
    names, else in `$XDG_CACHE_HOME/tlkit` or `~/.cache/tlkit`. Where that cannot be written to
    (a read-only home, or none), a temporary folder takes its place until this process ends:
    everything works, and nothing is remembered for the next one; `cache_note` says so in the
    reports.

    A folder that this makes is tagged as a cache, by which backups and `clear_cache` know it.

    Args:
        name: The folder's name inside the cache, one of `FOLDERS`.
        root: The cache's own folder; overrules the environment.

    Example:
        >>> import tempfile
        >>> from tlkit.utils.cache import cache_folder
        >>> with tempfile.TemporaryDirectory() as root:
        ...     cache_folder("features", root).name
        'features'
    """
    folder = cache_root(root) / name
    if not _can_be_written(folder):
        folder = _temporary_root() / name
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def cache_note(name: str, root: str | os.PathLike[str] | None = None) -> str:
    """Says that a temporary folder takes the place of `cache_folder`'s; "" where none does."""
    named = _named_root(root)
    if named is not None and _can_be_written(named / name):
        return ""
    why = "this user has no home"
    if named is not None:
        why = f"the cache {named / name} cannot be written to"
    return (
        f"{why}: what is computed is kept for this process only (TLKIT_CACHE names another folder)"
    )


def cache_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder in which the cache lies or would lie; it need not exist."""
    return _named_root(root) or _temporary_root()


def _named_root(root: str | os.PathLike[str] | None) -> Path | None:
    """The cache's own place, `None` where there is not even a home to keep it in."""
    if root is not None:
        return Path(root)
    if named := os.environ.get("TLKIT_CACHE"):
        return Path(named)
    if common := os.environ.get("XDG_CACHE_HOME"):
        return Path(common) / "tlkit"
    try:
        return Path.home() / ".cache" / "tlkit"
    except RuntimeError:  # nobody knows this user
        return None


@dataclass(frozen=True)
class ClearReport(ShownAsText):
    """What `clear_cache` did.

    Attributes:
        root: Where the cache lies.
        num_bytes: How many bytes were removed.
        left: What stands there and was left alone, as tlkit has not made it.
    """

    root: Path
    num_bytes: int
    left: tuple[Path, ...]

    def __str__(self) -> str:
        removed = f"{megabytes(self.num_bytes)} removed from {self.root}"
        if not self.left:
            return removed
        return f"{removed}; left, as tlkit has not made it: {', '.join(map(str, self.left))}"


def clear_cache(root: str | os.PathLike[str] | None = None) -> ClearReport:
    """Removes the cache's folders with all that is in them, and nothing beside them.

    A cache may lie in a folder with other things in it, perhaps of the same names: only those of
    `FOLDERS` that `cache_folder` has made and tagged are removed. A link is left, whatever it
    points to.

    Args:
        root: The cache's own folder; overrules the environment.

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
    """Returns the most bytes that stored activations may take together.

    That is `TLKIT_CACHE_LIMIT` in GB (10⁹ bytes), 20 by default. Those used longest ago are removed
    beyond it, whenever some are opened or added.

    Raises:
        ArgumentError: The variable is no number of 0 or more.

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
            f"Received: TLKIT_CACHE_LIMIT={given!r}. Set it to 20, say, or leave it unset."
        )
    return round(limit * GIGABYTE)


@dataclass(frozen=True)
class CacheEntry:
    """One thing in the cache that is kept or removed as a whole.

    Attributes:
        kind: The folder it lies in, one of `FOLDERS`.
        paths: Its files and folders.
        num_bytes: Of all of them.
        used: When it was last used, in seconds since the epoch.
    """

    kind: str
    paths: tuple[Path, ...]
    num_bytes: int
    used: float

    def remove(self) -> None:
        """Removes it, an index before what it names."""
        for path in sorted(self.paths, key=lambda path: path.suffix != INDEX_SUFFIX):
            with suppress(FileNotFoundError):  # another process has just removed it
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def cache_entries(root: str | os.PathLike[str] | None = None) -> tuple[CacheEntry, ...]:
    """Returns all that tlkit has put into its cache, what was used longest ago first."""
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
    """Raises `ArgumentError` for a bound of `trim_cache` that is negative."""
    for name, bound in bounds.items():
        if bound is not None:
            check_not_negative(name, bound)


def trim_cache(
    root: str | os.PathLike[str] | None = None,
    *,
    max_bytes: int | None = None,
    older_than: float | None = None,
) -> ClearReport:
    """Removes what was used longest ago from the cache, and leaves the rest.

    Args:
        root: The cache's own folder; overrules the environment.
        max_bytes: The most bytes that stay.
        older_than: What was not used for so many days is removed.

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
    """Returns what each folder of the cache holds, its size, and what bounds it.

    Args:
        root: The cache's own folder; overrules the environment.
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
            f"Activations have at most {cache_limit() / GIGABYTE:g} GB, those used longest ago go "
            "first (TLKIT_CACHE_LIMIT sets another bound, TLKIT_CACHE another place).",
            "--limit GB and --older-than DAYS remove some of it, --clear all.",
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

    One that is damaged counts as empty, like any loss in a cache: it is removed and made anew.

    Transactions are begun by hand (`BEGIN IMMEDIATE`). The connection may be handed from thread
    to thread, one at a time.

    Args:
        path: The file, which need not exist; ":memory:" for an index that nobody remembers.
        schema: The statements that create the tables where they are missing.
        remove: Removes a damaged index with what belongs to it; the index alone by default.

    Raises:
        sqlite3.OperationalError: It stays locked, or cannot be opened or written to: that is no
            matter of its content.
    """
    try:
        return _open_whole(path, schema)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        (remove or (lambda: remove_index(path)))()
        return _open_whole(path, schema)


def remove_index(path: Path) -> None:
    """Removes an index, and what an interrupted transaction left of it."""
    for file in (path, path.with_name(f"{path.name}-journal")):
        file.unlink(missing_ok=True)


def _open_whole(path: Path, schema: str) -> sqlite3.Connection:
    """Opens an index that is found whole, and free to be written to."""
    connection = sqlite3.connect(
        path, timeout=_SECONDS_TO_WAIT, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(schema)
        ((found,), *_) = connection.execute("PRAGMA quick_check(1)")
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        connection.executescript("BEGIN IMMEDIATE; ROLLBACK")
    except BaseException:
        connection.close()
        raise
    return connection


def _num_bytes(folder: Path) -> int:
    """Bytes of all files in a folder; links count as themselves."""
    places = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
    return sum(place.lstat().st_size for place in places)


def _can_be_written(folder: Path) -> bool:
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
    if os.getpid() == process:  # not one forked from it, which ends earlier
        shutil.rmtree(folder, ignore_errors=True)
