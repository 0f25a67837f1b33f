"""The search for a strength, by trainings from one start."""

from collections.abc import Callable

from tlkit.continual.strength_reports import StrengthTrial
from tlkit.training.linear import first_minimum
from tlkit.utils.formatting import percent

TOLERANCE = 0.05
MAX_TRIALS = 12
FIRST_FACTOR = 10.0
STEP_FOR_BOTH = 4.0
MAX_SHARE = 0.5
"""A penalty that makes up more of the loss than this at the end is said to swamp it."""


def search_strength(
    train: Callable[[float], StrengthTrial],
    before: StrengthTrial,
    *,
    tolerance: float = TOLERANCE,
    max_trials: int = MAX_TRIALS,
    num_old_tasks: int = 1,
) -> tuple[tuple[StrengthTrial, ...], float, tuple[str, ...]]:
    """Halves a strength until training with it keeps enough of the accuracy without it.

    Where the first one does so at once it is doubled instead, for as long as that holds. Where
    `before` has an accuracy on the old task, and so all trials have, the strength with the best
    mean of both accuracies is looked for, in steps of four.

    Args:
        train: From a strength (0 for no anchor) to what training from the same start came to.
        before: The state before training.
        tolerance: See `choose_anchor`.
        max_trials: Likewise.
        num_old_tasks: Likewise.

    Returns:
        All trials, the chosen strength, and what speaks against it.
    """
    free = train(0.0)
    trials, notes = [free], []
    if free.drift <= 0:
        notes.append(
            "the anchored weights did not change without an anchor (they are frozen, or the model "
            "before training was best): the penalty is zero whatever its strength"
        )
        return tuple(trials), 1.0, tuple(notes)
    if before.loss is None or free.loss is None:
        raise ValueError("the losses before and without an anchor make the first strength")
    gained = before.loss - free.loss
    if gained <= 0:
        notes.append(
            "training without an anchor did not lower the loss: the first strength is taken from "
            "the loss itself"
        )
        gained = free.loss
    first = FIRST_FACTOR * gained / free.drift
    if before.old_accuracy is not None:

        def balance(trial: StrengthTrial) -> float:
            return trial.balance(num_old_tasks)

        tried = _try_for_both(train, first, max_trials, balance)
        held = max(tried, key=balance)
        if balance(held) <= balance(free):
            notes.append(
                f"no strength did better than none for both tasks together: "
                f"{percent(balance(held))} at {held.strength:.3g}, {percent(balance(free))} "
                "without an anchor"
            )
        if held.accuracy <= before.accuracy:
            notes.append(
                f"with strength {held.strength:.3g} nothing of the new task is learned: "
                f"{percent(held.accuracy)}, {percent(before.accuracy)} before"
            )
    else:
        wanted = (1 - tolerance) * free.accuracy
        tried = _try_until_enough(train, first, wanted, max_trials)
        enough = [trial for trial in tried if trial.accuracy >= wanted]
        held = max(enough, default=tried[-1], key=lambda trial: trial.strength)
        if not enough:
            notes.append(
                f"even strength {held.strength:.3g}, the weakest that was tried, reached only "
                f"{percent(held.accuracy)} of the {percent(wanted)} to keep: raise "
                "`max_trials` or `tolerance`, or anchor fewer groups"
            )
    trials += tried
    if held.share > MAX_SHARE:
        notes.append(
            f"the penalty makes up {percent(held.share, 0)} of the loss at the end: the "
            "model may have learned little of the new task"
        )
    return tuple(trials), held.strength, tuple(notes)


def _try_until_enough(
    train: Callable[[float], StrengthTrial], first: float, wanted: float, max_trials: int
) -> list[StrengthTrial]:
    """Doubles or halves a strength until a trial is the first, or no longer, accurate enough."""
    trials = [train(first)]
    factor = 2.0 if trials[0].accuracy >= wanted else 0.5
    while len(trials) < max_trials:
        trials.append(train(trials[-1].strength * factor))
        if (trials[-1].accuracy >= wanted) == (factor < 1):
            break
    return trials


def _try_for_both(
    train: Callable[[float], StrengthTrial],
    first: float,
    max_trials: int,
    balance: Callable[[StrengthTrial], float],
) -> list[StrengthTrial]:
    """Walks up from a strength, and down if that brings nothing, while the balance rises."""
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
