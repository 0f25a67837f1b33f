"""What a run found of its model: what `metrics.json`, the page and the model card are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from tlkit.advice.rejection import RejectionReport
    from tlkit.continual.warm_start import ForgettingReport
    from tlkit.evaluation.calibration import CalibrationReport
    from tlkit.evaluation.comparison import ComparisonReport
    from tlkit.evaluation.explanation import Explanation
    from tlkit.evaluation.rejection import Rejection
    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.training.reports import StageReport, TrainingReport


@dataclass(frozen=True)
class CalibrationDecision:
    """Whether the probabilities were calibrated.

    Attributes:
        report: What calibrating found; `None` where the model was left as it is.
        reason: Why it was left; "" where it was calibrated.
    """

    report: "CalibrationReport | None"
    reason: str = ""

    @property
    def is_calibrated(self) -> bool:
        """Whether a temperature other than 1 was put into the model."""
        return self.report is not None and self.report.temperature != 1

    def as_dict(self) -> dict[str, Any]:
        """Returns it as `metrics.json` holds it: with a temperature, 1 where nothing was done."""
        if self.report is None:
            return {"temperature": 1.0, "notes": [self.reason]}
        return self.report.as_dict()

    def __str__(self) -> str:
        return self.reason if self.report is None else str(self.report)


@dataclass(frozen=True)
class FittedRejection:
    """When an image is unknown, and how often that is wrong.

    Attributes:
        rejection: The threshold.
        tested: How many test images it rejects wrongly; `None` without any.
    """

    rejection: "Rejection"
    tested: "RejectionReport | None"

    def as_dict(self) -> dict[str, Any]:
        """Returns it as `metrics.json` holds it."""
        tested = None if self.tested is None else self.tested.as_dict()
        return {**self.rejection.as_dict(), "test": tested}

    @property
    def lines(self) -> tuple[str, ...]:
        """It in words."""
        lines = str(self.rejection).splitlines()
        if self.tested is not None:
            lines.append(f"of the test split, whose classes are known, {self.tested}")
        return tuple(lines)


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """What a run found of its model.

    Attributes:
        training: What was trained.
        evaluations: The model on "validation" and "test"; `None` for a split that there is not.
        calibration: Whether the probabilities were calibrated.
        against_probe: A linear probe (first) and the model (second) on the same images; `None`
            where there is no such comparison.
        rejection: When an image is unknown; `None` where that was not asked for.
        forgotten: What going on cost an earlier task, where there was one.
        maps: What speaks for the wrong class in a mistake, by the mistake's index.
        images: Some training images as training saw them, uint8 `(height, width, 3)`, each with
            the name of its class.
        augmentation: How they were augmented, by name.
    """

    training: "TrainingReport"
    evaluations: "Mapping[str, EvaluationReport | None]"
    calibration: CalibrationDecision
    against_probe: "ComparisonReport | None" = None
    rejection: FittedRejection | None = None
    forgotten: "ForgettingReport | None" = None
    maps: "Mapping[int, Explanation]" = field(default_factory=dict)
    images: "Sequence[tuple[np.ndarray, str]]" = ()
    augmentation: str = "none"

    def as_metrics(self) -> dict[str, Any]:
        """Returns the content of `metrics.json`.

        Under "calibration" stands the temperature that the probabilities hold, and under
        "against_probe" how a linear probe (first) and the model (second) fare on the same images;
        `None` where there is none.
        """
        metrics: dict[str, Any] = {
            name: None if report is None else report.as_dict()
            for name, report in self.evaluations.items()
        }
        if self.forgotten is not None:
            metrics["old_task"] = self.forgotten.as_dict()
        for name, found in (
            ("calibration", self.calibration),
            ("against_probe", self.against_probe),
            ("rejection", self.rejection),
        ):
            metrics[name] = None if found is None else found.as_dict()
        metrics["stages"] = [_stage(stage) for stage in self.training.stages]
        return metrics


def _stage(stage: "StageReport") -> dict[str, Any]:
    return {
        "name": stage.name,
        "seconds": round(stage.seconds, 3),
        "num_trainable": stage.trainable.num_trainable,
        "num_forward_passes": stage.num_forward_passes,
        "weight_change": stage.weight_change,
        "notes": list(stage.notes),
    }
