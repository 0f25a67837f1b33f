"""Peak memory of the current process."""

import re
from pathlib import Path


def peak_bytes() -> int:
    """Returns the peak resident bytes of this program, on Linux.

    `ru_maxrss` of `getrusage` is not suitable: in a child process it starts at the value of the
    parent, so that a large parent would hide the memory of a small child.

    Reference:
        https://man7.org/linux/man-pages/man5/proc_pid_status.5.html, VmHWM
    """
    status = Path("/proc/self/status").read_text("ascii")
    return 1024 * int(re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[1])
