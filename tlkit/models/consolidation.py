"""Consolidation: merging all parts of a grown network into plain, wider layers.

A layout gives, for each channel of a consolidated tensor, the part that it comes from, and its
channel in that part's tensor.
"""

from typing import Any

import keras
import numpy as np

from tlkit.errors import ArgumentError
from tlkit.models.heads import OUTPUT_NAMES
from tlkit.models.initial_weights import is_depthwise
from tlkit.models.layer_spec import Call, GraphSpec, LayerSpec, Ref, units_argument
from tlkit.models.routing import num_positions, passes

Layout = np.ndarray  # (channels, 2): part, and channel within the part


def consolidate_graph_spec(graph_spec: GraphSpec) -> None:
    """Turns every call into one of a single part, in place.

    The channels of a layer that mixes units are in the order of the parts; the weights from a part
    that another part does not read are zeros in the wider kernel.
    """
    layouts: dict[Ref, Layout] = {}  # of the outputs with several parts
    for call in graph_spec.calls:
        arriving = [layouts[ref] for ref in call.inputs if ref in layouts]
        layout: Layout | None = None
        if call.mixes_units and (arriving or len(call.layer_specs) > 1):
            layout = _mix(call, arriving[0] if arriving else None)
        elif arriving and isinstance(call.operation, keras.layers.Concatenate):
            layout = _concatenate(call, layouts)
        elif arriving:
            _check_passes(call)
            layout = _widen_copy(call, arriving[0])
        if call.joined:
            _name_as_softmax(call)
            call.joined, layout = (), None
        if layout is not None and layout[:, 0].any():
            layouts[Ref(call)] = layout


def _mix(call: Call, arriving: Layout | None) -> Layout:
    """Merges all parts of a layer that mixes units into one kernel; returns its units' layout."""
    parts = list(call.joined or call.parts)
    layout = _in_order(parts, [call.layer_specs[0, part].num_units for part in parts])
    kernels = {
        key: _array(layer_spec.operation.kernel) for key, layer_spec in call.layer_specs.items()
    }
    plain = kernels[0, 0]
    if arriving is None:
        arriving = _in_order([0], [plain.shape[-2]])
    kernel = np.zeros((*plain.shape[:-2], len(arriving), len(layout)), plain.dtype)
    for (read, own), block in kernels.items():
        rows, columns = arriving[:, 0] == read, layout[:, 0] == own
        kernel[(..., *np.ix_(rows, columns))] = block[..., arriving[rows, 1], :]
    weights = [kernel]
    if call.operation.use_bias:
        biases = [_array(call.layer_specs[0, part].operation.bias) for part in parts]
        weights.append(np.concatenate(biases))
    changes = {units_argument(call.operation): len(layout), "activation": call.activation}
    call.layer_specs = {(0, 0): LayerSpec(call.operation, changes, tuple(weights))}
    return layout


def _check_passes(call: Call) -> None:
    """Raises `ArgumentError` if one layer for all parts would differ from one per part."""
    if not passes(call):
        raise ArgumentError(
            "`model` must have grown only through layers that act on each channel separately. "
            f"Received: a model with added units before {call.name!r} of class "
            f"{type(call.operation).__name__}, for which tlkit does not know this. Use the grown "
            "model without consolidating it: it trains, saves and loads like any other."
        )


def _widen_copy(call: Call, arriving: Layout) -> Layout:
    """Merges the copies of a layer that does not mix units into one; returns its layout."""
    operation = call.operation
    changes: dict[str, object] = {}
    layout = arriving
    if is_depthwise(operation):
        layout = _repeated(arriving, operation.depth_multiplier)
    elif isinstance(operation, keras.layers.Flatten):
        layout = _flattened(arriving, num_positions(call))
    elif isinstance(operation, keras.layers.Reshape):
        changes["target_shape"] = (*operation.target_shape[:-1], len(arriving))
    by_part = {
        own: layer_spec.operation for (_, own), layer_spec in sorted(call.layer_specs.items())
    }
    weights = []
    for position, plain in enumerate(getattr(operation, "weights", ())):
        is_kernel = is_depthwise(operation) and len(plain.shape) > 1  # (..., channels, multiplier)
        arrays = {own: _array(layer.weights[position]) for own, layer in by_part.items()}
        if is_kernel:
            weights.append(_gather(arrays, arriving, axis=-2))
        else:
            weights.append(_gather(arrays, layout, axis=-1))
    call.layer_specs = {(0, 0): LayerSpec(operation, changes, tuple(weights) or None)}
    return layout


def _gather(arrays: dict[int, np.ndarray], layout: Layout, axis: int) -> np.ndarray:
    """Concatenates the parts' arrays along an axis, in the order of the layout."""
    starts, start = {}, 0
    for part, array in arrays.items():
        starts[part] = start
        start += array.shape[axis]
    order = [starts[part] + index for part, index in layout.tolist()]
    return np.take(np.concatenate(list(arrays.values()), axis), order, axis)


def _concatenate(call: Call, layouts: dict[Ref, Layout]) -> Layout:
    """Returns the layout of concatenated tensors."""
    offsets: dict[int, int] = {}
    rows = []
    for ref in call.inputs:
        layout = layouts.get(ref)
        if layout is None:
            layout = _in_order([0], [int(ref.shape[-1] or 0)])
        shifted = layout.copy()
        for part in np.unique(layout[:, 0]):
            here = layout[:, 0] == part
            shifted[here, 1] += offsets.get(part, 0)
            offsets[part] = offsets.get(part, 0) + int(here.sum())
        rows.append(shifted)
    return np.concatenate(rows)


def _in_order(parts: list[int], numbers: list[int]) -> Layout:
    pairs = [(part, i) for part, n in zip(parts, numbers, strict=True) for i in range(n)]
    return np.array(pairs, dtype=np.int64)


def _repeated(layout: Layout, times: int) -> Layout:
    """Returns the layout after each channel is expanded to `times` adjacent channels."""
    repeated = np.repeat(layout, times, axis=0)
    repeated[:, 1] = repeated[:, 1] * times + np.tile(np.arange(times), len(layout))
    return repeated


def _flattened(layout: Layout, positions: int) -> Layout:
    """Returns the layout after flattening, with all channels of each position in turn."""
    numbers = {part: int((layout[:, 0] == part).sum()) for part in np.unique(layout[:, 0])}
    steps = np.array([numbers[part] for part in layout[:, 0]])
    flat = np.tile(layout, (positions, 1))
    flat[:, 1] += np.repeat(np.arange(positions), len(layout)) * np.tile(steps, positions)
    return flat


def _name_as_softmax(call: Call) -> None:
    """Renames a binary head that has become a softmax head, as `head_kind` requires."""
    if call.name == OUTPUT_NAMES["binary"]:
        call.layer_specs = {(0, 0): call.layer_spec.changed(name=OUTPUT_NAMES["softmax"])}


def _array(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)
