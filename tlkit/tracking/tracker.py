"""The interface through which a run is recorded elsewhere, such as on an MLflow server."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

Setting = str | int | float | bool
"""A setting of a run; several values are one text with commas."""

FINISHED, FAILED, KILLED = "finished", "failed", "killed"
"""How a run ended: with its results, by an error, or by an interruption."""


class Tracker(ABC):
    """Records one run with an experiment tracker.

    The methods are called in this order: `check`, `start`, `log_epoch` after each epoch,
    `log_metrics`, `log_artifact` for each file, `finish`. A run that ends early is finished at
    once. An error of `check` or `start` ends the run before it trains anything; one of a later
    method is reported, and the run continues without this tracker, whose `finish` is still called.
    `str()` of a tracker names it in messages.

    Example:
        >>> import tlkit
        >>> class Printer(tlkit.Tracker):
        ...     def start(self, name, settings): print(name, settings["epochs"])
        ...     def log_epoch(self, stage, epoch, figures): print(stage, epoch, figures["loss"])
        ...     def log_metrics(self, metrics): print(metrics["test/accuracy"])
        ...     def log_artifact(self, path): print(path.name)
        ...     def finish(self, status): print(status)
        >>> tracker = Printer()
        >>> tracker.log_epoch("fine-tune", 1, {"loss": 0.5})
        fine-tune 1 0.5
        >>> run = tlkit.train_run("photos", trackers=[tracker])  # doctest: +SKIP
    """

    def check(self) -> None:  # noqa: B027 - not every tracker can be tried beforehand
        """Raises an error if the destination cannot be used; called before any work."""

    @abstractmethod
    def start(self, name: str, settings: Mapping[str, Setting]) -> None:
        """Begins the record, before the training.

        Args:
            name: Name of the run directory.
            settings: The arguments of the run that have a value, with the choices so far in place
                of "auto"; "out" is the run directory, "tlkit" the version.
        """

    @abstractmethod
    def log_epoch(self, stage: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Records an epoch.

        Args:
            stage: Name of the stage: "head", "fine-tune", or "refit".
            epoch: Number of the epoch in its stage, from 1 on.
            figures: Keras's names ("loss", "val_accuracy", ...) and values; "learning_rate" is that
                of the head at the end of the epoch, if it was trained in this process.
        """

    @abstractmethod
    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Records the final metrics.

        Args:
            metrics: "test/accuracy", "validation/loss" and so on; "seconds" is the duration of the
                run over all its processes.
        """

    @abstractmethod
    def log_artifact(self, path: Path) -> None:
        """Records a file of the run: `report.html`, `model_card.md`."""

    @abstractmethod
    def finish(self, status: str) -> None:
        """Ends the record.

        Args:
            status: "finished", "failed" (an error) or "killed" (an interruption).
        """

    def __str__(self) -> str:
        return type(self).__name__
