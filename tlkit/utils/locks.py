"""Locks that end with the process that holds them, and what stands in where there are none."""

import errno
import json
import os
import platform
from pathlib import Path
from typing import Any

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS)
LOCK_FILE = ".tlkit-lock"
"""Stands in a folder on a file system without locks for as long as a process writes there."""


def try_lock(descriptor: int) -> bool | None:
    """Locks an open file or folder until it is closed, or its process ends, without waiting.

    Returns:
        Whether it is locked now; `None` where there are no locks (Windows, some file systems).
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        return None
    return True


def make_lock_file(folder: Path) -> str:
    """Makes the file that says who writes in a folder; one of a process that has ended is replaced.

    Returns:
        "" if it was made, else who is writing.
    """
    file = folder / LOCK_FILE
    text = json.dumps(
        {"host": platform.node(), "process": os.getpid(), "since": _start(os.getpid())}
    )
    while True:
        try:
            with file.open("x", encoding="utf-8") as opened:
                opened.write(text)
        except FileExistsError:
            if holder := _holder(file):
                return holder
            _remove_ended(file)
        else:
            return ""


def remove_lock_file(folder: Path) -> None:
    """Removes what `make_lock_file` has made."""
    (folder / LOCK_FILE).unlink(missing_ok=True)


def _holder(file: Path) -> str:
    """Who holds a lock file, in words; "" where that process has ended."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        host, process, since = str(found["host"]), int(found["process"]), found["since"]
    except FileNotFoundError:
        return ""
    except (ValueError, RecursionError, KeyError, TypeError):  # written right now, or half
        return f"a process that {file} does not name"
    if host == platform.node() and (not _is_running(process) or _start(process) != since):
        return ""
    return f"process {process} on {host}"


def _remove_ended(file: Path) -> None:
    """Removes a lock file that was found to be of no use, unless another process was quicker."""
    taken = file.with_name(f"{file.name}-{os.getpid()}")
    try:
        file.rename(taken)
    except FileNotFoundError:
        return
    if _holder(taken):  # of a process that has made it anew meanwhile
        taken.rename(file)
        return
    taken.unlink()


def _is_running(process: int) -> bool:
    if os.name == "nt":
        return True  # cannot be asked without ending it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _start(process: int) -> str:
    """When a process began, where the system says so: its number may be used again."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
