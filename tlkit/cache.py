"""Where things that need computing only once are kept: the user's cache folder."""

import os
import shutil
import sqlite3
import tempfile
from functools import cache
from pathlib import Path


def cache_folder(name: str, root: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder `name` of tlkit's cache, which exists and can be written to.

    The cache lies in `root`, else in the folder that the environment variable `TLKIT_CACHE`
    names, else in `$XDG_CACHE_HOME/tlkit` or `~/.cache/tlkit`. Where that cannot be written to
    (a read-only home), a temporary folder of this process takes its place: everything works, and
    nothing is remembered for the next process; `cache_note` says so in the reports.

    Args:
        name: The folder's name inside the cache, such as "features".
        root: The cache's own folder; overrules the environment.

    Example:
        >>> import tempfile
        >>> from tlkit.cache import cache_folder
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
    folder = cache_root(root) / name
    if _can_be_written(folder):
        return ""
    return (
        f"the cache {folder} cannot be written to: what is computed is kept for this process only "
        "(TLKIT_CACHE names another folder)"
    )


def cache_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder in which the cache lies or would lie; it need not exist."""
    if root is not None:
        return Path(root)
    if named := os.environ.get("TLKIT_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tlkit"


def clear_cache(root: str | os.PathLike[str] | None = None) -> int:
    """Removes everything in the cache; returns how many bytes that were."""
    folder = cache_root(root)
    files = [path for path in folder.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    for child in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    return total


def open_index(path: Path, schema: str) -> sqlite3.Connection:
    """Opens the SQLite file at `path`, for several processes at once, and creates its tables.

    Transactions are begun by hand (`BEGIN IMMEDIATE`). The connection may be handed from thread
    to thread, one at a time.
    """
    connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.executescript(schema)
    return connection


def _can_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home is no error
        return False
    return os.access(folder, os.W_OK)


@cache
def _temporary_root() -> Path:
    return Path(tempfile.mkdtemp(prefix="tlkit-cache-"))
