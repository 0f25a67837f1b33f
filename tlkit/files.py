"""Files and folders that appear whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a place beside `path` to write a file or a folder to, and moves it there at the end.

    The place lies on the same file system, so that moving is one step. Whatever stands at `path`,
    or where a link there points to, is replaced; missing folders above are made. When the block
    ends with an exception, also with `KeyboardInterrupt`, nothing is left and nothing replaced.

    Args:
        path: Where it shall appear.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from tlkit.files import written_aside
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_aside(Path(folder) / "new" / "page.html") as aside:
        ...         _ = aside.write_text("whole")
        ...     [file.name for file in sorted(Path(folder).rglob("*"))]
        ['new', 'page.html']
    """
    name = path.absolute().name
    path = Path(os.path.realpath(path))  # behind a link, which stays
    made = _make_folders(path.parent)
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=path.parent))
        try:
            yield staging / name
            _move(staging / name, path, staging / f"{name}.replaced")
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):  # something else was put there meanwhile
                folder.rmdir()
        raise


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


def _make_folders(folder: Path) -> list[Path]:
    """Makes what is missing of `folder` and returns it, the outermost first."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()][::-1]
    folder.mkdir(parents=True, exist_ok=True)
    return missing
