"""Choice of the anchor's strength by trial trainings."""

import inspect
import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.continual.anchors import MODES, Anchor, anchor_weights, anchorable, with_importance
from tlkit.continual.forgetting import (
    CLASS_INCREMENTAL,
    CLASS_INCREMENTAL_NOTE,
    DOMAIN_INCREMENTAL,
)
from tlkit.continual.importance import estimate_importance, normalize_importance
from tlkit.continual.methods import WITHOUT_TRAINING
from tlkit.continual.old_data import evaluation_split
from tlkit.continual.strength_reports import StrengthReport, StrengthTrial
from tlkit.continual.strength_search import (
    AUTO,
    MAX_TRIALS,
    TOLERANCE,
    StrengthRule,
    search_strength,
)
from tlkit.data.augmentation import AugmentLike, augmentation_of
from tlkit.data.class_weighting import ClassWeighting, weighting_of
from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import ArgumentError, check_choice, did_you_mean
from tlkit.evaluation.data_checks import Images
from tlkit.models.heads import head_kind
from tlkit.models.variable_names import variable_names
from tlkit.training.candidates import evaluate_candidate
from tlkit.training.checks import check_class_weight
from tlkit.training.criterion import Score, criterion_for, score_on
from tlkit.training.fine_tuning import check_fine_tuning, fine_tune
from tlkit.training.head import is_new_head, train_head
from tlkit.training.reports import TrainingReport
from tlkit.training.resume import assign_all, values_of
from tlkit.training.sources import Source, source_of
from tlkit.training.weight_change import restored_afterwards

DEFAULT_EPOCHS = 8
_OWN = ("model", "data", "validation", "anchor", "epochs", "augment", "seed", "cache")
"""Arguments of `fine_tune` that `choose_anchor` has too, or sets."""


def choose_anchor(
    model: keras.Model,
    data: ImageData | tf.data.Dataset,
    *,
    validation: Images | None = None,
    importance: Mapping[str, np.ndarray] | str | None = None,
    old_data: ImageData | ImageSplit | None = None,
    num_old_tasks: int = 1,
    rule: str = AUTO,
    tolerance: float = TOLERANCE,
    max_trials: int = MAX_TRIALS,
    groups: str | list[str] | None = None,
    mode: str = "penalty",
    epochs: int = DEFAULT_EPOCHS,
    augment: AugmentLike = "none",
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    **fine_tuning: Any,
) -> Anchor:
    """Anchors a model with a strength that is chosen by trial trainings.

    The model is first trained without an anchor, which gives the accuracy a_ft and the weights
    w_ft. It is then trained again from its initial weights w* with the strength
    10 * (L(w*) - L(w_ft)) / sum(importance * (w_ft - w*)**2), and from there the `rule` decides.
    Importance is scaled to a mean of 1 over the anchored weights first, so that strengths are
    comparable.

    - "tolerance": the strength is halved while the validation accuracy is below
      (1 - `tolerance`) * a_ft; if the first strength already reaches it, it is doubled while it
      does. It keeps as much of the old task as the new one allows, and needs no old image.
    - "mean": the strength is multiplied or divided by four while the mean of both tasks' accuracies
      rises. It is the best compromise, and needs images of the old task.
    - "new": the same while the cross-entropy on the new task falls, at the temperature that fits
      best; the strength is 0, no anchor, if it is lowest there. For few new images, where the
      anchor is to prevent overfitting and nothing old has to be kept.

    Afterwards the model has its initial weights (except that an untrained head is solved), and is
    anchored. `Anchor.report` has all trials; `tlkit.plot_strengths` plots them.

    Args:
        model: A classifier with the weights to preserve.
        data: The new task, as `fine_tune` takes it, with validation images.
        validation: Validation images, if `data` is a `tf.data.Dataset`.
        importance: See `anchor_weights`; or a method of `estimate_importance`, applied to
            `old_data`, or to the new images without it.
        old_data: Images of the old task, to measure forgetting and to choose the strength: an
            `ImageData`, whose validation images are used, or a split.
        num_old_tasks: Number of tasks in `old_data`; each counts as much as the new one.
        rule: "tolerance", "mean", "new", or "auto": "mean" with `old_data`, else "tolerance".
        tolerance: With that rule: fraction of a_ft that may be lost to keep the old task, 0...1.
        max_trials: Maximum number of trainings with an anchor.
        groups: See `anchor_weights`.
        mode: See `anchor_weights`.
        epochs: Number of epochs of each training; a few, on stored activations, are fast.
        augment: Augmentation in these trainings, as for `fine_tune`; with it the whole graph may
            run in every step.
        seed: Seed of the trainings.
        cache: Folder of the feature stores.
        **fine_tuning: Other arguments of `fine_tune` for all trainings, such as `unfreeze`. With
            `class_weight="balanced"` the balanced accuracies of both tasks decide, and with other
            weights of classes the weighted accuracies.

    Raises:
        ArgumentError: An argument is invalid, or there are no validation images, or none in
            `old_data`.

    Returns:
        The anchor. The notes of `Anchor.report`, repeated in the report of every training with the
        anchor, warn if even the smallest strength lost too much accuracy, no strength was better
        than no anchor, the penalty is zero, it makes up most of the loss, or the new images are of
        some classes only, where anchors are known to fail.

    Example:
        >>> import numpy as np, tlkit
        >>> images = np.random.default_rng(0).integers(0, 255, (60, 32, 32, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(60) % 2, ["even", "odd"])
        >>> model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
        >>> anchor = tlkit.choose_anchor(model, data, unfreeze="head", epochs=1, max_trials=1)
        >>> anchor.strength == anchor.report.chosen
        True

    Reference:
        De Lange et al. (2022), A continual learning survey, https://arxiv.org/abs/1909.08383,
        section 5 (maximal plasticity search, then stability decay). Ours are the first strength,
        which makes the penalty at w_ft ten times what the loss fell by, and the search with
        `old_data`.
    """
    search = StrengthRule(rule, tolerance, max_trials, num_old_tasks)
    decided = search.decided(old_data is not None)
    check_choice("mode", mode, MODES)
    if isinstance(importance, str):
        check_choice("importance", importance, WITHOUT_TRAINING)
    elif importance is not None:
        with_importance(model, anchorable(model, groups), importance)
    anchorable(model, groups)
    _check_keywords(fine_tuning)
    given: dict[str, Any] = {"validation": validation, "seed": seed, "cache": cache}
    augmentation = augmentation_of(augment)
    tuning: dict[str, Any] = {"epochs": epochs, "augment": augmentation, **given, **fine_tuning}
    check_fine_tuning(model, data, **tuning)
    old_split = None if old_data is None else evaluation_split(old_data, model)
    source = source_of(model, data, validation)
    if source.validation is None:
        raise ArgumentError(
            "`data` must have validation images, which decide on the strength. Received: none. "
            "Load it with a validation fraction (splits=...), or give `validation`."
        )
    weighting, started = _weighting_of(model, data, tuning), time.perf_counter()
    solve_head = tuning.get("solve_head", "auto")
    if is_new_head(model, solve_head):
        for_head = weighting.for_solving()
        train_head(model, data, class_weight=for_head, solve_head=solve_head, **given)
    tuning["solve_head"] = False  # all trials start from this head
    scaled = _importance_of(model, data, importance, old_data, groups)
    trial = _Trials(
        model,
        data,
        source=source,
        old_split=old_split,
        weighting=weighting,
        anchoring={"importance": scaled, "groups": groups, "mode": mode},
        tuning=tuning,
    )
    with restored_afterwards(model):
        before = trial.measure(math.inf, started)
        trials, chosen, notes = search_strength(trial.run, before, search)
    scenario = _scenario_of(model, source.train)
    if scenario == CLASS_INCREMENTAL:
        notes += (f"the new images are of some classes only: {CLASS_INCREMENTAL_NOTE}",)
    anchor = trial.anchor(chosen)
    anchor.notes = (*anchor.notes, *notes)
    anchor.report = StrengthReport(
        before=replace(before, strength=0.0),
        trials=trials,
        chosen=chosen,
        tolerance=tolerance,
        num_validation=_num_images(source.validation),
        scenario=scenario,
        num_old_tasks=num_old_tasks,
        rule=decided,
        notes=notes,
        decided_by=criterion_for(source.validation, weighting).name,
    )
    return anchor


def _weighting_of(
    model: keras.Model, data: ImageData | tf.data.Dataset, tuning: Mapping[str, Any]
) -> ClassWeighting:
    """Returns how classes count in trainings with some arguments of `fine_tune`."""
    loss = tuning.get("loss")
    weighting = weighting_of(
        tuning.get("class_weight"),
        sampling=tuning.get("sampling"),
        loss=loss if isinstance(loss, str) else None,
    )
    return check_class_weight(weighting, model, data)


class _Trials:
    """Trial trainings of a model from its current weights.

    Args:
        model: The model to train in each trial.
        data: The data, as for `fine_tune`.
        source: The same images, with validation images.
        old_split: Images of the old task, or `None`.
        weighting: How classes count.
        anchoring: Arguments of `anchor_weights`, except the strength.
        tuning: Arguments of `fine_tune`, except the anchor.
    """

    def __init__(
        self,
        model: keras.Model,
        data: ImageData | tf.data.Dataset,
        *,
        source: Source,
        old_split: ImageSplit | None,
        weighting: ClassWeighting,
        anchoring: Mapping[str, Any],
        tuning: Mapping[str, Any],
    ) -> None:
        self._model, self._data, self._source = model, data, source
        self._old_split, self._weighting = old_split, weighting
        self._anchoring, self._tuning = anchoring, tuning
        self._start = values_of(model.variables)
        # only measures the drift: a proximal anchor has no effect unless it is passed to fine_tune
        self._probe = anchor_weights(model, 1.0, **{**anchoring, "mode": "proximal"})

    def anchor(self, strength: float) -> Anchor:
        """Anchors the model with a strength."""
        return anchor_weights(self._model, strength, **self._anchoring)

    def run(self, strength: float) -> StrengthTrial:
        """Runs a trial with a strength; 0 for no anchor."""
        started = time.perf_counter()
        assign_all(self._model.variables, self._start)
        anchor = self.anchor(strength) if strength else None
        try:
            report = fine_tune(self._model, self._data, anchor=anchor, **self._tuning)
        finally:
            if anchor is not None:
                anchor.release()
        return self.measure(strength, started, report)

    def measure(
        self, strength: float, started: float, report: TrainingReport | None = None
    ) -> StrengthTrial:
        """Evaluates the current model; the training loss only without an anchor."""
        history = report.stages[-1].history if report is not None else ()
        is_anchored = 0 < strength < math.inf
        old = None if self._old_split is None else self._score(self._old_split)
        new = evaluate_candidate(self._model, self._source.validation, self._weighting)
        return StrengthTrial(
            strength=strength,
            accuracy=new.score.value,
            loss=None if is_anchored else self._score(self._source.train).loss,
            drift=sum(self._probe.penalties().values()),
            share=history[-1].get("anchor_share", 0.0) if history else 0.0,
            old_accuracy=None if old is None else old.value,
            seconds=time.perf_counter() - started,
            validation_loss=new.loss,
        )

    def _score(self, images: Images) -> Score:
        return score_on(self._model, images, self._weighting)


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
    anchored, _ = with_importance(model, anchorable(model, groups), importance)
    names = variable_names(model)
    return normalize_importance(
        importance, [names[id(v)] for some in anchored.values() for v in some]
    )


def _check_keywords(given: Mapping[str, Any]) -> None:
    """Raises `ArgumentError` for arguments that `fine_tune` does not have, or that are set."""
    taken = [name for name in inspect.signature(fine_tune).parameters if name not in _OWN]
    for name in given:
        if name not in taken:
            raise ArgumentError(
                "`fine_tuning` must be arguments of fine_tune that choose_anchor does not set "
                f"itself. Received: {name}=...{did_you_mean(name, taken)} Leave it out."
            )


def _scenario_of(model: keras.Model, images: Images) -> str:
    """Returns class-incremental if the new images are of some classes only."""
    num_classes = model.output_shape[-1]
    if not isinstance(images, ImageSplit) or head_kind(model) != "softmax":
        return DOMAIN_INCREMENTAL
    some = len(np.unique(images.labels)) < num_classes
    return CLASS_INCREMENTAL if some else DOMAIN_INCREMENTAL


def _num_images(images: Images) -> int:
    if isinstance(images, ImageSplit):
        return images.num_images
    return sum(int(tf.shape(tf.nest.flatten(batch)[0])[0]) for batch in images)
