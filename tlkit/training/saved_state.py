"""The state of a training in a checkpoint's JSON, without its arrays."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tlkit.training.criterion import Score
from tlkit.training.reports import StageReport


@dataclass(frozen=True)
class FitState:
    """The state of a stage after some of its epochs.

    Attributes:
        best: Accuracy and cross-entropy of the best epoch so far, or of the baseline.
        improved: Whether any epoch was better than the baseline.
        kept_epoch: The epoch whose weights are kept, from 1 on.
        epochs_since: Number of epochs since the best one.
        history: One mapping per epoch from Keras's names to values.
        stopped: Whether training has stopped early.
    """

    best: tuple[float, float] | None
    improved: bool
    kept_epoch: int | None
    epochs_since: int
    history: list[dict[str, float]]
    stopped: bool

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "FitState":
        """Returns the state from the content of `dataclasses.asdict`, also of earlier versions.

        Raises:
            KeyError: An entry is missing.
        """
        best = content["best"]
        return cls(
            best=None if best is None else (best[0], best[1]),
            improved=content["improved"],
            kept_epoch=content.get("kept_epoch"),
            epochs_since=content["epochs_since"],
            history=content["history"],
            stopped=content["stopped"],
        )


@dataclass(frozen=True)
class TrainingState:
    """The state of a call of `fine_tune`.

    Attributes:
        was_trained: Whether the head was trained before the call.
        before: The validation score before the call; `None` without validation images.
        reports: Reports of the stages that are finished.
        baseline: The validation score at the start of the current stage.
        is_cached: Whether the current stage trains on stored activations.
        fit: The state of its epochs; `None` between stages.
        seconds: Duration of the current stage so far, over all processes.
    """

    was_trained: bool = False
    before: Score | None = None
    reports: tuple[StageReport, ...] = ()
    baseline: Score | None = None
    is_cached: bool = False
    fit: FitState | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        """Returns the state as JSON content."""
        return {
            "was_trained": self.was_trained,
            "accuracy_before": self.before and self.before.record(),
            "baseline": self.baseline and self.baseline.record(),
            "reports": [dataclasses.asdict(report) for report in self.reports],
            "is_cached": self.is_cached,
            "fit": self.fit and dataclasses.asdict(self.fit),
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "TrainingState":
        """Returns the state from the content of `to_json`, also of earlier versions.

        Raises:
            KeyError: An entry is missing.
        """
        fit = content.get("fit")
        return cls(
            was_trained=content["was_trained"],
            before=Score.from_record(content["accuracy_before"]),
            reports=tuple(StageReport.from_dict(report) for report in content["reports"]),
            baseline=Score.from_record(content.get("baseline")),
            is_cached=content.get("is_cached", False),
            fit=None if fit is None else FitState.from_json(fit),
            seconds=content.get("seconds", 0.0),
        )
