"""Locking of a run directory, and removal of the leftovers of killed processes."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlkit.errors import RunError
from tlkit.utils.files import ASIDE, sweep_asides
from tlkit.utils.locks import LOCK_FILE, make_lock_file, remove_lock_file, try_lock

CHECKPOINT_FILE = "training.npz"
"""File from which an unfinished training is resumed."""

REFIT_FOLDER, FOLDS_FOLDER = "refit", "folds"
"""Folders from which an unfinished training on all images, or on the images of a fold, is resumed;
they are removed when the run is finished."""

RECORD_FILE = "run.json"
_EARLIER_EXPORT = ".export"
"""Temporary folder of a run's export in earlier versions."""


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Locks the existing run directory `out` against other processes during the block.

    On systems without locks (Windows, some file systems) a lock file in `out` is used.

    Raises:
        RunError: Another process is writing it.
    """
    if os.name != "nt":
        folder = os.open(out, os.O_RDONLY)
        try:
            is_locked = try_lock(folder)
            if is_locked is False:
                remedy = "Wait for it, or choose another folder."
                raise _locked_error(out, "another process", remedy)
            if is_locked:
                yield
                return
        finally:
            os.close(folder)
    if holder := make_lock_file(out):
        remedy = f"Wait for it, choose another folder, or remove {LOCK_FILE} there if it has ended."
        raise _locked_error(out, holder, remedy)
    try:
        yield
    finally:
        remove_lock_file(out)


def sweep_run(out: Path, results: tuple[str, ...]) -> None:
    """Removes temporary files that killed processes have left in a locked run directory.

    Args:
        out: The run directory.
        results: Names of a run's result files.
    """
    sweep_asides(out, is_alone=True)
    sweep_asides(out, (*results, RECORD_FILE, CHECKPOINT_FILE, _EARLIER_EXPORT), is_alone=True)
    if (out / _EARLIER_EXPORT).is_dir():
        shutil.rmtree(out / _EARLIER_EXPORT)


def tidy_finished(out: Path, results: tuple[str, ...]) -> None:
    """Removes leftovers and the checkpoint of a finished run, unless another process writes it."""
    if not os.access(out, os.W_OK):
        return
    try:
        with locked(out):
            sweep_run(out, results)
            remove_checkpoints(out)
    except RunError:  # the process that writes it will tidy it
        return


def remove_checkpoints(out: Path) -> None:
    """Removes everything from which an unfinished run is resumed."""
    (out / CHECKPOINT_FILE).unlink(missing_ok=True)
    for folder in (out / REFIT_FOLDER, out / FOLDS_FOLDER):
        if folder.is_dir():
            shutil.rmtree(folder)


def holds_only_leftovers(out: Path) -> bool:
    """Whether a folder is empty except for leftovers of a process that was killed at its start."""
    starts = (ASIDE, LOCK_FILE, f".{RECORD_FILE}-")
    return all(path.name.startswith(starts) for path in out.iterdir())


def _locked_error(out: Path, writer: str, remedy: str) -> RunError:
    return RunError(
        f"`out` must be written by one process at a time. Received: out={str(out)!r}, which "
        f"{writer} is writing. {remedy}"
    )
