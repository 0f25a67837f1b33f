"""What a run is left to choose by itself: the backbone, and what of it trains.

A choice is made from measurements on training pictures alone, never on test pictures. It is kept
in `run.json` with its reasons before the run goes by it: a continued run does not choose anew.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tlkit.data.images import ImageData
from tlkit.models.backbone_spec import SHIPPED_BACKBONE
from tlkit.models.catalogue import find_backbone
from tlkit.runs.config import ONLY_FINE_TUNING

if TYPE_CHECKING:
    import keras

    from tlkit.advice.recommendation import Recommendation

Say = Callable[[str], None]


def backbone_choice(
    arguments: Mapping[str, Any], data: ImageData, kept: Mapping[str, Any], say: Say
) -> dict[str, Any]:
    """Returns which backbone a run starts from, as `settled_arguments` reads it.

    Args:
        arguments: Those of the run; its `backbone` is "auto".
        data: Whose training pictures are looked at.
        kept: Choices that an interrupted start of this run has made.
        say: Is told the comparison.

    Raises:
        ArgumentError: No backbone can be had.
        DataError: A class has fewer than two different training pictures, or groups of them.
    """
    if (choice := kept.get("backbone")) is not None:
        say(_again("backbone", choice["reasons"]))
        return choice
    from tlkit.advice.backbones import compare_backbones
    from tlkit.advice.candidates import DEFAULT_BACKBONES
    from tlkit.advice.choosing import choose_backbone
    from tlkit.advice.sampling import check_no_lone_class

    check_no_lone_class(data, "photos", "name the backbone (--backbone NAME)")
    comparison = compare_backbones(
        data,
        arguments["backbones"] or DEFAULT_BACKBONES,
        image_size=arguments["image_size"] or "own",
        max_milliseconds=arguments["max_milliseconds"],
        max_megabytes=arguments["max_megabytes"],
        class_weight=arguments["class_weight"],
        seed=arguments["seed"],
    )
    say(str(comparison))
    chosen = choose_backbone(comparison)
    say(str(chosen))
    return {
        "arguments": chosen.arguments,
        "reasons": [str(chosen)],
        "comparison": comparison.as_dict(),
    }


def mode_choice(
    arguments: Mapping[str, Any],
    model: "keras.Model",
    data: ImageData,
    kept: Mapping[str, Any],
    say: Say,
) -> dict[str, Any]:
    """Returns what of the model trains, as `settled_arguments` reads it.

    What was named stays as it is named, and where something was that only fine-tuning takes, the
    head alone is not chosen.

    Args:
        arguments: Those that the run goes by so far; its `mode` is "auto".
        model: As it is before training.
        data: Whose training pictures are looked at.
        kept: Choices that an interrupted start of this run has made.
        say: Is told what was measured.
    """
    if (choice := kept.get("mode")) is not None:
        say(_again("mode", choice["reasons"]))
        return choice
    from tlkit.models.groups import layer_groups

    recommended, measured = _recommended(arguments, model, data)
    named = [name for name in ONLY_FINE_TUNING if arguments[name] is not None]
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
        if recommended.anchor != "none" and arguments["anchor"] is None:
            chosen["anchor"] = recommended.anchor_strength
    lines = [_in_words(chosen), *reasons]
    if measured:
        say(measured)
    say("\n  ".join(lines))
    return {"arguments": chosen, "reasons": lines, "measured": measured.splitlines()}


def _recommended(
    arguments: Mapping[str, Any], model: "keras.Model", data: ImageData
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

    if arguments["from_run"] is None and arguments["weights"] is None:
        reason = "the weights are random: there is nothing to keep"
        return Recommendation("fine-tune", "all", "none", (reason,)), ""
    if (by_number := recommend_by_number(data)) is not None:
        return by_number, ""
    if (lone := lone_class(data)) is not None:
        reason = f"how near the pictures are was not measured: {lone}"
        return recommend_unmeasured(data, reason), ""
    similarity = measure_similarity(model, data, seed=arguments["seed"])
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


def _again(what: str, reasons: list[str]) -> str:
    return f"{what} as chosen when this run began: {reasons[0]}"


def first_image_size(arguments: Mapping[str, Any]) -> int:
    """The size at which pictures are loaded; that of the backbone takes its place once chosen."""
    size: int | None = arguments["image_size"]
    return find_backbone(SHIPPED_BACKBONE).default_image_size if size is None else size
