"""One process writes a run, and what others have left behind goes."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlkit.errors import RunError
from tlkit.utils.files import ASIDE, sweep_asides
from tlkit.utils.locks import LOCK_FILE, make_lock_file, remove_lock_file, try_lock

CHECKPOINT_FILE = "training.npz"
"""What an unfinished training is resumed from."""

RECORD_FILE = "run.json"
_EARLIER_EXPORT = ".export"
"""Where versions before this one wrote a run's export before it appeared."""


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keeps other processes from writing the run in `out`, which exists; ends with the process.

    Where there are no locks (Windows, some file systems) a file in `out` stands in for one.

    Raises:
        RunError: Another process is writing it.
    """
    if os.name != "nt":
        folder = os.open(out, os.O_RDONLY)
        try:
            is_locked = try_lock(folder)
            if is_locked is False:
                remedy = "Wait for it, or name another folder."
                raise _written_by(out, "another process", remedy)
            if is_locked:
                yield
                return
        finally:
            os.close(folder)
    if holder := make_lock_file(out):
        remedy = f"Wait for it, name another folder, or remove {LOCK_FILE} there if it has ended."
        raise _written_by(out, holder, remedy)
    try:
        yield
    finally:
        remove_lock_file(out)


def sweep_run(out: Path, results: tuple[str, ...]) -> None:
    """Removes what processes that were killed have left of the files of a run, which is locked.

    Args:
        out: The run directory.
        results: The names of what a run leaves.
    """
    sweep_asides(out, is_alone=True)
    sweep_asides(out, (*results, RECORD_FILE, CHECKPOINT_FILE, _EARLIER_EXPORT), is_alone=True)
    if (out / _EARLIER_EXPORT).is_dir():
        shutil.rmtree(out / _EARLIER_EXPORT)


def tidy_finished(out: Path, results: tuple[str, ...]) -> None:
    """Removes from a finished run what is of no more use, unless another process is at it."""
    if not os.access(out, os.W_OK):
        return
    try:
        with locked(out):
            sweep_run(out, results)
            (out / CHECKPOINT_FILE).unlink(missing_ok=True)
    except RunError:  # whoever writes it tidies it
        return


def holds_only_leftovers(out: Path) -> bool:
    """Whether a folder holds nothing but what a process has left that was killed at its start."""
    starts = (ASIDE, LOCK_FILE, f".{RECORD_FILE}-")
    return all(path.name.startswith(starts) for path in out.iterdir())


def _written_by(out: Path, writer: str, remedy: str) -> RunError:
    return RunError(
        f"`out` must be written by one process at a time. Received: out={str(out)!r}, which "
        f"{writer} is writing. {remedy}"
    )
