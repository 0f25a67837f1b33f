"""The arguments of a run: settled and checked before any picture is looked at."""

from pathlib import Path
from typing import Any

from tlkit.advice.candidates import check_limits, parse_candidates, with_whole_paths
from tlkit.continual.methods import WITHOUT_TRAINING
from tlkit.data.augmentation import AUGMENTATIONS
from tlkit.data.settings import DAMAGED, KEEP
from tlkit.distribution.cluster import KINDS
from tlkit.errors import (
    ArgumentError,
    check_choice,
    check_count,
    check_not_negative,
    check_positive,
    check_seed,
    check_share,
)
from tlkit.models.catalogue import find_backbone

AUTO = "auto"
MODES = (AUTO, "head", "fine-tune")
ONLY_FINE_TUNING = ("unfreeze", "layer_decay", "epochs", "learning_rate", "anchor")
"""Arguments that the head alone has no use for."""
DEFAULT_BACKBONE = "mobilenet_v2"
SPLITS = (0.8, 0.1, 0.1)
"""Shares of training, validation and test."""


def checked(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments that make a run what it is, after the checks that need no pictures."""
    if arguments["distribute"] is not None:
        check_choice("distribute", arguments["distribute"], KINDS)
    del arguments["resume"], arguments["say"], arguments["distribute"]
    arguments["photos"] = str(Path(arguments["photos"]).resolve())
    arguments.pop("out")
    check_choice("mode", arguments["mode"], MODES)
    if arguments["mode"] == AUTO and arguments["unfreeze"] is not None:
        arguments["mode"] = "fine-tune"  # what trains is named: nothing is left to choose
    _check_candidates(arguments)
    if arguments["from_run"] is not None:
        arguments["from_run"] = str(Path(arguments["from_run"]).resolve())
        for name, default in (("backbone", None), ("weights", "pretrained"), ("image_size", None)):
            if arguments[name] != default:
                raise ArgumentError(
                    f"`{name}` must be left out when going on from a run, whose model decides it. "
                    f"Received: {name}={arguments[name]!r}. Leave it out, or do not go on from a "
                    "run."
                )
    else:
        arguments["backbone"] = arguments["backbone"] or DEFAULT_BACKBONE
        if arguments["weights"] not in (None, "pretrained", "imagenet"):
            arguments["weights"] = str(Path(arguments["weights"]).resolve())
        if arguments["backbone"] != AUTO:
            spec = find_backbone(arguments["backbone"])
            if arguments["image_size"] is None:
                arguments["image_size"] = spec.default_image_size
    _check_values(arguments)
    if arguments["damaged"] == KEEP:  # so that runs of before can be continued
        del arguments["damaged"]
    return arguments


def _check_candidates(arguments: dict[str, Any]) -> None:
    if arguments["backbone"] == AUTO and arguments["weights"] != "pretrained":
        raise ArgumentError(
            "`weights` must be left out with backbone='auto', whose candidates come with their "
            f"own. Received: weights={arguments['weights']!r}. Name them: "
            "backbones=['NAME=WEIGHTS_FILE', 'NAME=none']."
        )
    limits = {name: arguments[name] for name in ("max_milliseconds", "max_megabytes")}
    check_limits(**limits)
    for name, value in {"backbones": arguments["backbones"], **limits}.items():
        if value is not None and arguments["backbone"] != AUTO:
            raise ArgumentError(
                f"`{name}` must come with backbone='auto', which chooses by it. Received: "
                f"{name}={value!r}, backbone={arguments['backbone']!r}. Give --backbone auto, or "
                "leave it out."
            )
    if arguments["backbones"] is None:
        return
    entries = parse_candidates(arguments["backbones"], argument="backbones")
    arguments["backbones"] = with_whole_paths(entries)


def _check_values(arguments: dict[str, Any]) -> None:
    for name in ("batch_size", "epochs", "image_size", "max_pixels"):
        if arguments[name] is not None:
            check_count(name, arguments[name])
    if not isinstance(arguments["reject_unknown"], bool):
        raise ArgumentError(
            "`reject_unknown` must be True or False. Received: "
            f"reject_unknown={arguments['reject_unknown']!r}."
        )
    check_choice("damaged", arguments["damaged"], DAMAGED)
    check_seed(arguments["seed"])
    _check_constraint(arguments)
    if arguments["learning_rate"] is not None:
        check_positive("learning_rate", arguments["learning_rate"])
    if arguments["class_weight"] is not None:
        check_choice("class_weight", arguments["class_weight"], ["balanced"])
    if arguments["augment"] is not None:
        check_choice("augment", arguments["augment"], AUGMENTATIONS)
    if arguments["layer_decay"] is not None:
        check_share("layer_decay", arguments["layer_decay"])
    for name in ONLY_FINE_TUNING:
        if arguments["mode"] == "head" and arguments[name] is not None:
            raise ArgumentError(
                f"`{name}` must be left out with mode='head', which solves the head, and trains "
                f"nothing else. Received: {name}={arguments[name]!r}. Use mode='fine-tune'."
            )


def _check_constraint(arguments: dict[str, Any]) -> None:
    if arguments["old_photos"] is not None:
        arguments["old_photos"] = str(Path(arguments["old_photos"]).resolve())
    for name in ("anchor", "old_photos"):
        if arguments[name] is not None and arguments["from_run"] is None:
            raise ArgumentError(
                f"`{name}` must be left out where there is no run to go on from. "
                f"Received: {name}={arguments[name]!r}. Name that run (--from RUN)."
            )
    if arguments["importance"] is not None:
        if arguments["anchor"] is None:
            raise ArgumentError(
                "`importance` must come with an anchor, whose weights it tells apart. "
                f"Received: importance={arguments['importance']!r}. Give --anchor auto, say."
            )
        check_choice("importance", arguments["importance"], WITHOUT_TRAINING)
    if arguments["anchor"] not in (None, "auto"):
        check_not_negative("anchor", arguments["anchor"])
