"""What training says of itself."""

import math
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
        kept_epoch: The epoch of `history` whose weights are kept, from 1 on; `None` where none
            was better than the model before, and for a head that was solved.
    """

    name: str
    trainable: TrainableReport
    history: tuple[dict[str, float], ...]
    moved: dict[str, float]
    seconds: float
    num_forward_passes: int = 0
    notes: tuple[str, ...] = ()
    kept_epoch: int | None = None

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

    _derived = ("history",)

    @property
    def history(self) -> dict[str, list[float]]:
        """The metrics of every epoch over all stages, as `keras.callbacks.History` has them.

        From each name ("loss", "accuracy", "val_loss", ...) to one value an epoch; NaN where a
        stage did not measure it. Empty where nothing was trained in epochs.
        """
        epochs = [epoch for stage in self.stages for epoch in stage.history]
        names = dict.fromkeys(name for epoch in epochs for name in epoch)
        return {name: [epoch.get(name, math.nan) for epoch in epochs] for name in names}

    def __str__(self) -> str:
        return "\n".join([*map(str, self.stages), *self._accuracy()])

    def _brief(self) -> str:
        stages = [str(stage).partition("\n")[0] for stage in self.stages]
        notes = [f"  {note}" for stage in self.stages for note in stage.notes]
        return "\n".join([*self._accuracy(), *stages, *notes])

    def _accuracy(self) -> list[str]:
        """What it brought on validation, a line where that was measured."""
        if self.accuracy_after is None:
            return []
        before = "" if self.accuracy_before is None else f"{100 * self.accuracy_before:.1f} % to "
        return [
            f"validation accuracy {before}{100 * self.accuracy_after:.1f} % "
            f"({self.num_validation} images)"
        ]
