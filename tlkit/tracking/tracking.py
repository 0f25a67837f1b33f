"""The tracking of one run: all of its trackers, of which none can end its training."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import methodcaller
from pathlib import Path

from tlkit.errors import ArgumentError
from tlkit.tracking.tracker import FAILED, FINISHED, KILLED, Setting, Tracker
from tlkit.utils.formatting import reason_of


class Tracking:
    """Passes a run to its trackers; one that fails is reported and then left out.

    Args:
        trackers: The trackers.
        log: Gets messages about failures.

    Example:
        >>> from tlkit.tracking.tracking import Tracking
        >>> tracking = Tracking()
        >>> with tracking.recording("run", {"epochs": 2}):
        ...     tracking.log_epoch("fine-tune", 1, {"loss": 0.5})
    """

    def __init__(
        self, trackers: Sequence[Tracker] = (), log: Callable[[str], None] = lambda text: None
    ) -> None:
        self._trackers, self._log = tuple(trackers), log
        self._failures: dict[Tracker, str] = {}
        self._logged: set[tuple[str, int]] = set()

    def check(self) -> None:
        """Lets each tracker check its destination.

        Raises:
            ArgumentError: A tracker cannot be used.
        """
        for tracker in self._trackers:
            with _refused(tracker):
                tracker.check()

    @contextmanager
    def recording(self, name: str, settings: Mapping[str, Setting]) -> Iterator[None]:
        """Starts the trackers and, whatever ends the block, finishes them.

        Args:
            name: Name of the run.
            settings: Its settings.

        Raises:
            ArgumentError: A tracker cannot be started.
        """
        status, started = FAILED, []
        try:
            for tracker in self._trackers:
                started.append(tracker)
                with _refused(tracker):
                    tracker.start(name, settings)
            yield
            status = FINISHED
        except Exception:
            raise
        except BaseException:  # Ctrl-C, or a signal
            status = KILLED
            raise
        finally:
            for tracker in started:
                self._finish(tracker, status)
            for tracker, failure in self._failures.items():
                self._log(f"{tracker} lacks a part of this run: it failed {failure}")

    def log_epoch(self, stage: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Logs an epoch, counted from 1, unless it was logged before."""
        if (stage, epoch) in self._logged:
            return
        self._logged.add((stage, epoch))
        what = f"at epoch {epoch} of {stage}"
        self._each(what, lambda tracker: tracker.log_epoch(stage, epoch, figures))

    def log_epochs(self, stage: str, history: Iterable[Mapping[str, float]]) -> None:
        """Logs those epochs of a stage that were not logged while it was trained."""
        for epoch, figures in enumerate(history, start=1):
            self.log_epoch(stage, epoch, figures)

    def log_results(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Logs the final metrics and the files of a run."""
        self._each("with the final metrics", lambda tracker: tracker.log_metrics(metrics))
        for path in files:
            self._each(f"with {path.name}", methodcaller("log_artifact", path))

    def _each(self, what: str, call: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers:
            if tracker in self._failures:
                continue
            try:
                call(tracker)
            except Exception as error:  # whatever a tracker raises, the training is worth more
                self._failures[tracker] = f"{what} ({reason_of(error)})"
                self._log(
                    f"{tracker} failed {self._failures[tracker]}; the run continues without it"
                )

    def _finish(self, tracker: Tracker, status: str) -> None:
        """Finishes a tracker; one that has failed before is finished as failed."""
        has_failed = tracker in self._failures
        try:
            tracker.finish(FAILED if has_failed and status == FINISHED else status)
        except Exception as error:
            if not has_failed:
                self._failures[tracker] = f"at the end ({reason_of(error)})"


@contextmanager
def _refused(tracker: Tracker) -> Iterator[None]:
    """Raises an error of a tracker that cannot be used as one about the argument."""
    try:
        yield
    except ArgumentError:
        raise
    except Exception as error:
        raise ArgumentError(
            f"`trackers` must be usable from the start. Received: {str(tracker)!r}, which failed "
            f"({reason_of(error)}). Check its destination, or leave it out."
        ) from error
