"""The feature store: activations of a frozen part on disk, computed once for each image."""

import contextlib
import io
import os
import sqlite3
import weakref
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from tlkit.errors import StorageError, TrainingError
from tlkit.utils.cache import INDEX_SUFFIX, cache_folder, cache_limit, open_index
from tlkit.utils.storage import storage_problem

FEATURES_FOLDER = "features"
_ROWS, _INDEX = ".rows", INDEX_SUFFIX
_LOOKUPS_AT_ONCE = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    key TEXT PRIMARY KEY, row INTEGER NOT NULL UNIQUE, checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class FeatureStore:
    """Rows of one shape in a flat file, looked up by key.

    A store belongs to one prefix of a network; its name identifies the prefix (graph, weights,
    preprocessing, size, precision), so that a changed prefix has another store. A row's key is a
    digest of the image it was computed from.

    A row is written and flushed before it is entered in the index, in one transaction that excludes
    other writers: a process killed at any moment may leave rows without an entry, never an entry
    without its row. Each row has a checksum; a row that does not match it counts as missing and is
    computed again. Several processes may use one store.

    Args:
        name: Identifies what the rows were computed with; letters, digits and dashes.
        row_shape: Shape of one row.
        dtype: Number format of the rows.
        folder: Folder of the stores; by default `features` in tlkit's cache.
        max_bytes: If all stores of the folder together are larger, the least recently used are
            removed when this one is opened and after it has grown; never this one. By default
            `tlkit.utils.cache.cache_limit`.

    Example:
        >>> import tempfile, numpy as np
        >>> from tlkit import FeatureStore
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with FeatureStore("demo", (2,), folder=folder) as store:
        ...         store.append(["a", "b"], np.array([[1, 2], [3, 4]], "float32"))
        ...         store.contains(["b", "c"]).tolist(), store.read(["b"]).tolist()
        ([True, False], [[3.0, 4.0]])
    """

    def __init__(
        self,
        name: str,
        row_shape: tuple[int, ...],
        *,
        dtype: npt.DTypeLike = "float32",
        folder: str | os.PathLike[str] | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self.row_shape = tuple(row_shape)
        self.dtype = np.dtype(dtype)
        self._row_bytes = int(np.prod(row_shape)) * self.dtype.itemsize
        self._folder = Path(folder) if folder is not None else cache_folder(FEATURES_FOLDER)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._max_bytes = cache_limit() if max_bytes is None else max_bytes
        self.path = self._folder / f"{name}{_ROWS}"
        self._index = _open_or_renew(self.path)
        with _usable(self.path):
            opened = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            # unbuffered: what a full disk has not accepted would be written again at each seek
            self._file = os.fdopen(opened, "r+b", buffering=0)
            self._close = weakref.finalize(self, _close, self._file, self._index)
            os.utime(self.path)
        _evict(self._folder, self._max_bytes, keep=self.path)

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files, as garbage collection does; appended rows stay stored."""
        self._close()

    def contains(self, keys: Sequence[str] | np.ndarray) -> np.ndarray:
        """Returns for each key whether its row is stored, shape `(len(keys),)`, bool."""
        known = self._look_up(keys)
        return np.fromiter((key in known for key in keys), bool, len(keys))

    def append(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Stores `rows`, shape `(len(keys), *row_shape)`; skips keys that are already stored.

        Raises:
            StorageError: The disk is full.
            TrainingError: The store was removed in the meantime.
        """
        rows = np.ascontiguousarray(rows, self.dtype).reshape(len(keys), *self.row_shape)
        with self._exclusively():
            known = self._look_up(keys)
            fresh = {key: i for i, key in enumerate(keys) if key not in known}
            ((first,),) = self._index.execute("SELECT COALESCE(MAX(row) + 1, 0) FROM rows")
            self._file.seek(first * self._row_bytes)
            for i in fresh.values():
                _write_all(self._file, rows[i].tobytes())
            os.fsync(self._file.fileno())
            self._index.executemany(
                "INSERT INTO rows VALUES (?, ?, ?)",
                (
                    (key, first + position, zlib.crc32(rows[i].tobytes()))
                    for position, (key, i) in enumerate(fresh.items())
                ),
            )
        _evict(self._folder, self._max_bytes, keep=self.path)

    def read(self, keys: Sequence[str]) -> np.ndarray:
        """Returns the rows of `keys`, in their order, shape `(len(keys), *row_shape)`.

        Raises:
            KeyError: A row is not stored or does not match its checksum. All such rows are removed
                from the index, so that computing what `contains` reports as missing and reading
                again succeeds.
        """
        out = np.empty((len(keys), *self.row_shape), self.dtype)
        known = self._look_up(keys)
        lost = []
        for position in sorted(range(len(keys)), key=lambda i: known.get(keys[i], (0, 0))[0]):
            if not self._read_row(known.get(keys[position]), out[position : position + 1]):
                lost.append(keys[position])
        if lost:
            with self._exclusively():
                self._index.executemany("DELETE FROM rows WHERE key = ?", ((key,) for key in lost))
            raise KeyError(f"{len(lost)} of {len(keys)} rows are not in the store: {lost[0]}, ...")
        return out

    def recall(self, name: str) -> str | None:
        """Returns the value that `remember` last stored under `name`, or `None`."""
        query = "SELECT value FROM facts WHERE name = ?"
        with _usable(self.path):
            found = self._index.execute(query, (name,)).fetchone()
        return found and found[0]

    def remember(self, name: str, value: str) -> None:
        """Stores a value next to the rows, such as a measurement of the prefix."""
        with self._exclusively():
            self._index.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def __len__(self) -> int:
        return int(self._index.execute("SELECT COUNT(*) FROM rows").fetchone()[0])

    def _read_row(self, entry: tuple[int, int] | None, out: np.ndarray) -> bool:
        if entry is None:
            return False
        row, checksum = entry
        target = out.reshape(-1).view(np.uint8).data
        self._file.seek(row * self._row_bytes)
        return self._file.readinto(target) == len(target) and zlib.crc32(target) == checksum

    def _look_up(self, keys: Sequence[str] | np.ndarray) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for start in range(0, len(keys), _LOOKUPS_AT_ONCE):
            some = keys[start : start + _LOOKUPS_AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, row, checksum FROM rows WHERE key IN ({marks})"
            with _usable(self.path):
                rows = self._index.execute(query, some).fetchall()
            found |= {key: (row, checksum) for key, row, checksum in rows}
        return found

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        with _usable(self.path):
            self._index.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._index.execute("COMMIT")
            except BaseException:
                if self._index.in_transaction:  # a full disk has ended it already
                    self._index.execute("ROLLBACK")
                raise


def _write_all(file: io.FileIO, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _close(file: io.FileIO, index: sqlite3.Connection) -> None:
    file.close()
    index.close()


def stored_files(folder: str | os.PathLike[str] | None = None) -> list[tuple[Path, int]]:
    """Returns each store's file and its size in bytes, least recently used first."""
    folder = Path(folder) if folder is not None else cache_folder(FEATURES_FOLDER)
    files = []
    for path in folder.glob(f"*{_ROWS}"):
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            status = path.stat()
            files.append((status.st_mtime_ns, path, status.st_size))
    return [(path, size) for _, path, size in sorted(files)]


def remove_store(path: Path) -> None:
    """Removes one store, its index first: rows without an entry are harmless."""
    index = path.with_suffix(_INDEX)
    for file in (index, index.with_name(index.name + "-journal"), path):
        file.unlink(missing_ok=True)


def _open_or_renew(path: Path) -> sqlite3.Connection:
    """Opens the index; replaces a damaged one by an empty one, as in any cache.

    Raises:
        TrainingError: See `_usable`.
    """
    with _usable(path):
        return open_index(path.with_suffix(_INDEX), _SCHEMA, remove=lambda: remove_store(path))


@contextlib.contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Raises errors that explain why a store cannot be used, with a remedy.

    Raises:
        TrainingError: Its index is locked by another process, cannot be opened, or was removed.
        StorageError: Its disk is full.
    """
    index = str(path.with_suffix(_INDEX))
    remedy = "set another cache folder with TLKIT_CACHE."
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if problem := storage_problem(error, [path.parent]):
            raise StorageError(
                f"The feature store must have disk space. Received: {index!r} ({problem[0]}). "
                f"Free some there, or {remedy}"
            ) from error
        if not path.exists() or not Path(index).exists():
            raise TrainingError(
                f"The feature store must not be removed while it is open. Received: {index!r}, "
                "which was removed. Start the same command again: missing rows are recomputed."
            ) from error
        advice = "End the process that locks it, or " if "locked" in str(error) else ""
        raise TrainingError(
            f"The feature store must be writable. Received: {index!r} ({error}). "
            f"{(advice + remedy)[0].upper()}{(advice + remedy)[1:]}"
        ) from error


def _evict(folder: Path, max_bytes: int, keep: Path) -> None:
    files = stored_files(folder)
    total = sum(size for _, size in files)
    for path, size in files:
        if total <= max_bytes:
            return
        if path != keep:
            remove_store(path)
            total -= size
