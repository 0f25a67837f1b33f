"""The reports of training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tlkit.models.groups import TrainableReport
from tlkit.utils.dataframes import dataframe_of
from tlkit.utils.formatting import percent, relative_change
from tlkit.utils.renamed import renamed_attribute
from tlkit.utils.text_repr import ShownAsText

if TYPE_CHECKING:
    import pandas

_UNCHANGED = "unchanged"


@dataclass(frozen=True)
class StageReport(ShownAsText):
    """The report of one stage of training.

    Attributes:
        name: "head" or "fine-tune".
        trainable: The trainable groups.
        history: One mapping per epoch from Keras's names ("loss", "val_accuracy", ...) to values;
            empty for a head that was solved.
        weight_change: The relative weight change of each group of layers,
            |after - before| / |before|; exactly 0.0 for a frozen group, infinite if its weights
            were zero or its layers were replaced.
        seconds: Duration in seconds.
        num_forward_passes: Number of images that went through the frozen part; 0 if the features
            of all were stored.
        notes: Notes on what was chosen, substituted or left out.
        kept_epoch: The epoch of `history` whose weights are kept, from 1 on; `None` if the weights
            before the stage are, and for a head that was solved.
        put_back: The relative weight change of each group before its weights were restored because
            they were better on validation; empty if nothing was restored.
        kept_fraction: The fraction of the weight change up to `kept_epoch` that is kept, 0...1.
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
    kept_fraction: float = 1.0

    moved = renamed_attribute("moved", "weight_change")

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "StageReport":
        """Returns the report from the content of `dataclasses.asdict`, also after JSON."""
        trainable: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content["trainable"].items()
        }
        fields = {**content}
        if "moved" in fields:  # the key in checkpoints of earlier versions
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
        if unchanged := [group for group, words in shown.items() if words == _UNCHANGED]:
            lines.append(f"  {_UNCHANGED}: {', '.join(unchanged)}")
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    def _described(self, group: str) -> str:
        if math.isinf(change := self.weight_change[group]):
            return "new weights"
        if change:
            return f"weight change {relative_change(change)}"
        if change := self.put_back.get(group, 0.0):
            return f"weight change {relative_change(change)}, then restored"
        return _UNCHANGED


@dataclass(frozen=True)
class TrainingReport(ShownAsText):
    """The report of a training: its stages and the validation accuracy before and after.

    Attributes:
        stages: The reports of the stages, in order.
        accuracy_before: Validation accuracy before the training, 0...1; `None` without validation
            images, or if the head was untrained.
        accuracy_after: Validation accuracy after the training.
        num_validation: Number of validation images.
        decided_by: The accuracy that decided which weights were kept: "accuracy" or, with class
            weights or sample weights, "balanced accuracy" or "weighted accuracy".
        decision_before: That accuracy before the training; `None` whenever `accuracy_before` is.
        decision_after: That accuracy after the training.
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
        """The metrics of every epoch over all stages, in the form of `keras.callbacks.History`.

        Maps each name ("loss", "accuracy", "val_loss", ...) to one value per epoch; NaN if a stage
        did not measure it. Empty if no stage has epochs.
        """
        epochs = [epoch for stage in self.stages for epoch in stage.history]
        names = dict.fromkeys(name for epoch in epochs for name in epoch)
        return {name: [epoch.get(name, math.nan) for epoch in epochs] for name in names}

    def to_dataframe(self) -> "pandas.DataFrame":
        """Returns the metrics of every epoch as a data frame, one row per epoch.

        Its columns are "stage", "epoch" (from 1 on in each stage), and the names of `history`.

        Raises:
            ArgumentError: pandas is not installed.
        """
        epochs = [
            (stage.name, number)
            for stage in self.stages
            for number in range(1, len(stage.history) + 1)
        ]
        names, numbers = [name for name, _ in epochs], [number for _, number in epochs]
        return dataframe_of({"stage": names, "epoch": numbers, **self.history})

    def __str__(self) -> str:
        return "\n".join([*map(str, self.stages), *self._accuracy()])

    def _brief(self) -> str:
        stages = [str(stage).partition("\n")[0] for stage in self.stages]
        notes = [f"  {note}" for stage in self.stages for note in stage.notes]
        return "\n".join([*self._accuracy(), *stages, *notes])

    def _accuracy(self) -> list[str]:
        """Returns the lines on validation accuracy, if it was measured; the deciding one first."""
        lines = []
        if self.decision_after is not None and self.decided_by != "accuracy":
            change = _change(self.decision_before, self.decision_after)
            lines.append(
                f"validation {self.decided_by} {change}: it decided which weights are kept"
            )
        if self.accuracy_after is not None:
            change = _change(self.accuracy_before, self.accuracy_after)
            lines.append(f"validation accuracy {change} (n = {self.num_validation})")
        return lines


def _change(before: float | None, after: float) -> str:
    first = "" if before is None else f"{percent(before)} to "
    return f"{first}{percent(after)}"
