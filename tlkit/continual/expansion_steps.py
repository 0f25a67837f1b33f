"""The steps of dynamic expansion: rows, probe and drift, new units, their training, removal."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tlkit.continual.anchors import anchor_weights
from tlkit.continual.expansion_reports import LayerDrift
from tlkit.continual.group_sparsity import GroupSparsity
from tlkit.continual.new_rows import solve_new_rows
from tlkit.data.images import ImageData
from tlkit.errors import ArgumentError
from tlkit.models.composition import Composition, read
from tlkit.models.grown_names import GrownName
from tlkit.models.new_classes import find_head
from tlkit.models.rebuild import build
from tlkit.models.removing import keep_units
from tlkit.models.surgery import count_units, new_layers, widen_layer, widenable_layers
from tlkit.training.features import extract_features
from tlkit.training.fitting import Batches, fit_model
from tlkit.training.frozen import FrozenPart
from tlkit.training.objective import loss_of, metrics_of
from tlkit.training.sources import batches_of, source_of, steps_in_epoch, with_targets
from tlkit.training.step import StepHook

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
    grown: keras.Model,
    first: int,
    data: ImageData,
    *,
    seed: int,
    cache: str | os.PathLike[str] | None,
) -> None:
    """Puts the best rows over the features there are into the newest classes' layers."""
    head, _ = find_head(read(grown))
    rows = [head.pieces[key].operation for key in sorted(head.pieces) if key[1] == first]
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
    sizes = [layer.kernel.shape[0] for layer in rows]
    for layer, kernel in zip(rows, np.split(solution.kernel, np.cumsum(sizes)[:-1]), strict=True):
        layer.kernel.assign(kernel)
    if rows[0].bias is not None:
        rows[0].bias.assign(solution.bias)


def probe_drift(
    grown: keras.Model,
    data: ImageData,
    *,
    strength: float,
    settings: Mapping[str, Any],
) -> tuple[LayerDrift, ...]:
    """Trains a copy as a whole for a while, and returns how far each unit has come."""
    copy = build(read(grown))
    for layer in copy.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    task = task_model(copy)
    anchor = anchor_weights(task, strength, groups="all")
    _fit(task, data, hooks=[anchor], **settings)
    before, after = read(grown), read(copy)
    return tuple(
        _drift_of(name, _incoming(before, name), _incoming(after, name))
        for name in widenable_layers(grown)
    )


def _incoming(composition: Composition, name: str) -> list[np.ndarray]:
    """Returns the incoming weights of each unit of a layer, those of all its parts."""
    (call,) = (call for call in composition.calls if call.name == name)
    units: list[np.ndarray] = []
    for part in call.parts:
        kernels = [
            keras.ops.convert_to_numpy(piece.operation.kernel)
            for (_, own), piece in sorted(call.pieces.items(), key=lambda item: item[0])
            if own == part
        ]
        rows = [kernel.reshape(-1, kernel.shape[-1]) for kernel in kernels]
        units.extend(np.concatenate(rows).T)
    return units


def _drift_of(name: str, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> LayerDrift:
    absolute = [float(np.linalg.norm(b - a)) for a, b in zip(before, after, strict=True)]
    norms = [float(np.linalg.norm(a)) for a in before]
    relative = [
        d / n if n else float("inf" if d else 0.0) for d, n in zip(absolute, norms, strict=True)
    ]
    return LayerDrift(name, tuple(relative), tuple(absolute))


def sizes_of(
    drift: Sequence[LayerDrift], threshold: float, num_units: int | None, *, isolate: bool
) -> dict[str, int]:
    """Returns how many units each layer is to gain, input side first.

    In isolation new units are read by new units alone: a layer that has not drifted gains as many
    as the last one before it that has, so that these reach the output.
    """
    sizes: dict[str, int] = {}
    before = 0
    for one in drift:
        drifted = one.num_drifted(threshold)
        number = (num_units or drifted) if drifted else (before if isolate else 0)
        if number:
            sizes[one.name] = before = number
    return sizes


def widened(
    grown: keras.Model, sizes: Mapping[str, int], *, isolate: bool, seed: int
) -> tuple[keras.Model, dict[str, int], list[str]]:
    """Adds units from the output to the input; says which layers could not take any, and why."""
    added, refused, why = {}, [], ""
    for name in reversed(list(sizes)):
        total = count_units(grown, name) + sizes[name]
        try:
            grown = widen_layer(grown, name, total, isolate=isolate, seed=seed)
        except ArgumentError as error:
            refused.append(name)
            why = why or str(error)
            continue
        added[name] = sizes[name]
    notes = [f"cannot grow: {', '.join(reversed(refused))}. {why}"] if refused else []
    return grown, dict(reversed(added.items())), notes


def freeze_old(grown: keras.Model, first: int) -> None:
    """Lets what was added from the classes on train, and nothing else."""
    new = {id(layer) for layer in new_layers(grown, since=first)}
    for layer in grown.layers:
        layer.trainable = id(layer) in new


def train_new(
    grown: keras.Model,
    first: int,
    data: ImageData,
    *,
    sparsity: float,
    settings: Mapping[str, Any],
) -> bool:
    """Trains the new layers alone; returns whether any epoch was better than none."""
    freeze_old(grown, first)
    hooks: list[StepHook] = []
    if sparsity:
        groups = [variables for _, _, variables in _new_units(grown, first)]
        hooks = [GroupSparsity(groups, sparsity)]
    return _fit(task_model(grown), data, hooks=hooks, **settings)


def _new_units(grown: keras.Model, first: int) -> list[tuple[str, int, tuple[keras.Variable, ...]]]:
    """Layer, part, and incoming weights (biases too) of the units added since the classes."""
    found = []
    for call in read(grown).calls:
        for part in call.parts if call.mixes_units and not call.joined else ():
            if part <= first:
                continue
            own = [piece.operation for (_, n), piece in call.pieces.items() if n == part]
            variables = [variable for layer in own for variable in layer.trainable_variables]
            found.append((call.name, part, tuple(variables)))
    return found


def without_dead_units(grown: keras.Model, first: int) -> tuple[keras.Model, dict[str, int]]:
    """Returns the model without added units whose incoming weights are all zero.

    Units that only such units read go with them.
    """
    kept: dict[tuple[str, int], list[int]] = {}
    for name, part, variables in _new_units(grown, first):
        is_alive = np.any(
            [np.any(v.numpy().reshape(-1, v.shape[-1]), axis=0) for v in variables], axis=0
        )
        kept[name, part] = np.flatnonzero(is_alive).tolist()
    fewer = keep_units(grown, kept)
    removed = {}
    for name, _ in kept:
        gone = count_units(grown, name) - count_units(fewer, name)
        if gone:
            removed[name] = gone
    return (fewer if removed else grown), removed


def _fit(
    task: keras.Model,
    data: ImageData,
    *,
    epochs: int,
    learning_rate: float,
    augment: str,
    hooks: Sequence[StepHook],
    best: tuple[float, float] | None = None,
) -> bool:
    source = source_of(task, data, None)
    train = data.train

    def starting_at(epoch: int, step: int) -> Any:
        epochs_left = range(epoch, _MAX_EPOCHS)
        batches = train.dataset(shuffle=True, augment=augment, epochs=epochs_left, first_batch=step)
        return with_targets(batches, task)

    fitted = fit_model(
        task,
        Batches(starting_at, steps_in_epoch(train)),
        None if source.validation is None else batches_of(source.validation, task),
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=loss_of(task),
        metrics=metrics_of(task),
        epochs=epochs,
        patience=max(5, epochs // 2),
        hooks=hooks,
        best=best,
    )
    return fitted.improved
