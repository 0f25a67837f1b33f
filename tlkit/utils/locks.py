"""Locks that are released when their process ends, and lock files for systems without them."""

import errno
import json
import os
import platform
from pathlib import Path
from typing import Any

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS)
LOCK_FILE = ".tlkit-lock"
"""Name of the file that locks a folder on a file system without locks."""


def try_lock(descriptor: int) -> bool | None:
    """Locks an open file or folder, without waiting, until it is closed or its process ends.

    Returns:
        Whether it is locked now; `None` on systems without locks (Windows, some file systems).
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
    """Makes the lock file of a folder; replaces that of a process that has ended.

    Returns:
        "" if it was made, else a description of the process that holds it.
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
    """Removes the file that `make_lock_file` has made."""
    (folder / LOCK_FILE).unlink(missing_ok=True)


def _holder(file: Path) -> str:
    """Returns a description of the process that holds a lock file; "" if it has ended."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        host, process, since = str(content["host"]), int(content["process"]), content["since"]
    except FileNotFoundError:
        return ""
    except (ValueError, RecursionError, KeyError, TypeError):  # being written, or incomplete
        return f"a process that {file} does not identify"
    if host == platform.node() and (not _is_running(process) or _start(process) != since):
        return ""
    return f"process {process} on {host}"


def _remove_ended(file: Path) -> None:
    """Removes a lock file whose process has ended, unless another process has done so."""
    renamed = file.with_name(f"{file.name}-{os.getpid()}")
    try:
        file.rename(renamed)
    except FileNotFoundError:
        return
    if _holder(renamed):  # of a process that has made it in the meantime
        renamed.rename(file)
        return
    renamed.unlink()


def _is_running(process: int) -> bool:
    if os.name == "nt":
        return True  # there is no check that does not end the process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _start(process: int) -> str:
    """Returns the start time of a process if it is known, as process numbers are reused."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
