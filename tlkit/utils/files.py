"""Files and folders that are written atomically."""

import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tlkit.errors import StorageError, TlkitError
from tlkit.utils.locks import try_lock
from tlkit.utils.storage import space_remedy, storage_problem

ASIDE = ".tlkit-aside-"
"""Prefix of the names of temporary folders in which files are written before they are moved."""

_REPLACED = ".tlkit-replaced-"
_MAX_NAME = 50
"""Number of characters of a file's name in the name of its folder, as names have a limit."""

FORMULA = re.compile(r"'*(?:\s*[=+\-@|%＝＋－＠]|[\t\r\n])")
"""Start of a cell that spreadsheets evaluate."""


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Writes a file or a folder atomically: yields a temporary path, and moves it to `path`.

    The temporary path is on the same file system, so that moving is one step. A file or folder at
    `path`, or the target of a link there, is replaced; missing parent folders are made. If the
    block ends with an exception, including `KeyboardInterrupt`, nothing is left and nothing is
    replaced. Leftovers of killed processes of the same name are removed first.

    Args:
        path: The path to write to.

    Raises:
        StorageError: The disk is full or cannot be written to.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from tlkit.utils.files import written_aside
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_aside(Path(folder) / "new" / "page.html") as aside:
        ...         _ = aside.write_text("whole")
        ...     [file.name for file in sorted(Path(folder).rglob("*"))]
        ['new', 'page.html']
    """
    name = path.absolute().name
    path = Path(os.path.realpath(path))  # the target of a link, which is kept
    with storage_named(path), _folders_made(path.parent):
        sweep_asides(path.parent, [name])
        # the error is examined before the folder is removed, as that frees space
        with staging_beside(path.parent / name) as staging, storage_named(path):
            yield staging / name
            _move(staging / name, path, staging / f"{_REPLACED}{name}")


@contextmanager
def staging_beside(path: Path) -> Iterator[Path]:
    """Yields a new folder beside `path`, and removes it with its content at the end.

    It is locked during the block, by which `sweep_asides` knows that its process is alive.
    """
    folder, lock = _locked_folder(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep_asides(
    folder: Path, names: Iterable[str] | None = None, *, is_alone: bool = False
) -> None:
    """Removes temporary folders that killed processes have left behind.

    If a process was killed while it replaced a folder, the replaced folder is moved back. Folders
    that a running process writes to are kept.

    Args:
        folder: The folder to clean, without its subfolders.
        names: Names of the files that were being written; all by default.
        is_alone: Whether no other process writes here. Without file locks, this is the only way to
            know. Leftovers of earlier versions of tlkit are removed then, too.
    """
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK):
        return
    names = None if names is None else list(names)
    starts = (ASIDE,) if names is None else tuple(_start_of(name) for name in names)
    for aside in sorted(folder.iterdir()):
        if aside.name.startswith(starts) and aside.is_dir() and not aside.is_symlink():
            _sweep(aside, is_alone=is_alone)
    for name in names or () if is_alone else ():
        for aside in folder.glob(f".{glob.escape(name)}-" + "[a-z0-9_]" * 8):
            if _holds_only(aside, {name, f"{name}.replaced"}):
                shutil.rmtree(aside)


@contextmanager
def storage_named(*places: Path) -> Iterator[None]:
    """Turns errors about a full or unwritable disk into a `StorageError` with place and remedy.

    Args:
        *places: Paths that the block may write to, the likeliest first.

    Raises:
        StorageError: For such an error of the system, TensorFlow, h5py or SQLite.
    """
    try:
        yield
    except TlkitError:
        raise
    except Exception as error:
        if (problem := storage_problem(error, places)) is None:
            raise
        reason, place = problem
        shown = next((part for part in place.parents if part.name.startswith(ASIDE)), place)
        shown = shown.parent if shown != place else place
        raise StorageError(
            f"{str(shown)!r} must be on a writable disk with free space. Received: {reason}. "
            + space_remedy(place, "Free some space there, or choose another folder.")
        ) from error


def _start_of(name: str) -> str:
    return f"{ASIDE}{name[:_MAX_NAME]}-"


def _locked_folder(path: Path) -> tuple[Path, int]:
    """Makes a folder beside `path`; returns it and the file descriptor that locks it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_start_of(path.name), dir=path.parent))
        lock = os.open(folder, os.O_RDONLY) if os.name != "nt" else os.open(os.devnull, os.O_RDONLY)
        if try_lock(lock) is not False and folder.exists():
            return folder, lock
        os.close(lock)  # another process was about to remove it


def _sweep(aside: Path, *, is_alone: bool) -> None:
    if os.name == "nt":
        is_free = is_alone
        lock = None
    else:
        try:
            lock = os.open(aside, os.O_RDONLY)
        except OSError:  # removed in the meantime, or another user's
            return
        locked = try_lock(lock)
        is_free = is_alone if locked is None else locked
    try:
        if is_free:
            _restore_replaced(aside)
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        if lock is not None:
            os.close(lock)


def _restore_replaced(aside: Path) -> None:
    """Moves a folder back that was being replaced, unless its replacement is in place."""
    for replaced in aside.glob(f"{_REPLACED}*"):
        target = aside.parent / replaced.name.removeprefix(_REPLACED)
        if not target.exists():
            replaced.rename(target)


def _holds_only(folder: Path, names: set[str]) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    return {path.name for path in folder.iterdir()} <= names


def as_cell(text: str) -> str:
    """Returns text as a cell of a CSV file that no spreadsheet evaluates as a formula.

    Text that starts like a formula gets an apostrophe in front, which `from_cell` removes; so does
    text that starts with apostrophes followed by a formula. All other text is unchanged.

    Example:
        >>> from tlkit.utils.files import as_cell, from_cell
        >>> as_cell("=1+1"), as_cell("cat"), from_cell(as_cell("'=1+1"))
        ("'=1+1", 'cat', "'=1+1")

    Reference:
        https://owasp.org/www-community/attacks/CSV_Injection
    """
    return f"'{text}" if FORMULA.match(text) else text


def from_cell(cell: str) -> str:
    """Returns the text of a cell that `as_cell` has made."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell[1:]) else cell


def write_json(path: Path, content: Any) -> None:
    """Writes JSON-serializable content to `path` atomically, indented and in UTF-8."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=plain)
    with written_aside(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Returns a NumPy number as a Python number, for `json.dumps(..., default=plain)`.

    Raises:
        TypeError: The value is not a NumPy number.
    """
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _move(source: Path, target: Path, replaced: Path) -> None:
    """Moves `source` to `target`; an existing folder is moved to `replaced` first."""
    if not target.is_dir():
        source.replace(target)
        return
    target.rename(replaced)
    try:
        source.rename(target)
    except BaseException:
        replaced.rename(target)
        raise


@contextmanager
def _folders_made(folder: Path) -> Iterator[None]:
    """Makes `folder` with missing parents, and removes them again if the block fails."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for place in missing:
            with suppress(OSError):  # something else was put there in the meantime
                place.rmdir()
        raise
