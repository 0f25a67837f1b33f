"""Errors about full or unwritable disks: their reason, place and remedy."""

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterable
from pathlib import Path

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_REASONS = {
    errno.ENOSPC: "no space is left on its disk",
    errno.EDQUOT: "the quota of its disk is used up",
    errno.EFBIG: "a file would be larger than this system allows (see ulimit -f)",
    errno.EROFS: "its disk is read-only",
    errno.EIO: "its disk cannot be written to or read (input/output error)",
    errno.ESTALE: "its network drive has lost it (stale file handle)",
}
_MAX_CAUSES = 10
_FULL_BELOW = 2**20
"""Free bytes below which a disk counts as full, to find which of several disks is meant."""


def storage_problem(error: BaseException, places: Iterable[Path] = ()) -> tuple[str, Path] | None:
    """Returns the reason and the place of an error about a disk; `None` for other errors.

    TensorFlow, h5py and SQLite raise their own errors, which contain the system's message.

    Args:
        error: The error that was raised.
        places: Paths that may be affected; the folder of temporary files is always added. The place
            is the one that the error names, else one on a full disk, else the first.
    """
    number = _number_of(error)
    if number is None:
        return None
    candidates = [*places, Path(tempfile.gettempdir())]
    named = [place for place in candidates if str(_folder_of(place)) in str(error)]
    named.sort(key=lambda place: len(str(place)), reverse=True)  # one may lie in another
    full = [place for place in candidates if number in _NO_SPACE and _is_full(place)]
    place = (named or full or candidates)[0]
    reason = _REASONS[number]
    if number in _NO_SPACE and _has_no_inodes(place):
        reason = "its disk takes no further file (no inode is left)"
    return reason, place


def space_remedy(place: Path, otherwise: str) -> str:
    """Returns the remedy for a full disk; for temporary files it is the variable TMPDIR."""
    if place == Path(tempfile.gettempdir()):
        return "Free some space there, or set TMPDIR to another folder for temporary files."
    return otherwise


def _number_of(error: BaseException) -> int | None:
    """Returns the system's error number of an exception or one of its causes."""
    current: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if current is None:
            return None
        number = current.errno if isinstance(current, OSError) else None
        if number in _REASONS:
            return number
        text = str(current)
        if isinstance(current, sqlite3.OperationalError) and "disk is full" in text:
            return errno.ENOSPC
        for candidate in _REASONS:
            if os.strerror(candidate) in text:
                return candidate
        current = current.__cause__ or current.__context__
    return None


def _folder_of(place: Path) -> Path:
    """Returns the folder that holds the temporary folder of a path."""
    return place if place.is_dir() else place.parent


def _is_full(place: Path) -> bool:
    status = _status(place)
    return status is not None and (
        status.f_bavail * status.f_frsize < _FULL_BELOW or _has_no_inodes(place)
    )


def _has_no_inodes(place: Path) -> bool:
    status = _status(place)
    return status is not None and status.f_files > 0 and status.f_favail == 0


def _status(place: Path) -> os.statvfs_result | None:
    if not hasattr(os, "statvfs"):  # Windows
        return None
    existing = next(path for path in (place, *place.absolute().parents) if path.exists())
    return os.statvfs(existing)
