"""Clean termination of a command by signals: Ctrl-C (SIGINT), SIGTERM and SIGHUP."""

import atexit
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_FAILED_BY_SIGNAL = 128
"""Added by shells to a signal's number for the status of a process that it has ended."""
_REPEAT_SECONDS = 1.0
"""A closing terminal sends its signal more than once; repetitions within this time are ignored."""


class _SignalState:
    """The last signal, and whether it may be raised now."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.is_pending = False
        self.num_delaying = 0
        self._last = -math.inf

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raises the signal as `KeyboardInterrupt`, so that all blocks clean up."""
        now = time.monotonic()
        if number != signal.SIGINT and now - self._last < _REPEAT_SECONDS:
            return
        self.number, self._last = number, now
        if self.num_delaying and not self.is_pending:
            self.is_pending = True  # a second one is raised at once
            return
        raise KeyboardInterrupt

    def raise_pending(self) -> None:
        if self.is_pending and not self.num_delaying:
            self.is_pending = False
            raise KeyboardInterrupt


_current: list[_SignalState] = []
_handlers: dict[int, Callable[[int, FrameType | None], None]] = {}
"""Signal handlers of the running command."""


class EndedBySignal(SystemExit):
    """A command was ended by a signal, after cleaning up and reporting it."""


@contextmanager
def signals_delayed() -> Iterator[None]:
    """Delays a signal until the end of the block, within `run_interruptible`.

    It is for short imports: an interrupt during them would be lost in a callback, with a traceback.
    A second signal is raised at once.
    """
    if not _current:
        yield
        return
    state = _current[-1]
    state.num_delaying += 1
    try:
        yield
    finally:
        state.num_delaying -= 1
    state.raise_pending()


def restore_handlers() -> None:
    """Restores the signal handlers that a library has replaced without asking.

    TensorFlow's servers for several workers take SIGTERM.
    """
    for number, handler in _handlers.items():
        signal.signal(number, handler)


@contextmanager
def lost_signal_raised() -> Iterator[None]:
    """Raises a signal at the end of the block if it was lost within it, for long imports."""
    yield
    if _current and _current[-1].number is not None:
        raise KeyboardInterrupt


def run_interruptible(command: Callable[[], None], hint: Callable[[], str] = lambda: "") -> None:
    """Runs a command; if a signal ends it, prints one line and exits with the signal's status.

    SIGTERM and SIGHUP raise `KeyboardInterrupt` like Ctrl-C, so that everything is cleaned up;
    ignored signals, such as SIGHUP under nohup, stay ignored. The status is 130, 143 or 129.

    Args:
        command: The function to run.
        hint: Returns text that the line has after the signal, such as how to resume; the notes of
            the `KeyboardInterrupt` stand before it.
    """
    state = _SignalState()
    before = {}
    for name in _NAMES:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, state.handle)
            _handlers[number] = state.handle
    _current.append(state)
    try:
        command()
    except BaseException as error:  # an interrupt during an import may raise another error
        if isinstance(error, SystemExit) and not error.code:
            raise
        if state.number is None and not isinstance(error, KeyboardInterrupt):
            raise
        is_plain = isinstance(error, KeyboardInterrupt)
        notes = getattr(error, "__notes__", ()) if is_plain else ()
        _end(state.number or signal.SIGINT, "".join([*(f"; {note}" for note in notes), hint()]))
    finally:
        _current.pop()
        for number, handler in before.items():
            signal.signal(number, handler)
            del _handlers[number]


def _end(number: int, hint: str) -> NoReturn:
    name = signal.Signals(number).name
    what = "interrupted" if number == signal.SIGINT else f"ended by {name}"
    try:
        print(f"tlkit: {what}{hint}.", file=sys.stderr, flush=True)
        sys.stdout.flush()
    except OSError:  # the terminal is gone
        _close_output()
    raise EndedBySignal(_FAILED_BY_SIGNAL + number)


@contextmanager
def immediate_exit() -> Iterator[None]:
    """Ends the process as soon as a signal has ended the command in the block.

    Python would wait for threads, and after an interrupt during an `eval` it would ignore the
    status. So `os._exit` ends the process. Functions registered with atexit are run before by a
    private function, as there is no public one; see
    https://github.com/python/cpython/blob/v3.11.7/Modules/atexitmodule.c. tests/test_private_api.py
    fails when that changes.
    """
    try:
        yield
    except EndedBySignal as end:
        atexit._run_exitfuncs()
        os._exit(int(end.code or 0))


def _close_output() -> None:
    """Discards Python's remaining output, as an error on writing it would change the status."""
    with suppress(OSError):
        null_device = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(null_device, descriptor)
        os.close(null_device)
