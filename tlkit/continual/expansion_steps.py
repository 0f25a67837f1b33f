"""The steps of dynamic expansion: rows, new units, their training, and what is removed again."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.continual.group_sparsity import GroupSparsity
from tlkit.continual.head_features import newest_rows, put_rows
from tlkit.continual.new_rows import solve_new_rows
from tlkit.data.images import ImageData, ImageSplit
from tlkit.distribution.shards import Shard
from tlkit.errors import ArgumentError
from tlkit.evaluation.metrics import evaluate
from tlkit.models.grown_names import GrownName
from tlkit.models.layer_spec import read
from tlkit.models.pruning import Reach, keep_units, reach_of
from tlkit.models.random_state import seed_random_layers
from tlkit.models.surgery import count_units, new_layers, widen_layer
from tlkit.models.trainable import note_as_left, set_flag
from tlkit.training.features import extract_features
from tlkit.training.fitting import Batches, fit_model
from tlkit.training.frozen import FrozenPart
from tlkit.training.inference_mode import FrozenCalls, find_frozen_calls_beside
from tlkit.training.objective import loss_of, metrics_of
from tlkit.training.sources import batches_of, source_of, steps_in_epoch, with_targets
from tlkit.training.step import StepHook
from tlkit.utils.formatting import percent

ROUNDING = 1e-4
"""Relative: by so much the sum of the same losses may differ once units of zeros are gone."""

_MAX_EPOCHS = 1_000_000


def task_model(grown: keras.Model) -> keras.Model:
    """Returns the classifier of the classes that were added last; it shares the model's layers.

    Raises:
        ArgumentError: No classes were added to the model.

    Example:
        >>> import tlkit
        >>> from tlkit.continual.expansion_steps import task_model
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> task_model(tlkit.add_classes(model, ["cow", "hen", "owl"])).output_shape
        (None, 3)
    """
    joined = [call for call in read(grown).calls if call.joined]
    if not joined:
        raise ArgumentError(
            "`grown` must have classes that were added. "
            f"Received: grown={grown.name!r}, a model without."
        )
    side_by_side = grown.get_layer(str(GrownName(joined[0].name, role="classes")))
    return keras.Model(grown.inputs[0], side_by_side.input[-1], name=grown.name)


def solve_rows(
    grown: keras.Model, data: ImageData, *, seed: int, cache: str | os.PathLike[str] | None
) -> None:
    """Puts the best rows over the features there are into the newest classes' layers."""
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
    put_rows(rows, solution.kernel, solution.bias)


def solve_rows_again(
    grown: keras.Model,
    data: ImageData,
    validation: ImageSplit,
    *,
    seed: int,
    cache: str | os.PathLike[str] | None,
) -> str | None:
    """Solves the newest rows on features that new units have joined, if validation is better so.

    Units that train beside solved rows learn what those left over, in small steps; the rows that
    are best over all of them together are another matter, and convex.

    Returns:
        What it brought, or `None`, with the rows as they were, where it brought nothing.
    """
    task = task_model(grown)
    rows = newest_rows(grown)
    weights = [layer.get_weights() for layer in rows]
    before = evaluate(task, validation)
    solve_rows(grown, data, seed=seed, cache=cache)
    after = evaluate(task, validation)
    if (after.accuracy, -after.loss) > (before.accuracy, -before.loss):
        return (
            f"rows solved again beside the new units: {before.loss:.4f} "
            f"({percent(before.accuracy)}) became {after.loss:.4f} "
            f"({percent(after.accuracy)})"
        )
    for layer, values in zip(rows, weights, strict=True):
        layer.set_weights(values)
    return None


def widened(
    grown: keras.Model, sizes: Mapping[str, int], *, isolate: bool, seed: int
) -> tuple[keras.Model, dict[str, int], list[str]]:
    """Adds units from the output to the input; says which layers could not take any, and why."""
    added: dict[str, int] = {}
    refused: dict[str, list[str]] = {}
    for name in reversed(list(sizes)):
        total = count_units(grown, name) + sizes[name]
        try:
            grown = widen_layer(grown, name, total, isolate=isolate, seed=seed)
        except ArgumentError as error:
            # the reason once for all layers that have it, which differ in their name alone
            refused.setdefault(str(error).replace(repr(name), "the layer"), []).insert(0, name)
            continue
        added[name] = sizes[name]
    notes = [f"cannot grow: {', '.join(names)}. {why}" for why, names in refused.items()]
    return grown, dict(reversed(added.items())), notes[::-1]


def freeze_old(grown: keras.Model, first: int) -> None:
    """Lets what was added from the classes on train, and nothing else."""
    new = {id(layer) for layer in new_layers(grown, since=first)}
    for layer in grown.layers:
        set_flag(layer, id(layer) in new)
    note_as_left(grown)


def weights_by_age(grown: keras.Model, first: int) -> dict[str, list[np.ndarray]]:
    """Returns copies of all weights: "new", added from the classes on, and "old", the others."""
    new = {id(layer) for layer in new_layers(grown, since=first)}
    found: dict[str, list[np.ndarray]] = {"old": [], "new": []}
    for layer in grown.layers:
        found["new" if id(layer) in new else "old"] += [v.numpy() for v in layer.weights]
    return found


def train_new(
    grown: keras.Model,
    first: int,
    data: ImageData,
    *,
    sparsity: float,
    settings: Mapping[str, Any],
) -> bool:
    """Trains the new layers alone; returns whether any epoch was better than none.

    The whole graph runs in every step: new units read old ones at many depths, whose activations
    together are far larger than the images, so that they are not stored. Old layers compute as in
    inference, with which the outputs of old classes are computed too.
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
        name: The layer's first name.
        part: The number of the call.
        kernels: Incoming weights, units on the last axis.
        group: All variables with one value or more for each unit that decide what it gives:
            kernels, bias, scale and shift of batch normalisation. Shrinking weights before a batch
            normalisation alone would change nothing: it divides by their size.
        reach: Where they go.
    """

    name: str
    part: int
    kernels: tuple[keras.Variable, ...]
    group: tuple[keras.Variable, ...]
    reach: Reach


def new_units(grown: keras.Model, first: int) -> list[NewUnits]:
    """Returns the units that were added since the classes of call `first`, input side first."""
    found = []
    graph_spec = read(grown)
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
            found.append(NewUnits(call.name, part, kernels, group, reach))
    return found


def without_dead_units(
    grown: keras.Model, first: int, validation: ImageSplit
) -> tuple[keras.Model, dict[str, int], list[str]]:
    """Returns the model without added units that give exactly zero, and what went.

    A unit is dead where its incoming weights are all zero and all that its readers get of it is
    too. With an activation that is not zero at zero (sigmoid, softplus), or a shift behind it, such
    a unit gives a constant that its readers use: it stays.

    Returns:
        The smaller model, how many units each layer lost, and notes. Where it is worse on the
        validation images, the model as it was, and a note that says so.
    """
    image = next(iter(validation.dataset(shuffle=False)))[0][
        :1
    ]  # any: such units do not depend on it
    kept: dict[tuple[str, int], list[int]] = {}
    gone: dict[str, int] = {}
    for units in new_units(grown, first):
        is_alive = np.any([_is_any(v.numpy()) for v in units.kernels], axis=0)
        for tensor, owners in units.reach.read:
            values = keras.Model(grown.inputs[0], tensor)(image, training=False)
            is_alive[owners[_is_any(keras.ops.convert_to_numpy(values))]] = True
        kept[units.name, units.part] = np.flatnonzero(is_alive).tolist()
        if not is_alive.all():
            gone[units.name] = gone.get(units.name, 0) + int(np.sum(~is_alive))
    if not gone:
        return grown, {}, []
    fewer = keep_units(grown, kept)
    before = evaluate(task_model(grown), validation)
    after = evaluate(task_model(fewer), validation)
    if after.accuracy < before.accuracy or after.loss > before.loss * (1 + ROUNDING):
        note = (
            f"without its {sum(gone.values())} units of zeros the network would be worse "
            f"(validation loss {after.loss:.4f} against {before.loss:.4f}): they stay"
        )
        return grown, {}, [note]
    return fewer, gone, []


def _is_any(values: np.ndarray) -> np.ndarray:
    """Whether each position on the last axis has a value other than zero."""
    return np.any(values.reshape(-1, values.shape[-1]), axis=0)


def fit_task(
    task: keras.Model,
    data: ImageData,
    *,
    epochs: int,
    learning_rate: float,
    augment: str,
    seed: int,
    hooks: Sequence[StepHook],
    frozen_calls: FrozenCalls | None = None,
    best: tuple[float, float] | None = None,
) -> bool:
    """Trains what is trainable in a task's model; returns whether an epoch beat `best`.

    Kept is the epoch of the highest validation accuracy, at the same the one of the lowest loss.
    What is in `still` computes as in inference.
    """
    held_out = source_of(task, data, None).validation
    train = data.train
    seed_random_layers(task, seed)

    def starting_at(epoch: int, step: int, shard: Shard) -> Any:
        batches = train.dataset(
            shuffle=True,
            augment=augment,
            epochs=range(epoch, _MAX_EPOCHS),
            first_batch=step,
            shard=shard,
        )
        return with_targets(batches, task)

    fitted = fit_model(
        task,
        Batches(starting_at, steps_in_epoch(train)),
        None if held_out is None else lambda shard: batches_of(held_out, task, shard=shard),
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=loss_of(task),
        metrics=metrics_of(task),
        epochs=epochs,
        patience=max(5, epochs // 2),
        hooks=hooks,
        frozen_calls=frozen_calls,
        best=best,
    )
    return fitted.improved
