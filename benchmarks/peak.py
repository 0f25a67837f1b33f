"""The most memory that this process has held, for the benchmarks that compare it."""

import re
from pathlib import Path


def peak_bytes() -> int:
    """Peak resident bytes of this program, on Linux.

    Not `ru_maxrss` of `getrusage`: a child's begins at what its parent held when it was started,
    so that a large parent would hide what a small child needs.

    Reference:
        https://man7.org/linux/man-pages/man5/proc_pid_status.5.html, VmHWM
    """
    status = Path("/proc/self/status").read_text("ascii")
    return 1024 * int(re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[1])
