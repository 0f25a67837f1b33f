"""What training says of itself."""

import math
from dataclasses import dataclass, field
from typing import Any

from tlkit.models.groups import TrainableReport
from tlkit.utils.formatting import percent
from tlkit.utils.renamed import renamed_attribute
from tlkit.utils.text_repr import ShownAsText

_UNCHANGED = "unchanged"


@dataclass(frozen=True)
class StageReport(ShownAsText):
    """One stage of training.

    Attributes:
        name: "head" or "fine-tune".
        trainable: What was trainable.
        history: One mapping per epoch, of Keras's names ("loss", "val_accuracy", ...) to values;
            empty for a head that was solved.
        weight_change: For each group of layers the relative change of its weights,
            |after - before| / |before|; exactly 0.0 for a frozen one.
        seconds: Time spent.
        num_forward_passes: Images that went through the frozen part; 0 when all were stored.
        notes: What was chosen, substituted or left out.
        kept_epoch: The epoch of `history` whose weights are kept, from 1 on; `None` where none
            was better than the model before, and for a head that was solved.
        put_back: What each group of layers had changed by, likewise, before its weights were put
            back because nothing was better on validation; empty where they were not.
    """

    name: str
    trainable: TrainableReport
    history: tuple[dict[str, float], ...]
    weight_change: dict[str, float]
    seconds: float
    num_forward_passes: int = 0
    notes: tuple[str, ...] = ()
    kept_epoch: int | None = None
    put_back: dict[str, float] = field(default_factory=dict)

    moved = renamed_attribute("moved", "weight_change")

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "StageReport":
        """Makes a report again of what `dataclasses.asdict` and JSON made of it."""
        trainable: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content["trainable"].items()
        }
        fields = {**content}
        if "moved" in fields:  # so it was called in trainings that an earlier version began
            fields["weight_change"] = fields.pop("moved")
        return cls(
            **{
                **fields,
                "trainable": TrainableReport(**trainable),
                "history": tuple(content["history"]),
                "notes": tuple(content["notes"]),
            }
        )

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.seconds:.1f} s; {self.trainable}"]
        shown = {group: self._described(group) for group in self.weight_change}
        lines += [f"  {group}: {words}" for group, words in shown.items() if words != _UNCHANGED]
        if still := [group for group, words in shown.items() if words == _UNCHANGED]:
            lines.append(f"  {_UNCHANGED}: {', '.join(still)}")
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    def _described(self, group: str) -> str:
        if change := self.weight_change[group]:
            return f"weight change {100 * change:.3g} %"
        if change := self.put_back.get(group, 0.0):
            return f"weight change {100 * change:.3g} %, and its weights were put back"
        return _UNCHANGED


@dataclass(frozen=True)
class TrainingReport(ShownAsText):
    """What was trained and what it brought on validation; several stages in their order.

    Attributes:
        stages: What was done, in order.
        accuracy_before: Validation accuracy of the model that was given, 0...1; `None` without
            validation images, or where its head had never been trained.
        accuracy_after: Validation accuracy of the model as it is now.
        num_validation: Number of images behind these figures.
        decided_by: What decided which weights were kept: "accuracy" or, where classes or images are
            weighed in training, "balanced accuracy" or "weighted accuracy".
        decision_before: That accuracy of the model that was given; `None` as `accuracy_before` is.
        decision_after: And of the model as it is now.
    """

    stages: tuple[StageReport, ...]
    accuracy_before: float | None
    accuracy_after: float | None
    num_validation: int
    decided_by: str = "accuracy"
    decision_before: float | None = None
    decision_after: float | None = None

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
        """What it brought on validation, where that was measured; first what decided."""
        lines = []
        if self.decision_after is not None and self.decided_by != "accuracy":
            change = _change(self.decision_before, self.decision_after)
            lines.append(f"{self.decided_by} on validation {change}: it decided what is kept")
        if self.accuracy_after is not None:
            change = _change(self.accuracy_before, self.accuracy_after)
            lines.append(f"validation accuracy {change} ({self.num_validation} images)")
        return lines


def _change(before: float | None, after: float) -> str:
    first = "" if before is None else f"{percent(before)} to "
    return f"{first}{percent(after)}"
