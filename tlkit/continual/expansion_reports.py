"""The reports of `expand`."""

from collections.abc import Mapping
from dataclasses import dataclass

from tlkit.displays.activity import duration
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText


@dataclass(frozen=True)
class LayerDrift(ShownAsText):
    """The drift of the units of one layer in the probe.

    Attributes:
        name: The layer's original name.
        relative: |w - w*| / |w*| of each unit's incoming weights.
        absolute: |w - w*| of each unit, which the paper calls ρ and compares with a threshold σ.
            Here only the relative drift decides.
    """

    name: str
    relative: tuple[float, ...]
    absolute: tuple[float, ...]

    def num_drifted(self, threshold: float) -> int:
        """Returns the number of units whose relative drift is above a threshold."""
        return sum(drift > threshold for drift in self.relative)

    def __str__(self) -> str:
        median = sorted(self.relative)[len(self.relative) // 2]
        return (
            f"{self.name}: relative drift median {median:.3g}, maximum {max(self.relative):.3g}; "
            f"absolute drift maximum {max(self.absolute):.3g}"
        )


@dataclass(frozen=True)
class ExpansionReport(ShownAsText):
    """The report of `expand`: how the network grew for a new task.

    Attributes:
        drift: The drift of each layer that can be widened, input side first; empty if the new rows
            sufficed.
        threshold: Relative drift above which a unit counts as drifted.
        target: Validation loss at which no units are added, nats.
        loss_retrained: Validation loss with new rows only.
        loss_after: Validation loss at the end.
        new_accuracy_retrained: Accuracy on the new task's validation images, among its own
            classes, with new rows only, 0...1.
        new_accuracy_after: That accuracy at the end.
        num_validation: Number of these images.
        old_accuracy_before: Accuracy on images of the old classes, among themselves; `None` without
            images.
        old_accuracy_after: That accuracy at the end.
        added: Number of units that each layer gained.
        removed: Number of those that became zero and were removed.
        trained: Names of the trained layers, all of them new; they are still trainable.
        num_trained: Number of their parameters.
        weight_change: The relative change of all "new" and all "old" weights,
            |after - before| / |before|, since the units were added (without new units, since the
            new rows were added); 0.0 only if they are bit-identical.
        num_parameters_before: Number of all parameters.
        num_parameters_after: That number at the end.
        multiply_adds_before: Multiply-adds of one forward pass, see `count_multiply_adds`.
        multiply_adds_after: That number at the end.
        isolate: Whether old units do not read new ones.
        seconds: Total duration in seconds.
        notes: Which layers could not grow and why; what was not done or not checked.
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
        """Whether any layer except the outputs has more units than before."""
        return any(self.kept.values())

    @property
    def kept(self) -> dict[str, int]:
        """The number of added units of each layer that were not removed."""
        return {name: number - self.removed.get(name, 0) for name, number in self.added.items()}

    def __str__(self) -> str:
        lines = [
            f"validation loss {self.loss_retrained:.4f} with new rows only "
            f"(accuracy {percent(self.new_accuracy_retrained)}, n = {self.num_validation}), "
            f"target {self.target:.4f}"
        ]
        lines += [f"  {one}" for one in self.drift]
        for name, number in self.added.items():
            num_removed = self.removed.get(name, 0)
            lines.append(f"  {name}: {number} units added, {num_removed} removed")
        if self.drift:
            lines.append(
                f"validation loss {self.loss_after:.4f} at the end "
                f"(accuracy {percent(self.new_accuracy_after)})"
            )
        if self.old_accuracy_before is not None and self.old_accuracy_after is not None:
            lines.append(
                f"old classes: accuracy {percent(self.old_accuracy_before)} before, "
                f"{percent(self.old_accuracy_after)} after"
                f"{', logits bit-identical' if self.isolate else ''}"
            )
        else:
            lines.append("old classes: accuracy not measured, as there is no `old_data`")
        lines.append(
            f"{self.num_trained:,} trainable parameters in {len(self.trained)} new layers; "
            f"weight change: new {self.weight_change['new']:.3g}, "
            f"old {self.weight_change['old']:.3g}"
        )
        lines.append(
            f"parameters {self.num_parameters_before:,} to {self.num_parameters_after:,}, "
            f"multiply-adds {self.multiply_adds_before:,} to {self.multiply_adds_after:,}, "
            f"{duration(self.seconds)}"
        )
        return "\n".join([*lines, *self.notes])
