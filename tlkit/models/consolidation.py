"""All parts of a network in plain, wider layers.

A layout says, for each channel of a consolidated tensor, which part it comes from, and which
channel of that part's tensor it is.
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

    Channels stand in the order of the parts at every layer that mixes units; a part that another
    does not read becomes zeros in the wider kernel.
    """
    layouts: dict[Ref, Layout] = {}  # of the outputs that have several parts
    for call in graph_spec.calls:
        arriving = [layouts[ref] for ref in call.inputs if ref in layouts]
        layout: Layout | None = None
        if call.mixes_units and (arriving or len(call.layer_specs) > 1):
            layout = _mix(call, arriving[0] if arriving else None)
        elif arriving and isinstance(call.operation, keras.layers.Concatenate):
            layout = _side_by_side(call, layouts)
        elif arriving:
            _check_passes(call)
            layout = _widen_copy(call, arriving[0])
        if call.joined:
            _name_as_softmax(call)
            call.joined, layout = (), None
        if layout is not None and layout[:, 0].any():
            layouts[Ref(call)] = layout


def _mix(call: Call, arriving: Layout | None) -> Layout:
    """Puts all parts of a layer that mixes units into one kernel; returns its units' layout."""
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
    """Raises `ArgumentError` where one layer for all parts would compute what copies do not."""
    if not passes(call):
        raise ArgumentError(
            "`model` must have grown through layers that act on each channel by itself. Received: "
            f"a model that has grown through {call.name!r} of class "
            f"{type(call.operation).__name__}, which tlkit does not know to do so. Keep the grown "
            "model as it is: it trains, saves and loads like any other."
        )


def _widen_copy(call: Call, arriving: Layout) -> Layout:
    """Puts the copies of a layer that mixes no units into one; returns its channels' layout."""
    operation = call.operation
    changes: dict[str, Any] = {}
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
    """Puts the parts' arrays into one, whose axis is ordered as the layout says."""
    starts, start = {}, 0
    for part, array in arrays.items():
        starts[part] = start
        start += array.shape[axis]
    order = [starts[part] + index for part, index in layout.tolist()]
    return np.take(np.concatenate(list(arrays.values()), axis), order, axis)


def _side_by_side(call: Call, layouts: dict[Ref, Layout]) -> Layout:
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
    """Channels of which each gives `times` channels, side by side."""
    repeated = np.repeat(layout, times, axis=0)
    repeated[:, 1] = repeated[:, 1] * times + np.tile(np.arange(times), len(layout))
    return repeated


def _flattened(layout: Layout, positions: int) -> Layout:
    """Channels at one position after the other."""
    numbers = {part: int((layout[:, 0] == part).sum()) for part in np.unique(layout[:, 0])}
    steps = np.array([numbers[part] for part in layout[:, 0]])
    flat = np.tile(layout, (positions, 1))
    flat[:, 1] += np.repeat(np.arange(positions), len(layout)) * np.tile(steps, positions)
    return flat


def _name_as_softmax(call: Call) -> None:
    """A head with one logit has become one with several, and is called as `head_kind` reads it."""
    if call.name == OUTPUT_NAMES["binary"]:
        call.layer_specs = {(0, 0): call.layer_spec.changed(name=OUTPUT_NAMES["softmax"])}


def _array(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)
