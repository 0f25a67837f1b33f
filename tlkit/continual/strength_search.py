"""The search for a strength, by trial trainings from the same weights."""

from collections.abc import Callable
from dataclasses import dataclass

from tlkit.continual.strength_reports import StrengthTrial
from tlkit.errors import ArgumentError, check_choice, check_count, check_fraction
from tlkit.training.linear import first_minimum
from tlkit.utils.formatting import percent

TOLERANCE = 0.05
MAX_TRIALS = 12
FIRST_FACTOR = 10.0
STEP_FOR_BOTH = 4.0
AUTO, WITHIN_TOLERANCE, NEW_TASK, BOTH_TASKS = "auto", "tolerance", "new", "mean"
RULES = {
    WITHIN_TOLERANCE: "the largest strength that loses at most `tolerance` of the new accuracy",
    NEW_TASK: "the lowest cross-entropy on the new task, with an anchor or without",
    BOTH_TASKS: "the best mean accuracy of both tasks",
}
"""What each rule searches for."""

MAX_FRACTION = 0.5
"""Fraction of the loss at the end above which the penalty is reported as dominating."""


@dataclass(frozen=True)
class StrengthRule:
    """What a search for a strength aims at.

    Attributes:
        name: A name of `RULES`, or "auto": "mean" with images of the old task, else "tolerance".
        tolerance: See `choose_anchor`.
        max_trials: See `choose_anchor`.
        num_old_tasks: See `choose_anchor`.

    Raises:
        ArgumentError: A value is invalid.
    """

    name: str = AUTO
    tolerance: float = TOLERANCE
    max_trials: int = MAX_TRIALS
    num_old_tasks: int = 1

    def __post_init__(self) -> None:
        check_choice("rule", self.name, (AUTO, *RULES))
        check_fraction("tolerance", self.tolerance)
        check_count("max_trials", self.max_trials)
        check_count("num_old_tasks", self.num_old_tasks)

    def decided(self, has_old_data: bool) -> str:
        """Returns the name of the rule that holds.

        Raises:
            ArgumentError: The rule needs images of the old task, and there are none.
        """
        if self.name == AUTO:
            return BOTH_TASKS if has_old_data else WITHIN_TOLERANCE
        if self.name == BOTH_TASKS and not has_old_data:
            raise ArgumentError(
                "`rule` must be 'tolerance' or 'new' without images of the old task. Received: "
                "rule='mean', old_data=None. Give `old_data`, or another rule."
            )
        return self.name


DEFAULT_RULE = StrengthRule()


def search_strength(
    train: Callable[[float], StrengthTrial],
    before: StrengthTrial,
    rule: StrengthRule = DEFAULT_RULE,
) -> tuple[tuple[StrengthTrial, ...], float, tuple[str, ...]]:
    """Searches the strength that a rule aims at.

    With "tolerance", a strength is halved until training with it keeps enough of the accuracy
    without an anchor; if the first one already does, it is doubled instead while that holds. With
    "mean" the best mean accuracy is searched in steps of a factor of four, with "new" the lowest
    cross-entropy.

    Args:
        train: Trains from the same weights with a strength (0 for no anchor), and returns the
            trial.
        before: The state before training; it has an old accuracy if the trials have one.
        rule: The rule.

    Returns:
        All trials, the chosen strength, and warnings about it.
    """
    unanchored = train(0.0)
    trials, notes = [unanchored], []
    if unanchored.drift <= 0:
        notes.append(
            "the anchored weights did not change without an anchor (they are frozen, or the model "
            "before training was best): the penalty is zero whatever its strength"
        )
        return tuple(trials), 1.0, tuple(notes)
    if before.loss is None or unanchored.loss is None:
        raise ValueError("the first strength needs the losses before and without an anchor")
    gained = before.loss - unanchored.loss
    if gained <= 0:
        notes.append(
            "training without an anchor did not lower the loss: the first strength is computed "
            "from the loss itself"
        )
        gained = unanchored.loss
    first = FIRST_FACTOR * gained / unanchored.drift
    name = rule.decided(before.old_accuracy is not None)
    if name == NEW_TASK:
        tried = _search_best(train, first, rule.max_trials, _new_value)
        best = max((unanchored, *tried), key=_new_value)
        if best is unanchored:
            notes.append(
                "no strength was better than no anchor, so that it is 0: cross-entropy on the new "
                f"task {-max(map(_new_value, tried)):.3f} with an anchor, "
                f"{-_new_value(unanchored):.3f} without"
            )
    elif name == BOTH_TASKS:

        def value(trial: StrengthTrial) -> float:
            return trial.balance(rule.num_old_tasks)

        tried = _search_best(train, first, rule.max_trials, value)
        best = max(tried, key=value)
        if value(best) <= value(unanchored):
            notes.append(
                f"no strength was better than no anchor: mean accuracy of both tasks "
                f"{percent(value(best))} at {best.strength:.3g}, "
                f"{percent(value(unanchored))} without an anchor"
            )
        if best.accuracy <= before.accuracy:
            notes.append(
                f"with strength {best.strength:.3g} the new task is not learned: accuracy "
                f"{percent(best.accuracy)}, {percent(before.accuracy)} before"
            )
    else:
        wanted = (1 - rule.tolerance) * unanchored.accuracy
        tried = _search_within_tolerance(train, first, wanted, rule.max_trials)
        enough = [trial for trial in tried if trial.accuracy >= wanted]
        best = max(enough, default=tried[-1], key=lambda trial: trial.strength)
        if not enough:
            notes.append(
                f"even the smallest strength tried, {best.strength:.3g}, reached an accuracy of "
                f"{percent(best.accuracy)} only, with {percent(wanted)} to keep: raise "
                "`max_trials` or `tolerance`, or anchor fewer groups"
            )
    trials += tried
    if best.share > MAX_FRACTION:
        notes.append(
            f"the penalty makes up {percent(best.share, 0)} of the loss at the end: the "
            "model may have learned little of the new task"
        )
    return tuple(trials), best.strength, tuple(notes)


def _new_value(trial: StrengthTrial) -> float:
    """Returns how good a trial is on the new task alone."""
    if trial.validation_loss is None:
        raise ValueError("the rule needs the cross-entropy on validation images")
    return -trial.validation_loss


def _search_within_tolerance(
    train: Callable[[float], StrengthTrial], first: float, wanted: float, max_trials: int
) -> list[StrengthTrial]:
    """Halves a strength until a trial is accurate enough, or doubles it until one no longer is."""
    trials = [train(first)]
    factor = 2.0 if trials[0].accuracy >= wanted else 0.5
    while len(trials) < max_trials:
        trials.append(train(trials[-1].strength * factor))
        if (trials[-1].accuracy >= wanted) == (factor < 1):
            break
    return trials


def _search_best(
    train: Callable[[float], StrengthTrial],
    first: float,
    max_trials: int,
    value: Callable[[StrengthTrial], float],
) -> list[StrengthTrial]:
    """Raises a strength while the value rises, and lowers it if raising does not help."""
    trials: dict[float, StrengthTrial] = {}

    def loss(strength: float) -> float:
        if strength not in trials:
            trials[strength] = train(strength)
        return -value(trials[strength])

    first_minimum([first * STEP_FOR_BOTH**step for step in range(max_trials)], loss)
    if max(trials.values(), key=value) is trials[first]:
        num_left = max_trials - len(trials)
        first_minimum([first / STEP_FOR_BOTH**step for step in range(num_left + 1)], loss)
    return list(trials.values())
