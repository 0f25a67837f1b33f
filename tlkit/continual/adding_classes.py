"""Further classes for a trained classifier: what it is taught, and what that costs the old ones."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from tlkit.continual.exemplars import DEFAULT_NUM_EXEMPLARS, Exemplars, choose_from_each
from tlkit.continual.new_rows import solve_new_rows
from tlkit.data.images import ImageSplit
from tlkit.errors import ArgumentError, DataError, check_count
from tlkit.evaluation.reports import EvaluationReport
from tlkit.models.groups import set_trainable
from tlkit.models.heads import feature_cut, head_kind, outputs_logits
from tlkit.models.signature import signature
from tlkit.models.surgery import add_classes, new_layers, newest_classes
from tlkit.showing import ShownAsText
from tlkit.training.features import Features, extract_features
from tlkit.training.frozen import FrozenPart
from tlkit.training.movement import relative_movement, weights_by_group
from tlkit.training.reports import StageReport

STAGE_NAME = "new classes"
_BATCH_SIZE = 256


@dataclass(frozen=True, eq=False)
class LearnedClasses:
    """What `learn_classes` made.

    Attributes:
        model: The grown model; its old logits are those of the model that was given.
        stage: What was done.
        exemplars: Features of old and new classes, for the next time.
        num_replayed: How many stored features stood for old pictures.
    """

    model: keras.Model
    stage: StageReport
    exemplars: Exemplars
    num_replayed: int


@dataclass(frozen=True)
class GrowthReport(ShownAsText):
    """What further classes brought, and what they cost the old ones.

    Attributes:
        old_names: The classes that were there.
        new_names: The classes that were added.
        exemplars: How many stored features of each old class were asked for.
        num_replayed: How many there were in all.
        split: "test" or "validation"; what the accuracies were measured on, or "" for none.
        num_old: Pictures of old classes in it.
        num_new: Pictures of new classes in it.
        old_before: Share of the old classes' pictures that the model before got right, among its
            own classes; `None` without such pictures.
        old_after: Share of them that are right now, among all classes.
        new_before: 0.0: the model before could name no new class; `None` without such pictures.
        new_after: Share of the new classes' pictures that are right now, among all classes.
        unaligned: Old and new accuracy before the new classes' weights were aligned; `None` where
            they were not.
    """

    old_names: tuple[str, ...]
    new_names: tuple[str, ...]
    exemplars: int
    num_replayed: int
    split: str = ""
    num_old: int = 0
    num_new: int = 0
    old_before: float | None = None
    old_after: float | None = None
    new_before: float | None = None
    new_after: float | None = None
    unaligned: tuple[float | None, float | None] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns what JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{len(self.old_names)} old classes and {len(self.new_names)} new: {self._new()}"]
        if self.split:
            lines.append(f"on {self.split}, all {len(self.old_names) + len(self.new_names)} asked:")
        for what, num, before, after in (
            ("old", self.num_old, self.old_before, self.old_after),
            ("new", self.num_new, self.new_before, self.new_after),
        ):
            if before is None or after is None:
                lines.append(f"  {what} classes: no picture to measure on")
                continue
            images = "picture" if num == 1 else "pictures"
            lines.append(
                f"  {what} classes: {_percent(before)} before, {_percent(after)} after "
                f"({num} {images})"
            )
        if self.unaligned is not None:
            shown = [_percent(share) if share is not None else "?" for share in self.unaligned]
            lines.append(f"  before weights were aligned: old {shown[0]}, new {shown[1]}")
        lines.append(self._cost())
        return "\n".join(lines)

    def _new(self) -> str:
        return ", ".join(self.new_names)

    def _cost(self) -> str:
        if self.exemplars:
            return f"{self.num_replayed} stored features of old pictures were replayed"
        lost = ""
        if self.old_before is not None and self.old_after is not None:
            lost = f": {100 * (self.old_before - self.old_after):.1f} points of old accuracy"
        return f"no old picture was replayed (exemplars=0), at a cost{lost or ' that is not known'}"


def learn_classes(
    model: keras.Model,
    train: ImageSplit,
    new_names: Sequence[str],
    class_names: Sequence[str],
    *,
    exemplars: int = DEFAULT_NUM_EXEMPLARS,
    replayed: ImageSplit | None = None,
    stored: Exemplars | None = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> LearnedClasses:
    """Teaches a classifier further classes, and nothing else about it changes.

    All that exists stays frozen, the old logits too, bit for bit; so among themselves the old
    classes are told apart as before. The network runs once for each picture (its features are
    stored); the new classes' rows begin as imprinted mean features, and are solved to their optimum
    in competition with the fixed old logits, on the new pictures and on a few stored features of
    old ones, which `choose_exemplars` picks. Each class weighs the same.

    Solving the old rows too kept no more: of five and five classes of CIFAR-10, with 20 exemplars a
    class, 50.7 % of all test pictures were right with all rows solved, and 51.1 % with the old ones
    fixed, at the same penalty (100: 52.4 and 52.6; all pictures: 52.5 and 53.0).

    Args:
        model: A classifier with a softmax over its logits; it stays as it is.
        train: Pictures of the new classes, and perhaps of old ones, labels counted through
            `class_names` and then `new_names`.
        new_names: The new classes.
        class_names: The old ones, in the order of the outputs.
        exemplars: How many stored features of each old class are replayed, and kept of each class;
            0 for none.
        replayed: Old pictures that exemplars can be chosen from.
        stored: Exemplars of an earlier time, for classes that `replayed` has no picture of.
        seed: Of the folds that choose the penalty.
        cache: Folder of the feature stores.

    Raises:
        ArgumentError: The model's head is no softmax over logits, or a name is wrong, see
            `add_classes`.
        DataError: An old class has no picture that could stand for it, and `exemplars` is not 0.

    Reference:
        Replay of herded exemplars: Rebuffi et al. (2017), https://arxiv.org/abs/1611.07725 (there
        pictures, and the whole network trains). Imprinting: see `add_classes`.
    """
    check_count("exemplars", exemplars, minimum=0)
    _check_head(model)
    started = time.perf_counter()
    part = FrozenPart(_below_head(model))
    found = extract_features(part, train, exact=False, cache=cache)
    passes = found.num_forward_passes
    features = found.load()
    memory: dict[str, np.ndarray] = {}
    if exemplars:
        if stored is not None:
            memory = {n: own[:exemplars] for n, own in stored.features.items() if n in class_names}
        if replayed is not None and replayed.num_images:
            old = extract_features(part, replayed, exact=False, cache=cache)
            memory |= choose_from_each(old.load(), old.labels, class_names, exemplars)
            passes += old.num_forward_passes
        _check_none_is_lost(memory, found, class_names, exemplars)
    rows = np.concatenate([features, *memory.values()])
    labels = np.concatenate(
        [found.labels, *(np.full(len(own), class_names.index(n)) for n, own in memory.items())]
    ).astype(np.int64)
    grown, layer = _grown(model, features, found.labels, new_names, class_names)
    before = weights_by_group(grown)
    solution = solve_new_rows(
        _computed(keras.Model(feature_cut(grown), layer.input), rows),
        labels,
        _computed(keras.Model(feature_cut(model), model.outputs[0]), rows),
        len(new_names),
        groups=np.concatenate(
            [found.groups, found.groups.max() + 1 + np.arange(len(rows) - len(features))]
        ),
        seed=seed,
    )
    layer.kernel.assign(solution.kernel)
    layer.bias.assign(solution.bias)
    trainable = set_trainable(grown, "head")
    stage = StageReport(
        name=STAGE_NAME,
        trainable=trainable,
        history=(),
        moved=relative_movement(before, weights_by_group(grown)),
        seconds=time.perf_counter() - started,
        num_forward_passes=passes,
        notes=(
            f"only the {len(new_names)} new rows moved; old logits are as they were",
            f"{len(rows) - len(features)} stored features of old pictures replayed",
            f"features in {found.precision}: {found.store.path}",
            solution.note,
        ),
    )
    kept = choose_from_each(rows, labels, (*class_names, *new_names), exemplars)
    return LearnedClasses(grown, stage, Exemplars(kept, part.signature), len(rows) - len(features))


def shares_right(report: EvaluationReport, num_old: int) -> tuple[float | None, float | None]:
    """Returns the shares of old and of new classes' pictures that are right, `None` for no picture.

    Args:
        report: Of a model with all classes, the old ones first.
        num_old: How many are old.
    """
    confusion = report.confusion
    if confusion is None:
        raise ArgumentError(
            "`report` must be that of a head that gives each picture one class. "
            f"Received: kind={report.kind!r}."
        )
    right, totals = np.diagonal(confusion), confusion.sum(axis=1)
    old, new = slice(None, num_old), slice(num_old, None)
    shares = [
        float(right[some].sum() / totals[some].sum()) if totals[some].any() else None
        for some in (old, new)
    ]
    return shares[0], shares[1]


def signature_of_features(model: keras.Model) -> str:
    """Returns what `Exemplars` of a model are recognised by."""
    return signature(_below_head(model))


def _below_head(model: keras.Model) -> keras.Model:
    return keras.Model(model.inputs[0], feature_cut(model))


def _check_head(model: keras.Model) -> None:
    if head_kind(model) != "softmax" or not outputs_logits(model):
        raise ArgumentError(
            "`model` must give logits of classes of which each picture has one. Received: "
            f"model={model.name!r} with a head of the kind {head_kind(model)!r}"
            f"{'' if outputs_logits(model) else ' that gives probabilities'}. "
            "Grow it with tlkit.add_classes, and train it with tlkit.fine_tune."
        )


def _check_none_is_lost(
    memory: dict[str, np.ndarray], found: Features, class_names: Sequence[str], exemplars: int
) -> None:
    there = {class_names[label] for label in np.unique(found.labels) if label < len(class_names)}
    if lost := [name for name in class_names if name not in there and name not in memory]:
        raise DataError(
            "Every old class must have pictures or stored exemplars that keep its place. Received: "
            f"exemplars={exemplars}, and none of {', '.join(map(repr, lost))}. Put the old "
            "pictures back, or put some beside the new ones; exemplars=0 goes on without, at the "
            "cost of accuracy on the old classes."
        )


def _grown(
    model: keras.Model,
    features: np.ndarray,
    labels: np.ndarray,
    new_names: Sequence[str],
    class_names: Sequence[str],
) -> tuple[keras.Model, keras.layers.Dense]:
    """Returns the model with imprinted rows for the new classes, and the layer that holds them."""
    bare = add_classes(model, new_names, class_names)
    (layer,) = new_layers(bare, since=newest_classes(bare))
    last = _computed(keras.Model(feature_cut(bare), layer.input), features)
    means = np.stack(
        [last[labels == len(class_names) + row].mean(axis=0) for row in range(len(new_names))]
    )
    if not means.any(axis=1).all():  # a network that gives nothing has no direction to imprint
        return bare, layer
    grown = add_classes(model, new_names, class_names, class_means=means)
    (layer,) = new_layers(grown, since=newest_classes(grown))
    return grown, layer


def _computed(part: keras.Model, rows: np.ndarray) -> np.ndarray:
    """Returns what a part of the head makes of stored features, in inference."""
    batches = range(0, len(rows), _BATCH_SIZE)
    return np.concatenate(
        [
            keras.ops.convert_to_numpy(part(rows[start : start + _BATCH_SIZE], training=False))
            for start in batches
        ]
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
