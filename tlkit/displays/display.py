"""What every display does, and the one that shows nothing."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from tlkit.displays.activity import Activity


class Display:
    """Shows nothing: where nobody watches.

    All methods get every activity that goes on, each within the one before it.
    """

    def opened(self, activities: Sequence[Activity]) -> None:
        """The last one has begun."""

    def changed(self, activities: Sequence[Activity]) -> None:
        """The last one has got further."""

    def closed(self, activity: Activity, activities: Sequence[Activity]) -> None:
        """`activity` is over; the others go on."""

    def said(self, text: str) -> None:
        """A line is to stay."""

    def stop(self) -> None:
        """Nothing more comes."""


@contextlib.contextmanager
def own_standard_error() -> Iterator[TextIO]:
    """Standard error by a descriptor of its own.

    It is still heard while another part of the program has turned the usual one away. Where its
    reader has gone, or its disk is full, nothing more is shown, and nothing fails.
    """
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except (OSError, io.UnsupportedOperation):  # replaced by an object without a descriptor
        yield sys.stderr
        return
    encoding = sys.stderr.encoding or "utf-8"
    written = io.BufferedWriter(io.FileIO(descriptor, "w"))
    with _Stream(written, encoding, "backslashreplace", line_buffering=True) as stream:
        try:
            yield stream
        finally:
            stream.flush()


class _Stream(io.TextIOWrapper):
    """A stream that goes on without a reader: a closed terminal or pipe ends no training."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._go_nowhere()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._go_nowhere()

    def _go_nowhere(self) -> None:
        """What comes from now on is not shown; what has not been read yet is not either."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
