"""Further classes for a trained classifier: what it is taught, and what that costs the old ones."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np

from tlkit.continual.exemplars import (
    DEFAULT_NUM_EXEMPLARS,
    Exemplars,
    choose_from_each,
    unseen_rows,
)
from tlkit.continual.head_features import below_head, computed, newest_rows, put_rows, read_by_head
from tlkit.continual.new_rows import solve_new_rows
from tlkit.data.images import ImageSplit
from tlkit.errors import ArgumentError, DataError, check_count
from tlkit.evaluation.checks import check_targets
from tlkit.evaluation.data_checks import check_images
from tlkit.evaluation.reports import EvaluationReport
from tlkit.models.groups import TrainableReport, choose_trainable, group_layers
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.models.layer_spec import read
from tlkit.models.new_classes import check_new_names, find_head
from tlkit.models.signature import signature
from tlkit.models.surgery import add_classes
from tlkit.models.trainable import note_as_left, set_flag
from tlkit.training.features import extract_features
from tlkit.training.frozen import FrozenPart
from tlkit.training.reports import StageReport
from tlkit.training.weight_change import relative_weight_change, weights_by_group

STAGE_NAME = "new classes"


@dataclass(frozen=True, eq=False)
class LearnedClasses:
    """What `learn_classes` made.

    Attributes:
        model: The grown model; its old logits are those of the model that was given.
        stage: What was done.
        exemplars: Features of old and new classes, for the next time.
        num_replayed: How many stored features stood for old images.
        from_stored: How many of them were among `replay.stored`, for each class that has any.
        num_further: How many images of old classes `train` had.
    """

    model: keras.Model
    stage: StageReport
    exemplars: Exemplars
    num_replayed: int
    from_stored: Mapping[str, int]
    num_further: int


@dataclass(frozen=True, eq=False)
class Replay:
    """What stands for the old classes while new ones are learnt.

    Attributes:
        exemplars: How many stored features of each old class are replayed, and kept of each class;
            0 for none.
        images: Old images that exemplars can be chosen from.
        stored: Exemplars of an earlier time. Those of other images stand for classes that
            `images` has fewer images of than `exemplars`, beside these.

    Raises:
        ArgumentError: `exemplars` is no whole number of at least 0.

    Example:
        >>> from tlkit.continual.adding_classes import Replay
        >>> Replay(exemplars=0).images is None
        True
    """

    exemplars: int = DEFAULT_NUM_EXEMPLARS
    images: ImageSplit | None = None
    stored: Exemplars | None = None

    def __post_init__(self) -> None:
        check_count("exemplars", self.exemplars, minimum=0)

    @property
    def labels(self) -> np.ndarray:
        """Those of `images`, `(n,)`; none without any, or where nothing is to be replayed."""
        if self.images is None or not self.exemplars:
            return np.zeros(0, np.int64)
        return self.images.labels

    @property
    def stored_features(self) -> Mapping[str, np.ndarray]:
        """Those of `stored`, by class; none where nothing is to be replayed."""
        if self.stored is None or not self.exemplars:
            return {}
        return self.stored.features


DEFAULT_REPLAY = Replay()


def learn_classes(
    model: keras.Model,
    train: ImageSplit,
    new_names: Sequence[str],
    class_names: Sequence[str],
    *,
    replay: Replay = DEFAULT_REPLAY,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> LearnedClasses:
    """Teaches a classifier further classes, and nothing else about it changes.

    All that exists stays frozen, the old logits too, bit for bit; so among themselves the old
    classes are told apart as before. The network runs once for each image (its features are
    stored); the new classes' rows are solved to their optimum in competition with the fixed old
    logits, on the new images and on a few stored features of old ones, which `choose_exemplars`
    picks. Each class weighs the same. Images of old classes in `train` compete like those: they
    keep their classes' place, and the old rows learn nothing from them.

    Solving the old rows too kept no more: of five and five classes of CIFAR-10, with 20 exemplars a
    class, 50.7 % of all test images were right with all rows solved, and 51.1 % with the old ones
    fixed, at the same penalty (100: 52.4 and 52.6; all images: 52.5 and 53.0).

    Args:
        model: A classifier with a softmax over its logits; it stays as it is.
        train: Images of the new classes, and perhaps of old ones, labels counted through
            `class_names` and then `new_names`.
        new_names: The new classes.
        class_names: The old ones, in the order of the outputs.
        replay: What stands for the old classes.
        seed: Of the folds that choose the penalty.
        cache: Folder of the feature stores.

    Raises:
        ArgumentError: The model's head is no softmax over logits or has no bias, or a name is
            wrong, see `add_classes`.
        DataError: A new class has no image; or an old one has none that could stand for it, and
            `replay.exemplars` is not 0.

    Reference:
        Replay of herded exemplars: Rebuffi et al. (2017), https://arxiv.org/abs/1611.07725 (there
        images, and the whole network trains). Imprinting: see `add_classes`.
    """
    check_can_learn(model, train, new_names, class_names, replay=replay)
    started = time.perf_counter()
    num_old = len(class_names)
    part = FrozenPart(below_head(model))
    found = extract_features(part, train, exact=False, cache=cache)
    passes = found.num_forward_passes
    features = found.load()
    memory: dict[str, np.ndarray] = {}
    if replay.images is not None and len(replay.labels):
        old = extract_features(part, replay.images, exact=False, cache=cache)
        memory = choose_from_each(old.load(), old.labels, class_names, replay.exemplars)
        passes += old.num_forward_passes
    from_stored: dict[str, int] = {}
    earlier = replay.stored_features
    for label, name in enumerate(class_names):
        if name not in earlier:
            continue
        own = [memory[name]] if name in memory else []
        known = np.concatenate([features[found.labels == label], *own])
        more = unseen_rows(earlier[name], known, replay.exemplars - sum(map(len, own)))
        if len(more):
            memory[name] = np.concatenate([*own, more])
            from_stored[name] = len(more)
    rows = np.concatenate([features, *memory.values()])
    labels = np.concatenate(
        [found.labels, *(np.full(len(own), class_names.index(n)) for n, own in memory.items())]
    ).astype(np.int64)
    inputs = [computed(model, tensor, rows) for tensor in read_by_head(model)]
    # one class alone has nothing to be told from: its direction can only be its own mean
    means = None
    if len(new_names) == 1 and not np.any(labels < num_old):
        means = inputs[0].mean(axis=0, keepdims=True)
    grown = add_classes(model, new_names, class_names, class_means=means)
    layers = newest_rows(grown)
    before = weights_by_group(grown)
    solution = solve_new_rows(
        np.concatenate(inputs, axis=1),
        labels,
        computed(model, model.outputs[0], rows),
        len(new_names),
        groups=np.concatenate(
            [found.groups, found.groups.max() + 1 + np.arange(len(rows) - len(features))]
        ),
        seed=seed,
        imprinted=None if means is None else np.concatenate([row.kernel for row in layers]),
    )
    put_rows(layers, solution.kernel, solution.bias)
    num_replayed = len(rows) - len(features)
    stage = StageReport(
        name=STAGE_NAME,
        trainable=_let_train(grown, layers),
        history=(),
        weight_change=relative_weight_change(before, weights_by_group(grown)),
        seconds=time.perf_counter() - started,
        num_forward_passes=passes,
        notes=(
            f"only the {len(new_names)} new rows changed; old logits are unchanged",
            f"{num_replayed} stored features of old images replayed",
            f"features in {found.precision}: {found.store.path}",
            solution.note,
        ),
    )
    kept = choose_from_each(rows, labels, (*class_names, *new_names), replay.exemplars)
    return LearnedClasses(
        model=grown,
        stage=stage,
        exemplars=Exemplars(kept, part.signature),
        num_replayed=num_replayed,
        from_stored=from_stored,
        num_further=int(np.sum(found.labels < num_old)),
    )


def check_can_learn(
    model: keras.Model,
    train: ImageSplit,
    new_names: Sequence[str],
    class_names: Sequence[str],
    *,
    replay: Replay,
) -> None:
    """Raises what `learn_classes` raises, from names and labels alone: no image is read.

    Raises:
        ArgumentError: See `learn_classes`.
        DataError: See `learn_classes`.
    """
    _check_head(model)
    names = check_new_names(new_names, class_names, model.output_shape[-1])
    for argument, split, number in (
        ("train", train, len(class_names) + len(names)),
        ("replay.images", replay.images, len(class_names)),
    ):
        # all old images may lie in the new folder: then none is left to replay
        if split is not None and (split.num_images or argument == "train"):
            check_images(argument, split, model, labels="given")
            check_targets(split.labels, "softmax", split.num_images, number, argument=argument)
    there = set(np.unique(train.labels).tolist())
    if empty := [n for label, n in enumerate(names, start=len(class_names)) if label not in there]:
        raise DataError(
            "`train` must hold images of each new class. "
            f"Received: none of {', '.join(map(repr, empty))}. Add some, or leave its name out."
        )
    if not replay.exemplars:
        return
    there |= set(np.unique(replay.labels).tolist())
    kept = replay.stored_features
    if lost := [
        name
        for label, name in enumerate(class_names)
        if label not in there and not len(kept.get(name, ()))
    ]:
        raise DataError(
            "Every old class must have images or stored exemplars that keep its place. Received: "
            f"exemplars={replay.exemplars}, and none of {', '.join(map(repr, lost))}. Put the old "
            "images back, or put some beside the new ones; exemplars=0 goes on without, at the "
            "cost of accuracy on the old classes."
        )


def shares_right(report: EvaluationReport, num_old: int) -> tuple[float | None, float | None]:
    """Returns the shares of old and of new classes' images that are right, `None` for no image.

    Args:
        report: Of a model with all classes, the old ones first.
        num_old: How many are old.
    """
    confusion = report.confusion
    if confusion is None:
        raise ArgumentError(
            "`report` must be that of a head that gives each image one class. "
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
    return signature(below_head(model))


def _check_head(model: keras.Model) -> None:
    if head_kind(model) != "softmax" or not outputs_logits(model):
        raise ArgumentError(
            "`model` must give logits of classes of which each image has one. Received: "
            f"model={model.name!r} with a head of the kind {head_kind(model)!r}"
            f"{'' if outputs_logits(model) else ' that gives probabilities'}. "
            "Grow it with tlkit.add_classes, and train it with tlkit.fine_tune."
        )
    last = find_head(read(model))[0].operation
    if last.bias is None:
        raise ArgumentError(
            "`model` must have a bias in its last layer, which new classes need against the old "
            f"ones. Received: model={model.name!r}, whose {last.name!r} has use_bias=False. Give "
            "the layer one of zeros, which changes no output."
        )


def _let_train(grown: keras.Model, layers: Sequence[keras.layers.Dense]) -> TrainableReport:
    """Lets the newest classes' layers train and nothing else, and reports that."""
    report = choose_trainable(grown, "head")
    new = {layer.name for layer in layers}
    for layer in group_layers(grown)[-1]:
        set_flag(layer, layer.trainable and layer.name in new)
    note_as_left(grown)
    num_trainable = sum(layer.count_params() for layer in layers)
    return replace(
        report,
        layers=tuple(name for name in report.layers if name in new),
        num_trainable=num_trainable,
        num_frozen=report.num_trainable + report.num_frozen - num_trainable,
    )
