"""The reports of trial trainings at several strengths, and of the choice."""

from dataclasses import dataclass

from tlkit.displays.activity import duration
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText


@dataclass(frozen=True)
class StrengthTrial(ShownAsText):
    """One training at one strength.

    Attributes:
        strength: The strength; 0 for the training without an anchor.
        accuracy: Accuracy on the new task's validation images, 0...1; the balanced or weighted
            accuracy if that decides, see `StrengthReport.decided_by`.
        loss: Mean cross-entropy on the new task's training images, nats; `None` with an anchor,
            as it is not needed.
        drift: Sum of importance * (w - w*)**2 over the anchored weights.
        share: Fraction of the loss that the penalty makes up in the last epoch, 0...1.
        old_accuracy: Accuracy on the old task's images, or `None` without images.
        seconds: Duration in seconds.
        validation_loss: Mean cross-entropy on the new task's validation images at the temperature
            that fits best, nats; `None` if it was not measured.
    """

    strength: float
    accuracy: float
    loss: float | None
    drift: float
    share: float = 0.0
    old_accuracy: float | None = None
    seconds: float = 0.0
    validation_loss: float | None = None

    def balance(self, num_old_tasks: int = 1) -> float:
        """Returns the mean accuracy over the new task and each old task, 0...1."""
        if self.old_accuracy is None:
            raise ValueError("there is no accuracy on the old task")
        return (self.accuracy + num_old_tasks * self.old_accuracy) / (1 + num_old_tasks)

    def __str__(self) -> str:
        old = "" if self.old_accuracy is None else f", old task {percent(self.old_accuracy)}"
        loss = ""
        if self.validation_loss is not None:
            loss = f" (cross-entropy {self.validation_loss:.3f})"
        name = f"strength {self.strength:.3g}" if self.strength else "no anchor"
        return (
            f"{name}: accuracy on the new task {percent(self.accuracy)}{loss}{old}, drift "
            f"{self.drift:.3g}, penalty {percent(self.share, 0)} of the loss, "
            f"{duration(self.seconds)}"
        )


@dataclass(frozen=True)
class StrengthReport(ShownAsText):
    """The report on how a strength was chosen.

    Attributes:
        before: Accuracy, loss and old accuracy before any training.
        trials: All trainings, the one without an anchor first.
        chosen: The chosen strength.
        tolerance: Fraction of the accuracy without an anchor (not of the gain) that may be lost;
            counts with the rule "tolerance" only.
        num_validation: Number of the new task's validation images.
        scenario: How the tasks relate, see `ForgettingMatrix`.
        num_old_tasks: Number of tasks in the old images.
        rule: "tolerance", "mean" or "new", see `choose_anchor`.
        notes: Warnings about the chosen strength, and what was substituted.
        decided_by: The accuracy that decided, see `TrainingReport.decided_by`.
    """

    before: StrengthTrial
    trials: tuple[StrengthTrial, ...]
    chosen: float
    tolerance: float
    num_validation: int
    scenario: str
    num_old_tasks: int = 1
    rule: str = "tolerance"
    notes: tuple[str, ...] = ()
    decided_by: str = "accuracy"

    @property
    def aim(self) -> str:
        """The goal of the choice, in words."""
        if self.rule == "new":
            return "for the lowest cross-entropy on the new task"
        if self.rule == "mean":
            old = "task's" if self.num_old_tasks == 1 else f"{self.num_old_tasks} tasks'"
            return f"for the best mean of the new and the old {old} accuracies"
        return f"to keep {percent(1 - self.tolerance, 0)} of the accuracy without an anchor"

    @property
    def _which(self) -> str:
        return "" if self.decided_by == "accuracy" else f"; {self.decided_by} throughout"

    def __str__(self) -> str:
        old = self.before.old_accuracy
        lines = [
            f"before: accuracy on the new task {percent(self.before.accuracy)}"
            + ("" if old is None else f", old task {percent(old)}"),
            *map(str, self.trials),
            f"chosen: {self.chosen:.3g}, {self.aim} (n = {self.num_validation}, "
            f"{self.scenario}{self._which})",
        ]
        return "\n".join([*lines, *self.notes])
