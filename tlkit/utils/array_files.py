"""NumPy's `.npz` files, written atomically and read with one error for all kinds of damage."""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from tlkit.utils.files import written_aside

Content = TypeVar("Content")

_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    RecursionError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and the parsers of its arrays raise for damaged files."""


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an `.npz` file atomically.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from tlkit.utils.array_files import read_arrays, write_arrays
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "numbers.npz"
        ...     write_arrays(path, {"numbers": np.arange(3)})
        ...     read_arrays(path, lambda arrays: arrays["numbers"].tolist(), lambda: OSError(path))
        [0, 1, 2]
    """
    with written_aside(path) as aside, aside.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_arrays(
    path: Path,
    parse: Callable[[Mapping[str, np.ndarray]], Content],
    damaged: Callable[[], Exception],
) -> Content:
    """Returns the parsed content of an `.npz` file.

    Args:
        path: The file.
        parse: Returns the content from the arrays, or raises if no program has written them.
        damaged: Returns the error to raise if the file is missing, damaged or refused by `parse`.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return parse(arrays)
    except _DAMAGE as error:
        raise damaged() from error
