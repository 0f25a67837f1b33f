"""The search for a strength, by trial trainings from the same weights."""

from collections.abc import Callable

from tlkit.continual.strength_reports import StrengthTrial
from tlkit.training.linear import first_minimum
from tlkit.utils.formatting import percent

TOLERANCE = 0.05
MAX_TRIALS = 12
FIRST_FACTOR = 10.0
STEP_FOR_BOTH = 4.0
MAX_FRACTION = 0.5
"""Fraction of the loss at the end above which the penalty is reported as dominating."""


def search_strength(
    train: Callable[[float], StrengthTrial],
    before: StrengthTrial,
    *,
    tolerance: float = TOLERANCE,
    max_trials: int = MAX_TRIALS,
    num_old_tasks: int = 1,
) -> tuple[tuple[StrengthTrial, ...], float, tuple[str, ...]]:
    """Halves a strength until training with it keeps enough of the accuracy without an anchor.

    If the first strength already does, it is doubled instead while that holds. If `before`, and
    therefore all trials, have an accuracy on the old task, the strength with the best mean of both
    accuracies is searched, in steps of a factor of four.

    Args:
        train: Trains from the same weights with a strength (0 for no anchor), and returns the
            trial.
        before: The state before training.
        tolerance: See `choose_anchor`.
        max_trials: See `choose_anchor`.
        num_old_tasks: See `choose_anchor`.

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
    if before.old_accuracy is not None:

        def balance(trial: StrengthTrial) -> float:
            return trial.balance(num_old_tasks)

        tried = _search_both_tasks(train, first, max_trials, balance)
        best = max(tried, key=balance)
        if balance(best) <= balance(unanchored):
            notes.append(
                f"no strength was better than no anchor: mean accuracy of both tasks "
                f"{percent(balance(best))} at {best.strength:.3g}, "
                f"{percent(balance(unanchored))} without an anchor"
            )
        if best.accuracy <= before.accuracy:
            notes.append(
                f"with strength {best.strength:.3g} the new task is not learned: accuracy "
                f"{percent(best.accuracy)}, {percent(before.accuracy)} before"
            )
    else:
        wanted = (1 - tolerance) * unanchored.accuracy
        tried = _search_within_tolerance(train, first, wanted, max_trials)
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


def _search_both_tasks(
    train: Callable[[float], StrengthTrial],
    first: float,
    max_trials: int,
    balance: Callable[[StrengthTrial], float],
) -> list[StrengthTrial]:
    """Raises a strength while the balance rises, and lowers it if raising does not help."""
    trials: dict[float, StrengthTrial] = {}

    def loss(strength: float) -> float:
        if strength not in trials:
            trials[strength] = train(strength)
        return -balance(trials[strength])

    first_minimum([first * STEP_FOR_BOTH**step for step in range(max_trials)], loss)
    if max(trials.values(), key=balance) is trials[first]:
        num_left = max_trials - len(trials)
        first_minimum([first / STEP_FOR_BOTH**step for step in range(num_left + 1)], loss)
    return list(trials.values())
