"""Progress: what goes on, said to whoever watches, and to the log of a run.

Functions that take their time open a `bar`, a run opens `phases` and a `phase` for each of its
steps. Where they are seen depends on where they are: bars on a terminal, one output below a
notebook's cell, lines every few seconds where the command line was asked for lines, and nothing
elsewhere. All of it goes to standard error: standard output is for results.
"""

import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from tlkit.displays.activity import Activity
from tlkit.displays.display import Display, own_standard_error
from tlkit.displays.lines import LinesDisplay
from tlkit.displays.notebook import NotebookDisplay, notebook_shell
from tlkit.displays.terminal import TerminalDisplay

Item = TypeVar("Item")


class _Watched:
    """All that goes on in this process, and who is told of it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.display: Display | None = None
        self.activities: list[Activity] = []
        self.planned: tuple[str, ...] = ()
        self.left_out: list[str] = []
        self.log: _Log | None = None
        self.in_lines = False


class _Log:
    """Lines with their time; kept until there is a file for them, and then appended to it."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._kept: list[str] = []

    def write(self, text: str) -> None:
        now = time.strftime("%H:%M:%S")
        lines = text.splitlines() or [""]
        self._kept += [
            f"{now if not row else ' ' * len(now)}  {line}" for row, line in enumerate(lines)
        ]
        self._append()

    def keep_in(self, path: Path) -> None:
        self._path = path
        self._append()

    def _append(self) -> None:
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(f"{line}\n" for line in self._kept)
        self._kept = []


_watched = _Watched()


@contextmanager
def shown_as_lines() -> Iterator[None]:
    """While it lasts, what goes on is written line by line where there is no terminal."""
    before, _watched.in_lines = _watched.in_lines, True
    try:
        yield
    finally:
        _watched.in_lines = before


@contextmanager
def phases(names: Sequence[str]) -> Iterator[None]:
    """Announces the phases of a run, and keeps a log of it, see `keep_log`.

    Args:
        names: Of the phases, in their order, as `phase` is given them; see `plan`.
    """
    outer = _watched.planned, _watched.left_out, _watched.log
    _watched.planned, _watched.left_out, _watched.log = tuple(names), [], _Log()
    program = Path(sys.argv[0]).name
    command = shlex.join(["tlkit" if program == "__main__.py" else program, *sys.argv[1:]])
    _logged(f"{time.strftime('%Y-%m-%d')}, process {os.getpid()}: {command}")
    try:
        with _displayed():
            yield
    except BaseException as error:
        with suppress(OSError):  # such as a full disk: it is what ended the run, and is raised
            _logged(f"ended by {type(error).__name__}: {error}")
        raise
    finally:
        _watched.planned, _watched.left_out, _watched.log = outer


def plan(names: Sequence[str]) -> None:
    """Settles which of the announced phases there will be, once that is known.

    Numbers and their total stay; of each other phase it is said, in its place, that it is skipped.
    """
    _watched.left_out = [name for name in _watched.planned if name not in names]


def keep_log(path: Path) -> None:
    """Appends the log of the run that goes on to a file, what it has so far and what comes."""
    if _watched.log is not None:
        _watched.log.keep_in(path)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """One step of a run: shown with its number where it was announced, and how long it took."""
    number = None
    if name in _watched.planned:
        number = _place_of(name)
        for skipped in [one for one in _watched.left_out if _place_of(one) < number]:
            _watched.left_out.remove(skipped)
            activity = Activity(skipped, number=_place_of(skipped), is_phase=True, is_skipped=True)
            _logged(activity.title)
            with _going_on(activity):
                pass
    activity = Activity(name, number=number, is_phase=True)
    _logged(activity.title)
    with _going_on(activity):
        yield
    _logged(activity.ended)


def _place_of(name: str) -> tuple[int, int]:
    return _watched.planned.index(name) + 1, len(_watched.planned)


def track(items: Iterable[Item], description: str, total: int, unit: str = "") -> Iterator[Item]:
    """Yields `items` while a bar shows how many of `total` are done."""
    with bar(description, total, unit) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def bar(description: str, total: int | None, unit: str = "") -> Iterator["Advance"]:
    """Shows how far something is; calling what it yields with `n` moves it on by `n`.

    Args:
        description: What is done; no two things at a time should have the same.
        total: How many things there are to do; `None` shows how many are done, and for how long.
        unit: What they are, in the plural.
    """
    activity = Activity(description, total, unit)
    with _going_on(activity):
        yield Advance(activity)


def note(text: str) -> None:
    """Says a line that stays, an epoch's say, and writes it to the log."""
    _logged(text)
    _shown(text)


class Teller:
    """Passes the words of a run on: to its log, and to whoever wants to be told.

    Args:
        log: Is told all of them. Without it a note is shown in their place, see `note`.
    """

    def __init__(self, log: Callable[[str], None] | None) -> None:
        self._log = log

    def __call__(self, text: str, brief: str | None = None) -> None:
        """Tells `text`; the note is `brief`, or none where that is empty, else its first line."""
        _logged(text)
        if self._log is not None:
            self._log(text)
            return
        for line in (text.partition("\n")[0] if brief is None else brief).splitlines():
            _shown(line)


class Advance:
    """Moves one bar on."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    def __call__(self, count: int, description: str | None = None) -> None:
        """Moves the bar on by `count`; `description` replaces what it is called."""
        with _watched.lock:
            self._activity.done += count
            if description is not None:
                self._activity.name = description
            if _watched.display is not None and self._activity in _watched.activities:
                place = _watched.activities.index(self._activity)
                _watched.display.changed(_watched.activities[: place + 1])


def _shown(line: str) -> None:
    with _displayed() as display, _watched.lock:
        display.said(line)


def _logged(text: str) -> None:
    if _watched.log is not None:
        _watched.log.write(text)


@contextmanager
def _going_on(activity: Activity) -> Iterator[None]:
    with _displayed() as display:
        with _watched.lock:
            _watched.activities.append(activity)
            display.opened(_watched.activities)
        try:
            yield
        finally:
            with _watched.lock:
                _watched.activities.remove(activity)
                display.closed(activity, _watched.activities)


@contextmanager
def _displayed() -> Iterator[Display]:
    """Whatever opens first opens the display, and takes it away when it ends."""
    if _watched.display is not None:
        yield _watched.display
        return
    with ExitStack() as held:
        display = _watched.display = _display(held)
        try:
            yield display
        finally:
            _watched.display = None
            display.stop()


def _display(held: ExitStack) -> Display:
    """The display for where this process is; what it needs is closed with `held`."""
    if (shell := notebook_shell()) is not None:
        return NotebookDisplay(shell)
    stream = held.enter_context(own_standard_error())
    console = Console(file=stream)
    if console.is_terminal and not console.is_dumb_terminal:
        return TerminalDisplay(console)
    return LinesDisplay(stream) if _watched.in_lines else Display()
