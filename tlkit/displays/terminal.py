"""Progress bars on a terminal, below the lines that remain visible."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from tlkit.displays.activity import Activity
from tlkit.displays.display import Display

_BAR_WIDTH = 24


class TerminalDisplay(Display):
    """Shows a bar with the remaining time for each activity, and a line for each finished phase.

    Args:
        console: A console on the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(_BAR_WIDTH),
            _StateColumn(),
            console=console,
            transient=True,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )
        self._tasks: dict[int, TaskID] = {}
        self._progress.start()

    def opened(self, activities: Sequence[Activity]) -> None:
        """Adds the activity's bar."""
        activity = activities[-1]
        depth = len(activities) - 1
        self._tasks[id(activity)] = self._progress.add_task(
            f"{'  ' * depth}{activity.title}", total=activity.total, activity=activity
        )

    def changed(self, activities: Sequence[Activity]) -> None:
        """Updates the activity's bar."""
        activity = activities[-1]
        self._progress.update(self._tasks[id(activity)], completed=activity.done)

    def closed(self, activity: Activity, activities: Sequence[Activity]) -> None:
        """Removes the activity's bar; prints a line about a numbered phase."""
        self._progress.remove_task(self._tasks.pop(id(activity)))
        if activity.number:
            self._print(activity.ended)

    def logged(self, text: str) -> None:
        """Prints the line above the bars."""
        self._print(f"  {text}")

    def stop(self) -> None:
        """Removes all bars."""
        self._progress.stop()

    def _print(self, text: str) -> None:
        self._progress.console.print(Text(text), soft_wrap=True)


class _StateColumn(ProgressColumn):
    """Shows an activity's count and time; redrawn a few times a second."""

    def render(self, task: Task) -> Text:
        activity: Activity = task.fields["activity"]
        return Text(", ".join(filter(None, (activity.count, activity.time))))
