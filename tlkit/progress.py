"""Progress on a terminal or in a notebook; silent where nobody watches."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yields `items` while a bar shows how many of `total` are done."""
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def bar(description: str, total: int | None) -> Iterator["Advance"]:
    """A progress bar on standard error; calling what it yields with `n` moves it on by `n`.

    Without a `total` it shows that something happens and how much has. A notebook shows it where
    ipywidgets is installed: without, rich would leave a warning and a blank line for every bar.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    has_widgets = console.is_jupyter and find_spec("ipywidgets") is not None
    watched = has_widgets or (console.is_terminal and not console.is_jupyter)
    with Progress(*columns, console=console, transient=True, disable=not watched) as progress:
        yield Advance(progress, progress.add_task(description, total=total))


class Advance:
    """Moves one bar on."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def __call__(self, count: int, description: str | None = None) -> None:
        """Moves the bar on by `count`; `description` replaces what stands before it."""
        self._progress.update(self._task, advance=count, description=description)
