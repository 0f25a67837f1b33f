"""Pruning: removing added units from a grown model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tlkit.errors import ArgumentError, did_you_mean
from tlkit.models.initial_weights import is_depthwise
from tlkit.models.layer_spec import Call, GraphSpec, LayerSpec, Ref, parse_graph, units_argument
from tlkit.models.rebuild import build
from tlkit.models.routing import num_positions

Kept = dict[int, tuple[np.ndarray, int]]
"""From an added part to its kept channels, and their former number; the original part stays."""


def keep_units(model: keras.Model, kept: Mapping[tuple[str, int], Sequence[int]]) -> keras.Model:
    """Returns a copy of a grown model in which added layers have only some of their units.

    Kept units have the weights of the model. If all weights that read the removed units are zero,
    outputs stay the same within float error.

    Args:
        model: A grown model.
        kept: From the original name of a widened layer and the number of the call that widened it
            (`LAYER__grownN` is the layer of call N) to the positions of the units to keep. Without
            any, the layer is removed, and with it all layers that read only it.

    Raises:
        ArgumentError: There is no such layer, it was not added, its units are outputs, or it has
            no such unit.

    Example:
        >>> import tlkit
        >>> from tlkit.models.pruning import keep_units
        >>> from tlkit.models.surgery import widen_layer
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> name = "stage1_block1_1_conv"
        >>> wider = widen_layer(model, name, model.get_layer(name).filters + 4)
        >>> keep_units(wider, {(name, 1): [0, 2]}).get_layer(name + "__grown1").filters
        2
    """
    graph_spec = parse_graph(model)
    _check(graph_spec, kept)
    kept_at: dict[Ref, Kept] = {}
    for call in graph_spec.calls:
        arriving = [kept_at.get(ref, {}) for ref in call.inputs]
        if call.mixes_units:
            own = _prune_mixing(call, arriving[0], kept)
        elif isinstance(call.operation, keras.layers.Concatenate):
            own = _concatenated(arriving)
        else:
            own = _prune_copies(call, arriving[0] if arriving else {})
        kept_at[Ref(call)] = {} if call.joined else own
    return build(graph_spec)


@dataclass(frozen=True)
class Reach:
    """The layers and tensors that the units added by one call of `widen_layer` reach.

    Attributes:
        scaled: Batch normalisations after them, with one scale and shift for each unit, in order.
        read: The tensors that other layers read, each with the unit of each of its channels.
    """

    scaled: tuple[keras.layers.BatchNormalization, ...]
    read: tuple[tuple[keras.KerasTensor, np.ndarray], ...]


def reach_of(graph_spec: GraphSpec, name: str, part: int) -> Reach:
    """Follows the units of a part of a widened layer to all layers that read them.

    Args:
        graph_spec: The graph spec of a model; the tensors are that model's.
        name: The layer's original name.
        part: The number of the call that widened it.
    """
    owners: dict[Ref, np.ndarray] = {}
    scaled: list[keras.layers.BatchNormalization] = []
    tensors: dict[int, tuple[keras.KerasTensor, np.ndarray]] = {}
    for call in graph_spec.calls:
        arriving = [owners[ref] for ref in call.inputs if ref in owners]
        if call.name == name:
            owners[Ref(call)] = np.arange(call.layer_specs[0, part].num_units)
        elif not arriving:
            continue
        elif call.mixes_units:
            for (reads, _), layer_spec in call.layer_specs.items():
                if reads == part:
                    tensor = layer_spec.operation.input
                    tensors[id(tensor)] = tensor, arriving[0]
        elif isinstance(call.operation, keras.layers.Concatenate):
            owners[Ref(call)] = np.concatenate(arriving)
        elif (part, part) in call.layer_specs:
            owners[Ref(call)] = _owners_after(call, arriving[0])
            layer = call.layer_specs[part, part].operation
            is_in_order = np.array_equal(arriving[0], np.arange(len(arriving[0])))
            if isinstance(layer, keras.layers.BatchNormalization) and is_in_order:
                scaled.append(layer)
    return Reach(tuple(scaled), tuple(tensors.values()))


def _owners_after(call: Call, owners: np.ndarray) -> np.ndarray:
    if is_depthwise(call.operation):
        return np.repeat(owners, call.operation.depth_multiplier)
    if isinstance(call.operation, keras.layers.Flatten):
        return np.tile(owners, num_positions(call))
    return owners


def _check(graph_spec: GraphSpec, kept: Mapping[tuple[str, int], Sequence[int]]) -> None:
    by_name = {call.name: call for call in graph_spec.calls if call.mixes_units}
    for (name, part), rows in kept.items():
        call = by_name.get(name)
        is_added = call is not None and part in call.parts and part > 0
        if call is None or not is_added or call.joined:
            added = {(c.name, n) for c in by_name.values() if not c.joined for n in c.parts if n}
            raise ArgumentError(
                "`kept` must name layers that widen_layer has added, by their original name and "
                f"the number of the call. Received: {(name, part)!r}."
                f"{did_you_mean(name, by_name) if call is None else ''} "
                f"Added layers: {sorted(added) or 'none'}."
            )
        number = call.layer_specs[0, part].num_units
        if len(set(rows)) < len(rows) or not all(0 <= row < number for row in rows):
            raise ArgumentError(
                f"`kept` must have distinct positions from 0 to {number - 1} for {(name, part)!r}. "
                f"Received: {list(rows)!r}. Give the units to keep."
            )


def _prune_mixing(
    call: Call, arriving: Kept, kept: Mapping[tuple[str, int], Sequence[int]]
) -> Kept:
    """Prunes the kernels of a layer that mixes units; returns its kept units."""
    own: Kept = {}
    for part in call.parts:
        number = call.layer_specs[0, part].num_units
        if part:
            rows = sorted(kept.get((call.name, part), range(number)))
            own[part] = np.array(rows, np.int64), number
    layer_specs = {}
    for (reads, part), layer_spec in call.layer_specs.items():
        columns = own[part][0] if part in own else np.arange(layer_spec.num_units)
        rows_read, num_read = arriving[reads] if reads else (None, 0)
        if not len(columns) or (rows_read is not None and not len(rows_read)):
            continue
        if len(columns) == layer_spec.num_units and (
            rows_read is None or len(rows_read) == num_read
        ):
            # the same spec, because all calls of a shared layer have the same one
            layer_specs[reads, part] = layer_spec
            continue
        kernel, *bias = (keras.ops.convert_to_numpy(v) for v in layer_spec.operation.weights)
        if rows_read is not None:
            kernel = np.take(kernel, rows_read, axis=-2)
        weights = (np.take(kernel, columns, axis=-1), *(b[columns] for b in bias))
        changes = {**layer_spec.changes, units_argument(layer_spec.operation): len(columns)}
        layer_specs[reads, part] = LayerSpec(layer_spec.operation, changes, weights)
    call.layer_specs = layer_specs
    return own


def _concatenated(arriving: Sequence[Kept]) -> Kept:
    """Returns the kept channels of a concatenation."""
    joined: Kept = {}
    for parts in arriving:
        for part, (rows, number) in parts.items():
            before, start = joined.get(part, (np.empty(0, np.int64), 0))
            joined[part] = np.concatenate([before, start + rows]), start + number
    return joined


def _prune_copies(call: Call, arriving: Kept) -> Kept:
    """Prunes the copies of a layer that does not mix units; returns its kept channels."""
    own: Kept = {}
    for part, (rows, number) in arriving.items():
        if (part, part) not in call.layer_specs:
            continue
        layer_spec = call.layer_specs[part, part]
        own[part] = _channels(call, rows, number)
        if not len(rows):
            del call.layer_specs[part, part]
            continue
        call.layer_specs[part, part] = _prune_copy(layer_spec, rows, own[part][0])
    return own


def _channels(call: Call, rows: np.ndarray, number: int) -> tuple[np.ndarray, int]:
    """Returns the positions of kept channels in the call's output, and their former number."""
    if is_depthwise(call.operation):
        times = call.operation.depth_multiplier
        return (rows[:, np.newaxis] * times + np.arange(times)).ravel(), number * times
    if isinstance(call.operation, keras.layers.Flatten):
        positions = num_positions(call)
        return (np.arange(positions)[:, np.newaxis] * number + rows).ravel(), positions * number
    return rows, number


def _prune_copy(layer_spec: LayerSpec, rows: np.ndarray, channels: np.ndarray) -> LayerSpec:
    operation = layer_spec.operation
    changes: dict[str, object] = dict(layer_spec.changes)
    if isinstance(operation, keras.layers.Reshape):
        changes["target_shape"] = (*operation.target_shape[:-1], len(rows))
    weights = []
    for variable in getattr(operation, "weights", ()):
        value = keras.ops.convert_to_numpy(variable)
        is_kernel = is_depthwise(operation) and value.ndim > 1  # (..., channels, multiplier)
        weights.append(
            np.take(value, rows, axis=-2) if is_kernel else np.take(value, channels, axis=-1)
        )
    return LayerSpec(operation, changes, tuple(weights) or None)
