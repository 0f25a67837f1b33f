"""What trainings at several strengths came to, and which was chosen."""

from dataclasses import dataclass

from tlkit.displays.activity import duration
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText


@dataclass(frozen=True)
class StrengthTrial(ShownAsText):
    """One training at one strength.

    Attributes:
        strength: 0 for the training without an anchor.
        accuracy: On the new task's validation images, 0...1; the balanced or weighted one where
            that decides, as `StrengthReport.decided_by` says.
        loss: Mean cross-entropy on the new task's training images, nats; `None` with an anchor,
            where nothing needs it.
        drift: Sum of importance * (w - w*)**2 over the anchored weights.
        share: The penalty's share of the loss in the last epoch, 0...1.
        old_accuracy: On the old task's images, or `None` where there are none.
        seconds: Time spent.
    """

    strength: float
    accuracy: float
    loss: float | None
    drift: float
    share: float = 0.0
    old_accuracy: float | None = None
    seconds: float = 0.0

    def balance(self, num_old_tasks: int = 1) -> float:
        """Mean of the accuracies on the new task and on each of the old ones, 0...1."""
        if self.old_accuracy is None:
            raise ValueError("there is no accuracy on the old task")
        return (self.accuracy + num_old_tasks * self.old_accuracy) / (1 + num_old_tasks)

    def __str__(self) -> str:
        old = "" if self.old_accuracy is None else f", old task {percent(self.old_accuracy)}"
        name = f"strength {self.strength:.3g}" if self.strength else "no anchor"
        return (
            f"{name}: new task {percent(self.accuracy)}{old}, drift {self.drift:.3g}, "
            f"penalty {percent(self.share, 0)} of the loss, {duration(self.seconds)}"
        )


@dataclass(frozen=True)
class StrengthReport(ShownAsText):
    """How a strength was chosen.

    Attributes:
        before: Accuracy, loss and old accuracy before any training (strength infinite, so to say).
        trials: Every training, the one without an anchor first.
        chosen: The strength.
        tolerance: Share of the whole accuracy reached without an anchor (not of what was gained)
            that might be lost; of no effect where the old task's images decided.
        num_validation: Images behind the new task's accuracies.
        scenario: How the tasks relate, see `ForgettingMatrix`.
        num_old_tasks: How many tasks the old images stand for.
        notes: What speaks against the chosen strength, and what was substituted.
    """

    before: StrengthTrial
    trials: tuple[StrengthTrial, ...]
    chosen: float
    tolerance: float
    num_validation: int
    scenario: str
    num_old_tasks: int = 1
    notes: tuple[str, ...] = ()
    decided_by: str = "accuracy"

    @property
    def aim(self) -> str:
        """What the strength was chosen for, in words."""
        if self.before.old_accuracy is not None:
            old = "task's" if self.num_old_tasks == 1 else f"{self.num_old_tasks} tasks'"
            return f"for the best mean of the new and the old {old} accuracies"
        return f"to keep {percent(1 - self.tolerance, 0)} of the accuracy without an anchor"

    @property
    def _which(self) -> str:
        return "" if self.decided_by == "accuracy" else f"; {self.decided_by} throughout"

    def __str__(self) -> str:
        old = self.before.old_accuracy
        lines = [
            f"before: new task {percent(self.before.accuracy)}"
            + ("" if old is None else f", old task {percent(old)}"),
            *map(str, self.trials),
            f"chosen: {self.chosen:.3g}, {self.aim} ({self.num_validation} images, "
            f"{self.scenario}{self._which})",
        ]
        return "\n".join([*lines, *self.notes])
