"""What goes on: a numbered phase, or a count of things done within one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Activity:
    """Something that takes time; its `done` grows while it lasts.

    Attributes:
        name: What is done.
        total: Of how many things; `None` where that is not known, or nothing is counted.
        unit: What is counted, in the plural.
        number: For a phase its place among all of the run, from 1, and how many there are.
        is_phase: Whether it is one step of a run, and no count within a step.
        is_skipped: Whether it is a phase that was announced and is not needed.
        done: How many things are done.
        started: When it began, by the monotonic clock.
    """

    name: str
    total: int | None = None
    unit: str = ""
    number: tuple[int, int] | None = None
    is_phase: bool = False
    is_skipped: bool = False
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def title(self) -> str:
        """The name, after the number of a phase."""
        name = f"{self.name}: skipped" if self.is_skipped else self.name
        return f"[{self.number[0]}/{self.number[1]}] {name}" if self.number else name

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return time.monotonic() - self.started

    @property
    def count(self) -> str:
        """How far it is: "320 of 800 images"; empty where nothing is counted."""
        if self.total is None and not self.done:
            return ""
        whole = "" if self.total is None else f" of {self.total}"
        return f"{self.done}{whole}{self.unit and f' {self.unit}'}"

    @property
    def time(self) -> str:
        """How long it will still take where that can be told, else how long it has taken."""
        if self.total is None or not 0 < self.done < self.total:
            return in_words(self.seconds)
        left = self.seconds / self.done * (self.total - self.done)
        return f"about {in_words(left)} left"

    @property
    def ended(self) -> str:
        """One line for when it is over."""
        if self.is_skipped:
            return self.title
        parts = [part for part in (self.count, in_words(self.seconds)) if part]
        return f"{self.title}: {', '.join(parts)}"


def state_of(activities: Sequence[Activity]) -> str:
    """Returns one line on activities that go on, each within the one before it."""
    parts = [" ".join(filter(None, (one.title, one.count))) for one in activities]
    if not parts:
        return ""
    return f"{': '.join(parts)}, {activities[-1].time}"


def in_words(seconds: float) -> str:
    """Returns a time as a person says it.

    Example:
        >>> from tlkit.displays.activity import in_words
        >>> in_words(0.42), in_words(7.4), in_words(75), in_words(7500)
        ('0.4 s', '7 s', '1 min 15 s', '2 h 5 min')
    """
    if seconds < 1:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
