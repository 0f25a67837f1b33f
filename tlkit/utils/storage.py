"""Disks that are full or cannot be written to, in words."""

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
    errno.EROFS: "its disk can only be read",
    errno.EIO: "its disk cannot be written to or read (input/output error)",
    errno.ESTALE: "its network drive has lost it",
}
_MANY_ERRORS = 10
_LITTLE = 2**20
"""A disk with fewer bytes left than this counts as full where one of several must be."""


def storage_problem(error: BaseException, places: Iterable[Path] = ()) -> tuple[str, Path] | None:
    """Returns what is wrong with a disk, and which place is meant; `None` for other errors.

    TensorFlow, h5py and SQLite each say it in errors of their own, which hold the system's words.

    Args:
        error: What was raised.
        places: Where it may have been; the folder of temporary files is always among them. Meant
            is the one that the error names, else one whose disk is full, else the first.
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


def room_remedy(place: Path, otherwise: str) -> str:
    """What to do about it: temporary files have a variable of their own."""
    if place == Path(tempfile.gettempdir()):
        return "Make room there, or name another folder for temporary files with TMPDIR."
    return otherwise


def _number_of(error: BaseException) -> int | None:
    """The system's number of the error that an exception, or what caused it, is about."""
    found: BaseException | None = error
    for _ in range(_MANY_ERRORS):
        if found is None:
            return None
        number = found.errno if isinstance(found, OSError) else None
        if number in _REASONS:
            return number
        if isinstance(found, sqlite3.OperationalError) and "disk is full" in str(found):
            return errno.ENOSPC
        said = str(found)
        for candidate in _REASONS:
            if os.strerror(candidate) in said:
                return candidate
        found = found.__cause__ or found.__context__
    return None


def _folder_of(place: Path) -> Path:
    """Where a file that is written aside lies."""
    return place if place.is_dir() else place.parent


def _is_full(place: Path) -> bool:
    status = _status(place)
    return status is not None and (
        status.f_bavail * status.f_frsize < _LITTLE or _has_no_inodes(place)
    )


def _has_no_inodes(place: Path) -> bool:
    status = _status(place)
    return status is not None and status.f_files > 0 and status.f_favail == 0


def _status(place: Path) -> os.statvfs_result | None:
    if not hasattr(os, "statvfs"):  # Windows
        return None
    there = next(found for found in (place, *place.absolute().parents) if found.exists())
    return os.statvfs(there)
