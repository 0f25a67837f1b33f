"""What is running: a numbered phase of a run, or a counter within a phase."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Activity:
    """Work in progress; `done` grows while it runs.

    Attributes:
        name: Name of the work.
        total: Number of items to process; `None` if it is unknown or nothing is counted.
        unit: Name of the items, in the plural.
        number: Of a numbered phase: its number, from 1, and the number of phases of the run.
        is_phase: Whether it is a phase of a run; otherwise it is a counter within a phase.
        is_skipped: Whether it is a phase that was announced but is not needed.
        done: Number of items processed.
        started: Start time on the monotonic clock.
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
        """The name, after the phase's number if it has one."""
        name = f"{self.name}: skipped" if self.is_skipped else self.name
        return f"[{self.number[0]}/{self.number[1]}] {name}" if self.number else name

    @property
    def seconds(self) -> float:
        """Elapsed time."""
        return time.monotonic() - self.started

    @property
    def count(self) -> str:
        """Progress as text, such as "320 of 800 images"; empty if nothing is counted."""
        if self.total is None and not self.done:
            return ""
        of_total = "" if self.total is None else f" of {self.total}"
        return f"{self.done}{of_total}{self.unit and f' {self.unit}'}"

    @property
    def time(self) -> str:
        """The estimated remaining time if it can be estimated, else the elapsed time."""
        if self.total is None or not 0 < self.done < self.total:
            return duration(self.seconds)
        left = self.seconds / self.done * (self.total - self.done)
        return f"about {duration(left, digits=0)} left"

    @property
    def ended(self) -> str:
        """One line that is shown when the work is finished."""
        if self.is_skipped:
            return self.title
        parts = [part for part in (self.count, duration(self.seconds)) if part]
        return f"{self.title}: {', '.join(parts)}"


def describe_progress(activities: Sequence[Activity]) -> str:
    """Returns one line that describes the running activities, outermost first."""
    parts = [" ".join(filter(None, (activity.title, activity.count))) for activity in activities]
    if not parts:
        return ""
    return f"{': '.join(parts)}, {activities[-1].time}"


def duration(seconds: float, digits: int = 1) -> str:
    """Returns a duration in units that are easy to read.

    It stands here and not in `tlkit.utils.formatting`, from which displays cannot import.

    Args:
        seconds: The duration.
        digits: Number of decimals of a duration below 10 seconds.

    Example:
        >>> from tlkit.displays.activity import duration
        >>> duration(7.42), duration(31.7), duration(75), duration(7500)
        ('7.4 s', '32 s', '1 min 15 s', '2 h 5 min')
    """
    if seconds < 10:
        return f"{seconds:.{digits}f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
