"""The choices that a run makes itself: backbone, image size, mode, and strength of the anchor.

Choices are based on measurements on training images alone, never on test images. They are written
to `run.json` with their reasons before the run uses them; a resumed run does not choose again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.data.images import ImageData
from tlkit.models.backbone_files import joined_name
from tlkit.models.backbone_spec import SHIPPED_BACKBONE
from tlkit.models.catalogue import find_backbone
from tlkit.runs.config import AUTO, ONLY_FINE_TUNING, Choice, RunConfig

if TYPE_CHECKING:
    import keras

    from tlkit.advice.recommendation import Recommendation
    from tlkit.continual.warm_start import OldTask

Log = Callable[[str], None]

BACKBONES_FRACTION = 0.2
"""Fraction of the minutes of a run for the comparison of backbones."""


@dataclass(frozen=True)
class SizePlan:
    """The image sizes that a run compares.

    Attributes:
        sizes: In pixels, ascending; the first is the backbone's own.
        left_out: Larger sizes that do not fit into the minutes of the run, with the reason.
    """

    sizes: tuple[int, ...]
    left_out: tuple[str, ...] = ()


_TRIAL_ARGUMENTS = ("learning_rate", "seed", "unfreeze", "layer_decay")
"""Epochs and augmentation are left out: trials take few epochs on stored activations."""


def backbone_choice(
    config: RunConfig, data: ImageData, previous: Mapping[str, Choice], log: Log
) -> Choice:
    """Chooses the backbone of a run.

    Args:
        config: The run's config; its `backbone` is "auto".
        data: The images; only training images are used.
        previous: Choices of an interrupted attempt at this run.
        log: Gets the comparison.

    Raises:
        ArgumentError: No backbone is available.
        DataError: A class has fewer than two different training images, or groups of them.
    """
    if (choice := previous.get("backbone")) is not None:
        log(_previous_choice_message("backbone", choice.reasons))
        return choice
    from tlkit.advice.backbones import compare_backbones
    from tlkit.advice.candidates import DEFAULT_BACKBONES
    from tlkit.advice.choosing import choose_backbone
    from tlkit.advice.sampling import check_no_lone_class

    check_no_lone_class(data, "photos", "name the backbone (--backbone NAME)")
    comparison = compare_backbones(
        data,
        config.backbones or DEFAULT_BACKBONES,
        image_size=config.image_size or "own",
        max_milliseconds=config.max_milliseconds,
        max_megabytes=config.max_megabytes,
        budget=None if config.minutes is None else BACKBONES_FRACTION * 60 * config.minutes,
        class_weight=config.weighting_for(data.class_names).for_solving(),
        seed=config.seed,
    )
    log(str(comparison))
    chosen = choose_backbone(comparison)
    log(str(chosen))
    return Choice(chosen.arguments, [str(chosen)], comparison=comparison.as_dict())


def image_size_choice(
    config: RunConfig,
    data: ImageData,
    previous: Mapping[str, Choice],
    log: Log,
    *,
    plan_sizes: Callable[[], SizePlan],
) -> Choice:
    """Chooses the image size of a run among the backbone's own and larger ones.

    It is the size at which the model is trained; see also `inference_size_choice`.

    Args:
        config: The config with the choices so far; its `image_size` is to be chosen.
        data: The images; only training images are used.
        previous: Choices of an interrupted attempt at this run.
        log: Gets the comparison.
        plan_sizes: Returns the sizes to compare.

    Raises:
        ArgumentError: The backbone cannot be measured at any size.
        DataError: A class has fewer than two different training images, or groups of them.
    """
    if (choice := previous.get("image_size")) is not None:
        log(_previous_choice_message("image size", choice.reasons))
        return choice
    from tlkit.advice.backbones import compare_backbones
    from tlkit.advice.choosing import choose_image_size
    from tlkit.advice.sampling import check_no_lone_class

    plan = plan_sizes()
    left_out = [f"left out: {reason}" for reason in plan.left_out]
    if len(plan.sizes) == 1:
        reasons = [f"the backbone's own, {plan.sizes[0]} pixels", *left_out]
        log("\n  ".join([f"image size: {reasons[0]}", *left_out]))
        return Choice({"image_size": plan.sizes[0]}, reasons)
    check_no_lone_class(data, "photos", "give the size (--image-size N)")
    weights = "" if config.weights == "pretrained" else f"={config.weights}"
    backbone = joined_name(str(config.backbone), config.preprocessing)
    comparison = compare_backbones(
        data,
        [f"{backbone}@{size}{weights}" for size in plan.sizes],
        class_weight=config.weighting_for(data.class_names).for_solving(),
        seed=config.seed,
    )
    log(str(comparison))
    chosen = choose_image_size(comparison)
    log("\n  ".join([str(chosen), *left_out]))
    size = {"image_size": chosen.score.image_size[0]}
    return Choice(size, [str(chosen), *left_out], comparison=comparison.as_dict())


def inference_size_choice(
    config: RunConfig,
    model: "keras.Model",
    data: ImageData,
    previous: Mapping[str, Choice],
    log: Log,
) -> Choice:
    """Chooses the image size at which a fine-tuned model is used, see `choose_inference_size`.

    Args:
        config: The config with the choices so far.
        model: The trained model.
        data: The images at the model's size; only validation images are used.
        previous: Choices of an interrupted attempt at this run.
        log: Gets the measurements.
    """
    if (choice := previous.get("inference_size")) is not None:
        log(_previous_choice_message("size of images in use", choice.reasons))
        return choice
    from tlkit.advice.inference_size import choose_inference_size

    chosen = choose_inference_size(model, data, class_weight=config.weighting_for(data.class_names))
    log(f"size of images in use: {chosen}")
    return Choice({"inference_size": chosen.pixels}, [str(chosen)])


def mode_choice(
    config: RunConfig,
    model: "keras.Model",
    data: ImageData,
    previous: Mapping[str, Choice],
    log: Log,
) -> Choice:
    """Chooses between training the head alone and fine-tuning.

    Arguments that were given stay unchanged. If one of them is for fine-tuning only, the head
    alone is not chosen.

    Args:
        config: The config with the choices so far; its `mode` is "auto".
        model: The model before training.
        data: The images; only training images are used.
        previous: Choices of an interrupted attempt at this run.
        log: Gets the measurements.
    """
    if (choice := previous.get("mode")) is not None:
        log(_previous_choice_message("mode", choice.reasons))
        return choice
    from tlkit.models.groups import layer_groups

    recommended, measured = _recommend(config, model, data)
    given = [name for name in ONLY_FINE_TUNING if getattr(config, name) is not None]
    reasons = list(recommended.reasons)
    chosen: dict[str, object] = {"mode": recommended.mode}
    if recommended.mode == "head" and given:
        chosen = {"mode": "fine-tune"}
        reasons.append(f"{given[0]} was given, which applies to fine-tuning only")
    elif recommended.mode == "fine-tune":
        unfreeze = recommended.unfreeze
        if isinstance(unfreeze, int):
            unfreeze = min(unfreeze, len(layer_groups(model)))
        chosen["unfreeze"] = unfreeze
    lines = [_describe(chosen), *reasons]
    if measured:
        log(measured)
    log("\n  ".join(lines))
    return Choice(chosen, lines, measured=measured.splitlines())


def anchor_choice(
    config: RunConfig,
    model: "keras.Model",
    data: ImageData,
    importance: Mapping[str, np.ndarray],
    old: "OldTask | None",
) -> Choice:
    """Chooses the strength of the anchor by trials.

    Args:
        config: The config with the choices so far; its `anchor` is "auto".
        model: The model before training; it is left unchanged.
        data: The images at the model's size.
        importance: Importance of each weight, by its path; empty if all are equally important.
        old: The task of the earlier run, if there is one.
    """
    from tlkit.continual.warm_start import choose_strength

    arguments = config.training_values(data.class_names, *_TRIAL_ARGUMENTS)
    report = choose_strength(model, data, importance, old, **arguments)
    return Choice({"anchor": report.chosen}, str(report).splitlines())


def _recommend(
    config: RunConfig, model: "keras.Model", data: ImageData
) -> "tuple[Recommendation, str]":
    """Returns a recommendation and the measurements behind it, "" if none were needed."""
    from tlkit.advice.recommendation import (
        Recommendation,
        recommend,
        recommend_by_number,
        recommend_unmeasured,
    )
    from tlkit.advice.sampling import find_lone_class
    from tlkit.advice.similarity import measure_similarity

    if config.from_run is None and config.weights is None:
        reason = "the weights are random: there is nothing to preserve"
        return Recommendation("fine-tune", "all", (reason,)), ""
    if (by_number := recommend_by_number(data)) is not None:
        return by_number, ""
    if (lone := find_lone_class(data)) is not None:
        reason = f"similarity to the pretraining data was not measured: {lone}"
        return recommend_unmeasured(data, reason), ""
    similarity = measure_similarity(model, data, seed=config.seed)
    return recommend(data, similarity), str(similarity)


def _describe(chosen: Mapping[str, Any]) -> str:
    if chosen["mode"] == "head":
        return "train the head alone"
    unfreeze = chosen.get("unfreeze")
    if unfreeze is None:
        return "fine-tune the last groups"
    return "fine-tune " + ("all groups" if unfreeze == "all" else f"the last {unfreeze} groups")


def _previous_choice_message(what: str, reasons: Sequence[str]) -> str:
    return f"{what}, chosen when this run was started: {reasons[0]}"


def initial_image_size(config: RunConfig) -> int:
    """Returns the size at which images are loaded until the backbone and its size are chosen."""
    size = config.image_size
    if isinstance(size, int):
        return size
    name = config.backbone if config.backbone not in (None, AUTO) else None
    return find_backbone(name or SHIPPED_BACKBONE).default_image_size
