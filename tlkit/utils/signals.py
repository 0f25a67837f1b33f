"""Signals that end a command in order: Ctrl-C (SIGINT), SIGTERM and SIGHUP."""

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
"""What shells add to a signal's number for the status of a process that it has ended."""
_SECONDS_APART = 1.0
"""A closing terminal sends its signal more than once; what comes sooner counts as the same."""


class _Arrivals:
    """Which signal has come, and whether it may be raised now."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.is_pending = False
        self.num_holding = 0
        self._last = -math.inf

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raises the signal as `KeyboardInterrupt`, which all clean up after."""
        now = time.monotonic()
        if number != signal.SIGINT and now - self._last < _SECONDS_APART:
            return
        self.number, self._last = number, now
        if self.num_holding and not self.is_pending:
            self.is_pending = True  # a second one is raised at once
            return
        raise KeyboardInterrupt

    def raise_pending(self) -> None:
        if self.is_pending and not self.num_holding:
            self.is_pending = False
            raise KeyboardInterrupt


_current: list[_Arrivals] = []
_handlers: dict[int, Callable[[int, FrameType | None], None]] = {}
"""Those of the command in charge."""


class EndedBySignal(SystemExit):
    """A command was ended by a signal, has cleaned up and said so."""


@contextmanager
def held_back() -> Iterator[None]:
    """Keeps a signal until the block has ended, where `ended_in_order` is in charge.

    For short imports: an interrupt amid them is lost in a callback, with a traceback. A second
    signal is raised at once.
    """
    if not _current:
        yield
        return
    arrivals = _current[-1]
    arrivals.num_holding += 1
    try:
        yield
    finally:
        arrivals.num_holding -= 1
    arrivals.raise_pending()


def hear_again() -> None:
    """Takes signals back from a library that has put handlers of its own in place, unasked.

    TensorFlow's servers for several workers keep SIGTERM to themselves.
    """
    for number, handler in _handlers.items():
        signal.signal(number, handler)


@contextmanager
def raised_again() -> Iterator[None]:
    """Raises a signal at the end of the block that was lost in it, for imports that take long."""
    yield
    if _current and _current[-1].number is not None:
        raise KeyboardInterrupt


def ended_in_order(command: Callable[[], None], hint: Callable[[], str] = lambda: "") -> None:
    """Runs a command; a signal that ends it is one line and a status, whatever it was doing.

    In the block SIGTERM and SIGHUP raise `KeyboardInterrupt` as Ctrl-C does, so that everything is
    cleaned up; what is ignored, as SIGHUP is under nohup, stays so. The status is 130, 143 or 129.

    Args:
        command: What is run.
        hint: What the line says behind the signal, such as that the same command continues.
    """
    arrivals = _Arrivals()
    before = {}
    for name in _NAMES:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, arrivals.handle)
            _handlers[number] = arrivals.handle
    _current.append(arrivals)
    try:
        command()
    except BaseException as error:  # an interrupt amid an import may come out as another error
        if isinstance(error, SystemExit) and not error.code:
            raise
        if arrivals.number is None and not isinstance(error, KeyboardInterrupt):
            raise
        _end(arrivals.number or signal.SIGINT, hint())
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
def leave_at_once() -> Iterator[None]:
    """Ends the process as soon as a signal has ended the command in the block.

    Python would wait for threads, and an interrupt amid an `eval` makes it end as if nobody had
    handled it, whatever status it is given. So `os._exit` ends it, which has no public way to run
    before it what is registered with atexit; see
    https://github.com/python/cpython/blob/v3.11.7/Modules/atexitmodule.c, and for the day when that
    changes tests/test_private_api.py.
    """
    try:
        yield
    except EndedBySignal as end:
        atexit._run_exitfuncs()
        os._exit(int(end.code or 0))


def _close_output() -> None:
    """Sends what Python would still write to nowhere, which else would change the status."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
