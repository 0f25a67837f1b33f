"""Networks that grow where a new task needs it: probe, drift, new units, and only those train."""

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
    solve_rows,
    solve_rows_again,
    task_model,
    train_new,
    weights_by_age,
    widened,
    without_dead_units,
)
from tlkit.continual.old_data import measured_split
from tlkit.data.images import ImageData, ImageSplit
from tlkit.distribution.strategies import check_one_device
from tlkit.evaluation.metrics import evaluate
from tlkit.models.multiply_adds import count_multiply_adds
from tlkit.models.surgery import add_classes, newest_classes
from tlkit.training.weight_change import relative_weight_change

DEFAULT_THRESHOLD = 0.1
DEFAULT_SPARSITY = 0.05
PROBE_STRENGTH = 1e-3
TARGET_SHARE = 0.1
"""Of the loss of guessing: below it the network needs no further units."""


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
    augment: str = "none",
    old_data: ImageData | ImageSplit | None = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> tuple[keras.Model, ExpansionReport]:
    """Teaches a network a new task, and grows it where what it has does not suffice.

    The classes of `data` are new ones and get outputs of their own, trained among themselves: of
    an image it must be told which task it belongs to (or exemplars be replayed, as `tlkit
    add-classes` does). What there was stays frozen. First the new classes' rows alone are solved on
    the features there are; where validation loss comes down to `target`, that is all. Else:

    1. *Probe*: a copy trains as a whole on the new task for `probe_epochs`, anchored to where it
       began.
    2. *Drift* of each unit's incoming weights, absolute, |w - w*|, and relative to |w*|. A unit has
       drifted where the relative one is above `threshold`; the absolute one is reported and decides
       nothing, since layers differ in the size of their weights.
    3. *Restore*: the copy is thrown away. Each layer with drifted units gains `num_units` beside
       them, or as many as drifted, from the output to the input; in isolation layers behind it do
       too, for old units must not read new ones.
    4. *Initialise*: incoming weights at the old units' norm, outgoing ones zero (`widen_layer`).
    5. *Train* the new layers alone, with a proximal step that draws to zero together all that
       decides what a new unit gives (incoming weights, bias, scale and shift of batch
       normalisation), and remove the units that came there, unless validation is worse without.
       Last, the new classes' rows are solved once more, on all features there are now, and kept
       where validation is better so.

    Features for the new rows come from the feature store. Probe and new units run the whole graph:
    the probe trains all of it, and new units read old ones at many depths. `fine_tune(grown, data,
    unfreeze="new")` trains what was added further.

    Args:
        model: A classifier; it stays as it is.
        data: The new task, with validation images.
        class_names: The old classes, in the order of the outputs, so that a name that exists is
            refused.
        threshold: Of the relative drift, above 0.
        num_units: New units of a layer that drifted. By default as many as drifted, units of
            earlier tasks included, but never more than the layer had before it first grew: over
            many tasks the network grows in proportion to their number and no faster.
        target: Validation loss in nats that ends growing before it begins; a tenth of the loss of
            guessing, log(number of new classes), by default. 0 grows in any case. It is a loss
            because that still tells networks apart that get all images right; which epoch is
            kept goes, as in all training here, by accuracy and at the same accuracy by loss. Where
            accuracy rose at the price of loss, the report says so.
        isolate: Old units and old logits never read new units: old outputs stay bit-identical for
            as long as the graph is not consolidated. Without it old units read the new ones (as in
            the paper), and old outputs change. Layers in residual blocks cannot grow in
            isolation, as the sum behind them cannot; the report names what was left out.
        strength: Of the probe's anchor.
        sparsity: Of the proximal step, see `GroupSparsity`; 0 for none.
        probe_epochs: Passes over the training images in the probe.
        epochs: Passes over them for the new units, at most.
        learning_rate: Adam's, for both.
        augment: Augmentation of the training images, by name.
        old_data: Images of old classes, to measure old accuracy on: a split, or an `ImageData`,
            of which those of validation count.
        seed: Of new weights and of folds.
        cache: Folder of the feature stores.

    Returns:
        The grown model, composed, its old logits first; and what was done.

    Raises:
        ArgumentError: An argument breaks its rule; the model has no single classification head, or
            one of labels that are independent of each other; a class exists.
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
        incoming weights. Other than there, selective retraining moves the new rows alone, by a
        solved L2-penalised regression and not an L1 one, since retrained old units would end
        isolation; the drift is measured in a probe of the whole network, relative, and decides
        where units are added (there: which units are split).

        Where its published code (https://github.com/jaehong31/DEN) departs from the paper, this
        follows the paper. Every unit above the threshold counts (the code takes those that drifted
        least first, and at most a set number). Layers of all depths may grow at every task, and
        old weights never train (the code freezes its hidden layers, "layer1" and "layer2" by name,
        from the second task on, but only while added units train: selected and split units train
        their old weights). All outputs of the task take part in what is retrained and measured (it
        selects units by the first output alone). The loss that decides on growing is that of all
        validation images (its: of the last batch of training). The proximal step is that of the
        penalty, in proportion to the learning rate (it subtracts the full strength in each step),
        and a unit's bias goes with its weights (its groups leave biases out). There is no L1 step
        on single weights (it takes one after every update, of the full strength too, on all that
        trains, biases among it). A fixed number of units for each layer, as its 10, is `num_units`.
    """
    check_numbers(threshold, num_units, target=target, strength=strength, sparsity=sparsity)
    check_training(probe_epochs, epochs, learning_rate, augment)
    validation = check_data(data, model)
    old_split = None if old_data is None else measured_split(old_data, model)
    check_one_device(model, "expand")
    check_head(model)
    started = time.perf_counter()
    grown = add_classes(model, data.class_names, class_names, seed=seed)
    first = newest_classes(grown)
    num_old = grown.output_shape[-1] - data.num_classes
    as_added = weights_by_age(grown, first)
    solve_rows(grown, data, seed=seed, cache=cache)
    retrained = evaluate(task_model(grown), validation, data.class_names)
    wanted = TARGET_SHARE * float(np.log(data.num_classes)) if target is None else float(target)
    settings: dict[str, Any] = {
        "learning_rate": learning_rate,
        "augment": augment,
        "seed": seed,
    }
    drift: tuple[LayerDrift, ...] = ()
    done = _Grown(grown, relative_weight_change(as_added, weights_by_age(grown, first)))
    if retrained.loss > wanted:
        probe = {**settings, "epochs": probe_epochs}
        drift = probe_drift(grown, data, strength=strength, settings=probe)
        at_most = first_sizes(grown)
        sizes = sizes_of(drift, threshold, num_units, isolate=isolate, at_most=at_most)
        wider, added, notes = widened(grown, sizes, isolate=isolate, seed=seed)
        done = replace(done, notes=tuple(notes))
        if added:
            settings |= {"epochs": epochs, "best": (retrained.accuracy, retrained.loss)}
            given: dict[str, Any] = {"first": first, "data": data, "validation": validation}
            solving = {"seed": seed, "cache": cache}
            done = _trained(
                done, wider, added, **given, sparsity=sparsity, settings=settings, solving=solving
            )
        else:
            note = "no layer with drifted units can grow: the new rows alone were trained"
            done = replace(done, notes=(*done.notes, note))
    grown = done.model
    freeze_old(grown, first)
    after = evaluate(task_model(grown), validation, data.class_names)
    report = ExpansionReport(
        drift=drift,
        threshold=threshold,
        target=wanted,
        loss_retrained=retrained.loss,
        loss_after=after.loss,
        new_accuracy_retrained=retrained.accuracy,
        new_accuracy_after=after.accuracy,
        num_validation=after.num_images,
        old_accuracy_before=_old_accuracy(model, num_old, old_split),
        old_accuracy_after=_old_accuracy(grown, num_old, old_split),
        added=done.added,
        removed=done.removed,
        trained=tuple(layer.name for layer in grown.layers if layer.trainable_variables),
        num_trained=sum(prod(variable.shape) for variable in grown.trainable_variables),
        weight_change=done.weight_change,
        num_parameters_before=model.count_params(),
        num_parameters_after=grown.count_params(),
        multiply_adds_before=count_multiply_adds(model),
        multiply_adds_after=count_multiply_adds(grown),
        isolate=isolate,
        seconds=time.perf_counter() - started,
        notes=(*done.notes, *_notes(class_names, retrained.loss, after.loss)),
    )
    return grown, report


@dataclass(frozen=True)
class _Grown:
    """The network as far as it has come, and what the report says of the way."""

    model: keras.Model
    weight_change: Mapping[str, float]
    added: Mapping[str, int] = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _trained(
    before: _Grown,
    wider: keras.Model,
    added: Mapping[str, int],
    *,
    first: int,
    data: ImageData,
    validation: ImageSplit,
    sparsity: float,
    settings: Mapping[str, Any],
    solving: Mapping[str, Any],
) -> _Grown:
    """Trains the wider network, solves its rows once more and removes dead units.

    Returns the network before where nothing of that was better. As widened the new one computes the
    same, so that each step has to beat it.
    """
    as_widened = weights_by_age(wider, first)
    is_better = train_new(wider, first, data, sparsity=sparsity, settings=settings)
    solved = solve_rows_again(wider, data, validation, **solving)
    if solved is None and not is_better:
        note = "neither an epoch nor rows solved were better with the new units: they are removed"
        return replace(before, added=added, removed=added, notes=(*before.notes, note))
    moved = relative_weight_change(as_widened, weights_by_age(wider, first))
    smaller, removed, notes = without_dead_units(wider, first, validation)
    if solved is not None:
        notes = [solved, *notes]
    return _Grown(smaller, moved, added, removed, (*before.notes, *notes))


def _notes(
    class_names: Sequence[str] | None, loss_before: float, loss_after: float
) -> Iterator[str]:
    if class_names is None:
        yield "`class_names` were not given: whether the model has one of the classes is unknown"
    if loss_after > loss_before:
        yield (
            f"accuracy rose at the price of loss, {loss_before:.4f} before and {loss_after:.4f} "
            "after: epochs are kept by accuracy first"
        )


def _old_accuracy(model: keras.Model, num_old: int, old_data: ImageSplit | None) -> float | None:
    """Accuracy of the old classes among themselves; `None` without images of them."""
    if old_data is None:
        return None
    if model.output_shape[-1] in (num_old, 1):
        return evaluate(model, old_data).accuracy
    old = keras.Model(model.inputs[0], model.outputs[0][:, :num_old])
    return evaluate(old, old_data).accuracy
