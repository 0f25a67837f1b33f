"""Progress below a notebook's cell, in one output that is updated; needs no widgets."""

import html
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from tlkit.displays.activity import Activity, describe_progress
from tlkit.displays.display import Display

_INTERVAL = 0.3
"""Seconds between two updates; work that takes less is not shown."""
_MAX_LINES = 15


def notebook_shell() -> Any:
    """Returns IPython's shell if it belongs to a notebook, else `None`; imports nothing."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    kinds = {kind.__name__ for kind in type(shell).__mro__}
    return shell if "ZMQInteractiveShell" in kinds else None


class NotebookDisplay(Display):
    """Shows the latest lines and the progress below them in one output of the running cell.

    All work of a cell shares that output, so that it leaves no gaps. Work that ends at once is not
    shown. Only the thread that made the display writes to it: the notebook shows that thread's
    output below the cell.

    Args:
        shell: IPython's shell.
    """

    def __init__(self, shell: Any) -> None:
        global _output  # noqa: PLW0603 - a cell's output outlasts the display
        if _output is None or _output.cell != shell.execution_count:
            _output = _CellOutput(shell.execution_count)
        self._output = _output
        self._thread = threading.get_ident()
        self._last_shown = time.monotonic()

    def opened(self, activities: Sequence[Activity]) -> None:
        """Shows a numbered phase when it starts."""
        if activities[-1].number:
            self._show(activities)

    def changed(self, activities: Sequence[Activity]) -> None:
        """Shows the progress, a few times a second."""
        if time.monotonic() - self._last_shown >= _INTERVAL:
            self._show(activities)

    def closed(self, activity: Activity, activities: Sequence[Activity]) -> None:
        """Keeps a line about the activity unless it ended at once."""
        if activity.number or (activity.seconds >= _INTERVAL and not activities):
            self._output.keep(activity.ended)
            self._show(activities)

    def logged(self, text: str) -> None:
        """Keeps the line."""
        self._output.keep(text)
        self._show([])

    def _show(self, activities: Sequence[Activity]) -> None:
        if threading.get_ident() == self._thread:
            self._last_shown = time.monotonic()
            self._output.show(describe_progress(activities))


class _CellOutput:
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


_output: _CellOutput | None = None


class _Lines:
    """Text that a notebook shows verbatim."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self._text)}</pre>"
