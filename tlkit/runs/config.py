"""The config of a run: its arguments, settled and checked before any image is looked at.

What is no part of a run's identity (where it lies, whether it may be resumed, on how many devices
it trains, who is told) is not in it: a run is the same without.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

from tlkit.advice.candidates import check_limits, parse_candidates, with_whole_paths
from tlkit.continual.methods import WITHOUT_TRAINING
from tlkit.data.augmentation import AUGMENTATIONS
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.settings import DAMAGED, KEEP
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
from tlkit.runs.options import IMAGES, MODEL, PARENT, RUN, TRAINING, option

AUTO = "auto"
MODES = (AUTO, "head", "fine-tune")
ONLY_FINE_TUNING = ("unfreeze", "layer_decay", "epochs", "learning_rate", "anchor")
"""Arguments that the head alone has no use for."""
DEFAULT_BACKBONE = "mobilenet_v2"
SPLITS = (0.8, 0.1, 0.1)
"""Fractions of training, validation and test."""


@dataclass(frozen=True)
class Choice:
    """Something that was left to a run, as it has decided it.

    Attributes:
        arguments: Which fields of `RunConfig` it decides, and how.
        reasons: Why, line by line.
        comparison: Of a backbone: what `BackboneComparison.as_dict` returned.
        measured: Of a mode: what was measured for it, line by line.
    """

    arguments: Mapping[str, Any]
    reasons: Sequence[str]
    comparison: Mapping[str, Any] | None = None
    measured: Sequence[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns it as `run.json` holds it."""
        content: dict[str, Any] = {
            "arguments": dict(self.arguments),
            "reasons": list(self.reasons),
        }
        if self.comparison is not None:
            content["comparison"] = dict(self.comparison)
        if self.measured is not None:
            content["measured"] = list(self.measured)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Choice":
        """Reads what `to_json` gave.

        Raises:
            KeyError: Something is missing.
            TypeError: Something is of another kind.
        """
        arguments, reasons = content["arguments"], content["reasons"]
        check_kind(arguments, dict)
        check_kind(reasons, list)
        return cls(arguments, reasons, content.get("comparison"), content.get("measured"))


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The config of a run of `train_run`: its arguments, of the same names.

    What is made is settled: paths are absolute, what has a default has it, and what the run is to
    choose by itself is "auto" until `resolve` returns a config with what it has chosen.

    Attributes:
        as_given: The paths as they were given, by the name of the field, for messages.

    Args:
        kept: Whether the values are those of a config that was settled before, read from
            `run.json` or chosen by the run. They are taken as they are, and only each checked by
            itself: what a run chooses may be more than a user may name.

    Raises:
        ArgumentError: A value breaks its rule, or does not go with another.

    Example:
        >>> from tlkit.runs.config import Choice, RunConfig
        >>> config = RunConfig(photos="/data/photos", backbone="resnet20")
        >>> config.image_size, config.mode
        (32, 'auto')
        >>> config.resolve({"mode": Choice({"mode": "head"}, ["few images"])}).mode
        'head'
        >>> RunConfig.from_json(config.to_json()) == config
        True
    """

    photos: str = field(
        metadata=option(
            "Folder: CLASS/*.jpg, or train/, val/, test/ of it; or a .csv file with the columns "
            "path, label and, if wanted, group and split.",
            metavar="PHOTOS",
            is_path=True,
        )
    )
    from_run: str | None = field(
        default=None,
        metadata=option("Go on from a finished run.", PARENT, "RUN0", name="from", is_path=True),
    )
    backbone: str | None = field(
        default=None,
        metadata=option("mobilenet_v2, resnet50, ...; auto compares some.", MODEL, "NAME"),
    )
    backbones: Sequence[str] | None = field(
        default=None,
        metadata=option("With --backbone auto: what it chooses among.", MODEL, "A[=FILE],B"),
    )
    max_milliseconds: float | None = field(
        default=None,
        metadata=option("Backbones that take longer for one image are left out.", MODEL),
    )
    max_megabytes: float | None = field(
        default=None,
        metadata=option("Backbones whose file is larger, in 10⁶ bytes, are left out.", MODEL),
    )
    weights: str | None = field(
        default="pretrained",
        metadata=option("Where the weights come from.", MODEL, "FILE|none"),
    )
    image_size: int | None = field(
        default=None, metadata=option("Side of the images in pixels.", MODEL)
    )
    mode: str = field(
        default=AUTO,
        metadata=option(
            "What trains: head, fine-tune, or auto, which goes by measurements.", TRAINING, "MODE"
        ),
    )
    unfreeze: str | int | None = field(
        default=None,
        metadata=option(
            "First group of layers that trains, the number of groups, or all.", TRAINING, "GROUP"
        ),
    )
    epochs: int | None = field(
        default=None, metadata=option("Passes over the images, at most.", TRAINING)
    )
    learning_rate: float | None = field(
        default=None, metadata=option("The highest rate.", TRAINING)
    )
    layer_decay: float | None = field(
        default=None,
        metadata=option("A group's rate against that of the group behind it.", TRAINING),
    )
    anchor: float | str | None = field(
        default=None,
        metadata=option("Hold weights near those of RUN0, so strongly, or auto.", PARENT),
    )
    importance: str | None = field(
        default=None, metadata=option("Hold by importance: fisher, mas, ...", PARENT, "NAME")
    )
    old_photos: str | None = field(
        default=None,
        metadata=option("Images of what RUN0 learned.", PARENT, "DIR", is_path=True),
    )
    augment: str | None = field(
        default=None,
        metadata=option("Augmentation: none, light, default or strong.", IMAGES, "NAME"),
    )
    class_weight: str | None = field(
        default=None, metadata=option("balanced weighs rare classes more.", TRAINING, "NAME")
    )
    reject_unknown: bool = field(
        default=False, metadata=option("Let the model also say «none of these».", MODEL)
    )
    batch_size: int = field(default=32, metadata=option("Images per step.", TRAINING))
    seed: int = field(
        default=0, metadata=option("Of the split, weights, orders, augmentation.", RUN)
    )
    max_pixels: int = field(
        default=MAX_PIXELS, metadata=option("Images with more pixels are left out.", IMAGES)
    )
    damaged: str = field(
        default=KEEP,
        metadata=option(
            "Use JPEG files that are damaged as far as they are decoded, or leave them out.",
            IMAGES,
            "keep|skip",
        ),
    )
    as_given: Mapping[str, str] = field(init=False, compare=False, repr=False)
    kept: InitVar[bool] = False

    def __post_init__(self, kept: bool) -> None:
        self._set("as_given", {} if kept else self._settled())
        self._check_values()

    def resolve(self, choices: Mapping[str, Choice]) -> "RunConfig":
        """Returns the config that the run goes by: what was left to it is what it has chosen.

        Args:
            choices: What it has chosen until now, by name.
        """
        chosen: dict[str, Any] = {}
        for choice in choices.values():
            chosen |= choice.arguments
        return dataclasses.replace(self, kept=True, **chosen)

    def to_json(self) -> dict[str, Any]:
        """Returns it as `run.json` holds it under "arguments"."""
        content = {one.name: getattr(self, one.name) for one in arguments_of(self)}
        if self.backbones is not None:
            content["backbones"] = list(self.backbones)
        if self.damaged == KEEP:  # as runs of earlier versions have it
            del content["damaged"]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RunConfig":
        """Reads what `to_json` gave, of this version or an earlier one, which had fewer arguments.

        Raises:
            KeyError: Something is missing.
            TypeError: Something is of another kind.
            ArgumentError: A value breaks its rule.
        """
        for name in ("photos", "max_pixels"):
            _ = content[name]
        known = [one.name for one in arguments_of(cls) if one.name in content]
        given = {name: content[name] for name in known}
        for name in ("from_run", "backbone", "weights", "old_photos"):
            check_kind(given.get(name), str | None)
        check_kind(given["photos"], str)
        check_kind(given.get("backbones"), list | None)
        if given.get("backbones") is not None:
            given["backbones"] = tuple(given["backbones"])
        return cls(**given, kept=True)

    def named(self, *names: str) -> dict[str, Any]:
        """Returns those of some arguments that are not `None`, by their names."""
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def spelled(self, name: str) -> str:
        """Returns a path as it was given, where that is known, else from the root."""
        return self.as_given.get(name, getattr(self, name))

    def _settled(self) -> dict[str, str]:
        """Checks what may be given together, and puts in what follows from it.

        Returns:
            The paths as they were given.
        """
        as_given = {
            name: getattr(self, name)
            for name in ("photos", "from_run")
            if getattr(self, name) is not None
        }
        self._set("photos", absolute(self.photos))
        check_choice("mode", self.mode, MODES)
        if self.mode == AUTO and self.unfreeze is not None:
            self._set("mode", "fine-tune")  # what trains is named: nothing is left to choose
        self._settle_candidates()
        if self.from_run is not None:
            self._set("from_run", absolute(self.from_run))
            self._check_left_to_parent()
        else:
            self._settle_origin()
        if self.old_photos is not None:
            self._set("old_photos", absolute(self.old_photos))
        self._check_together()
        return as_given

    def _check_together(self) -> None:
        for name in ("anchor", "old_photos"):
            if getattr(self, name) is not None and self.from_run is None:
                raise ArgumentError(
                    f"`{name}` must be left out where there is no run to go on from. "
                    f"Received: {name}={getattr(self, name)!r}. Name that run (--from RUN)."
                )
        if self.importance is not None and self.anchor is None:
            raise ArgumentError(
                "`importance` must come with an anchor, whose weights it tells apart. "
                f"Received: importance={self.importance!r}. Give --anchor auto, say."
            )
        for name in ONLY_FINE_TUNING if self.mode == "head" else ():
            if getattr(self, name) is not None:
                raise ArgumentError(
                    f"`{name}` must be left out with mode='head', which solves the head, and "
                    f"trains nothing else. Received: {name}={getattr(self, name)!r}. Use "
                    "mode='fine-tune'."
                )

    def _settle_candidates(self) -> None:
        if self.backbone == AUTO and self.weights != "pretrained":
            raise ArgumentError(
                "`weights` must be left out with backbone='auto', whose candidates come with their "
                f"own. Received: weights={self.weights!r}. Name them: "
                "backbones=['NAME=WEIGHTS_FILE', 'NAME=none']."
            )
        limits = {
            "max_milliseconds": self.max_milliseconds,
            "max_megabytes": self.max_megabytes,
        }
        check_limits(**limits)
        for name, value in {"backbones": self.backbones, **limits}.items():
            if value is not None and self.backbone != AUTO:
                raise ArgumentError(
                    f"`{name}` must come with backbone='auto', which chooses by it. Received: "
                    f"{name}={value!r}, backbone={self.backbone!r}. Give --backbone auto, or "
                    "leave it out."
                )
        if self.backbones is not None:
            entries = parse_candidates(self.backbones, argument="backbones")
            self._set("backbones", tuple(with_whole_paths(entries)))

    def _check_left_to_parent(self) -> None:
        for name, default in (("backbone", None), ("weights", "pretrained"), ("image_size", None)):
            if getattr(self, name) != default:
                raise ArgumentError(
                    f"`{name}` must be left out when going on from a run, whose model decides it. "
                    f"Received: {name}={getattr(self, name)!r}. Leave it out, or do not go on from "
                    "a run."
                )

    def _settle_origin(self) -> None:
        self._set("backbone", self.backbone or DEFAULT_BACKBONE)
        if self.weights is not None and self.weights not in ("pretrained", "imagenet"):
            self._set("weights", absolute(self.weights))
        if self.backbone is not None and self.backbone != AUTO:
            spec = find_backbone(self.backbone)
            if self.image_size is None:
                self._set("image_size", spec.default_image_size)

    def _check_values(self) -> None:
        """What holds of any config, given or resolved."""
        for name in ("batch_size", "epochs", "image_size", "max_pixels"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if not isinstance(self.reject_unknown, bool):
            raise ArgumentError(
                "`reject_unknown` must be True or False. Received: "
                f"reject_unknown={self.reject_unknown!r}."
            )
        check_choice("mode", self.mode, MODES)
        check_choice("damaged", self.damaged, DAMAGED)
        check_seed(self.seed)
        if self.importance is not None:
            check_choice("importance", self.importance, WITHOUT_TRAINING)
        if self.anchor is not None and self.anchor != AUTO:
            check_not_negative("anchor", self.anchor)  # type: ignore[arg-type]
        if self.learning_rate is not None:
            check_positive("learning_rate", self.learning_rate)
        if self.class_weight is not None:
            check_choice("class_weight", self.class_weight, ["balanced"])
        if self.augment is not None:
            check_choice("augment", self.augment, AUGMENTATIONS)
        if self.layer_decay is not None:
            check_share("layer_decay", self.layer_decay)

    def _set(self, name: str, value: object) -> None:
        """Sets a field while the config is made; nothing does so later."""
        object.__setattr__(self, name, value)


def arguments_of(config: "RunConfig | type[RunConfig]") -> "tuple[dataclasses.Field[Any], ...]":
    """Returns the fields that are arguments of a run, in their order."""
    return tuple(one for one in dataclasses.fields(config) if one.init)


def check_kind(value: object, kind: Any) -> None:
    """Raises `TypeError` unless a value read from a run's file is of a kind."""
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} where a run has another kind of value")


def absolute(path: str) -> str:
    """Returns a path from the root, whatever folder it was given from."""
    return str(Path(path).resolve())
