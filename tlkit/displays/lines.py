"""Progress as plain lines, one every few seconds: for CI, nohup, containers and pipes."""

import threading
import time
from collections.abc import Sequence
from typing import TextIO

from tlkit.displays.activity import Activity, describe_progress
from tlkit.displays.display import Display

INTERVAL = 5.0
"""Seconds between two progress lines."""


class LinesDisplay(Display):
    """Writes a line for each numbered phase, each logged line, and the progress at intervals.

    A thread writes the progress, so that work without a counter shows signs of life too.

    Args:
        stream: The stream that lines are written to.
        interval: Seconds without a line after which the progress is written.
    """

    def __init__(self, stream: TextIO, interval: float = INTERVAL) -> None:
        self._stream = stream
        self._interval = interval
        self._activities: list[Activity] = []
        self._lock = threading.RLock()
        self._last_written = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_at_intervals, daemon=True)
        self._thread.start()

    def opened(self, activities: Sequence[Activity]) -> None:
        """Writes the name of a numbered phase."""
        with self._lock:
            self._activities = list(activities)
            if activities[-1].number:
                self._write(activities[-1].title)

    def changed(self, activities: Sequence[Activity]) -> None:
        """Writes the progress if a line is due."""
        self._write_if_due()

    def closed(self, activity: Activity, activities: Sequence[Activity]) -> None:
        """Keeps the activities that are still running, or the last one."""
        with self._lock:
            self._activities = list(activities) or [activity]

    def logged(self, text: str) -> None:
        """Writes the line, indented below its phase."""
        self._write(f"  {text}")

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join()

    def _write_at_intervals(self) -> None:
        while not self._ended.wait(self._interval / 5):
            self._write_if_due()

    def _write_if_due(self) -> None:
        with self._lock:
            if self._activities and time.monotonic() - self._last_written >= self._interval:
                self._write(describe_progress(self._activities))

    def _write(self, text: str) -> None:
        with self._lock:
            self._last_written = time.monotonic()
            self._stream.write(f"{text}\n")
            self._stream.flush()
