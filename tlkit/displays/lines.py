"""Lines, one every few seconds: for CI, nohup, containers and pipes."""

import threading
import time
from collections.abc import Sequence
from typing import TextIO

from tlkit.displays.activity import Activity, state_of
from tlkit.displays.display import Display

INTERVAL = 5.0
"""Seconds after which something is said again of what goes on."""


class LinesDisplay(Display):
    """Writes a line for each phase and each line that is to stay, and one every few seconds.

    A thread writes the latter, so that steps that count nothing are not silent either.

    Args:
        stream: Where they are written.
        interval: Seconds without a line after which one is due.
    """

    def __init__(self, stream: TextIO, interval: float = INTERVAL) -> None:
        self._stream = stream
        self._interval = interval
        self._activities: list[Activity] = []
        self._lock = threading.RLock()
        self._written = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_now_and_then, daemon=True)
        self._thread.start()

    def opened(self, activities: Sequence[Activity]) -> None:
        """Writes the name of a phase that has a number."""
        with self._lock:
            self._activities = list(activities)
            if activities[-1].number:
                self._write(activities[-1].title)

    def changed(self, activities: Sequence[Activity]) -> None:
        """Writes how far it is, where a line is due."""
        self._write_if_due()

    def closed(self, activity: Activity, activities: Sequence[Activity]) -> None:
        """Goes on with what is still going on."""
        with self._lock:
            self._activities = list(activities) or [activity]

    def said(self, text: str) -> None:
        """Writes it, below its phase."""
        self._write(f"  {text}")

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join()

    def _write_now_and_then(self) -> None:
        while not self._ended.wait(self._interval / 5):
            self._write_if_due()

    def _write_if_due(self) -> None:
        with self._lock:
            if self._activities and time.monotonic() - self._written >= self._interval:
                self._write(state_of(self._activities))

    def _write(self, text: str) -> None:
        with self._lock:
            self._written = time.monotonic()
            self._stream.write(f"{text}\n")
            self._stream.flush()
