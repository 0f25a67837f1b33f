"""The context of a run: its directory, devices, parent run, clock and log."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tlkit.runs.clock import Clock
from tlkit.runs.config import Choice
from tlkit.runs.directory import LOG_FILE, Run, clear_results, record_in
from tlkit.runs.record import RunRecord, write_record
from tlkit.runs.team import Team
from tlkit.tracking.tracking import Tracking
from tlkit.utils.progress import RunLog, log_to
from tlkit.utils.run_lock import locked


@dataclass(frozen=True)
class RunContext:
    """The context in which a run is made; it does not belong to the run's config.

    Attributes:
        out: The run directory.
        team: The devices or machines that take part.
        parent: The run that this one starts from; `None` if there is none.
        clock: Measures the run's parts.
        log: Gets messages about the progress.
        tracking: The experiment trackers of the run; without any if not given.
    """

    out: Path
    team: Team
    parent: Run | None
    clock: Clock
    log: RunLog
    tracking: Tracking = field(default_factory=Tracking)

    def broadcast(self, decide: Callable[[], Choice]) -> Choice:
        """Returns the chief's choice; the other workers wait for it."""
        return Choice.from_json(self.team.broadcast(lambda: decide().to_json()))

    def previous_choices(self) -> dict[str, Choice]:
        """Returns the choices of an unfinished run in the directory, which are not made again."""

        def read_choices() -> dict[str, dict[str, object]]:
            unfinished = record_in(self.out)
            choices = {} if unfinished is None else unfinished.choices
            return {name: choice.to_json() for name, choice in choices.items()}

        contents = self.team.broadcast(read_choices)
        return {name: Choice.from_json(content) for name, content in contents.items()}

    def with_provisional(self, record: RunRecord) -> RunRecord:
        """Returns the record with the usable result of an unfinished run in the directory, if any.

        With its name goes the size of its images.
        """
        unfinished = record_in(self.out) if self.team.is_chief else None
        if unfinished is None or not unfinished.provisional:
            return record
        return dataclasses.replace(
            record, provisional=unfinished.provisional, image_size=unfinished.image_size
        )

    @contextmanager
    def lock_directory(self, record: RunRecord) -> Iterator[None]:
        """Makes the run directory and locks it against other processes during the block.

        The results of an interrupted run are removed, unless they are provisional and can be used;
        its seconds are added to the clock. A `KeyboardInterrupt` notes what can be used.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        with locked(self.out):
            log_to(self.out / LOG_FILE)
            unfinished = record_in(self.out)
            self.clock.add_earlier({} if unfinished is None else unfinished.seconds)
            self.save_record(record)
            clear_results(self.out, keep=bool(record.provisional))
            try:
                yield
            except KeyboardInterrupt as interruption:
                if (now := record_in(self.out)) is not None and now.provisional:
                    interruption.add_note(f"{self.out} holds {now.provisional}, which can be used")
                raise

    def at_epoch_end(self, stage: str) -> Callable[[int, Mapping[str, float]], None]:
        """Returns the function that is called after each epoch of a stage."""

        def save_and_log(epoch: int, figures: Mapping[str, float]) -> None:
            self.clock.save_now()
            self.tracking.log_epoch(stage, epoch, figures)

        return save_and_log

    def save_record(self, record: RunRecord) -> None:
        """Writes the record with the seconds so far, now and after each part of the run."""
        if self.team.is_chief:
            self.clock.save_with(lambda: write_record(self.out, self.with_seconds(record)))
            write_record(self.out, self.with_seconds(record))

    def with_seconds(self, record: RunRecord) -> RunRecord:
        """Returns the record with the seconds so far."""
        return dataclasses.replace(record, seconds=self.clock.as_dict())
