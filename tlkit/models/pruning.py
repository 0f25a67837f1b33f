"""Units that were added, taken away again: what is left computes what it did without them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.errors import ArgumentError, did_you_mean
from tlkit.models.initial_weights import is_depthwise
from tlkit.models.layer_spec import Call, GraphSpec, LayerSpec, Ref, read, units_argument
from tlkit.models.rebuild import build
from tlkit.models.routing import num_positions

Kept = dict[int, tuple[np.ndarray, int]]
"""From a part to the channels that stay, and to how many there were; parts from the start stay."""


def keep_units(model: keras.Model, kept: Mapping[tuple[str, int], Sequence[int]]) -> keras.Model:
    """Returns a copy of a grown model in which added layers have only some of their units.

    Weights of units that stay are those of the model. Where the units that go were read with
    zeros only, outputs stay the same within float error.

    Args:
        model: A model that has grown.
        kept: From the first name of a widened layer and the number of the call that widened it
            (`LAYER__grownN` is the layer of call N) to the positions of the units that stay. With
            none the layer goes, and with it all that only it was read by.

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
    graph_spec = read(model)
    _check(graph_spec, kept)
    found: dict[Ref, Kept] = {}
    for call in graph_spec.calls:
        arriving = [found.get(ref, {}) for ref in call.inputs]
        if call.mixes_units:
            own = _mix(call, arriving[0], kept)
        elif isinstance(call.operation, keras.layers.Concatenate):
            own = _side_by_side(arriving)
        else:
            own = _pass_on(call, arriving[0] if arriving else {})
        found[Ref(call)] = {} if call.joined else own
    return build(graph_spec)


@dataclass(frozen=True)
class Reach:
    """Where the units go that one call of `widen_layer` added.

    Attributes:
        scaled: Batch normalisation on their way, one scale and one shift for each unit, in order.
        read: What other layers read of them: a tensor, and whose unit each of its channels is.
    """

    scaled: tuple[keras.layers.BatchNormalization, ...]
    read: tuple[tuple[keras.KerasTensor, np.ndarray], ...]


def reach_of(graph_spec: GraphSpec, name: str, part: int) -> Reach:
    """Follows the units of a part of a widened layer to all that read them.

    Args:
        graph_spec: What `read` made of a model; the tensors are that model's.
        name: The layer's first name.
        part: The number of the call that widened it.
    """
    owners: dict[Ref, np.ndarray] = {}
    scaled: list[keras.layers.BatchNormalization] = []
    found: dict[int, tuple[keras.KerasTensor, np.ndarray]] = {}
    for call in graph_spec.calls:
        arriving = [owners[ref] for ref in call.inputs if ref in owners]
        if call.name == name:
            owners[Ref(call)] = np.arange(call.layer_specs[0, part].num_units)
        elif not arriving:
            continue
        elif call.mixes_units:
            for (reads, _), layer_spec in call.layer_specs.items():
                if reads == part:
                    found[id(layer_spec.operation.input)] = layer_spec.operation.input, arriving[0]
        elif isinstance(call.operation, keras.layers.Concatenate):
            owners[Ref(call)] = np.concatenate(arriving)
        elif (part, part) in call.layer_specs:
            owners[Ref(call)] = _owners_behind(call, arriving[0])
            layer = call.layer_specs[part, part].operation
            is_in_order = np.array_equal(arriving[0], np.arange(len(arriving[0])))
            if isinstance(layer, keras.layers.BatchNormalization) and is_in_order:
                scaled.append(layer)
    return Reach(tuple(scaled), tuple(found.values()))


def _owners_behind(call: Call, owners: np.ndarray) -> np.ndarray:
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
                "`kept` must name layers that widen_layer has added, by their first name and the "
                f"number of the call. Received: {(name, part)!r}."
                f"{did_you_mean(name, by_name) if call is None else ''} "
                f"Added: {sorted(added) or 'none'}."
            )
        number = call.layer_specs[0, part].num_units
        if len(set(rows)) < len(rows) or not all(0 <= row < number for row in rows):
            raise ArgumentError(
                f"`kept` must hold positions from 0 to {number - 1} for {(name, part)!r}, each "
                f"once. Received: {list(rows)!r}."
            )


def _mix(call: Call, arriving: Kept, kept: Mapping[tuple[str, int], Sequence[int]]) -> Kept:
    """Cuts the kernels of a layer that mixes units; returns what stays of its own units."""
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
            layer_specs[reads, part] = (
                layer_spec  # itself: all calls of a shared layer have the same one
            )
            continue
        kernel, *bias = (keras.ops.convert_to_numpy(v) for v in layer_spec.operation.weights)
        if rows_read is not None:
            kernel = np.take(kernel, rows_read, axis=-2)
        weights = (np.take(kernel, columns, axis=-1), *(b[columns] for b in bias))
        changes = {**layer_spec.changes, units_argument(layer_spec.operation): len(columns)}
        layer_specs[reads, part] = LayerSpec(layer_spec.operation, changes, weights)
    call.layer_specs = layer_specs
    return own


def _side_by_side(arriving: Sequence[Kept]) -> Kept:
    """Returns what stays of concatenated channels."""
    joined: Kept = {}
    for parts in arriving:
        for part, (rows, number) in parts.items():
            before, start = joined.get(part, (np.empty(0, np.int64), 0))
            joined[part] = np.concatenate([before, start + rows]), start + number
    return joined


def _pass_on(call: Call, arriving: Kept) -> Kept:
    """Cuts the copies of a layer that mixes no units; returns what stays of its channels."""
    own: Kept = {}
    for part, (rows, number) in arriving.items():
        if (part, part) not in call.layer_specs:
            continue
        layer_spec = call.layer_specs[part, part]
        own[part] = _channels(call, rows, number)
        if not len(rows):
            del call.layer_specs[part, part]
            continue
        call.layer_specs[part, part] = _cut(layer_spec, rows, own[part][0])
    return own


def _channels(call: Call, rows: np.ndarray, number: int) -> tuple[np.ndarray, int]:
    """Where channels that stay are in the call's output, and how many it had."""
    if is_depthwise(call.operation):
        times = call.operation.depth_multiplier
        return (rows[:, np.newaxis] * times + np.arange(times)).ravel(), number * times
    if isinstance(call.operation, keras.layers.Flatten):
        positions = num_positions(call)
        return (np.arange(positions)[:, np.newaxis] * number + rows).ravel(), positions * number
    return rows, number


def _cut(layer_spec: LayerSpec, rows: np.ndarray, channels: np.ndarray) -> LayerSpec:
    operation = layer_spec.operation
    changes: dict[str, Any] = dict(layer_spec.changes)
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
