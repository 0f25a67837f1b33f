"""Comparison of backbones by the accuracy of a linear head and by cost on this machine."""

import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlkit.advice.candidates import (
    DEFAULT_BACKBONES,
    RANDOM,
    Candidate,
    check_limits,
    parse_candidates,
)
from tlkit.advice.evidence import log_evidence
from tlkit.advice.graph_costs import FLOAT_BYTES, group_costs, peak_activations
from tlkit.advice.probe import NO_INTERVALS, ProbeScore, difference_error, probe
from tlkit.advice.sampling import check_no_lone_class, sample_rows
from tlkit.advice.timing import seconds_per_image
from tlkit.data.class_weighting import (
    ClassWeighting,
    ClassWeightLike,
    check_weighting,
    weighting_of,
)
from tlkit.data.images import ImageData, ImageSplit, check_has_images
from tlkit.errors import ArgumentError, WeightsError, check_seed
from tlkit.evaluation.intervals import Interval
from tlkit.models.assembly import build_classifier
from tlkit.models.catalogue import find_backbone
from tlkit.models.flattening import below
from tlkit.models.heads import feature_cut
from tlkit.training.features import extract_features
from tlkit.training.frozen import FrozenPart
from tlkit.utils.formatting import MEGABYTE, interval, megabytes, percent
from tlkit.utils.progress import bar
from tlkit.utils.text_repr import ShownAsText, aligned, html_paragraphs, html_table

MAX_IMAGES = 5000
"""Maximum number of training images that are used; their interval is narrow enough."""

_BATCH_SIZE = 16


@dataclass(frozen=True)
class BackboneScore:
    """Accuracy of a linear head on one backbone's features, and the backbone's costs here.

    Attributes:
        name: The name in the catalogue, or the path of a `.keras` file.
        weights: "pretrained", "none" (random) or the weights file.
        image_size: Height and width in pixels at which it was measured.
        accuracy: Cross-validated accuracy of a linear head on its features, 0...1.
        interval: 95 % confidence interval of the accuracy, `None` with too few images.
        log_evidence: LogME of its features, see `tlkit.advice.evidence.log_evidence`.
        num_parameters: Number of parameters without the head.
        multiply_adds: Multiply-adds of one image's forward pass.
        megabytes: Size of the classifier's `.keras` file, 10⁶ bytes.
        milliseconds: Latency of one image with batch size 1, float32, without decoding.
        milliseconds_in_batches: Time per image with batch size 16, likewise.
        memory_megabytes: Memory for weights and the peak of activations for one image, float32,
            counted from the graph.
        num_forward_passes: Number of images whose features were not stored yet.
        seconds: Total time spent on it.
        is_close: Whether its interval and that of the best backbone overlap: too close to call.
        is_sized: Whether the candidate was given with its image size.
    """

    name: str
    weights: str
    image_size: tuple[int, int]
    accuracy: float
    interval: Interval | None
    log_evidence: float
    num_parameters: int
    multiply_adds: int
    megabytes: float
    milliseconds: float
    milliseconds_in_batches: float
    memory_megabytes: float
    num_forward_passes: int
    seconds: float
    is_close: bool = False
    is_sized: bool = False

    @property
    def label(self) -> str:
        """The name, with a size of its own, and the weights if they are not the published ones."""
        name = Path(self.name).name
        if self.is_sized:
            name = f"{name}@{self.image_size[0]}"
        if self.weights == "pretrained":
            return name
        return f"{name} ({'random' if self.weights == RANDOM else Path(self.weights).name})"


@dataclass(frozen=True)
class BackboneComparison(ShownAsText):
    """A comparison of backbones on the same images.

    Attributes:
        scores: The scores, best first: by accuracy, then by LogME.
        left_out: The backbones that were not measured, with the reason.
        num_images: Number of different training images that were used.
        num_classes: Number of classes.
        notes: Further notes.
        class_weight: "balanced" or "weighted" if `accuracy` is the balanced or weighted accuracy;
            `None` for the plain one.
        errors: Standard error of the difference in accuracy of each two scores, paired by image,
            in their order; empty in comparisons of earlier versions.
    """

    scores: tuple[BackboneScore, ...]
    left_out: dict[str, str]
    num_images: int
    num_classes: int
    notes: tuple[str, ...] = ()
    class_weight: str | None = None
    errors: tuple[tuple[float, ...], ...] = ()

    @property
    def metric(self) -> str:
        """The metric of the scores: "accuracy", "balanced accuracy" or "weighted accuracy"."""
        return "accuracy" if self.class_weight is None else f"{self.class_weight} accuracy"

    @property
    def best(self) -> BackboneScore:
        """The most accurate backbone.

        Raises:
            ArgumentError: No backbone could be measured.
        """
        if not self.scores:
            reasons = (f" {name}: {reason.rstrip('.')}." for name, reason in self.left_out.items())
            raise ArgumentError(
                "At least one backbone must be available and within the limits. Received: "
                f"none.{''.join(reasons)} Name others, or raise the limits."
            )
        return self.scores[0]

    @property
    def close(self) -> tuple[BackboneScore, ...]:
        """The backbones, except the best, whose interval overlaps that of the best."""
        return tuple(score for score in self.scores[1:] if score.is_close)

    @property
    def table(self) -> tuple[tuple[str, ...], ...]:
        """The figures as text: a row of headings, and one row for each backbone."""
        headings = tuple(self.metric if name == "accuracy" else name for name in _HEADINGS)
        return (headings, *(_cells(score) for score in self.scores))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "BackboneComparison":
        """Returns the comparison from its `as_dict`, also after a round trip through JSON."""
        scores = tuple(
            BackboneScore(
                **{
                    **score,
                    "image_size": tuple(score["image_size"]),
                    "interval": score["interval"] and tuple(score["interval"]),
                }
            )
            for score in content["scores"]
        )
        errors = tuple(map(tuple, content.get("errors", ())))
        notes = tuple(content["notes"])
        return cls(**{**content, "scores": scores, "notes": notes, "errors": errors})

    def __str__(self) -> str:
        lines = []
        if self.scores:
            lines.append(
                f"cross-validated {self.metric} of a linear head on features "
                f"(n = {self.num_images:,} training images, {self.num_classes} classes)"
            )
            lines += aligned(self.table)
            if self.close:
                names = ", ".join(score.label for score in self.close)
                lines.append(f"too close to call: {self.scores[0].label} and {names}")
        else:
            lines.append("no backbone was measured")
        lines += [
            f"left out: {name}: {' '.join(reason.split())}"
            for name, reason in self.left_out.items()
        ]
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self) -> str:
        headings, *scores = self.table
        reasons = [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]
        return html_table(headings, scores) + html_paragraphs([*reasons, *self.notes])


@dataclass
class _Built:
    """A candidate that was built and measured, and is within the limits."""

    candidate: Candidate
    part: FrozenPart
    costs: dict[str, float]
    image_size: tuple[int, int]
    seconds: float


@dataclass(frozen=True)
class _Decision:
    """The candidate to compare, or the reason why it is left out."""

    built: _Built | None = None
    reason: str = ""


def compare_backbones(
    data: ImageData,
    names: str | Sequence[str] = DEFAULT_BACKBONES,
    *,
    image_size: int | tuple[int, int] | str | None = None,
    max_milliseconds: float | None = None,
    max_megabytes: float | None = None,
    budget: float | None = None,
    class_weight: ClassWeightLike = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> BackboneComparison:
    """Compares backbones by a linear head on their features, and by their costs on this machine.

    Each backbone computes the features of the training images once; they are stored where
    `train_head` finds them. A linear head is cross-validated on them: with few images this is the
    model to train, and with many it predicts most of the result of fine-tuning. Validation and test
    images are not used.

    Args:
        data: The result of `load_folder`, `load_arrays` or `load_tfds`.
        names: Backbones as `tlkit.advice.candidates.parse_candidates` takes them: "NAME" or
            "NAME=WEIGHTS_FILE"; "NAME=none" has random weights. "NAME@PIXELS" has an image size of
            its own, so that one backbone may be compared at several sizes. "FILE.keras" is a model
            of your own, "FILE.keras:127:128" with its preprocessing, (pixels - 127) / 128;
            "keras_hub:PRESET" is one of KerasHub.
        image_size: In pixels, one number or (height, width); that of `data` by default; "own" uses
            for each backbone its pretraining size.
        max_milliseconds: Maximum latency of one image with batch size 1; slower backbones are left
            out.
        max_megabytes: Maximum size of the `.keras` file; larger backbones are left out.
        budget: Seconds for the forward passes of all backbones; if all images would take longer,
            all backbones use the same sample of them.
        class_weight: How classes count in the heads and in the accuracy that ranks them, see
            `tlkit.ClassWeighting`.
        seed: Seed of random weights, of the sample and of the folds.
        cache: Folder of the feature stores; tlkit's cache by default.

    Returns:
        The backbones, best first. Those whose weights are not available, that do not support the
        image size, or that exceed a limit are in `left_out` with the reason.

    Raises:
        ArgumentError: An argument is invalid, or a name is not in the catalogue.
        DataError: A class has fewer than two different training images, or groups of them.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.advice.backbones import compare_backbones
        >>> labels = np.arange(60) % 2
        >>> images = np.random.default_rng(0).integers(0, 99, (60, 32, 32, 3), "uint8")
        >>> images[labels == 1, :, :, 0] += 100
        >>> data = tlkit.load_arrays(images, labels, ["grey", "red"])
        >>> comparison = compare_backbones(data, ["resnet20", "resnet20=nowhere.h5"])
        >>> comparison.best.name, comparison.best.accuracy, list(comparison.left_out)
        ('resnet20', 1.0, ['resnet20=nowhere.h5'])
    """
    if not isinstance(data, ImageData):
        raise ArgumentError(
            "`data` must be the result of load_folder, load_arrays or load_tfds. "
            f"Received: data of type {type(data).__name__}. Load the images first."
        )
    check_has_images("data", data)
    entries = parse_candidates(names)
    check_limits(max_milliseconds=max_milliseconds, max_megabytes=max_megabytes, budget=budget)
    sizes = _image_sizes(data, entries, image_size)
    check_seed(seed)
    weighting = check_weighting(
        weighting_of(class_weight), data.class_names, is_multi_label=data.is_multi_label
    )
    check_no_lone_class(data, "data", "leave the class out")
    built: list[_Built] = []
    left_out: dict[str, str] = {}
    with bar("backbones", 2 * len(entries)) as advance:
        for key, candidate in entries.items():
            advance(1, candidate.name)
            decision = _build(
                candidate,
                class_names=data.class_names,
                image_size=sizes[key],
                channels=data.channels,
                max_milliseconds=max_milliseconds,
                max_megabytes=max_megabytes,
                seed=seed,
            )
            if decision.built is None:
                left_out[key] = decision.reason
                advance(1)
            else:
                built.append(decision.built)
        rows, notes = _sample_images(data.train, built, budget, seed)
        measured = []
        while built:  # each is freed when it is done, with its weights
            measured.append(
                _score(
                    built.pop(0),
                    data.train,
                    rows,
                    weighting=weighting,
                    seed=seed,
                    cache=cache,
                )
            )
            advance(1)
    num_images = len({data.train.digests[row] for row in rows})
    measured.sort(key=lambda pair: (-pair[0].accuracy, -pair[0].log_evidence))
    probes = [one for _, one in measured]
    if any(one.interval is None for one in probes):
        notes.append(NO_INTERVALS)
    if not weighting.is_plain:
        why = "each class has the same weight" if weighting.is_balanced else str(weighting)
        notes.append(f"{weighting.criterion}: {why}")
    return BackboneComparison(
        scores=_with_closeness([score for score, _ in measured]),
        left_out=left_out,
        num_images=num_images,
        num_classes=data.num_classes,
        notes=tuple(notes),
        class_weight=weighting.criterion.removesuffix("accuracy").strip() or None,
        errors=tuple(tuple(difference_error(one, other) for other in probes) for one in probes),
    )


def _image_sizes(
    data: ImageData,
    entries: Mapping[str, Candidate],
    image_size: int | tuple[int, int] | str | None,
) -> dict[str, tuple[int, int]]:
    """Returns height and width for each candidate."""
    given = {key: (one.image_size,) * 2 for key, one in entries.items() if one.image_size}
    if image_size == "own":
        specs = {key: find_backbone(one.name) for key, one in entries.items()}
        return {key: (spec.default_image_size,) * 2 for key, spec in specs.items()} | given
    size: Any = data.image_size if image_size is None else image_size
    height, width = size if isinstance(size, tuple) and len(size) == 2 else (size, size)
    if not all(isinstance(side, int) and side > 0 for side in (height, width)):
        raise ArgumentError(
            "`image_size` must be a number of pixels, (height, width), 'own' or None. "
            f"Received: image_size={image_size!r}. Leave it out for the size of `data`."
        )
    return dict.fromkeys(entries, (height, width)) | given


def _build(
    candidate: Candidate,
    *,
    class_names: Sequence[str],
    image_size: tuple[int, int],
    channels: int,
    max_milliseconds: float | None,
    max_megabytes: float | None,
    seed: int,
) -> _Decision:
    """Builds a backbone and measures its costs, or returns why it is left out."""
    started = time.perf_counter()
    spec, weights = find_backbone(candidate.name), candidate.weights
    known_bytes = (spec.num_parameters or 0) * FLOAT_BYTES
    limit = math.inf if max_megabytes is None else MEGABYTE * max_megabytes
    if known_bytes > limit:  # before anything is downloaded
        return _Decision(
            reason=f"{megabytes(known_bytes)}, above `max_megabytes` {max_megabytes:g}"
        )
    if min(image_size) < spec.minimum_image_size:
        return _Decision(
            reason=f"needs images of at least {spec.minimum_image_size} pixels, "
            f"not {min(image_size)}"
        )
    try:
        model = build_classifier(
            candidate.name,
            class_names,
            image_size=image_size,
            channels=channels,
            weights=None if weights == RANDOM else weights,
            seed=seed,
        )
    except (WeightsError, ValueError) as error:
        is_own_size = image_size == (spec.default_image_size,) * 2
        if is_own_size and not isinstance(error, WeightsError):
            raise
        return _Decision(reason=str(error))
    file_bytes = _saved_bytes(model)
    if file_bytes > limit:
        return _Decision(reason=f"{megabytes(file_bytes)}, above `max_megabytes` {max_megabytes:g}")
    part = FrozenPart(below(model, feature_cut(model)))
    shape = tuple(model.input_shape[1:])
    milliseconds = 1000 * seconds_per_image(part.float32, shape, part.input_dtype)
    if max_milliseconds is not None and milliseconds > max_milliseconds:
        return _Decision(
            reason=f"{milliseconds:,.1f} ms for one image, "
            f"above `max_milliseconds` {max_milliseconds:g}"
        )
    in_batches = seconds_per_image(part.float32, shape, part.input_dtype, batch_size=_BATCH_SIZE)
    groups = group_costs(model)
    values = model.count_params() + peak_activations(model)
    costs = {
        "num_parameters": sum(group.num_parameters for group in groups[:-1]),
        "multiply_adds": sum(group.multiply_adds for group in groups[:-1]),
        "megabytes": file_bytes / MEGABYTE,
        "milliseconds": milliseconds,
        "milliseconds_in_batches": 1000 * in_batches,
        "memory_megabytes": FLOAT_BYTES * values / MEGABYTE,
    }
    seconds = time.perf_counter() - started
    return _Decision(_Built(candidate, part, costs, image_size, seconds))


def _score(
    built: _Built,
    train: ImageSplit,
    rows: np.ndarray,
    *,
    weighting: ClassWeighting,
    seed: int,
    cache: str | os.PathLike[str] | None,
) -> tuple[BackboneScore, ProbeScore]:
    started = time.perf_counter()
    split = dataclasses.replace(train.subset(rows), image_size=built.image_size)
    features = extract_features(built.part, split, exact=False, cache=cache)
    labelled = features.labelled()
    measured = probe(labelled, weighting=weighting, seed=seed)
    score = BackboneScore(
        name=built.candidate.name,
        weights=built.candidate.weights,
        image_size=built.image_size,
        accuracy=measured.accuracy,
        interval=measured.interval,
        log_evidence=log_evidence(labelled.features, labelled.labels),
        **built.costs,  # type: ignore[arg-type]
        num_forward_passes=features.num_forward_passes,
        seconds=built.seconds + time.perf_counter() - started,
        is_sized=built.candidate.image_size is not None,
    )
    return score, measured


def _sample_images(
    train: ImageSplit, candidates: Sequence[_Built], budget: float | None, seed: int
) -> tuple[np.ndarray, list[str]]:
    """Returns the rows that all backbones use, and notes on them."""
    num_images, reason = MAX_IMAGES, f"of at most {MAX_IMAGES:,} images"
    if budget is not None and candidates:
        seconds = sum(candidate.costs["milliseconds_in_batches"] for candidate in candidates) / 1000
        affordable = int(budget / seconds)
        if affordable < num_images:
            num_images, reason = affordable, f"for budget={budget:g} seconds"
    rows = sample_rows(train, num_images, seed=seed)
    if len(rows) == train.num_images:
        return rows, []
    return rows, [f"a sample {reason}: {len(rows):,} of {train.num_images:,} training images"]


def _with_closeness(ranked: Sequence[BackboneScore]) -> tuple[BackboneScore, ...]:
    return tuple(
        dataclasses.replace(score, is_close=score is ranked[0] or _overlap(score, ranked[0]))
        for score in ranked
    )


def _overlap(score: BackboneScore, best: BackboneScore) -> bool:
    if score.interval is None or best.interval is None:
        return True
    return score.interval[1] >= best.interval[0]


def _saved_bytes(model: keras.Model) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        return path.stat().st_size


_HEADINGS = (
    "backbone",
    "pixels",
    "accuracy",
    "95 % CI",
    "LogME",
    "parameters",
    "multiply-adds",
    "file",
    "batch size 1",
    f"batch size {_BATCH_SIZE}",
    "memory",
)


def _cells(score: BackboneScore) -> tuple[str, ...]:
    return (
        score.label,
        "x".join(map(str, score.image_size)),
        percent(score.accuracy),
        "none" if score.interval is None else interval(score.interval),
        f"{score.log_evidence:.3f}",
        f"{score.num_parameters / 1e6:,.2f} M",
        f"{score.multiply_adds / 1e6:,.0f} M",
        megabytes(MEGABYTE * score.megabytes),
        f"{score.milliseconds:,.1f} ms",
        f"{score.milliseconds_in_batches:,.1f} ms",
        megabytes(MEGABYTE * score.memory_megabytes),
    )
