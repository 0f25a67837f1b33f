"""Which backbone to start from: what each can tell of these images, and what it costs here."""

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

from tlkit.advice.candidates import DEFAULT_BACKBONES, RANDOM, check_limits, parse_candidates
from tlkit.advice.evidence import log_evidence
from tlkit.advice.graph_costs import FLOAT_BYTES, group_costs, peak_activations
from tlkit.advice.probe import NO_INTERVALS, probe
from tlkit.advice.sampling import check_no_lone_class, sample_rows
from tlkit.advice.timing import seconds_per_image
from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import ArgumentError, WeightsError, check_seed
from tlkit.evaluation.intervals import Interval
from tlkit.models.assembly import build_classifier
from tlkit.models.catalogue import find_backbone
from tlkit.models.flattening import below
from tlkit.models.heads import feature_cut
from tlkit.training.checks import check_class_weight
from tlkit.training.features import extract_features
from tlkit.training.frozen import FrozenPart
from tlkit.utils.formatting import MEGABYTE, interval, megabytes, percent
from tlkit.utils.progress import bar
from tlkit.utils.text_repr import ShownAsText, html_paragraphs, html_table

MAX_IMAGES = 5000
"""More training images than these are not looked at: their interval is narrow enough."""

_BATCH_SIZE = 16


@dataclass(frozen=True)
class BackboneScore:
    """What one backbone can tell of some images, and what it costs on this machine.

    Attributes:
        name: In the catalogue.
        weights: "pretrained", "none" (random) or the file.
        image_size: Height and width in pixels it was measured at.
        accuracy: Of a linear head on its features, cross-validated, 0...1.
        interval: The 95 % interval of that, `None` with too few images.
        log_evidence: LogME of its features, see `tlkit.advice.evidence.log_evidence`.
        num_parameters: Without a head.
        multiply_adds: Of one image's forward pass, in pairs.
        megabytes: Size of the classifier's `.keras` file, 10⁶ bytes.
        milliseconds: For one image by itself, float32, decoding not included.
        milliseconds_in_batches: For one image of a batch of 16, likewise.
        memory_megabytes: Weights and the most activations that lie in memory together for one
            image, float32, counted from the graph.
        num_forward_passes: Images that were not stored yet.
        seconds: Spent on it in all.
        is_close: Whether its interval and that of the best overlap: too close to call.
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

    @property
    def label(self) -> str:
        """The name, and where it is not the published one, what its weights are."""
        if self.weights == "pretrained":
            return self.name
        return f"{self.name} ({'random' if self.weights == RANDOM else Path(self.weights).name})"


@dataclass(frozen=True)
class BackboneComparison(ShownAsText):
    """Backbones compared on the same images.

    Attributes:
        scores: The best first: by accuracy, then by LogME.
        left_out: Each backbone that was not measured, with the reason.
        num_images: Different training images that were looked at.
        num_classes: How many classes they have.
        notes: What else must be known.
        class_weight: "balanced" where `accuracy` is the balanced one, in which each class counts
            the same; `None` where each image does.
    """

    scores: tuple[BackboneScore, ...]
    left_out: dict[str, str]
    num_images: int
    num_classes: int
    notes: tuple[str, ...] = ()
    class_weight: str | None = None

    @property
    def metric(self) -> str:
        """What the accuracy of the scores is called: "accuracy" or "balanced accuracy"."""
        return "accuracy" if self.class_weight is None else f"{self.class_weight} accuracy"

    @property
    def best(self) -> BackboneScore:
        """The most accurate one.

        Raises:
            ArgumentError: None could be measured.
        """
        if not self.scores:
            reasons = (f" {name}: {reason.rstrip('.')}." for name, reason in self.left_out.items())
            raise ArgumentError(
                "One backbone at least must be there to be had and within the limits. Received: "
                f"none.{''.join(reasons)} Name others, or raise the limits."
            )
        return self.scores[0]

    @property
    def close(self) -> tuple[BackboneScore, ...]:
        """Those that are too close to the best to call, the best left out."""
        return tuple(score for score in self.scores[1:] if score.is_close)

    @property
    def table(self) -> tuple[tuple[str, ...], ...]:
        """The figures in words, a row for each backbone behind one of headings."""
        headings = tuple(self.metric if name == "accuracy" else name for name in _HEADINGS)
        return (headings, *(_cells(score) for score in self.scores))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "BackboneComparison":
        """Makes a comparison again of what `as_dict` and JSON made of it."""
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
        return cls(**{**content, "scores": scores, "notes": tuple(content["notes"])})

    def __str__(self) -> str:
        lines = []
        if self.scores:
            lines.append(
                f"linear head on the features of {self.num_images:,} training images, "
                f"{self.num_classes} classes, cross-validated {self.metric}"
            )
            lines += _aligned(self.table)
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
        rest = [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]
        return html_table(headings, scores) + html_paragraphs([*rest, *self.notes])


@dataclass
class _Candidate:
    """A backbone that is built, measured, and within the limits."""

    name: str
    weights: str
    part: FrozenPart
    costs: dict[str, float]
    image_size: tuple[int, int]
    seconds: float


@dataclass(frozen=True)
class _Decision:
    """Whether a backbone is compared; where it is left out, why."""

    candidate: _Candidate | None = None
    reason: str = ""


def compare_backbones(
    data: ImageData,
    names: str | Sequence[str] = DEFAULT_BACKBONES,
    *,
    image_size: int | tuple[int, int] | str | None = None,
    max_milliseconds: float | None = None,
    max_megabytes: float | None = None,
    budget: float | None = None,
    class_weight: str | None = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> BackboneComparison:
    """Measures what each backbone can tell of the training images, and what it costs here.

    Each runs once over the training images; its features are stored, as `train_head` stores and
    finds them. A linear head is cross-validated on them: with few images it is what one would
    train, and with many it says most of how fine-tuning will go. Validation and test images are
    not looked at.

    Args:
        data: What `load_folder`, `load_arrays` or `load_tfds` returned.
        names: Backbones as `tlkit.advice.candidates.parse_candidates` takes them: "NAME" or
            "NAME=WEIGHTS_FILE"; "NAME=none" has random weights.
        image_size: In pixels, one number or (height, width); that of `data` by default; "own"
            takes for each backbone the size it was pretrained at.
        max_milliseconds: Backbones that take longer for one image by itself are left out.
        max_megabytes: Backbones whose `.keras` file is larger are left out.
        budget: Seconds that the forward passes of all backbones may take; where all images would
            take longer, all backbones see the same sample of them.
        class_weight: "balanced" lets each class count the same in the heads and in the accuracy
            that ranks them; not where an image may have several labels.
        seed: Of random weights, of the sample and of the folds.
        cache: Folder of the feature stores; tlkit's cache by default.

    Returns:
        The backbones, best first. Those whose weights cannot be had, that do not take the image
        size, or that are beyond a limit stand in `left_out` with the reason.

    Raises:
        ArgumentError: An argument breaks its rule, or a name is not in the catalogue.
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
            "`data` must be what load_folder, load_arrays or load_tfds returned. "
            f"Received: data of type {type(data).__name__}."
        )
    entries = parse_candidates(names)
    check_limits(max_milliseconds=max_milliseconds, max_megabytes=max_megabytes, budget=budget)
    sizes = _image_sizes(data, [name for name, _ in entries.values()], image_size)
    check_seed(seed)
    check_class_weight(class_weight, is_multi_label=data.is_multi_label)
    check_no_lone_class(data, "data", "leave the class out")
    candidates: list[_Candidate] = []
    left_out: dict[str, str] = {}
    with bar("backbones", 2 * len(entries)) as advance:
        for key, (name, weights) in entries.items():
            advance(1, name)
            made = _candidate(
                name,
                weights,
                class_names=data.class_names,
                image_size=sizes[name],
                max_milliseconds=max_milliseconds,
                max_megabytes=max_megabytes,
                seed=seed,
            )
            if made.candidate is None:
                left_out[key] = made.reason
                advance(1)
            else:
                candidates.append(made.candidate)
        rows, notes = _sample(data.train, candidates, budget, seed)
        scores = []
        while candidates:  # each goes when it is done, and its weights with it
            scores.append(
                _score(
                    candidates.pop(0),
                    data.train,
                    rows,
                    class_weight=class_weight,
                    seed=seed,
                    cache=cache,
                )
            )
            advance(1)
    num_images = len({data.train.digests[row] for row in rows})
    if any(score.interval is None for score in scores):
        notes.append(NO_INTERVALS)
    if class_weight is not None:
        notes.append("balanced accuracy: each class counts the same")
    return BackboneComparison(
        scores=_ranked(scores),
        left_out=left_out,
        num_images=num_images,
        num_classes=data.num_classes,
        notes=tuple(notes),
        class_weight=class_weight,
    )


def _image_sizes(
    data: ImageData, names: Sequence[str], image_size: int | tuple[int, int] | str | None
) -> dict[str, tuple[int, int]]:
    """Height and width for each backbone."""
    if image_size == "own":
        specs = {name: find_backbone(name) for name in names}
        return {name: (spec.default_image_size,) * 2 for name, spec in specs.items()}
    size: Any = data.image_size if image_size is None else image_size
    height, width = size if isinstance(size, tuple) and len(size) == 2 else (size, size)
    if not all(isinstance(side, int) and side > 0 for side in (height, width)):
        raise ArgumentError(
            "`image_size` must be a number of pixels, (height, width), 'own' or None. "
            f"Received: image_size={image_size!r}. Leave it out for the size of `data`."
        )
    return dict.fromkeys(names, (height, width))


def _candidate(
    name: str,
    weights: str,
    *,
    class_names: Sequence[str],
    image_size: tuple[int, int],
    max_milliseconds: float | None,
    max_megabytes: float | None,
    seed: int,
) -> _Decision:
    """Builds a backbone and measures what it costs, unless it is to be left out."""
    started = time.perf_counter()
    spec = find_backbone(name)
    known = (spec.num_parameters or 0) * FLOAT_BYTES
    limit = math.inf if max_megabytes is None else MEGABYTE * max_megabytes
    if known > limit:  # nothing need be fetched to know
        return _Decision(reason=f"{megabytes(known)}, above `max_megabytes` {max_megabytes:g}")
    if min(image_size) < spec.minimum_image_size:
        return _Decision(
            reason=f"takes images of {spec.minimum_image_size} pixels or more, "
            f"not {min(image_size)}"
        )
    try:
        model = build_classifier(
            name,
            class_names,
            image_size=image_size,
            weights=None if weights == RANDOM else weights,
            seed=seed,
        )
    except WeightsError as error:
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
    return _Decision(_Candidate(name, weights, part, costs, image_size, seconds))


def _score(
    candidate: _Candidate,
    train: ImageSplit,
    rows: np.ndarray,
    *,
    class_weight: str | None,
    seed: int,
    cache: str | os.PathLike[str] | None,
) -> BackboneScore:
    started = time.perf_counter()
    split = dataclasses.replace(train.subset(rows), image_size=candidate.image_size)
    features = extract_features(candidate.part, split, exact=False, cache=cache)
    found = features.labelled()
    measured = probe(found, class_weight=class_weight, seed=seed)
    return BackboneScore(
        name=candidate.name,
        weights=candidate.weights,
        image_size=candidate.image_size,
        accuracy=measured.accuracy,
        interval=measured.interval,
        log_evidence=log_evidence(found.features, found.labels),
        **candidate.costs,  # type: ignore[arg-type]
        num_forward_passes=features.num_forward_passes,
        seconds=candidate.seconds + time.perf_counter() - started,
    )


def _sample(
    train: ImageSplit, candidates: Sequence[_Candidate], budget: float | None, seed: int
) -> tuple[np.ndarray, list[str]]:
    """Returns the rows that all backbones see, and what must be said of them."""
    num_images, why = MAX_IMAGES, f"of at most {MAX_IMAGES:,} images"
    if budget is not None and candidates:
        taken = sum(candidate.costs["milliseconds_in_batches"] for candidate in candidates) / 1000
        affordable = int(budget / taken)
        if affordable < num_images:
            num_images, why = affordable, f"for budget={budget:g} seconds"
    rows = sample_rows(train, num_images, seed=seed)
    if len(rows) == train.num_images:
        return rows, []
    return rows, [f"a sample {why}: {len(rows):,} of {train.num_images:,} training images"]


def _ranked(scores: Sequence[BackboneScore]) -> tuple[BackboneScore, ...]:
    order = sorted(scores, key=lambda score: (-score.accuracy, -score.log_evidence))
    return tuple(
        dataclasses.replace(score, is_close=score is order[0] or _overlap(score, order[0]))
        for score in order
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
    "95 % interval",
    "LogME",
    "parameters",
    "mult-adds",
    "file",
    "one image",
    "in batches",
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


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width each, the first to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
