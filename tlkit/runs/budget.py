"""The plan of a run within a number of minutes: what is trained, and what is left out."""

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tlkit.data.images import ImageData
from tlkit.displays.activity import duration
from tlkit.errors import ArgumentError
from tlkit.models.catalogue import find_backbone
from tlkit.runs.choices import SizePlan, initial_image_size
from tlkit.runs.config import Choice, RunConfig
from tlkit.runs.measuring import build_model
from tlkit.runs.steps import project_cost

if TYPE_CHECKING:
    import keras

    from tlkit.advice.cost import CostReport

MIN_EPOCHS = 10
"""Smallest number of epochs with which all groups are trained; with less time, the last groups."""

_STORED_GROUPS, _STORED_VIEWS, _STORED_EPOCHS = 3, 8, 20
"""The fast plan: the last groups on stored activations of augmented versions of each image."""

_MARGIN = 1.2
"""Projected seconds are multiplied by it: on a busy machine training takes longer."""

_FINISHING_SECONDS = 20.0
"""Time for the last evaluation, the export and the report."""


def check_minutes(
    model: "keras.Model", data: ImageData, config: RunConfig, *, seconds: float
) -> None:
    """Checks that the minutes of a run are enough for the head alone, before anything is written.

    Args:
        model: The model before training.
        data: The images at the model's size.
        config: The config with the run's choices, and its `minutes`.
        seconds: Seconds that the run has taken so far.

    Raises:
        ArgumentError: They are too few; the message has the smallest useful number.
    """
    head = dataclasses.replace(
        config, kept=True, mode="head", unfreeze=None, epochs=None, anchor=None
    )
    cost = project_cost(model, data, head)
    required = seconds + _MARGIN * cost.total_seconds * _num_trainings(config) + _FINISHING_SECONDS
    if config.minutes is not None and 60 * config.minutes < required:
        raise ArgumentError(
            f"`minutes` must be at least {math.ceil(required / 6) / 10:g} for the head alone on "
            f"these images. Received: minutes={config.minutes:g}. Give more, or use a smaller "
            "backbone or image size."
        )


def check_minutes_for_any(data: ImageData, config: RunConfig, *, seconds: float) -> None:
    """Checks before backbones are compared that the minutes are enough with the smallest of them.

    That is the one with the fewest multiply-adds; where the cost of one is not known, such as that
    of a file, nothing is checked.

    Args:
        data: The images.
        config: The config; its `backbone` is "auto".
        seconds: Seconds that the run has taken so far.

    Raises:
        ArgumentError: See `check_minutes`.
    """
    from tlkit.advice.candidates import DEFAULT_BACKBONES, parse_candidates

    candidates = parse_candidates(config.backbones or DEFAULT_BACKBONES).values()
    costs = {one.name: find_backbone(one.name).multiply_adds for one in candidates}
    known = {name: cost for name, cost in costs.items() if cost is not None}
    if len(known) < len(costs):
        return
    smallest = min(known, key=known.__getitem__)
    config = dataclasses.replace(config, kept=True, backbone=smallest, backbones=None, weights=None)
    own_data = data.at_size((initial_image_size(config),) * 2)
    check_minutes(build_model(config, None, own_data), own_data, config, seconds=seconds)


def sizes_within_minutes(
    model: "keras.Model", data: ImageData, config: RunConfig, *, seconds: float
) -> SizePlan:
    """Returns the image sizes at which the usual training fits into the minutes of a run.

    Its time grows with the number of pixels. A larger size with fewer epochs is not considered.
    Without two images of each class to compare sizes on, it is the own one.

    Args:
        model: The model at the backbone's own image size, before training; it is left unchanged.
        data: The images at that size.
        config: The config with the choices so far, and its `minutes`.
        seconds: Seconds that the run has taken so far.
    """
    from tlkit.advice.choosing import candidate_sizes
    from tlkit.advice.sampling import find_lone_class

    own, *larger = candidate_sizes(data.image_size[0])
    if (lone := find_lone_class(data)) is not None:
        return SizePlan((own,), (f"larger images, which cannot be compared: {lone}",))
    cost = project_cost(model, data, config)
    if cost.forward_milliseconds is None:
        raise RuntimeError("the cost has no timings")
    features = cost.forward_milliseconds / 1000 * data.train.num_images
    left, sizes, left_out = _seconds_left(config, seconds) - features, [own], []
    for size in larger:
        factor = (size / own) ** 2
        training = _MARGIN * factor * cost.total_seconds * _num_trainings(config)
        missing = factor * features + training - left
        if missing > 0:
            left_out.append(f"images of {size} pixels, which need {duration(missing)} more")
        else:
            sizes.append(size)
            left -= factor * features
    return SizePlan(tuple(sizes), tuple(left_out))


def _seconds_left(config: RunConfig, seconds: float) -> float:
    if config.minutes is None:
        raise RuntimeError("the run has no minutes")
    return max(60 * config.minutes - seconds - _FINISHING_SECONDS, 0.0)


def budget_choice(
    model: "keras.Model",
    data: ImageData,
    config: RunConfig,
    cost: "CostReport",
    *,
    seconds: float,
) -> Choice:
    """Chooses what of fine-tuning fits into the minutes of a run, the most promising first.

    All groups for the usual number of epochs; then for fewer epochs; then the last groups on stored
    activations, which is several times faster and less accurate; then nothing: the head alone.

    Args:
        model: The model before training; it is left unchanged.
        data: The images at the model's size.
        config: The config with the choices so far; its `mode` is "fine-tune".
        cost: The projected cost with this config.
        seconds: Seconds that the run has taken so far.
    """
    left = _seconds_left(config, seconds) / _num_trainings(config)
    reasons, left_out = [], []
    usual = cost.num_epochs
    fitting = _epochs_in(left, cost)
    chosen: dict[str, object] = {}
    if fitting >= usual:
        chosen = {"epochs": usual}
    elif fitting >= MIN_EPOCHS:
        chosen = {"epochs": fitting}
        left_out.append(f"{usual} epochs, {_needs(cost, left)}")
    else:
        left_out.append(f"{_groups(config.unfreeze)} for {MIN_EPOCHS} epochs or more")
        stored = _stored_plan(model, config)
        fast = project_cost(model, data, config.resolve({"stored": Choice(stored, ())}))
        if fast.is_stored and _MARGIN * fast.total_seconds <= left:
            chosen = stored
        else:
            chosen = {"mode": "head", "unfreeze": None, "anchor": None}
            left_out.append(f"the last groups on stored activations, {_needs(fast, left)}")
    reasons.append(_describe(chosen, config))
    reasons.append(f"{duration(left)} are left of {config.minutes:g} min for each training")
    reasons += [f"left out: {what}" for what in (*left_out, *_never_tried(config))]
    return Choice(chosen, reasons)


def _stored_plan(model: "keras.Model", config: RunConfig) -> dict[str, object]:
    """Returns the arguments of the fast plan; groups that were named stay as they are."""
    from tlkit.models.groups import layer_groups

    plan: dict[str, object] = {"views": _STORED_VIEWS, "epochs": _STORED_EPOCHS}
    if config.unfreeze in (None, "all"):
        plan["unfreeze"] = min(_STORED_GROUPS, len(layer_groups(model)))
    return plan


def _num_trainings(config: RunConfig) -> int:
    return 1 + config.refit + (config.folds or 0)


def _epochs_in(seconds: float, cost: "CostReport") -> int:
    """Returns the number of epochs that fit into some seconds."""
    training = cost.seconds["training"] / cost.num_epochs
    return int((seconds / _MARGIN - cost.total_seconds + cost.seconds["training"]) / training)


def _needs(cost: "CostReport", left: float) -> str:
    return f"which need {duration(max(_MARGIN * cost.total_seconds - left, 1.0))} more"


def _groups(unfreeze: str | int | None) -> str:
    if unfreeze in (None, "all"):
        return "all groups"
    return f"the last {unfreeze} groups" if isinstance(unfreeze, int) else f"from {unfreeze} on"


def _describe(chosen: dict[str, object], config: RunConfig) -> str:
    if chosen.get("mode") == "head":
        return "train the head alone"
    unfreeze = chosen.get("unfreeze", config.unfreeze)
    where = ", on stored activations" if "views" in chosen else ""
    return f"fine-tune {_groups(unfreeze)} for {chosen['epochs']} epochs{where}"  # type: ignore[arg-type]


def _never_tried(config: RunConfig) -> Iterator[str]:
    yield "fine-tuning of other backbones"
    if not config.folds:
        yield "cross-validation (--folds)"
    if not config.refit:
        yield "a last training on all images (--refit)"
