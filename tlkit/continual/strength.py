"""How strong an anchor should be: found by training, not guessed."""

import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.continual.anchors import Anchor, anchor_weights, anchorable
from tlkit.continual.importance import estimate_importance, normalize_importance
from tlkit.continual.methods import WITHOUT_TRAINING
from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import ArgumentError, check_choice, check_count, check_fraction
from tlkit.evaluation.metrics import evaluate
from tlkit.showing import ShownAsText
from tlkit.training.fine_tuning import fine_tune
from tlkit.training.head import is_trained, train_head
from tlkit.training.linear import first_minimum
from tlkit.training.movement import left_as_it_is
from tlkit.training.reports import TrainingReport
from tlkit.training.resume import assign_all, values_of
from tlkit.training.sources import Images, source_of

TOLERANCE = 0.05
MAX_TRIALS = 12
FIRST_FACTOR = 10.0
STEP_FOR_BOTH = 4.0
DEFAULT_EPOCHS = 8
MAX_SHARE = 0.5
"""A penalty that makes up more of the loss than this at the end is said to swamp it."""


@dataclass(frozen=True)
class StrengthTrial(ShownAsText):
    """One training at one strength.

    Attributes:
        strength: 0 for the training without an anchor.
        accuracy: On the new task's validation images, 0...1.
        loss: Mean cross-entropy on the new task's training images, nats.
        drift: Sum of importance * (w - w*)**2 over the anchored weights.
        share: The penalty's share of the loss in the last epoch, 0...1.
        old_accuracy: On the old task's images, or `None` where there are none.
        seconds: Time spent.
    """

    strength: float
    accuracy: float
    loss: float
    drift: float
    share: float = 0.0
    old_accuracy: float | None = None
    seconds: float = 0.0

    @property
    def balance(self) -> float:
        """Mean of the accuracies on the new and on the old task, 0...1."""
        if self.old_accuracy is None:
            raise ValueError("there is no accuracy on the old task")
        return (self.accuracy + self.old_accuracy) / 2

    def __str__(self) -> str:
        old = "" if self.old_accuracy is None else f", old task {100 * self.old_accuracy:.1f} %"
        name = f"strength {self.strength:.3g}" if self.strength else "no anchor"
        return (
            f"{name}: new task {100 * self.accuracy:.1f} %{old}, drift {self.drift:.3g}, "
            f"penalty {100 * self.share:.0f} % of the loss, {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class StrengthReport(ShownAsText):
    """How a strength was chosen.

    Attributes:
        before: Accuracy, loss and old accuracy before any training (strength infinite, so to say).
        trials: Every training, the one without an anchor first.
        chosen: The strength.
        tolerance: Share of the accuracy gained without an anchor that might be lost.
        num_validation: Images behind the new task's accuracies.
        notes: Warnings, and what was substituted.
    """

    before: StrengthTrial
    trials: tuple[StrengthTrial, ...]
    chosen: float
    tolerance: float
    num_validation: int
    notes: tuple[str, ...] = ()

    @property
    def aim(self) -> str:
        """What the strength was chosen for, in words."""
        if self.before.old_accuracy is not None:
            return "for the best mean of the new and the old task's accuracies"
        kept = 100 * (1 - self.tolerance)
        return f"to keep {kept:.0f} % of the accuracy without an anchor"

    def __str__(self) -> str:
        old = self.before.old_accuracy
        lines = [
            f"before: new task {100 * self.before.accuracy:.1f} %"
            + ("" if old is None else f", old task {100 * old:.1f} %"),
            *map(str, self.trials),
            f"chosen: {self.chosen:.3g}, {self.aim} ({self.num_validation} images)",
        ]
        return "\n".join([*lines, *self.notes])


def choose_anchor(
    model: keras.Model,
    data: ImageData | tf.data.Dataset,
    *,
    validation: Images | None = None,
    importance: Mapping[str, np.ndarray] | str | None = None,
    old_data: ImageData | ImageSplit | None = None,
    tolerance: float = TOLERANCE,
    max_trials: int = MAX_TRIALS,
    groups: str | list[str] | None = None,
    mode: str = "penalty",
    epochs: int = DEFAULT_EPOCHS,
    augment: str = "none",
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    **fine_tuning: Any,
) -> Anchor:
    """Anchors a model with the strongest strength that still lets it learn the new task.

    The model is trained once without an anchor, which gives the accuracy to keep, a_ft, and weights
    w_ft. With the first strength 10 * (L(w*) - L(w_ft)) / sum(importance * (w_ft - w*)**2) it is
    trained again from where it was, and the strength is halved for as long as validation accuracy
    stays below (1 - `tolerance`) * a_ft; where the first one keeps that much already, it is doubled
    for as long as it does. Importance is scaled to a mean of 1 over the anchored
    weights first, so that strengths compare.

    With images of the old task at hand there is no need to go by the new one alone: from the same
    first strength on, four times as much is tried, or a quarter, for as long as the mean of both
    tasks' accuracies rises, and the strength with the best mean is taken.

    Afterwards the model has the weights it was given (an untrained head is solved, though), and is
    anchored. `Anchor.report` has all trials; `tlkit.continual.figures.strengths` draws them.

    Args:
        model: A classifier; what it is to keep is what it holds now.
        data: The new task, as `fine_tune` takes it, with validation images to decide on.
        validation: Where `data` is a `tf.data.Dataset`.
        importance: See `anchor_weights`; or a method of `estimate_importance`, applied to
            `old_data`, or to the new pictures where there are none.
        old_data: Images of the old task, to measure what is forgotten, and to decide on the
            strength: an `ImageData`'s validation images, or a split.
        tolerance: Share of a_ft that may be lost for the sake of the old task, 0...1; of no effect
            with `old_data`.
        max_trials: Trainings with an anchor at most.
        groups: See `anchor_weights`.
        mode: See `anchor_weights`.
        epochs: Of each training; few, on stored activations, make the choice cheap.
        augment: Likewise; with augmentation the whole graph may run in every step.
        seed: Of orders.
        cache: Folder of the feature stores.
        **fine_tuning: Other arguments of `fine_tune` for all trainings, such as `unfreeze`.

    Raises:
        ArgumentError: An argument breaks its rule, or there are no validation images.

    Warns:
        UserWarning: Even the weakest strength tried lost too much; or the penalty is zero; or it
            makes up most of the loss. The report says the same.

    Example:
        >>> import warnings
        >>> import numpy as np, tlkit
        >>> images = np.random.default_rng(0).integers(0, 255, (60, 32, 32, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(60) % 2, ["even", "odd"])
        >>> model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
        >>> with warnings.catch_warnings(action="ignore"):  # there is nothing to learn in noise
        ...     anchor = tlkit.choose_anchor(model, data, epochs=1, max_trials=1)
        >>> anchor.strength == anchor.report.chosen
        True

    Reference:
        De Lange et al. (2022), A continual learning survey, https://arxiv.org/abs/1909.08383,
        section 5 (maximal plasticity search, then stability decay). Ours are the first strength,
        which makes the penalty at w_ft ten times what the loss fell by, and the search with
        `old_data`.
    """
    check_fraction("tolerance", tolerance)
    check_count("max_trials", max_trials)
    source = source_of(model, data, validation)
    if source.validation is None:
        raise ArgumentError(
            "`data` must have validation images, for they decide on the strength. Received: none. "
            "Leave a share to them (splits=...), or give `validation`."
        )
    started = time.perf_counter()
    given: dict[str, Any] = {"validation": validation, "seed": seed, "cache": cache}
    if not is_trained(model):
        train_head(model, data, **given)
    weighed = _importance_of(model, data, importance, old_data, groups)
    old_split = old_data.validation if isinstance(old_data, ImageData) else old_data
    start = values_of(model.variables)
    probe = anchor_weights(model, 1.0, weighed, groups=groups, mode="proximal")  # only measures

    def state(strength: float, since: float, report: TrainingReport | None) -> StrengthTrial:
        history = report.stages[-1].history if report is not None else ()
        return StrengthTrial(
            strength=strength,
            accuracy=evaluate(model, source.validation).accuracy,
            loss=evaluate(model, source.train).loss,
            drift=sum(probe.penalties().values()),
            share=history[-1].get("anchor_share", 0.0) if history else 0.0,
            old_accuracy=evaluate(model, old_split).accuracy if old_split is not None else None,
            seconds=time.perf_counter() - since,
        )

    def train(strength: float) -> StrengthTrial:
        since = time.perf_counter()
        assign_all(model.variables, start)
        anchor = None
        if strength:
            anchor = anchor_weights(model, strength, weighed, groups=groups, mode=mode)
        try:
            report = fine_tune(
                model, data, anchor=anchor, epochs=epochs, augment=augment, **given, **fine_tuning
            )
        finally:
            if anchor is not None:
                anchor.release()
        return state(strength, since, report)

    before = state(math.inf, started, None)
    with left_as_it_is(model):
        trials, chosen, notes = search_strength(
            train, before, tolerance=tolerance, max_trials=max_trials
        )
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    anchor = anchor_weights(model, chosen, weighed, groups=groups, mode=mode)
    anchor.report = StrengthReport(
        before=replace(before, strength=0.0),
        trials=trials,
        chosen=chosen,
        tolerance=tolerance,
        num_validation=_num_images(source.validation),
        notes=notes,
    )
    return anchor


def search_strength(
    train: Callable[[float], StrengthTrial],
    before: StrengthTrial,
    *,
    tolerance: float = TOLERANCE,
    max_trials: int = MAX_TRIALS,
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

    Returns:
        All trials, the chosen strength, and what is to be warned of.
    """
    free = train(0.0)
    trials, notes = [free], []
    if free.drift <= 0:
        notes.append(
            "the anchored weights did not move without an anchor (they are frozen, or the model "
            "before training was best): the penalty is zero whatever its strength"
        )
        return tuple(trials), 1.0, tuple(notes)
    gained = before.loss - free.loss
    if gained <= 0:
        notes.append(
            "training without an anchor did not lower the loss: the first strength is taken from "
            "the loss itself"
        )
        gained = free.loss
    first = FIRST_FACTOR * gained / free.drift
    if before.old_accuracy is not None:
        tried = _try_for_both(train, first, max_trials)
        held = max(tried, key=lambda trial: trial.balance)
    else:
        wanted = (1 - tolerance) * free.accuracy
        tried = _try_until_enough(train, first, wanted, max_trials)
        enough = [trial for trial in tried if trial.accuracy >= wanted]
        held = max(enough, default=tried[-1], key=lambda trial: trial.strength)
        if not enough:
            notes.append(
                f"even strength {held.strength:.3g}, the weakest that was tried, reached only "
                f"{100 * held.accuracy:.1f} % of the {100 * wanted:.1f} % to keep: raise "
                "`max_trials` or `tolerance`, or anchor fewer groups"
            )
    trials += tried
    if held.share > MAX_SHARE:
        notes.append(
            f"the penalty makes up {100 * held.share:.0f} % of the loss at the end: the "
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
    train: Callable[[float], StrengthTrial], first: float, max_trials: int
) -> list[StrengthTrial]:
    """Walks up from a strength, and down if that brings nothing, while the balance rises."""
    trials: dict[float, StrengthTrial] = {}

    def loss(strength: float) -> float:
        if strength not in trials:
            trials[strength] = train(strength)
        return -trials[strength].balance

    first_minimum([first * STEP_FOR_BOTH**step for step in range(max_trials)], loss)
    if max(trials.values(), key=lambda trial: trial.balance) is trials[first]:
        num_left = max_trials - len(trials)
        first_minimum([first / STEP_FOR_BOTH**step for step in range(num_left + 1)], loss)
    return list(trials.values())


def _importance_of(
    model: keras.Model,
    data: ImageData | tf.data.Dataset,
    importance: Mapping[str, np.ndarray] | str | None,
    old_data: ImageData | ImageSplit | None,
    groups: str | list[str] | None,
) -> Mapping[str, np.ndarray] | None:
    if importance is None:
        return None
    if isinstance(importance, str):
        check_choice("importance", importance, WITHOUT_TRAINING)
        importance = estimate_importance(
            model, data if old_data is None else old_data, method=importance
        )
    anchored = [v.path for some in anchorable(model, groups).values() for v in some]
    return normalize_importance(importance, [path for path in anchored if path in importance])


def _num_images(images: Images) -> int:
    if isinstance(images, ImageSplit):
        return images.num_images
    return sum(int(tf.shape(tf.nest.flatten(batch)[0])[0]) for batch in images)
