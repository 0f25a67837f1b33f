"""The steps of dynamic expansion: new rows, new units, their training, removal of dead units."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.continual.group_sparsity import GroupSparsity
from tlkit.continual.head_features import assign_rows, newest_rows
from tlkit.continual.new_rows import solve_new_rows
from tlkit.data.augmentation import Augmentation
from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import ArgumentError
from tlkit.evaluation.metrics import evaluate
from tlkit.models.grown_names import GrownName
from tlkit.models.layer_spec import parse_graph
from tlkit.models.pruning import Reach, keep_units, reach_of
from tlkit.models.random_state import seed_random_layers
from tlkit.models.surgery import count_units, new_layers, widen_layer
from tlkit.models.trainable import record_flags, set_flag
from tlkit.training.features import extract_features
from tlkit.training.fitting import FitPlan, Objective, fit_model
from tlkit.training.frozen import FrozenPart
from tlkit.training.image_epochs import image_epochs
from tlkit.training.inference_mode import FrozenCalls, find_frozen_calls_beside
from tlkit.training.objective import loss_of, metrics_of
from tlkit.training.sources import batches_of, source_of
from tlkit.training.step import StepHook
from tlkit.utils.formatting import percent

ROUNDING = 1e-4
"""Relative difference of the loss that removing zero units may cause by rounding."""


def task_model(grown: keras.Model) -> keras.Model:
    """Returns the classifier of the classes added last; it shares the model's layers.

    Raises:
        ArgumentError: No classes were added to the model.

    Example:
        >>> import tlkit
        >>> from tlkit.continual.expansion_steps import task_model
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> task_model(tlkit.add_classes(model, ["cow", "hen", "owl"])).output_shape
        (None, 3)
    """
    joined = [call for call in parse_graph(grown).calls if call.joined]
    if not joined:
        raise ArgumentError(
            "`grown` must have added classes. "
            f"Received: grown={grown.name!r}, a model without any. Add some with "
            "tlkit.add_classes."
        )
    side_by_side = grown.get_layer(str(GrownName(joined[0].name, role="classes")))
    return keras.Model(grown.inputs[0], side_by_side.input[-1], name=grown.name)


def solve_rows(
    grown: keras.Model, data: ImageData, *, seed: int, cache: str | os.PathLike[str] | None
) -> None:
    """Solves the newest classes' rows on all existing features, and assigns them."""
    rows = newest_rows(grown)
    tensors = [layer.input for layer in rows]
    tensor = tensors[0] if len(tensors) == 1 else keras.layers.Concatenate()(tensors)
    part = FrozenPart(keras.Model(grown.inputs[0], tensor))
    features = extract_features(part, data.train, exact=False, cache=cache)
    solution = solve_new_rows(
        features.load(),
        np.asarray(features.labels, np.int64),
        np.empty((len(features.labels), 0)),
        data.num_classes,
        groups=features.groups,
        seed=seed,
    )
    assign_rows(rows, solution.kernel, solution.bias)


def solve_rows_again(
    grown: keras.Model,
    data: ImageData,
    validation: ImageSplit,
    *,
    seed: int,
    cache: str | os.PathLike[str] | None,
) -> str | None:
    """Solves the newest rows on old and new features, and keeps them if validation is better.

    New units are trained in small steps on what the solved rows left unexplained; the optimal rows
    on all features together differ, and finding them is a convex problem.

    Returns:
        A note on the improvement, or `None`, with the rows unchanged, if there was none.
    """
    task = task_model(grown)
    rows = newest_rows(grown)
    weights = [layer.get_weights() for layer in rows]
    before = evaluate(task, validation)
    solve_rows(grown, data, seed=seed, cache=cache)
    after = evaluate(task, validation)
    if (after.accuracy, -after.loss) > (before.accuracy, -before.loss):
        return (
            f"rows solved again with the new units: validation loss {before.loss:.4f} "
            f"(accuracy {percent(before.accuracy)}) to {after.loss:.4f} "
            f"(accuracy {percent(after.accuracy)})"
        )
    for layer, values in zip(rows, weights, strict=True):
        layer.set_weights(values)
    return None


def widen_layers(
    grown: keras.Model, sizes: Mapping[str, int], *, isolate: bool, seed: int
) -> tuple[keras.Model, dict[str, int], list[str]]:
    """Adds units from the output to the input.

    Returns:
        The wider model, the number of units added to each layer, and notes on layers that could
        not grow, with the reason.
    """
    added: dict[str, int] = {}
    refused: dict[str, list[str]] = {}
    for name in reversed(list(sizes)):
        total = count_units(grown, name) + sizes[name]
        try:
            grown = widen_layer(grown, name, total, isolate=isolate, seed=seed)
        except ArgumentError as error:
            # one note for all layers with the same reason, which differs in their name only
            refused.setdefault(str(error).replace(repr(name), "the layer"), []).insert(0, name)
            continue
        added[name] = sizes[name]
    notes = [f"cannot grow: {', '.join(names)}. {why}" for why, names in refused.items()]
    return grown, dict(reversed(added.items())), notes[::-1]


def freeze_old(grown: keras.Model, first: int) -> None:
    """Makes only the layers added since the classes of call `first` trainable."""
    new = {id(layer) for layer in new_layers(grown, since=first)}
    for layer in grown.layers:
        set_flag(layer, id(layer) in new)
    record_flags(grown)


def weights_by_age(grown: keras.Model, first: int) -> dict[str, list[np.ndarray]]:
    """Returns copies of all weights: "new", added since the classes of call `first`, and "old"."""
    new = {id(layer) for layer in new_layers(grown, since=first)}
    weights: dict[str, list[np.ndarray]] = {"old": [], "new": []}
    for layer in grown.layers:
        weights["new" if id(layer) in new else "old"] += [v.numpy() for v in layer.weights]
    return weights


def train_new(
    grown: keras.Model,
    first: int,
    data: ImageData,
    *,
    sparsity: float,
    settings: Mapping[str, Any],
) -> bool:
    """Trains the new layers only, and returns whether any epoch was an improvement.

    The whole graph runs in every step: new units read old units at many depths, whose activations
    together are far larger than the images, so that they are not stored. Old layers run in
    inference mode, in which the outputs of old classes are computed too.
    """
    freeze_old(grown, first)
    hooks: list[StepHook] = []
    if sparsity:
        hooks = [GroupSparsity([units.group for units in new_units(grown, first)], sparsity)]
    task = task_model(grown)
    frozen_calls = find_frozen_calls_beside(task, new_layers(grown, since=first))
    return fit_task(task, data, hooks=hooks, frozen_calls=frozen_calls, **settings)


@dataclass(frozen=True)
class NewUnits:
    """Units that one call of `widen_layer` added.

    Attributes:
        name: The layer's original name.
        part: The number of the call.
        kernels: Incoming weights, units on the last axis.
        group: All variables with values for each unit that determine its output: kernels, bias,
            scale and shift of batch normalisation. Shrinking only the weights before a batch
            normalisation would change nothing, as it divides by their size.
        reach: The layers and tensors that the units reach.
    """

    name: str
    part: int
    kernels: tuple[keras.Variable, ...]
    group: tuple[keras.Variable, ...]
    reach: Reach


def new_units(grown: keras.Model, first: int) -> list[NewUnits]:
    """Returns the units that were added since the classes of call `first`, input side first."""
    units = []
    graph_spec = parse_graph(grown)
    for call in graph_spec.calls:
        for part in call.parts if call.mixes_units and not call.joined else ():
            if part <= first:
                continue
            own = [
                layer_spec.operation for (_, n), layer_spec in call.layer_specs.items() if n == part
            ]
            reach = reach_of(graph_spec, call.name, part)
            layers = [*own, *reach.scaled]
            group = tuple(v for layer in layers for v in layer.trainable_variables)
            kernels = tuple(layer.kernel for layer in own)
            units.append(NewUnits(call.name, part, kernels, group, reach))
    return units


def remove_dead_units(
    grown: keras.Model, first: int, validation: ImageSplit
) -> tuple[keras.Model, dict[str, int], list[str]]:
    """Removes added units whose output is exactly zero.

    A unit is dead if all its incoming weights and all values that its readers get from it are zero.
    With an activation that is not zero at zero (sigmoid, softplus), or a shift after it, such a
    unit outputs a constant that its readers use, and is kept.

    Returns:
        The smaller model, the number of units removed from each layer, and notes. If it is worse on
        the validation images, the unchanged model, and a note on this.
    """
    # any image: the output of a dead unit does not depend on it
    image = next(iter(validation.dataset(shuffle=False)))[0][:1]
    kept: dict[tuple[str, int], list[int]] = {}
    removed: dict[str, int] = {}
    for units in new_units(grown, first):
        is_alive = np.any([_is_any(v.numpy()) for v in units.kernels], axis=0)
        for tensor, owners in units.reach.read:
            values = keras.Model(grown.inputs[0], tensor)(image, training=False)
            is_alive[owners[_is_any(keras.ops.convert_to_numpy(values))]] = True
        kept[units.name, units.part] = np.flatnonzero(is_alive).tolist()
        if not is_alive.all():
            removed[units.name] = removed.get(units.name, 0) + int(np.sum(~is_alive))
    if not removed:
        return grown, {}, []
    fewer = keep_units(grown, kept)
    before = evaluate(task_model(grown), validation)
    after = evaluate(task_model(fewer), validation)
    if after.accuracy < before.accuracy or after.loss > before.loss * (1 + ROUNDING):
        note = (
            f"{sum(removed.values())} zero units are kept, as validation would be worse without "
            f"them (loss {after.loss:.4f} instead of {before.loss:.4f})"
        )
        return grown, {}, [note]
    return fewer, removed, []


def _is_any(values: np.ndarray) -> np.ndarray:
    """Returns whether each position on the last axis has a nonzero value."""
    return np.any(values.reshape(-1, values.shape[-1]), axis=0)


def fit_task(
    task: keras.Model,
    data: ImageData,
    *,
    epochs: int,
    learning_rate: float,
    augment: Augmentation,
    seed: int,
    hooks: Sequence[StepHook],
    frozen_calls: FrozenCalls | None = None,
    best: tuple[float, float] | None = None,
) -> bool:
    """Trains the trainable layers of a task's model, and returns whether an epoch beat `best`.

    The epoch with the highest validation accuracy is kept, among ties the one with the lowest loss.
    Calls in `frozen_calls` run in inference mode.
    """
    held_out = source_of(task, data, None).validation
    seed_random_layers(task, seed)
    fitted = fit_model(
        task,
        image_epochs(data.train, task, augment),
        None if held_out is None else lambda shard: batches_of(held_out, task, shard=shard),
        Objective(keras.optimizers.Adam(learning_rate), loss_of(task), metrics_of(task)),
        FitPlan(
            epochs=epochs,
            patience=max(5, epochs // 2),
            best=best,
            hooks=hooks,
            frozen_calls=frozen_calls,
        ),
    )
    return fitted.improved
