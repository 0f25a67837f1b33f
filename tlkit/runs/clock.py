"""How long the parts of a run last."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tlkit.utils.progress import phase


class Clock:
    """How long each part of a run has lasted, in all processes that have worked on it together.

    Attributes:
        seconds: By the part's name; those of earlier processes once `go_on_from` was called.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: tuple[str, float] | None = None
        self._keep: Callable[[], None] = lambda: None

    def go_on_from(self, earlier: Mapping[str, float]) -> None:
        """Adds what earlier processes took."""
        for name, value in earlier.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    def keep_by(self, keep: Callable[[], None]) -> None:
        """From now on `keep` is called, and nothing else, when a part has ended."""
        self._keep = keep

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Makes the block a phase, and adds how long it takes, also where it is interrupted."""
        self._running = (name, time.perf_counter())
        try:
            with phase(name):
                yield
        finally:
            self._add()
            self._running = None
            self._keep()

    def keep_now(self) -> None:
        """Keeps what the part that is running has taken until now, for a process may be killed."""
        self._add()
        self._keep()

    def as_dict(self) -> dict[str, float]:
        """Returns the seconds as `run.json` holds them."""
        return {name: round(value, 3) for name, value in self.seconds.items()}

    def _add(self) -> None:
        if self._running is not None:
            name, since = self._running
            now = time.perf_counter()
            self.seconds[name] = self.seconds.get(name, 0.0) + now - since
            self._running = (name, now)
