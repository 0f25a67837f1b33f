"""Durations of the parts of a run."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tlkit.utils.progress import phase


class Clock:
    """Measures the time of each part of a run, summed over all processes that worked on it.

    Attributes:
        seconds: Seconds by name of the part; includes earlier processes after `add_earlier`.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: tuple[str, float] | None = None
        self._save: Callable[[], None] = lambda: None

    def add_earlier(self, earlier: Mapping[str, float]) -> None:
        """Adds the seconds of earlier processes."""
        for name, value in earlier.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    def save_with(self, save: Callable[[], None]) -> None:
        """Sets the function that is called when a part has ended; it replaces an earlier one."""
        self._save = save

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Makes the block a phase and adds its duration, even if the block is interrupted."""
        self._running = (name, time.perf_counter())
        try:
            with phase(name):
                yield
        finally:
            self._add()
            self._running = None
            self._save()

    def save_now(self) -> None:
        """Saves the time of the running part so far, in case the process is killed."""
        self._add()
        self._save()

    def as_dict(self) -> dict[str, float]:
        """Returns the seconds as `run.json` holds them."""
        return {name: round(value, 3) for name, value in self.seconds.items()}

    def _add(self) -> None:
        if self._running is not None:
            name, since = self._running
            now = time.perf_counter()
            self.seconds[name] = self.seconds.get(name, 0.0) + now - since
            self._running = (name, now)
