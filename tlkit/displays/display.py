"""The interface of a display, and the display that shows nothing."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from tlkit.displays.activity import Activity


class Display:
    """A display that shows nothing, and the interface of all others.

    `activities` holds all running activities, outermost first.
    """

    def opened(self, activities: Sequence[Activity]) -> None:
        """Called when the last activity has started."""

    def changed(self, activities: Sequence[Activity]) -> None:
        """Called when the last activity has made progress."""

    def closed(self, activity: Activity, activities: Sequence[Activity]) -> None:
        """Called when `activity` is finished; `activities` are still running."""

    def logged(self, text: str) -> None:
        """Called with a line that remains visible."""

    def stop(self) -> None:
        """Called once, when nothing more will be shown."""


@contextlib.contextmanager
def own_standard_error() -> Iterator[TextIO]:
    """Gives standard error on a file descriptor of its own.

    It keeps working while another part of the program has redirected the usual descriptor. If its
    reader is gone or its disk is full, output is discarded and nothing fails.
    """
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except (OSError, io.UnsupportedOperation):  # replaced by an object without a descriptor
        yield sys.stderr
        return
    encoding = sys.stderr.encoding or "utf-8"
    raw = io.BufferedWriter(io.FileIO(descriptor, "w"))
    with _Stream(raw, encoding, "backslashreplace", line_buffering=True) as stream:
        try:
            yield stream
        finally:
            stream.flush()


class _Stream(io.TextIOWrapper):
    """A stream that survives the loss of its reader: a closed terminal or pipe ends no training."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._discard_output()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._discard_output()

    def _discard_output(self) -> None:
        """Redirects the stream to the null device; output that is still unread is lost too."""
        null_device = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null_device, self.fileno())
        os.close(null_device)
