"""One place below a notebook's cell, written anew as work goes on; needs no widgets."""

import html
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from tlkit.displays.activity import Activity, state_of
from tlkit.displays.display import Display

_INTERVAL = 0.3
"""Seconds between two updates, and those after which something is worth showing."""
_MAX_LINES = 15


def notebook_shell() -> Any:
    """Returns IPython's shell where it belongs to a notebook, else `None`; imports nothing."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    kinds = {kind.__name__ for kind in type(shell).__mro__}
    return shell if "ZMQInteractiveShell" in kinds else None


class NotebookDisplay(Display):
    """Shows the latest lines, and what goes on below them, in one output of the running cell.

    All that a cell does shares that output, so that it leaves no gaps; what ends at once is not
    shown. Only the thread that began it writes, whose output the notebook puts below the cell.

    Args:
        shell: IPython's.
    """

    def __init__(self, shell: Any) -> None:
        global _place  # noqa: PLW0603 - a cell's output outlasts the display
        if _place is None or _place.cell != shell.execution_count:
            _place = _Place(shell.execution_count)
        self._place = _place
        self._thread = threading.get_ident()
        self._shown = time.monotonic()

    def opened(self, activities: Sequence[Activity]) -> None:
        """Shows a phase that begins."""
        if activities[-1].number:
            self._show(activities)

    def changed(self, activities: Sequence[Activity]) -> None:
        """Shows how far it is, some times a second."""
        if time.monotonic() - self._shown >= _INTERVAL:
            self._show(activities)

    def closed(self, activity: Activity, activities: Sequence[Activity]) -> None:
        """Keeps a line of it, but of what ended at once."""
        if activity.number or (activity.seconds >= _INTERVAL and not activities):
            self._place.keep(activity.ended)
            self._show(activities)

    def said(self, text: str) -> None:
        """Keeps it."""
        self._place.keep(text)
        self._show([])

    def _show(self, activities: Sequence[Activity]) -> None:
        if threading.get_ident() == self._thread:
            self._shown = time.monotonic()
            self._place.show(state_of(activities))


class _Place:
    """The output of one cell."""

    def __init__(self, cell: int) -> None:
        self.cell = cell
        self._lines: list[str] = []
        self._handle: Any = None

    def keep(self, line: str) -> None:
        self._lines = [*self._lines, line][-_MAX_LINES:]

    def show(self, state: str) -> None:
        from IPython.display import display

        shown = _Lines("\n".join(filter(None, (*self._lines, state))))
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)


_place: _Place | None = None


class _Lines:
    """Text that a notebook shows as it stands."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self._text)}</pre>"
