"""The results of a run, from which `metrics.json`, the page and the model card are made."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from tlkit.evaluation.thresholds import LabelThresholds

if TYPE_CHECKING:
    import numpy as np

    from tlkit.advice.learning_curve import LearningCurveReport
    from tlkit.advice.rejection import RejectionReport
    from tlkit.continual.head_statistics import HeadStatistics
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
        report: Report of the calibration; `None` if the model was not calibrated.
        reason: Why it was not calibrated; "" if it was.
    """

    report: "CalibrationReport | None"
    reason: str = ""

    @property
    def is_calibrated(self) -> bool:
        """Whether a temperature other than 1 was put into the model."""
        return self.report is not None and self.report.temperature != 1

    def put_into(self, statistics: "HeadStatistics | None") -> "HeadStatistics | None":
        """Returns statistics of a head with the temperature that was put into the model."""
        if statistics is None or self.report is None:
            return statistics
        return replace(statistics, factor=statistics.factor / self.report.temperature)

    def as_dict(self) -> dict[str, object]:
        """Returns the content of `metrics.json`; the temperature is 1 without calibration."""
        if self.report is None:
            return {"temperature": 1.0, "notes": [self.reason]}
        return self.report.as_dict()

    def __str__(self) -> str:
        return self.reason if self.report is None else str(self.report)


@dataclass(frozen=True)
class TestTimeViews:
    """The gain and cost of predictions from several views of an image.

    Attributes:
        name: "flip".
        comparison: One view (first) compared with the mean over all (second) on validation images;
            `None` without them.
        milliseconds: Time for one image with one view, and with all, in batches of 32.
    """

    name: str
    comparison: "ComparisonReport | None"
    milliseconds: tuple[float, float]

    def as_dict(self) -> dict[str, object]:
        """Returns the content of `metrics.json`."""
        comparison = None if self.comparison is None else self.comparison.as_dict()
        return {
            "name": self.name,
            "milliseconds": list(self.milliseconds),
            "comparison": comparison,
        }

    def __str__(self) -> str:
        before, after = self.milliseconds
        cost = f"{after:.1f} ms for an image instead of {before:.1f}"
        if self.comparison is None:
            return f"test-time views ({self.name}): {cost}"
        pair = f"one view (first) and test-time views, {self.name} (second)"
        return f"{pair}: {self.comparison}; {cost}"


SHIPPED = {"head": "the head alone", "fine-tuned": "the fine-tuned model"}
"""What the "model" of "shipped" in `metrics.json` is called in sentences."""


@dataclass(frozen=True)
class Shipped:
    """Which of two models a run that fine-tunes ships.

    Attributes:
        is_head: Whether it is the head alone, on the unchanged backbone; else the fine-tuned model.
        reason: Why, with the figures on validation images.
    """

    is_head: bool
    reason: str

    def as_dict(self) -> dict[str, object]:
        """Returns the content of `metrics.json`."""
        return {"model": "head" if self.is_head else "fine-tuned", "reason": self.reason}

    def __str__(self) -> str:
        return f"{SHIPPED['head' if self.is_head else 'fine-tuned']}: {self.reason}"


@dataclass(frozen=True)
class Refit:
    """A last training on all labelled images, whose model is exported without figures of its own.

    Attributes:
        num_images: Number of images of every split, on which the exported model was trained.
        num_before: Number of training images of the model that was measured.
        epochs: Number of epochs; `None` if the head was solved.
        seconds: Its duration.
    """

    num_images: int
    num_before: int
    epochs: int | None
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """Returns the content of `metrics.json`."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}

    def __str__(self) -> str:
        return (
            f"the exported model was trained once more, on all {self.num_images:,} images; all "
            f"figures are of the model before, which was trained on {self.num_before:,} of them in "
            "the same way"
        )


@dataclass(frozen=True)
class FittedRejection:
    """The rejection of out-of-distribution images, and its error on test images.

    Attributes:
        rejection: The threshold of the OOD score.
        tested: The fraction of test images, all of known classes, that it rejects; `None`
            without test images.
    """

    rejection: "Rejection"
    tested: "RejectionReport | None"

    def as_dict(self) -> dict[str, object]:
        """Returns the content of `metrics.json`."""
        tested = None if self.tested is None else self.tested.as_dict()
        return {**self.rejection.as_dict(), "test": tested}

    @property
    def lines(self) -> tuple[str, ...]:
        """Description for the page and the log."""
        lines = str(self.rejection).splitlines()
        if self.tested is not None:
            lines.append(f"on the test split, whose classes are known: {self.tested}")
        return tuple(lines)


@dataclass(frozen=True)
class FurtherExport:
    """A format that the model of a run was exported to, or could not be exported to.

    Attributes:
        name: The format.
        file: Its file in the run directory; "" if it could not be exported.
        report: The report on it, or the reason.
        comparison: The model in memory (first) compared with the export (second); `None` if it was
            not made.
    """

    name: str
    file: str
    report: str
    comparison: "ComparisonReport | None" = None

    def as_dict(self) -> dict[str, object]:
        """Returns the content of `metrics.json`."""
        comparison = None if self.comparison is None else self.comparison.as_dict()
        return {
            "name": self.name,
            "file": self.file or None,
            "report": self.report,
            "comparison": comparison,
        }

    def __str__(self) -> str:
        return self.report if self.file else f"{self.name} was not written: {self.report}"


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """The results of a run.

    Attributes:
        training: Report of the training.
        evaluations: Metrics on "validation" and "test"; `None` for a split without images.
        calibration: Whether the probabilities were calibrated.
        views: The gain and cost of test-time views; `None` if there is one view.
        shipped: Whether the fine-tuned model or the head alone was exported; `None` for a run with
            one of them only.
        against_probe: Comparison of the head alone (first) with the fine-tuned model (second) on
            the same images; `None` if it was not made.
        cross_validation: Out-of-fold metrics of the whole recipe on all images; `None` without
            folds.
        refit: The last training on all images; `None` without it.
        learning_curve: What twice as many training images would bring; `None` if it was not asked.
        rejection: Rejection of out-of-distribution images; `None` if it was not asked for.
        thresholds: The probability from which each label is assigned; `None` with one class per
            image.
        forgotten: Forgetting of an earlier task; `None` if there is none.
        removed: Digests of images that were forgotten, which `split.csv` leaves out.
        maps: Grad-CAM map of the predicted class for a mistake, by the mistake's index.
        images: Some training images after augmentation, uint8 `(height, width, 3)`, each with the
            name of its class.
        augmentation: Name of their augmentation.
        exports: The further formats that the model was exported to.
    """

    training: "TrainingReport"
    evaluations: "Mapping[str, EvaluationReport | None]"
    calibration: CalibrationDecision
    views: TestTimeViews | None = None
    shipped: Shipped | None = None
    against_probe: "ComparisonReport | None" = None
    cross_validation: "EvaluationReport | None" = None
    refit: Refit | None = None
    learning_curve: "LearningCurveReport | None" = None
    rejection: FittedRejection | None = None
    thresholds: LabelThresholds | None = None
    forgotten: "ForgettingReport | None" = None
    removed: Collection[str] = ()
    maps: "Mapping[int, Explanation]" = field(default_factory=dict)
    images: "Sequence[tuple[np.ndarray, str]]" = ()
    augmentation: str = "none"
    exports: Sequence[FurtherExport] = ()

    def as_metrics(self) -> dict[str, object]:
        """Returns the content of `metrics.json`.

        "calibration" holds the temperature of the probabilities, "test_time_views" their gain and
        cost or `None`, "shipped" which model was exported and why, "against_probe" the comparison
        of the head alone (first) with the fine-tuned model (second) on the same images, or `None`,
        and "learning_curve" the accuracy with fewer and more training images, or `None`. "exports"
        are the further formats, if some were asked for.
        """
        metrics: dict[str, object] = {
            name: None if report is None else report.as_dict()
            for name, report in self.evaluations.items()
        }
        if self.forgotten is not None:
            metrics["old_task"] = self.forgotten.as_dict()
        for name, result in (
            ("calibration", self.calibration),
            ("test_time_views", self.views),
            ("shipped", self.shipped),
            ("against_probe", self.against_probe),
            ("cross_validation", self.cross_validation),
            ("refit", self.refit),
            ("learning_curve", self.learning_curve),
            ("rejection", self.rejection),
        ):
            metrics[name] = None if result is None else result.as_dict()
        if self.exports:
            metrics["exports"] = [one.as_dict() for one in self.exports]
        metrics["stages"] = [_stage(stage) for stage in self.training.stages]
        return metrics


def _stage(stage: "StageReport") -> dict[str, object]:
    return {
        "name": stage.name,
        "seconds": round(stage.seconds, 3),
        "num_trainable": stage.trainable.num_trainable,
        "num_forward_passes": stage.num_forward_passes,
        "weight_change": stage.weight_change,
        "notes": list(stage.notes),
    }
