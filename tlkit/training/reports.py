"""What training says of itself."""

from dataclasses import dataclass
from typing import Any

from tlkit.models.groups import TrainableReport
from tlkit.showing import ShownAsText


@dataclass(frozen=True)
class StageReport(ShownAsText):
    """One stage of training.

    Attributes:
        name: "head" or "fine-tune".
        trainable: What was allowed to move.
        history: One mapping per epoch, of Keras's names ("loss", "val_accuracy", ...) to values;
            empty for a head that was solved.
        moved: For each group of layers the relative change of its weights,
            |after - before| / |before|; exactly 0.0 for a frozen one.
        seconds: Time spent.
        num_forward_passes: Images that went through the frozen part; 0 when all were stored.
        notes: What was chosen, substituted or left out.
    """

    name: str
    trainable: TrainableReport
    history: tuple[dict[str, float], ...]
    moved: dict[str, float]
    seconds: float
    num_forward_passes: int = 0
    notes: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "StageReport":
        """Makes a report again of what `dataclasses.asdict` and JSON made of it."""
        trainable: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content["trainable"].items()
        }
        return cls(
            **{
                **content,
                "trainable": TrainableReport(**trainable),
                "history": tuple(content["history"]),
                "notes": tuple(content["notes"]),
            }
        )

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.seconds:.1f} s; {self.trainable}"]
        lines += [
            f"  {group} moved by {100 * change:.3g} %" if change else f"  {group} did not move"
            for group, change in self.moved.items()
        ]
        return "\n".join(lines + [f"  {note}" for note in self.notes])


@dataclass(frozen=True)
class TrainingReport(ShownAsText):
    """What was trained and what it brought on validation; several stages in their order.

    Attributes:
        stages: What was done, in order.
        accuracy_before: Validation accuracy of the model that was given, 0...1; `None` without
            validation images, or where its head had never been trained.
        accuracy_after: Validation accuracy of the model as it is now.
        num_validation: Number of images behind these figures.
    """

    stages: tuple[StageReport, ...]
    accuracy_before: float | None
    accuracy_after: float | None
    num_validation: int

    def __str__(self) -> str:
        lines = [str(stage) for stage in self.stages]
        if self.accuracy_after is not None:
            before = (
                "" if self.accuracy_before is None else f"{100 * self.accuracy_before:.1f} % to "
            )
            lines.append(
                f"validation accuracy {before}{100 * self.accuracy_after:.1f} % "
                f"({self.num_validation} images)"
            )
        return "\n".join(lines)
