"""Dynamically expandable networks: probe, drift, and new units that alone are trained."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import keras
import numpy as np

from tlkit.continual.expansion_checks import (
    check_data,
    check_head,
    check_numbers,
    check_training,
)
from tlkit.continual.expansion_drift import first_sizes, probe_drift, sizes_of
from tlkit.continual.expansion_reports import ExpansionReport, LayerDrift
from tlkit.continual.expansion_steps import (
    freeze_old,
    remove_dead_units,
    solve_rows,
    solve_rows_again,
    task_model,
    train_new,
    weights_by_age,
    widen_layers,
)
from tlkit.continual.old_data import evaluation_split
from tlkit.data.augmentation import AugmentLike, augmentation_of, check_by_image
from tlkit.data.augmentation_checks import check_augmentation
from tlkit.data.images import ImageData, ImageSplit
from tlkit.distribution.strategies import check_one_device
from tlkit.evaluation.metrics import evaluate
from tlkit.models.multiply_adds import count_multiply_adds
from tlkit.models.surgery import add_classes, newest_classes
from tlkit.training.weight_change import relative_weight_change

DEFAULT_THRESHOLD = 0.1
DEFAULT_SPARSITY = 0.05
PROBE_STRENGTH = 1e-3
TARGET_FRACTION = 0.1
"""Fraction of the loss of guessing below which the network needs no further units."""


def expand(
    model: keras.Model,
    data: ImageData,
    *,
    class_names: Sequence[str] | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    num_units: int | None = None,
    target: float | None = None,
    isolate: bool = True,
    strength: float = PROBE_STRENGTH,
    sparsity: float = DEFAULT_SPARSITY,
    probe_epochs: int = 2,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    augment: AugmentLike = "none",
    old_data: ImageData | ImageSplit | None = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> tuple[keras.Model, ExpansionReport]:
    """Trains a network on a new task, and adds units if its features do not suffice.

    The classes of `data` are new and get outputs of their own, trained among themselves: to predict
    an image, its task must be known (or exemplars be replayed, as `tlkit add-classes` does). All
    existing weights stay frozen. First only the new classes' rows are solved on the existing
    features; if the validation loss then reaches `target`, nothing else is done. Otherwise:

    1. *Probe*: a copy is trained as a whole on the new task for `probe_epochs`, anchored to its
       initial weights.
    2. *Drift* of each unit's incoming weights, absolute, |w - w*|, and relative to |w*|. A unit has
       drifted if the relative drift is above `threshold`; the absolute drift is reported only,
       since layers differ in the size of their weights.
    3. *Restore*: the copy is discarded. Each layer with drifted units gains `num_units` units, or
       as many as drifted, from the output to the input; in isolation, later layers gain units too,
       because old units must not read new ones.
    4. *Initialise*: incoming weights at the old units' norm, outgoing weights zero (`widen_layer`).
    5. *Train* only the new layers, with a proximal step that shrinks together all weights that
       determine a new unit's output (incoming weights, bias, scale and shift of batch
       normalisation), and remove the units that became zero, unless validation gets worse.
       Finally, the new classes' rows are solved once more on all features, and kept if validation
       is better.

    Features for the new rows come from the feature store. The probe and the training of new units
    run the whole graph: the probe trains all of it, and new units read old ones at many depths.
    `fine_tune(grown, data, unfreeze="new")` trains the added layers further.

    Args:
        model: A classifier; not changed.
        data: The new task, with validation images.
        class_names: The old classes, in the order of the outputs, so that existing names can be
            refused.
        threshold: Threshold of the relative drift, above 0.
        num_units: Number of new units of a layer that drifted. By default as many as drifted, units
            of earlier tasks included, but never more than the layer had before it first grew: over
            many tasks the network grows at most in proportion to their number.
        target: Validation loss in nats at which no units are added; by default a tenth of the loss
            of guessing, log(number of new classes). 0 always adds units. It is a loss because a
            loss distinguishes networks even at an accuracy of 100 %; the epoch to keep is chosen,
            as in all training of tlkit, by accuracy and among ties by loss. If accuracy rose while
            the loss got worse, the report notes it.
        isolate: Whether old units and old logits never read new units: old outputs then stay
            bit-identical as long as the graph is not consolidated. Otherwise old units read new
            ones (as in the paper), and old outputs change. Layers in residual blocks cannot grow in
            isolation, because the sum after them cannot; the report names them.
        strength: Strength of the probe's anchor.
        sparsity: Strength of the proximal step, see `GroupSparsity`; 0 for none.
        probe_epochs: Number of passes over the training images in the probe.
        epochs: Maximum number of passes over them for the new units.
        learning_rate: Learning rate of Adam, for both.
        augment: Augmentation of the training images: a preset or Keras layers, see `fine_tune`.
        old_data: Images of old classes, to measure old accuracy on: a split, or an `ImageData`,
            of which the validation images are used.
        seed: Seed of new weights and of folds.
        cache: Folder of the feature stores.

    Returns:
        The grown, composed model with its old logits first; and the report.

    Raises:
        ArgumentError: An argument is invalid; the model has no single classification head, or a
            multi-label one; a class already exists.
        DataError: There are no validation images, or a class has no training images.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.continual.expansion import expand
        >>> images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(40) % 2, ["cow", "owl"])
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> grown, report = expand(model, data, class_names=["cat", "dog"], target=10.0)
        >>> grown.output_shape, report.added
        ((None, 4), {})

    Reference:
        Yoon et al. (2018), Lifelong Learning with Dynamically Expandable Networks,
        https://arxiv.org/abs/1708.01547. Followed are its order (retraining, then expansion),
        its drift |w - w*| per unit (ρ there, against a threshold σ), and its group sparsity on
        incoming weights. Unlike there, selective retraining changes only the new rows, by a
        solved L2-penalised regression and not an L1 one, since retrained old units would end
        isolation; the relative drift is measured in a probe of the whole network, and decides
        where units are added (there: which units are split).

        Where its published code (https://github.com/jaehong31/DEN) differs from the paper, this
        follows the paper. Every unit above the threshold counts (the code takes those that drifted
        least first, and at most a set number). Layers of all depths may grow at every task, and
        old weights are never trained (the code freezes its hidden layers, "layer1" and "layer2" by
        name, from the second task on, but only while added units are trained: selected and split
        units train their old weights). All outputs of the task are retrained and evaluated (the
        code selects units by the first output alone). The loss that decides on growing is that of
        all validation images (in the code: of the last training batch). The proximal step is that
        of the penalty, in proportion to the learning rate (the code subtracts the full strength in
        each step), and a unit's bias is in the group of its weights (the code's groups exclude
        biases). There is no L1 step on single weights (the code makes one after every update, also
        of the full strength, on all trainable weights including biases). A fixed number of units
        for each layer, such as the code's 10, is `num_units`.
    """
    check_numbers(threshold, num_units, target=target, strength=strength, sparsity=sparsity)
    check_training(probe_epochs, epochs, learning_rate)
    augmentation = augmentation_of(augment)
    check_by_image(augmentation, "expand")
    validation = check_data(data, model)
    check_augmentation(augmentation, data.train)
    old_split = None if old_data is None else evaluation_split(old_data, model)
    check_one_device(model, "expand")
    check_head(model)
    started = time.perf_counter()
    grown = add_classes(model, data.class_names, class_names, seed=seed)
    first = newest_classes(grown)
    num_old = grown.output_shape[-1] - data.num_classes
    weights_before = weights_by_age(grown, first)
    solve_rows(grown, data, seed=seed, cache=cache)
    retrained = evaluate(task_model(grown), validation, data.class_names)
    if target is None:
        target = TARGET_FRACTION * float(np.log(data.num_classes))
    drift: tuple[LayerDrift, ...] = ()
    state = _Grown(grown, relative_weight_change(weights_before, weights_by_age(grown, first)))
    if retrained.loss > target:
        settings: dict[str, object] = {
            "learning_rate": learning_rate,
            "augment": augmentation,
            "seed": seed,
        }
        probe = {**settings, "epochs": probe_epochs}
        drift = probe_drift(grown, data, strength=strength, settings=probe)
        at_most = first_sizes(grown)
        sizes = sizes_of(drift, threshold, num_units, isolate=isolate, at_most=at_most)
        settings |= {"epochs": epochs, "best": (retrained.accuracy, retrained.loss)}
        task = _NewTask(first, data, validation, isolate, seed, cache)
        state = _grow(state, sizes, task, sparsity=sparsity, settings=settings)
    grown = state.model
    freeze_old(grown, first)
    after = evaluate(task_model(grown), validation, data.class_names)
    report = ExpansionReport(
        drift=drift,
        threshold=threshold,
        target=float(target),
        loss_retrained=retrained.loss,
        loss_after=after.loss,
        new_accuracy_retrained=retrained.accuracy,
        new_accuracy_after=after.accuracy,
        num_validation=after.num_images,
        old_accuracy_before=_old_accuracy(model, num_old, old_split),
        old_accuracy_after=_old_accuracy(grown, num_old, old_split),
        added=state.added,
        removed=state.removed,
        trained=tuple(layer.name for layer in grown.layers if layer.trainable_variables),
        num_trained=sum(prod(variable.shape) for variable in grown.trainable_variables),
        weight_change=state.weight_change,
        num_parameters_before=model.count_params(),
        num_parameters_after=grown.count_params(),
        multiply_adds_before=count_multiply_adds(model),
        multiply_adds_after=count_multiply_adds(grown),
        isolate=isolate,
        seconds=time.perf_counter() - started,
        notes=(*state.notes, *_notes(class_names, retrained.loss, after.loss)),
    )
    return grown, report


@dataclass(frozen=True)
class _Grown:
    """The current network, and the entries of the report on how it grew."""

    model: keras.Model
    weight_change: Mapping[str, float]
    added: Mapping[str, int] = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _NewTask:
    """The new task: the number of its first part in the network, its images, and settings."""

    first: int
    data: ImageData
    validation: ImageSplit
    isolate: bool
    seed: int
    cache: str | os.PathLike[str] | None


def _grow(
    before: _Grown,
    sizes: Mapping[str, int],
    task: _NewTask,
    *,
    sparsity: float,
    settings: Mapping[str, Any],
) -> _Grown:
    """Adds units, trains them, solves the new rows once more and removes dead units.

    Returns the previous network if none of that was better. Before training, the wider network
    computes the same as the previous one, which each step must improve on.
    """
    first, validation = task.first, task.validation
    wider, added, notes = widen_layers(before.model, sizes, isolate=task.isolate, seed=task.seed)
    before = replace(before, notes=tuple(notes))
    if not added:
        note = "no layer with drifted units can grow: only the new rows were trained"
        return replace(before, notes=(*before.notes, note))
    weights_before = weights_by_age(wider, first)
    is_better = train_new(wider, first, task.data, sparsity=sparsity, settings=settings)
    solved = solve_rows_again(wider, task.data, validation, seed=task.seed, cache=task.cache)
    if solved is None and not is_better:
        note = "neither training nor solved rows improved validation: the new units are removed"
        return replace(before, added=added, removed=added, notes=(*before.notes, note))
    weight_change = relative_weight_change(weights_before, weights_by_age(wider, first))
    smaller, removed, notes = remove_dead_units(wider, first, validation)
    if solved is not None:
        notes = [solved, *notes]
    return _Grown(smaller, weight_change, added, removed, (*before.notes, *notes))


def _notes(
    class_names: Sequence[str] | None, loss_before: float, loss_after: float
) -> Iterator[str]:
    if class_names is None:
        yield "`class_names` not given: could not check whether the model already has the classes"
    if loss_after > loss_before:
        yield (
            f"validation loss rose from {loss_before:.4f} to {loss_after:.4f} while accuracy "
            "improved: epochs are chosen by accuracy first"
        )


def _old_accuracy(model: keras.Model, num_old: int, old_data: ImageSplit | None) -> float | None:
    """Returns the accuracy of the old classes among themselves; `None` without images."""
    if old_data is None:
        return None
    if model.output_shape[-1] in (num_old, 1):
        return evaluate(model, old_data).accuracy
    old = keras.Model(model.inputs[0], model.outputs[0][:, :num_old])
    return evaluate(old, old_data).accuracy
