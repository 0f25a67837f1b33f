"""Widening a layer: more units, and more channels for the layers between it and its readers."""

from typing import Any

import keras
import numpy as np

from tlkit.errors import ArgumentError, check_count, did_you_mean
from tlkit.models.grown_names import parse_name
from tlkit.models.initial_weights import (
    averaged_norm,
    is_depthwise,
    keep_initial_weights,
    norm_matched,
    zero_reader,
)
from tlkit.models.layer_spec import (
    CONVOLUTIONS,
    SEPARABLE,
    Call,
    Fill,
    GraphSpec,
    LayerSpec,
    units_argument,
)
from tlkit.models.routing import Route, UnitsStopError, find_route
from tlkit.models.separable import split_separable


def find_layer(graph_spec: GraphSpec, name: str) -> Call:
    """Returns the call of the layer to widen.

    Raises:
        ArgumentError: There is no such layer, or layers of its kind cannot be widened.
    """
    by_name = {call.name: call for call in graph_spec.calls}
    if name not in by_name:
        base = parse_name(name, by_name).base if isinstance(name, str) else None
        grown = f" Name the layer that it extends: {base!r}." if base in by_name else ""
        raise ArgumentError(
            "`name` must be the name of a layer of the model. "
            f"Received: name={name!r}.{grown or did_you_mean(name, by_name)} "
            f"{_widenable_text(graph_spec)}"
        )
    call = by_name[name]
    if reason := _never_widened(call):
        raise refusal(graph_spec, name, reason)
    return call


def check_total(call: Call, num_units: int) -> int:
    """Returns the number of units to add for a total of `num_units`."""
    check_count("num_units", num_units)
    now = units_of(call)
    if num_units <= now:
        raise ArgumentError(
            f"`num_units` must be more than the {now} units that the layer {call.name!r} has. "
            f"Received: num_units={num_units}. Give the new total; units are never removed."
        )
    return num_units - now


def units_of(call: Call) -> int:
    """Returns the number of units of a layer, over all its parts."""
    if type(call.operation) in SEPARABLE:
        return int(call.operation.filters)
    return call.num_units


def widen(graph_spec: GraphSpec, call: Call, num_new: int, *, isolate: bool, random: Any) -> None:
    """Adds a part of `num_new` units to a layer, in place.

    Raises:
        ArgumentError: The layers between it and its readers do not support more units, or no layer
            may read them.
    """
    name = call.name
    route = _route_or_refusal(graph_spec, call, num_new)
    newest = graph_spec.newest_classes
    if isolate and not any(part >= newest > 0 for c in route.readers for part in c.parts):
        raise ArgumentError(
            f"`isolate` must be False if no new layer could read the units of {name!r}: no "
            "classes were added after it, or a layer between them has not been widened since. "
            "Received: isolate=True. Add the classes first (tlkit.add_classes), then widen layers "
            "from the output to the input."
        )
    separable = [c for c in (call, *route.readers) if type(c.operation) in SEPARABLE]
    for one in separable:
        if one is call or not isolate:  # in isolation a layer without new units reads no new units
            split_separable(graph_spec, one)
    part = graph_spec.next_part
    call.layer_specs[0, part] = _new_units(call, num_new, random)
    for earlier in graph_spec.parts_at(call.inputs[0])[1:]:
        call.layer_specs[earlier, part] = zero_reader(call.layer_specs[0, part])
    route = find_route(graph_spec, call, num_new)
    for passing, channels in route.passing:
        passing.layer_specs[part, part] = _copy_for_new_units(passing, channels, random)
    for other in route.readers:
        for own in other.parts:
            if not isolate or own >= newest:
                other.layer_specs[part, own] = zero_reader(other.layer_specs[0, own])


def widenable(graph_spec: GraphSpec) -> list[str]:
    """Returns the names of the layers that can be widened, input side first."""
    names = []
    for call in graph_spec.calls:
        if _never_widened(call) is None:
            try:
                find_route(graph_spec, call, 1)
            except UnitsStopError:
                continue
            names.append(call.name)
    return names


def refusal(graph_spec: GraphSpec, name: str, reason: str) -> ArgumentError:
    """Returns the error for a layer that cannot be widened, which lists those that can."""
    return ArgumentError(
        f"`name` must be a layer that can be widened. Received: name={name!r}: {reason}. "
        f"{_widenable_text(graph_spec)}"
    )


def _widenable_text(graph_spec: GraphSpec) -> str:
    names = widenable(graph_spec)
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"Layers that can be widened: {shown or 'none'}."


def _never_widened(call: Call) -> str | None:
    """Returns why layers of this kind cannot be widened, else `None`."""
    operation = call.operation
    if call.mixes_units or type(operation) in SEPARABLE:
        return None
    if isinstance(operation, CONVOLUTIONS) and operation.groups > 1:
        return f"it is a grouped convolution (groups={operation.groups}), whose groups would change"
    if is_depthwise(operation):
        return (
            "a depthwise convolution has as many channels as its input: widen the layer before it"
        )
    return (
        f"a {type(operation).__name__} has no units; only Dense, Conv1D to Conv3D, "
        "SeparableConv1D and SeparableConv2D have"
    )


def _route_or_refusal(graph_spec: GraphSpec, call: Call, num_new: int) -> Route:
    try:
        return find_route(graph_spec, call, num_new)
    except UnitsStopError as stop:
        raise refusal(graph_spec, call.name, str(stop)) from stop


def _new_units(call: Call, num_new: int, random: np.random.Generator) -> LayerSpec:
    changes = {units_argument(call.operation): num_new, "trainable": True}
    return LayerSpec(call.operation, changes, fill=norm_matched(call.operation, random))


def _copy_for_new_units(call: Call, channels: int, random: np.random.Generator) -> LayerSpec:
    operation = call.operation
    if not isinstance(operation, keras.layers.Layer):
        return LayerSpec(operation)
    changes: dict[str, object] = {}
    fill: Fill = keep_initial_weights
    if operation.weights:  # some layers without weights do not have the argument
        changes["trainable"] = True
    if isinstance(operation, keras.layers.BatchNormalization):
        fill = averaged_norm(operation)
    elif is_depthwise(operation):
        fill = norm_matched(operation, random)
    elif isinstance(operation, keras.layers.Reshape):
        changes["target_shape"] = (*operation.target_shape[:-1], channels)
    return LayerSpec(operation, changes, fill=fill)
