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
from tlkit.utils.storage import room_remedy, storage_problem

ASIDE = ".tlkit-aside-"
"""What the names of all folders begin with in which something is written before it appears."""

_REPLACED = ".tlkit-replaced-"
_LONGEST = 50
"""Characters of a name that the name of its folder repeats: names have a bound."""

_FORMULA = re.compile(r"'*(?:\s*[=+\-@|%＝＋－＠]|[\t\r\n])")
"""How cells begin that spreadsheets calculate."""


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a place beside `path` to write a file or a folder to, and moves it there at the end.

    The place lies on the same file system, so that moving is one step. Whatever stands at `path`,
    or where a link there points to, is replaced; missing folders above are made. When the block
    ends with an exception, also with `KeyboardInterrupt`, nothing is left and nothing replaced.
    What a process that was killed has left of the same name is removed first.

    Args:
        path: Where it shall appear.

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
    path = Path(os.path.realpath(path))  # behind a link, which stays
    with storage_named(path), _folders_made(path.parent):
        sweep_asides(path.parent, [name])
        # named before it is removed, by which the disk has room again
        with staging_beside(path.parent / name) as staging, storage_named(path):
            yield staging / name
            _move(staging / name, path, staging / f"{_REPLACED}{name}")


@contextmanager
def staging_beside(path: Path) -> Iterator[Path]:
    """Yields a new folder beside `path`, and removes it with what is left in it.

    It is locked meanwhile, by which `sweep_asides` knows that its process is alive.
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
    """Removes what processes that were killed have left of files that they were writing.

    What stood where they would have moved it is put back, if they were killed amid that. A folder
    that a living process writes to stays.

    Args:
        folder: Where to look; not in the folders in it.
        names: Of the files that were to appear; all by default.
        is_alone: Whether nobody else writes here: where there are no locks nothing tells who is
            alive. What earlier versions have left of the names is removed then, too.
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
    """Says of a disk that is full, or cannot be written to, which it is and what to do.

    Args:
        *places: What may be written in the block, the likeliest first.

    Raises:
        StorageError: Whatever said so, the system, TensorFlow, h5py or SQLite.
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
            f"{str(shown)!r} must be a place with room to write to. Received: {reason}. "
            + room_remedy(place, "Make room there, or name another folder.")
        ) from error


def _start_of(name: str) -> str:
    return f"{ASIDE}{name[:_LONGEST]}-"


def _locked_folder(path: Path) -> tuple[Path, int]:
    """Makes a folder beside `path`, and returns it and the descriptor that locks it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_start_of(path.name), dir=path.parent))
        lock = os.open(folder, os.O_RDONLY) if os.name != "nt" else os.open(os.devnull, os.O_RDONLY)
        if try_lock(lock) is not False and folder.exists():
            return folder, lock
        os.close(lock)  # another process was about to sweep it


def _sweep(aside: Path, *, is_alone: bool) -> None:
    if os.name == "nt":
        is_free = is_alone
        lock = None
    else:
        try:
            lock = os.open(aside, os.O_RDONLY)
        except OSError:  # gone meanwhile, or another user's
            return
        locked = try_lock(lock)
        is_free = is_alone if locked is None else locked
    try:
        if is_free:
            _put_back(aside)
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        if lock is not None:
            os.close(lock)


def _put_back(aside: Path) -> None:
    """Moves a folder back that was about to be replaced, where nothing has taken its place."""
    for replaced in aside.glob(f"{_REPLACED}*"):
        target = aside.parent / replaced.name.removeprefix(_REPLACED)
        if not target.exists():
            replaced.rename(target)


def _holds_only(folder: Path, names: set[str]) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    return {path.name for path in folder.iterdir()} <= names


def as_cell(text: str) -> str:
    """Returns text as a cell of a CSV file that no spreadsheet takes for a formula.

    What begins as one does gets an apostrophe before it, which `from_cell` takes off again; so
    does what begins with apostrophes and goes on so. All other text stays as it is.

    Example:
        >>> from tlkit.utils.files import as_cell, from_cell
        >>> as_cell("=1+1"), as_cell("cat"), from_cell(as_cell("'=1+1"))
        ("'=1+1", 'cat', "'=1+1")

    Reference:
        https://owasp.org/www-community/attacks/CSV_Injection
    """
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(cell: str) -> str:
    """Returns the text that `as_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def write_json(path: Path, content: Any) -> None:
    """Writes what JSON can hold to `path`, indented and in UTF-8; it appears whole."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=plain)
    with written_aside(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Returns a NumPy number as Python's own, for `json.dumps(..., default=plain)`.

    Raises:
        TypeError: It is none.
    """
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _move(source: Path, target: Path, replaced: Path) -> None:
    """Moves `source` to `target`; a folder that stands there goes to `replaced` first."""
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
    """Makes what is missing of `folder`, and removes it again if the block fails."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for place in missing:
            with suppress(OSError):  # something else was put there meanwhile
                place.rmdir()
        raise
