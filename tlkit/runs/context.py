"""Where a run is made: its folder, who takes part, what it goes on from, and who is told."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlkit.runs.clock import Clock
from tlkit.runs.config import Choice
from tlkit.runs.directory import LOG_FILE, Run, clear_results, record_in
from tlkit.runs.record import RunRecord, write_record
from tlkit.runs.team import Team
from tlkit.utils.progress import RunLog, log_to
from tlkit.utils.run_lock import locked


@dataclass(frozen=True)
class RunContext:
    """Where a run is made, which is no part of what it is.

    Attributes:
        out: The run directory.
        team: Who takes part.
        parent: The run that it goes on from, where there is one.
        timer: How long its parts have lasted.
        log: Is told, in words, what is done.
    """

    out: Path
    team: Team
    parent: Run | None
    timer: Clock
    log: RunLog

    def broadcast(self, decide: Callable[[], Choice]) -> Choice:
        """Returns what the chief chooses; the others wait for it."""
        return Choice.from_json(self.team.broadcast(lambda: decide().to_json()))

    def chosen_before(self) -> dict[str, Choice]:
        """Returns what an unfinished run in the folder has chosen: it must be the same again."""

        def chosen() -> dict[str, Any]:
            begun = record_in(self.out)
            choices = {} if begun is None else begun.choices
            return {name: choice.to_json() for name, choice in choices.items()}

        return {
            name: Choice.from_json(content) for name, content in self.team.broadcast(chosen).items()
        }

    @contextmanager
    def taken(self, record: RunRecord) -> Iterator[None]:
        """Makes the folder, and keeps other processes out of it while the block lasts.

        What an interrupted run has left there is removed; its seconds count on.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        with locked(self.out):
            log_to(self.out / LOG_FILE)
            begun = record_in(self.out)
            self.timer.go_on_from({} if begun is None else begun.seconds)
            self.keep(record)
            clear_results(self.out)
            yield

    def keep(self, record: RunRecord) -> None:
        """Writes the record, now and whenever a part has ended, with the seconds until then."""
        if self.team.is_chief:
            self.timer.keep_by(lambda: write_record(self.out, self.timed(record)))
            write_record(self.out, self.timed(record))

    def timed(self, record: RunRecord) -> RunRecord:
        """Returns the record with the seconds until now."""
        return dataclasses.replace(record, seconds=self.timer.as_dict())
