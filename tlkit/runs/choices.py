"""What a run is left to choose by itself: the backbone, and what of it trains.

A choice is made from measurements on training images alone, never on test images. It is kept
in `run.json` with its reasons before the run goes by it: a continued run does not choose anew.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.data.images import ImageData
from tlkit.models.backbone_spec import SHIPPED_BACKBONE
from tlkit.models.catalogue import find_backbone
from tlkit.runs.config import ONLY_FINE_TUNING, Choice, RunConfig

if TYPE_CHECKING:
    import keras

    from tlkit.advice.recommendation import Recommendation
    from tlkit.continual.warm_start import OldTask

Log = Callable[[str], None]

_GIVEN_TO_TRIALS = ("learning_rate", "class_weight", "seed", "unfreeze", "layer_decay")
"""Not epochs and augmentation: trials of a strength are few epochs on stored activations."""


def backbone_choice(
    config: RunConfig, data: ImageData, kept: Mapping[str, Choice], log: Log
) -> Choice:
    """Returns which backbone a run starts from.

    Args:
        config: That of the run; its `backbone` is "auto".
        data: Whose training images are looked at.
        kept: Choices that an interrupted start of this run has made.
        log: Is told the comparison.

    Raises:
        ArgumentError: No backbone can be had.
        DataError: A class has fewer than two different training images, or groups of them.
    """
    if (choice := kept.get("backbone")) is not None:
        log(_again("backbone", choice.reasons))
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
        class_weight=config.class_weight,
        seed=config.seed,
    )
    log(str(comparison))
    chosen = choose_backbone(comparison)
    log(str(chosen))
    return Choice(chosen.arguments, [str(chosen)], comparison=comparison.as_dict())


def mode_choice(
    config: RunConfig,
    model: "keras.Model",
    data: ImageData,
    kept: Mapping[str, Choice],
    log: Log,
) -> Choice:
    """Returns what of the model trains.

    What was named stays as it is named, and where something was that only fine-tuning takes, the
    head alone is not chosen.

    Args:
        config: The one that the run goes by so far; its `mode` is "auto".
        model: As it is before training.
        data: Whose training images are looked at.
        kept: Choices that an interrupted start of this run has made.
        log: Is told what was measured.
    """
    if (choice := kept.get("mode")) is not None:
        log(_again("mode", choice.reasons))
        return choice
    from tlkit.models.groups import layer_groups

    recommended, measured = _recommended(config, model, data)
    named = [name for name in ONLY_FINE_TUNING if getattr(config, name) is not None]
    reasons = list(recommended.reasons)
    chosen: dict[str, Any] = {"mode": recommended.mode}
    if recommended.mode == "head" and named:
        chosen = {"mode": "fine-tune"}
        reasons.append(f"{named[0]} was named, which only fine-tuning takes")
    elif recommended.mode == "fine-tune":
        trained = recommended.unfreeze
        if isinstance(trained, int):
            trained = min(trained, len(layer_groups(model)))
        chosen["unfreeze"] = trained
        if recommended.anchor != "none" and config.anchor is None:
            chosen["anchor"] = recommended.anchor_strength
    lines = [_in_words(chosen), *reasons]
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
    """Returns how strongly the model is held, found by trying.

    Args:
        config: The one that the run goes by so far; its `anchor` is "auto".
        model: As it is before training; it stays so.
        data: The images in its size.
        importance: Of each weight, by its path; empty where all count the same.
        old: What an earlier run learned, where there was one.
    """
    from tlkit.continual.warm_start import choose_strength

    given = config.named(*_GIVEN_TO_TRIALS)
    report = choose_strength(model, data, importance, old, **given)
    return Choice({"anchor": report.chosen}, str(report).splitlines())


def _recommended(
    config: RunConfig, model: "keras.Model", data: ImageData
) -> "tuple[Recommendation, str]":
    """What to train, and what was measured for it in words; nothing where the case is clear."""
    from tlkit.advice.recommendation import (
        Recommendation,
        recommend,
        recommend_by_number,
        recommend_unmeasured,
    )
    from tlkit.advice.sampling import lone_class
    from tlkit.advice.similarity import measure_similarity

    if config.from_run is None and config.weights is None:
        reason = "the weights are random: there is nothing to keep"
        return Recommendation("fine-tune", "all", "none", (reason,)), ""
    if (by_number := recommend_by_number(data)) is not None:
        return by_number, ""
    if (lone := lone_class(data)) is not None:
        reason = f"how near the images are was not measured: {lone}"
        return recommend_unmeasured(data, reason), ""
    similarity = measure_similarity(model, data, seed=config.seed)
    return recommend(data, similarity), str(similarity)


def _in_words(chosen: Mapping[str, Any]) -> str:
    if chosen["mode"] == "head":
        return "solves the head alone"
    trained = chosen.get("unfreeze")
    if trained is None:
        what = "the last groups"
    else:
        what = "everything" if trained == "all" else f"the last {trained} groups"
    strength = chosen.get("anchor")
    held = "" if strength is None else f", held near its weights with strength {strength:g}"
    return f"fine-tunes {what}{held}"


def _again(what: str, reasons: Sequence[str]) -> str:
    return f"{what} as chosen when this run began: {reasons[0]}"


def first_image_size(config: RunConfig) -> int:
    """The size at which images are loaded; that of the backbone takes its place once chosen."""
    size = config.image_size
    return find_backbone(SHIPPED_BACKBONE).default_image_size if size is None else size
