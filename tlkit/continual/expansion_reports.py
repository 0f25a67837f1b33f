"""What `expand` says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from tlkit.displays.activity import duration
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText


@dataclass(frozen=True)
class LayerDrift(ShownAsText):
    """How far the units of one layer came in the probe.

    Attributes:
        name: The layer's first name.
        relative: |w - w*| / |w*| of each unit's incoming weights.
        absolute: |w - w*| of each, which the paper calls ρ and holds against a threshold σ. Only
            the relative one decides here.
    """

    name: str
    relative: tuple[float, ...]
    absolute: tuple[float, ...]

    def num_drifted(self, threshold: float) -> int:
        """Units whose relative drift is above a threshold."""
        return sum(drift > threshold for drift in self.relative)

    def __str__(self) -> str:
        middle = sorted(self.relative)[len(self.relative) // 2]
        return (
            f"{self.name}: relative drift {middle:.3g} in the middle, {max(self.relative):.3g} at "
            f"most; absolute {max(self.absolute):.3g} at most"
        )


@dataclass(frozen=True)
class ExpansionReport(ShownAsText):
    """What a new task needed.

    Attributes:
        drift: Of each layer that can be widened, input side first; empty where new rows sufficed.
        threshold: Relative drift from which a unit had drifted.
        target: Validation loss that would have sufficed, nats.
        loss_retrained: Validation loss with new rows alone.
        loss_after: And at the end.
        new_accuracy_retrained: Accuracy on the new task's validation images, among its own
            classes, with new rows alone, 0...1.
        new_accuracy_after: And at the end.
        num_validation: Their number.
        old_accuracy_before: On images of the old classes among themselves; `None` without any.
        old_accuracy_after: And at the end.
        added: Units that layers gained.
        removed: How many of these fell to zero and went.
        trained: Names of the layers that trained, all of them new, and train still.
        num_trained: Values in their weights.
        weight_change: Of "new" and of "old" weights, |after - before| / |before| over all of them,
            since the units were added (without any, since the new rows were); 0.0 only where no bit
            changed.
        num_parameters_before: Values in all weights.
        num_parameters_after: And at the end.
        multiply_adds_before: Of one forward pass, see `count_multiply_adds`.
        multiply_adds_after: And at the end.
        isolate: Whether old units do not read new ones.
        seconds: Time spent in all.
        notes: What could not grow, and why; what was left undone or unchecked.
    """

    drift: tuple[LayerDrift, ...]
    threshold: float
    target: float
    loss_retrained: float
    loss_after: float
    new_accuracy_retrained: float
    new_accuracy_after: float
    num_validation: int
    old_accuracy_before: float | None
    old_accuracy_after: float | None
    added: Mapping[str, int]
    removed: Mapping[str, int]
    trained: tuple[str, ...]
    num_trained: int
    weight_change: Mapping[str, float]
    num_parameters_before: int
    num_parameters_after: int
    multiply_adds_before: int
    multiply_adds_after: int
    isolate: bool
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def has_grown(self) -> bool:
        """Whether any layer but that of the outputs has more units than before."""
        return any(self.kept.values())

    @property
    def kept(self) -> dict[str, int]:
        """Units that layers gained and still have."""
        return {name: number - self.removed.get(name, 0) for name, number in self.added.items()}

    def __str__(self) -> str:
        lines = [
            f"validation loss {self.loss_retrained:.4f} with new rows alone "
            f"({percent(self.new_accuracy_retrained)} of {self.num_validation}), "
            f"{self.target:.4f} was wanted"
        ]
        lines += [f"  {one}" for one in self.drift]
        for name, number in self.added.items():
            gone = self.removed.get(name, 0)
            lines.append(f"  {name}: {number} units added, {gone} removed")
        if self.drift:
            lines.append(
                f"validation loss {self.loss_after:.4f} at the end "
                f"({percent(self.new_accuracy_after)})"
            )
        if self.old_accuracy_before is not None and self.old_accuracy_after is not None:
            lines.append(
                f"old classes: {percent(self.old_accuracy_before)} before, "
                f"{percent(self.old_accuracy_after)} after"
                f"{', bit for bit the same logits' if self.isolate else ''}"
            )
        else:
            lines.append("old classes: accuracy not measured, there is no `old_data`")
        lines.append(
            f"{self.num_trained:,} parameters train, in {len(self.trained)} new layers; "
            f"weight change: new {self.weight_change['new']:.3g}, "
            f"old {self.weight_change['old']:.3g}"
        )
        lines.append(
            f"parameters {self.num_parameters_before:,} to {self.num_parameters_after:,}, "
            f"multiply-adds {self.multiply_adds_before:,} to {self.multiply_adds_after:,}, "
            f"{duration(self.seconds)}"
        )
        return "\n".join([*lines, *self.notes])
