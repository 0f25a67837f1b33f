"""The config of a run: its arguments, completed and checked before any image is read.

It holds what identifies the run. The run directory, resuming, devices, trackers and the log do not
belong to it.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tlkit.advice.candidates import check_limits, parse_candidates, with_absolute_paths
from tlkit.continual.methods import WITHOUT_TRAINING
from tlkit.data.addresses import is_address
from tlkit.data.augmentation import AUGMENTATIONS, MIXING
from tlkit.data.class_weighting import SAMPLINGS, ClassWeighting, weighting_of
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.settings import (
    DAMAGED,
    KEEP,
    RESIZES,
    RGB,
    STRETCH,
    check_channels_of_files,
)
from tlkit.errors import (
    ArgumentError,
    check_choice,
    check_count,
    check_not_negative,
    check_positive,
    check_positive_fraction,
    check_seed,
    check_side,
)
from tlkit.evaluation.thresholds import check_threshold
from tlkit.export.formats import check_packages, further_formats
from tlkit.models.backbone_files import with_absolute_path
from tlkit.models.backbone_spec import preprocessing_of
from tlkit.models.catalogue import find_backbone
from tlkit.models.part_names import PARTS
from tlkit.models.test_time_views import NONE, TEST_TIME_VIEWS
from tlkit.runs.options import IMAGES, MODEL, PARENT, RUN, TRAINING, option
from tlkit.training.head_forms import FORMS
from tlkit.training.lora import adapters_of

AUTO = "auto"
MODES = (AUTO, "head", "fine-tune")
ONLY_FINE_TUNING = (
    "unfreeze",
    "layer_decay",
    "epochs",
    "learning_rate",
    "views",
    "train",
    "adapters",
    "anchor",
    "loss",
    "inference_size",
)
"""Arguments that do not apply to training the head alone."""
DEFAULT_BACKBONE = "mobilenet_v2"
SPLITS = (0.8, 0.1, 0.1)
"""Fractions of the training, validation and test images."""

_LEFT_OUT = {
    "preprocessing": None,
    "train": None,
    "adapters": None,
    "multi_label": False,
    "threshold": None,
    "sampling": None,
    "loss": None,
    "damaged": KEEP,
    "decisions": None,
    "head": None,
    "views": None,
    "resize": None,
    "channels": None,
    "inference_size": None,
    "tta": NONE,
    "minutes": None,
    "folds": None,
    "refit": False,
    "keep_statistics": None,
    "statistics_width": None,
    "formats": None,
}
"""Defaults that `run.json` leaves out, as runs of earlier versions do not have these arguments."""

_SIZES = ("image_size", "inference_size")
_CHECKS: Mapping[str, Callable[[str, Any], object]] = {
    **dict.fromkeys(
        (
            "batch_size",
            "epochs",
            "max_pixels",
            "statistics_width",
        ),
        check_count,
    ),
    **dict.fromkeys(_SIZES, check_side),
    "views": partial(check_count, minimum=0),
    "folds": partial(check_count, minimum=2),
    "learning_rate": check_positive,
    "minutes": check_positive,
    "layer_decay": check_positive_fraction,
    "anchor": check_not_negative,
    "threshold": lambda _, value: check_threshold(value, None),
    "seed": lambda _, value: check_seed(value),
    "channels": lambda _, value: check_channels_of_files(value),
}
_MAY_BE_AUTO = ("anchor", "threshold", *_SIZES)
CHOICES: Mapping[str, Collection[str]] = {
    "mode": MODES,
    "damaged": DAMAGED,
    "importance": WITHOUT_TRAINING,
    "sampling": SAMPLINGS,
    "head": FORMS,
    "tta": TEST_TIME_VIEWS,
    "resize": RESIZES,
    "augment": AUGMENTATIONS,
    "train": PARTS,
}
"""Checks and allowed names of the fields that are given."""


@dataclass(frozen=True)
class Choice:
    """A choice that a run has made, with its reasons.

    Attributes:
        arguments: The fields of `RunConfig` that it sets, with their values.
        reasons: Lines that explain the choice.
        comparison: For a backbone: the output of `BackboneComparison.as_dict`.
        measured: For a mode: lines with the measurements.
    """

    arguments: Mapping[str, Any]
    reasons: Sequence[str]
    comparison: Mapping[str, Any] | None = None
    measured: Sequence[str] | None = None

    def to_json(self) -> dict[str, object]:
        """Returns the content of `run.json`."""
        content: dict[str, object] = {
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
        """Reads the output of `to_json`.

        Raises:
            KeyError: An entry is missing.
            TypeError: An entry has the wrong type.
        """
        arguments, reasons = content["arguments"], content["reasons"]
        check_type(arguments, dict)
        check_type(reasons, list)
        return cls(arguments, reasons, content.get("comparison"), content.get("measured"))


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The arguments of a `train_run`, under the same names.

    A new config is complete: paths are absolute and defaults are filled in. What the run chooses
    itself is "auto" until `resolve` returns a config with the choices.

    Attributes:
        resize: `None` for "stretch", or for that of the earlier run.
        formats: The formats beyond those of every run; `None` for none.
        as_given: The paths as they were given, by name of the field, for messages.

    Args:
        kept: Whether the values come from a complete config: from `run.json`, or chosen by the
            run. Then they are not completed again, and each is checked by itself only: a run may
            choose combinations that a user may not give.

    Raises:
        ArgumentError: A value is invalid, or two values contradict each other.

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
            "Folder with CLASS/*.jpg, or with train/, val/ and test/ of such folders; a ZIP or tar "
            "archive of one; the address of either, such as s3://bucket/images.zip; or a .csv file "
            "with columns path, label and optionally group and split.",
            metavar="PHOTOS",
        )
    )
    multi_label: bool = field(
        default=False,
        metadata=option(
            "An image may have several labels: a column of labels such as sea|sun, or one column "
            "of 0 and 1 for each.",
            IMAGES,
        ),
    )
    from_run: str | None = field(
        default=None,
        metadata=option(
            "Train the model of a finished run further.", PARENT, "RUN0", name="from", is_path=True
        ),
    )
    backbone: str | None = field(
        default=None,
        metadata=option(
            "mobilenet_v2, resnet50, ..., or your own; auto compares several.",
            MODEL,
            "NAME|FILE.keras|keras_hub:PRESET",
        ),
    )
    preprocessing: str | None = field(
        default=None,
        metadata=option(
            "Of your own backbone: tf, torch, caffe, none, or mean and deviation of the pixels.",
            MODEL,
            "NAME|M,D",
        ),
    )
    backbones: Sequence[str] | None = field(
        default=None,
        metadata=option("Candidates for --backbone auto.", MODEL, "A[=FILE],B"),
    )
    max_milliseconds: float | None = field(
        default=None,
        metadata=option("Longest time for one image of a candidate backbone.", MODEL),
    )
    max_megabytes: float | None = field(
        default=None,
        metadata=option("Largest file of a candidate backbone, in 10⁶ bytes.", MODEL),
    )
    weights: str | None = field(
        default="pretrained",
        metadata=option("Initial weights.", MODEL, "FILE|none"),
    )
    image_size: int | str | None = field(
        default=None,
        metadata=option(
            "Height and width of the images in pixels; auto compares larger ones.", MODEL, "N|auto"
        ),
    )
    inference_size: int | str | None = field(
        default=None,
        metadata=option(
            "Size of the images that the fine-tuned model is used on; auto tries larger ones.",
            MODEL,
            "N|auto",
        ),
    )
    resize: str | None = field(
        default=None,
        metadata=option(
            "How images get that size: stretch (by default), crop or pad.", IMAGES, "NAME"
        ),
    )
    channels: int | None = field(
        default=None,
        metadata=option("1 for grey images and a model of them; 3, RGB, by default.", IMAGES, "N"),
    )
    mode: str = field(
        default=AUTO,
        metadata=option(
            "What to train: head, fine-tune, or auto, chosen by measurements.", TRAINING, "MODE"
        ),
    )
    head: str | None = field(
        default=None,
        metadata=option(
            "The head that is solved alone: linear, closed-form, or auto for the better.",
            TRAINING,
            "NAME",
        ),
    )
    unfreeze: str | int | None = field(
        default=None,
        metadata=option(
            "First group of layers to train, number of groups, or all.", TRAINING, "GROUP"
        ),
    )
    epochs: int | None = field(default=None, metadata=option("Largest number of epochs.", TRAINING))
    learning_rate: float | None = field(
        default=None, metadata=option("Peak learning rate.", TRAINING)
    )
    views: int | None = field(
        default=None,
        metadata=option("Stored augmented versions of each image, with --unfreeze.", TRAINING),
    )
    train: str | None = field(
        default=None,
        metadata=option(
            "What is trained before the head: all, bias, norm or kernel.", TRAINING, "NAME"
        ),
    )
    adapters: str | None = field(
        default=None,
        metadata=option(
            "Train low-rank adapters of the kernels instead of themselves.", TRAINING, "lora[:RANK]"
        ),
    )
    layer_decay: float | None = field(
        default=None,
        metadata=option("Learning rate of a group relative to the next group's.", TRAINING),
    )
    anchor: float | str | None = field(
        default=None,
        metadata=option("Strength of the anchor to the weights of RUN0, or auto.", PARENT),
    )
    importance: str | None = field(
        default=None,
        metadata=option("Weigh the anchor by importance: fisher, mas, ...", PARENT, "NAME"),
    )
    old_photos: str | None = field(
        default=None,
        metadata=option(
            "Images of the classes of RUN0, to measure forgetting, as PHOTOS.", PARENT, "DIR"
        ),
    )
    augment: str | None = field(
        default=None,
        metadata=option(
            "Augmentation: none, light, default, strong, randaugment, mixup or cutmix.",
            IMAGES,
            "NAME",
        ),
    )
    class_weight: str | None = field(
        default=None,
        metadata=option(
            "Weight of the images of each class: balanced, effective[:BETA] (by the effective "
            "number of images), or as given: CLASS=W,...",
            TRAINING,
            "NAME|CLASS=W",
        ),
    )
    sampling: str | None = field(
        default=None,
        metadata=option(
            "shuffled, or balanced: each class is drawn equally often in an epoch.",
            TRAINING,
            "NAME",
        ),
    )
    loss: str | None = field(
        default=None,
        metadata=option(
            "Loss of fine-tuning: cross-entropy, or focal[:GAMMA], in which correct images count "
            "less.",
            TRAINING,
            "NAME",
        ),
    )
    threshold: float | str | None = field(
        default=None,
        metadata=option(
            "With --multi-label: the probability from which a label is assigned; auto, the "
            "default, chooses one for each label on validation images.",
            MODEL,
            "X|auto",
        ),
    )
    tta: str = field(
        default=NONE,
        metadata=option(
            "Test-time views that a prediction is the mean of: none, or flip.", MODEL, "NAME"
        ),
    )
    reject_unknown: bool = field(
        default=False, metadata=option('Let the model also answer "none of these".', MODEL)
    )
    minutes: float | None = field(
        default=None,
        metadata=option("Choose what is trained so that the run takes no longer.", RUN),
    )
    folds: int | None = field(
        default=None,
        metadata=option("Also cross-validate the whole recipe, in as many trainings.", TRAINING),
    )
    refit: bool = field(
        default=False,
        metadata=option("In the end, train once more on all images, test included.", TRAINING),
    )
    keep_statistics: bool | None = field(
        default=None,
        metadata=option(
            "Keep sums over the features, so that classes can be added and images forgotten "
            "exactly; by default for heads in closed form.",
            TRAINING,
        ),
    )
    statistics_width: int | None = field(
        default=None,
        metadata=option(
            "Number of landmarks of these sums, which take 20 bytes times its square.", TRAINING
        ),
    )
    formats: Sequence[str] | None = field(
        default=None,
        metadata=option(
            "Also export to litert, litert_int8, litert_full_int8, onnx, ...",
            RUN,
            "NAME,NAME",
            name="format",
        ),
    )
    batch_size: int = field(default=32, metadata=option("Images per step.", TRAINING))
    seed: int = field(
        default=0,
        metadata=option("Seed of the split, weights, order and augmentation.", RUN),
    )
    max_pixels: int = field(
        default=MAX_PIXELS, metadata=option("Leave out images with more pixels.", IMAGES)
    )
    damaged: str = field(
        default=KEEP,
        metadata=option(
            "Use the decodable part of damaged JPEG files, or leave them out.",
            IMAGES,
            "keep|skip",
        ),
    )
    decisions: str | None = field(
        default=None,
        metadata=option(
            "CSV file of decisions about labels, made with tlkit review.",
            IMAGES,
            "FILE",
            is_path=True,
        ),
    )
    as_given: Mapping[str, str] = field(init=False, compare=False, repr=False)
    kept: InitVar[bool] = False

    def __post_init__(self, kept: bool) -> None:
        self._set("as_given", {} if kept else self._complete())
        self._check_values()

    def resolve(self, choices: Mapping[str, Choice]) -> "RunConfig":
        """Returns the config with the run's choices in place of "auto".

        Args:
            choices: The choices so far, by name.
        """
        chosen: dict[str, Any] = {}
        for choice in choices.values():
            chosen |= choice.arguments
        return dataclasses.replace(self, kept=True, **chosen)

    @property
    def chooses_image_size(self) -> bool:
        """Whether the run chooses the image size at which its model is trained."""
        is_free = self.backbone == AUTO and self.image_size is None and not self._names_sizes
        return self.image_size == AUTO or (self.minutes is not None and is_free)

    @property
    def _names_sizes(self) -> bool:
        if self.backbones is None:
            return False
        entries = parse_candidates(self.backbones, argument="backbones")
        return any(candidate.image_size is not None for candidate in entries.values())

    @property
    def chooses_inference_size(self) -> bool:
        """Whether the run chooses the image size at which its fine-tuned model is used."""
        is_wanted = self.image_size == AUTO or self.minutes is not None
        return self.inference_size == AUTO or (self.inference_size is None and is_wanted)

    def to_json(self) -> dict[str, object]:
        """Returns the "arguments" of `run.json`."""
        content = {field.name: getattr(self, field.name) for field in arguments_of(self)}
        for name in ("backbones", "formats"):
            if content[name] is not None:
                content[name] = list(getattr(self, name))
        for name, default in _LEFT_OUT.items():
            if content[name] == default:
                del content[name]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RunConfig":
        """Reads the output of `to_json`; that of earlier versions has fewer arguments.

        Raises:
            KeyError: An entry is missing.
            TypeError: An entry has the wrong type.
            ArgumentError: A value is invalid.
        """
        for name in ("photos", "max_pixels"):
            _ = content[name]
        known = [field.name for field in arguments_of(cls) if field.name in content]
        arguments = {name: content[name] for name in known}
        for name in ("from_run", "backbone", "preprocessing", "weights", "old_photos", "decisions"):
            check_type(arguments.get(name), str | None)
        check_type(arguments["photos"], str)
        for name in ("backbones", "formats"):
            check_type(arguments.get(name), list | None)
            if arguments.get(name) is not None:
                arguments[name] = tuple(arguments[name])
        return cls(**arguments, kept=True)

    def weighting_for(self, class_names: Sequence[str]) -> ClassWeighting:
        """Returns how the classes count, by their order.

        Raises:
            ArgumentError: `class_weight` names a class that is not one of them.
        """
        return self.weighting.for_classes(class_names)

    @property
    def weighting(self) -> ClassWeighting:
        """How classes count, by name."""
        return weighting_of(self.class_weight, sampling=self.sampling, loss=self.loss)

    def training_values(self, class_names: Sequence[str], *names: str) -> dict[str, Any]:
        """Returns those of the named arguments of a training that are given, by name.

        `class_weight` is one of them if classes count differently in any way.
        """
        values = self.given_values(*names)
        weighting = self.weighting_for(class_names)
        return values if weighting == ClassWeighting() else {**values, "class_weight": weighting}

    def given_values(self, *names: str) -> dict[str, Any]:
        """Returns those of the named arguments that are not `None`, by name."""
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def path_as_given(self, name: str) -> str:
        """Returns a path as it was given if that is known, else the absolute path."""
        return self.as_given.get(name, getattr(self, name))

    def _complete(self) -> dict[str, str]:
        """Fills in defaults and checks which arguments may be given together.

        Returns:
            The paths as they were given.
        """
        as_given = {
            name: getattr(self, name)
            for name in ("photos", "from_run", "decisions")
            if getattr(self, name) is not None
        }
        self._set("photos", absolute(self.photos))
        check_choice("mode", self.mode, MODES)
        class_weight, sampling, loss = self.weighting.texts()
        self._set("class_weight", class_weight)
        self._set("sampling", sampling)
        self._set("loss", loss)
        says_what_trains = (self.unfreeze, self.train, self.adapters, self.loss)
        is_said = any(given is not None for given in says_what_trains)
        if self.mode == AUTO and (is_said or self.augment in MIXING):
            self._set("mode", "fine-tune")  # nothing is left to choose
        if self.mode == AUTO and self.head is not None:
            self._set("mode", "head")
        self._complete_candidates()
        if self.from_run is not None:
            self._set("from_run", absolute(self.from_run))
            self._check_left_to_parent()
        else:
            self._complete_backbone()
            if self.resize == STRETCH:
                self._set("resize", None)  # the same run as without it
            if self.channels == RGB:
                self._set("channels", None)
        for name in ("old_photos", "decisions"):
            if (path := getattr(self, name)) is not None:
                self._set(name, absolute(path))
        self._check_last_training()
        if self.formats is not None:
            self._set("formats", further_formats(self.formats) or None)
            check_packages(self.formats or ())
        self._check_combinations()
        return as_given

    def _check_combinations(self) -> None:
        for name in ("anchor", "old_photos"):
            if getattr(self, name) is not None and self.from_run is None:
                raise ArgumentError(
                    f"`{name}` must be left out unless training starts from an earlier run. "
                    f"Received: {name}={getattr(self, name)!r}. Name that run (--from RUN)."
                )
        if self.importance is not None and self.anchor is None:
            raise ArgumentError(
                "`importance` must be given together with `anchor`, whose penalty it weighs. "
                f"Received: importance={self.importance!r}. Add --anchor auto, for example."
            )
        if self.head is not None and self.mode == "fine-tune":
            raise ArgumentError(
                "`head` must be left out with mode='fine-tune', which starts from a linear head. "
                f"Received: head={self.head!r}. Use mode='head', or leave it out."
            )
        if self.tta != NONE and self.reject_unknown:
            raise ArgumentError(
                "`tta` must be 'none' with `reject_unknown`, which measures distances in one view. "
                f"Received: tta={self.tta!r}, reject_unknown=True. Leave one of them out."
            )
        if self.folds is not None and self.from_run is not None:
            raise ArgumentError(
                "`folds` must be left out when training starts from an earlier run, which has "
                f"seen some of the images. Received: folds={self.folds}. Leave it out."
            )
        for name in ("epochs", "views", "from_run") if self.minutes is not None else ():
            if getattr(self, name) is not None:
                raise ArgumentError(
                    f"`{name}` must be left out with `minutes`, within which the run chooses what "
                    f"a new model is trained for. Received: {name}={getattr(self, name)!r}, "
                    f"minutes={self.minutes:g}. Leave one of them out."
                )
        if self.adapters is not None and (self.anchor is not None or self.train is not None):
            name = "train" if self.anchor is None else "anchor"
            raise ArgumentError(
                f"`adapters` must be left out with `{name}`. Received: adapters={self.adapters!r}, "
                f"{name}={getattr(self, name)!r}. Leave one of them out."
            )
        if self.augment in MIXING and (self.mode == "head" or self.minutes is not None):
            other = f"minutes={self.minutes:g}" if self.mode != "head" else "mode='head'"
            raise ArgumentError(
                "`augment` must change each image by itself for a head that is solved and with "
                f"`minutes`, which may store activations. Received: augment={self.augment!r}, "
                f"{other}. Use mode='fine-tune', or augment='default'."
            )
        for name in ONLY_FINE_TUNING if self.mode == "head" else ():
            if getattr(self, name) is not None:
                raise ArgumentError(
                    f"`{name}` must be left out with mode='head', which trains the head alone by "
                    f"solving it. Received: {name}={getattr(self, name)!r}. Use mode='fine-tune'."
                )

    def _check_last_training(self) -> None:
        if self.loss is not None and (self.mode == "head" or self.minutes is not None):
            other = f"minutes={self.minutes:g}" if self.mode != "head" else "mode='head'"
            raise ArgumentError(
                "`loss` must be 'cross-entropy' for a head that is solved, which minimises no "
                "focal loss, and with `minutes`, which may leave no time for more. "
                f"Received: loss={self.loss!r}, {other}. Use mode='fine-tune'."
            )
        if self.keep_statistics is False and self.statistics_width is not None:
            raise ArgumentError(
                "`statistics_width` must be left out if no statistics are kept. Received: "
                f"statistics_width={self.statistics_width}, keep_statistics=False. Leave one of "
                "them out."
            )
        if self.refit and self.reject_unknown:
            raise ArgumentError(
                "`refit` must be False with `reject_unknown`, whose threshold needs images that "
                "the exported model was not trained on. Received: refit=True, "
                "reject_unknown=True. Leave one of them out."
            )

    def _complete_candidates(self) -> None:
        if self.backbone == AUTO and self.weights != "pretrained":
            raise ArgumentError(
                "`weights` must be left out with backbone='auto', as each candidate has its own "
                f"weights. Received: weights={self.weights!r}. Give them with the candidates: "
                "backbones=['NAME=WEIGHTS_FILE', 'NAME=none']."
            )
        if self.image_size == AUTO:
            self._check_size_can_be_chosen()
        limits = {
            "max_milliseconds": self.max_milliseconds,
            "max_megabytes": self.max_megabytes,
        }
        check_limits(**limits)
        for name, value in {"backbones": self.backbones, **limits}.items():
            if value is not None and self.backbone != AUTO:
                raise ArgumentError(
                    f"`{name}` must be given together with backbone='auto', as it restricts the "
                    f"candidates. Received: {name}={value!r}, backbone={self.backbone!r}. Add "
                    "--backbone auto, or leave it out."
                )
        if self.backbones is not None:
            entries = parse_candidates(self.backbones, argument="backbones")
            self._set("backbones", tuple(with_absolute_paths(entries)))

    def _check_size_can_be_chosen(self) -> None:
        if self.backbone == AUTO:
            raise ArgumentError(
                "`image_size` must be a number or left out with backbone='auto'. Received: "
                "image_size='auto'. Give sizes with the candidates, which are then compared: "
                "backbones=['mobilenet_v2@224', 'mobilenet_v2@256']."
            )
        if self.weights is None:
            raise ArgumentError(
                "`image_size` must be a number or left out with random weights, whose features do "
                "not show which size is better. Received: image_size='auto', weights=None. Give "
                "the size."
            )

    def _check_left_to_parent(self) -> None:
        decided = {
            "backbone": None,
            "preprocessing": None,
            "weights": "pretrained",
            "image_size": None,
            "resize": None,
            "channels": None,
            "multi_label": False,
        }
        for name, default in decided.items():
            if getattr(self, name) != default:
                raise ArgumentError(
                    f"`{name}` must be left out when training starts from an earlier run, whose "
                    f"model decides it. Received: {name}={getattr(self, name)!r}. Leave it out, or "
                    "start without an earlier run."
                )

    def _complete_backbone(self) -> None:
        if self.minutes is not None and self.backbone is None and self.weights == "pretrained":
            self._set("backbone", AUTO)
        self._set("backbone", self.backbone or DEFAULT_BACKBONE)
        if self.weights is not None and self.weights not in ("pretrained", "imagenet"):
            self._set("weights", absolute(self.weights))
        if self.preprocessing is not None and self.backbone == AUTO:
            raise ArgumentError(
                "`preprocessing` must be left out with backbone='auto', as each candidate has its "
                f"own. Received: preprocessing={self.preprocessing!r}. Give it with the candidate: "
                "backbones=['FILE.keras:127:128']."
            )
        if self.backbone is not None and self.backbone != AUTO:
            given = None if self.preprocessing is None else preprocessing_of(self.preprocessing)
            spec = find_backbone(self.backbone, given)
            self._set("backbone", with_absolute_path(self.backbone))
            for name in _SIZES:
                if isinstance(size := getattr(self, name), int):
                    check_side(name, size)
                    spec.check_minimum_size(name, size)
            if self.image_size is None:
                is_chosen = self.minutes is not None and self.weights is not None
                self._set("image_size", AUTO if is_chosen else spec.default_image_size)
            if self.channels is None and spec.channels != RGB:
                self._set("channels", spec.channels)

    def _check_values(self) -> None:
        """Checks each value by itself; this holds for given and resolved configs."""
        adapters_of(self.adapters)
        _ = self.weighting
        for name in _SIZES:
            if isinstance(value := getattr(self, name), str) and value != AUTO:
                raise ArgumentError(
                    f"`{name}` must be a whole number of pixels, or 'auto'. "
                    f"Received: {name}={value!r}. Give 224, for example."
                )
        for name, check in _CHECKS.items():
            if (value := getattr(self, name)) is not None and not (
                value == AUTO and name in _MAY_BE_AUTO
            ):
                check(name, value)
        for name, allowed in CHOICES.items():
            if (value := getattr(self, name)) is not None:
                check_choice(name, value, allowed)
        further_formats(self.formats or ())
        for name in ("multi_label", "reject_unknown", "refit", "keep_statistics"):
            may_be_none = name == "keep_statistics"
            if not isinstance(value := getattr(self, name), bool) and not (
                may_be_none and value is None
            ):
                raise ArgumentError(
                    f"`{name}` must be True or False. Received: {name}={getattr(self, name)!r}. "
                    "Give one of the two."
                )

    def _set(self, name: str, value: object) -> None:
        """Sets a field of the frozen config; used while the config is made only."""
        object.__setattr__(self, name, value)


def arguments_of(config: "RunConfig | type[RunConfig]") -> "tuple[dataclasses.Field[Any], ...]":
    """Returns the fields that are arguments of a run, in order."""
    return tuple(field for field in dataclasses.fields(config) if field.init)


def check_type(value: object, expected: Any) -> None:
    """Raises `TypeError` unless a value that was read from a run's file has the expected type."""
    if not isinstance(value, expected):
        raise TypeError(f"{value!r} has the wrong type")


def absolute(path: str) -> str:
    """Returns the absolute path, with links resolved; an address stays as it is."""
    return path if is_address(path) else str(Path(path).resolve())
