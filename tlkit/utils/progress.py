"""Progress of long work, shown to the user and written to the log of a run.

Functions that take long open a `bar`; a run opens `phases`, and a `phase` for each of its steps.
How they are shown depends on where the process runs: as bars on a terminal, as one output below a
notebook's cell, as a line every few seconds within `progress_as_lines` (the command line), and not
at all elsewhere. Progress goes to standard error; standard output is for results.
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


class _State:
    """The running activities of this process, and where they are shown and logged."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.display: Display | None = None
        self.activities: list[Activity] = []
        self.planned: tuple[str, ...] = ()
        self.skipped: list[str] = []
        self.log: _LogFile | None = None
        self.uses_lines = False
        self.is_hidden = False


class _LogFile:
    """Lines with their time, buffered until the file is known and appended to it from then on."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._buffer: list[str] = []

    def write(self, text: str) -> None:
        now = time.strftime("%H:%M:%S")
        lines = text.splitlines() or [""]
        self._buffer += [
            f"{now if not row else ' ' * len(now)}  {line}" for row, line in enumerate(lines)
        ]
        self._append()

    def set_path(self, path: Path) -> None:
        self._path = path
        self._append()

    def _append(self) -> None:
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(f"{line}\n" for line in self._buffer)
        self._buffer = []


_state = _State()


@contextmanager
def progress_as_lines() -> Iterator[None]:
    """Within the block, progress is written as lines if standard error is no terminal."""
    before, _state.uses_lines = _state.uses_lines, True
    try:
        yield
    finally:
        _state.uses_lines = before


@contextmanager
def progress_hidden() -> Iterator[None]:
    """Within the block, progress is not shown, and only the log of a run has it."""
    before, _state.is_hidden = _state.is_hidden, True
    try:
        yield
    finally:
        _state.is_hidden = before


@contextmanager
def phases(names: Sequence[str]) -> Iterator[None]:
    """Announces the phases of a run, and starts its log; see `log_to`.

    Args:
        names: Names of the phases in order, as `phase` gets them; see `plan`.
    """
    outer = _state.planned, _state.skipped, _state.log
    _state.planned, _state.skipped, _state.log = tuple(names), [], _LogFile()
    program = Path(sys.argv[0]).name
    command = shlex.join(["tlkit" if program == "__main__.py" else program, *sys.argv[1:]])
    _write_to_log(f"{time.strftime('%Y-%m-%d')}, process {os.getpid()}: {command}")
    try:
        with _open_display():
            yield
    except BaseException as error:
        with suppress(OSError):  # such as a full disk: it has ended the run, and is raised
            _write_to_log(f"ended by {type(error).__name__}: {error}")
        raise
    finally:
        _state.planned, _state.skipped, _state.log = outer


def plan(names: Sequence[str]) -> None:
    """Sets which of the announced phases will run, as soon as that is known.

    The numbers of the phases and their total stay; each other phase is shown as skipped when its
    turn comes.
    """
    _state.skipped = [name for name in _state.planned if name not in names]


def log_to(path: Path) -> None:
    """Appends the log of the current run to a file: the lines so far, and all that follow."""
    if _state.log is not None:
        _state.log.set_path(path)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Makes the block one step of a run: shown with its number if announced, and its duration."""
    number = None
    if name in _state.planned:
        number = _number_of(name)
        for skipped in [other for other in _state.skipped if _number_of(other) < number]:
            _state.skipped.remove(skipped)
            activity = Activity(skipped, number=_number_of(skipped), is_phase=True, is_skipped=True)
            _write_to_log(activity.title)
            with _show_running(activity):
                pass
    activity = Activity(name, number=number, is_phase=True)
    _write_to_log(activity.title)
    with _show_running(activity):
        yield
    _write_to_log(activity.ended)


def _number_of(name: str) -> tuple[int, int]:
    return _state.planned.index(name) + 1, len(_state.planned)


def track(items: Iterable[Item], description: str, total: int, unit: str = "") -> Iterator[Item]:
    """Yields `items` while a bar shows how many of `total` are processed."""
    with bar(description, total, unit) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def bar(description: str, total: int | None, unit: str = "") -> Iterator["Advance"]:
    """Shows a progress bar; calling the yielded object with `n` advances the bar by `n`.

    Args:
        description: Name of the work; no two bars at a time should have the same.
        total: Number of items; `None` shows the number of processed ones and the elapsed time.
        unit: Name of the items, in the plural.
    """
    activity = Activity(description, total, unit)
    with _show_running(activity):
        yield Advance(activity)


def note(text: str) -> None:
    """Shows a line that remains visible, such as an epoch's metrics, and writes it to the log."""
    _write_to_log(text)
    _show(text)


class RunLog:
    """Passes messages of a run to its log, and to the caller's function or the display.

    Args:
        log: Gets each message in full. Without it, the display shows each message in brief.
    """

    def __init__(self, log: Callable[[str], None] | None) -> None:
        self._log = log

    def __call__(self, text: str, brief: str | None = None) -> None:
        """Logs `text`; the display shows `brief`, by default its first line, and nothing for ""."""
        _write_to_log(text)
        if self._log is not None:
            self._log(text)
            return
        for line in (text.partition("\n")[0] if brief is None else brief).splitlines():
            _show(line)


class Advance:
    """Advances one bar."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    def __call__(self, count: int, description: str | None = None) -> None:
        """Advances the bar by `count`; `description` replaces its name."""
        with _state.lock:
            self._activity.done += count
            if description is not None:
                self._activity.name = description
            if _state.display is not None and self._activity in _state.activities:
                position = _state.activities.index(self._activity)
                _state.display.changed(_state.activities[: position + 1])


def _show(line: str) -> None:
    with _open_display() as display, _state.lock:
        display.logged(line)


def _write_to_log(text: str) -> None:
    if _state.log is not None:
        _state.log.write(text)


@contextmanager
def _show_running(activity: Activity) -> Iterator[None]:
    with _open_display() as display:
        with _state.lock:
            _state.activities.append(activity)
            display.opened(_state.activities)
        try:
            yield
        finally:
            with _state.lock:
                _state.activities.remove(activity)
                display.closed(activity, _state.activities)


@contextmanager
def _open_display() -> Iterator[Display]:
    """Gives the open display; the outermost block opens it, and closes it at its end."""
    if _state.display is not None:
        yield _state.display
        return
    with ExitStack() as stack:
        display = _state.display = _choose_display(stack)
        try:
            yield display
        finally:
            _state.display = None
            display.stop()


def _choose_display(stack: ExitStack) -> Display:
    """Returns the display that fits where this process runs; `stack` closes what it needs."""
    if _state.is_hidden:
        return Display()
    if (shell := notebook_shell()) is not None:
        return NotebookDisplay(shell)
    stream = stack.enter_context(own_standard_error())
    console = Console(file=stream)
    if console.is_terminal and not console.is_dumb_terminal:
        return TerminalDisplay(console)
    return LinesDisplay(stream) if _state.uses_lines else Display()
