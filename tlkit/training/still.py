"""The frozen part of a model computes as in inference while the rest trains.

Stored activations are computed so, and a training that runs the whole graph must see the same: no
dropout, noise or stochastic depth in layers that do not train, whichever way is taken. It is the
calls that are told so; no layer is changed, and a model saved later is as it was.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import keras

from tlkit.models.boundaries import segment
from tlkit.models.flattening import flat
from tlkit.models.graph import nodes_between, with_nested
from tlkit.models.groups import (
    TrainableReport,
    cut_before,
    group_layers,
    layer_groups,
    resolve_group,
)
from tlkit.utils.keras_private import run_graph

_AUGMENTING = ("AugMix", "CutMix", "MixUp", "RandAugment")


@dataclass(frozen=True)
class StillPart:
    """Which calls of a model's operations compute as in inference.

    Attributes:
        calls: For each operation, by its identity, how many of its calls, the first ones in the
            order of the graph; an operation without weights may be called again further up.
    """

    calls: Mapping[int, float]

    def run(self, model: keras.Model, inputs: Any) -> Any:
        """Returns what the model's graph gives in training, these calls apart."""
        done: Counter[int] = Counter()
        dtype = keras.backend.standardize_dtype(model.inputs[0].dtype)
        if keras.backend.standardize_dtype(inputs.dtype) != dtype:  # as Keras does before a graph
            inputs = keras.ops.cast(inputs, dtype)

        def in_its_mode(operation: keras.Operation) -> Callable[..., Any]:
            done[id(operation)] += 1
            if done[id(operation)] <= self.calls.get(id(operation), 0):
                return _still(operation)
            return _in_mode(operation, training=True)

        return run_graph(model, inputs, in_its_mode)

    def above_cut(self) -> "StillPart":
        """Returns the same of the part above the cut, run by itself."""
        return StillPart({operation: n for operation, n in self.calls.items() if n == inf})


def still_part(model: keras.Model, unfreeze: str | int, trainable: TrainableReport) -> StillPart:
    """Returns what stays still where a group and those after it train.

    Everything before the cut where the group begins, as where activations are stored, and the
    layers of later groups of which nothing trains.

    Args:
        model: The whole model; what trains is set.
        unfreeze: The first group that trains.
        trainable: What `set_trainable` returned.
    """
    names = [group.name for group in layer_groups(model)]
    first = resolve_group(model, unfreeze)
    members = dict(zip(names, group_layers(model), strict=True))
    calls: dict[int, float] = {
        id(layer): inf for name in trainable.frozen_groups for layer in members[name]
    }
    for name in trainable.groups:  # what is called in both is counted below
        for layer in members[name]:
            calls.pop(id(layer), None)
    start, cut = model.inputs[0], cut_before(model, names[first])
    below = nodes_between(start, cut) or []
    above = {id(node.operation) for node in nodes_between(cut, flat(model).output) or []}
    numbers = Counter(id(node.operation) for node in below)
    for operation, number in numbers.items():
        if calls.get(operation) != inf or operation in above:
            calls[operation] = number
    return StillPart(calls)


def still_beside(model: keras.Model, layers: Collection[keras.layers.Layer]) -> StillPart:
    """Returns what stays still where layers that were added train, at whatever depth they stand.

    All other layers before the head. What stands in the head, such as dropout before the outputs,
    belongs to what trains there, as in `still_part`.

    Args:
        model: The whole model.
        layers: Those that were added, with what they bring: a dropout layer of new units drops.
    """
    added = {id(one) for layer in layers for one in with_nested(layer)}
    segmentation = segment(model)
    head = len(segmentation.ends) - 1
    in_head = {id(operation) for operation in segmentation.operations(head)}
    below = segmentation.cuts[: segmentation.starts[head] + 1] if head else ()
    numbers = Counter(id(operation) for cut in below for operation in cut.between)
    return StillPart(
        {
            operation: number if operation in in_head else inf
            for operation, number in numbers.items()
            if operation not in added
        }
    )


def is_augmenting(layer: keras.layers.Layer) -> bool:
    """Whether a layer augments images, which it does in training alone."""
    name = type(layer).__name__
    return name.startswith("Random") or name in _AUGMENTING


def _still(operation: keras.Operation) -> Callable[..., Any]:
    """Returns the operation in inference mode, but for what augments images in it."""
    if not any(map(is_augmenting, with_nested(operation))):
        return _in_mode(operation, training=False)
    if isinstance(operation, keras.Model) and operation.inputs:
        graph = keras.Model(operation.inputs, operation.outputs[0])
        return lambda inputs, **_: run_graph(graph, inputs, _still)
    return _in_mode(operation, training=True)


def _in_mode(operation: keras.Operation, *, training: bool) -> Callable[..., Any]:
    if not isinstance(operation, keras.layers.Layer):
        return operation
    return lambda *inputs, **given: operation(*inputs, **{**given, "training": training})
