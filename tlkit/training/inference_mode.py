"""The calls of a model's operations that run in inference mode while the rest trains.

Stored activations are computed in inference mode, and a training that runs the whole graph must
compute the same: frozen layers apply no dropout, noise or stochastic depth. The mode is passed to
each call; no layer is changed, so a model saved later is unchanged.
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
from tlkit.training.folded_norms import folded_calls
from tlkit.utils.keras_private import run_graph

_AUGMENTING = ("AugMix", "CutMix", "MixUp", "RandAugment")


@dataclass(frozen=True)
class FrozenCalls:
    """The calls of a model's operations that run in inference mode.

    Attributes:
        calls: For each operation, by its id, how many of its calls, counted from the first in the
            order of the graph; an operation without weights may be called again above the cut.
    """

    calls: Mapping[int, float]

    def run(self, model: keras.Model, inputs: Any) -> Any:
        """Returns the outputs of the model's graph, all other calls being in training mode."""
        done: Counter[int] = Counter()
        folded = folded_calls(model, lambda operation: self.calls.get(id(operation)) == inf)
        dtype = keras.backend.standardize_dtype(model.inputs[0].dtype)
        if keras.backend.standardize_dtype(inputs.dtype) != dtype:  # Keras casts inputs likewise
            inputs = keras.ops.cast(inputs, dtype)

        def call_in_mode(operation: keras.Operation) -> Callable[..., Any]:
            if id(operation) in folded:
                return folded[id(operation)]
            done[id(operation)] += 1
            if done[id(operation)] <= self.calls.get(id(operation), 0):
                return _in_inference_mode(operation)
            return _in_mode(operation, training=True)

        return run_graph(model, inputs, call_in_mode)

    def above_cut(self) -> "FrozenCalls":
        """Returns the frozen calls of the part above the cut, which is run by itself."""
        return FrozenCalls({operation: n for operation, n in self.calls.items() if n == inf})


def find_frozen_calls(
    model: keras.Model, unfreeze: str | int, trainable: TrainableReport
) -> FrozenCalls:
    """Returns the calls that run in inference mode while a group and those after it train.

    These are all operations before the cut where the group begins, where activations would be
    stored, the layers of later groups that are frozen, and batch normalisation of which scales and
    offsets are trained only.

    Args:
        model: The whole model, its `trainable` flags set.
        unfreeze: The first trainable group.
        trainable: The report that `set_trainable` returned.
    """
    names = [group.name for group in layer_groups(model)]
    first = resolve_group(model, unfreeze)
    members = dict(zip(names, group_layers(model), strict=True))
    calls: dict[int, float] = {
        id(layer): inf for name in trainable.frozen_groups for layer in members[name]
    }
    for name in trainable.groups:  # layers called in both are counted below
        for layer in members[name]:
            calls.pop(id(layer), None)
    if trainable.batch_norm in ("affine", "offsets"):  # with the statistics of inference mode
        norms = (one for layers in members.values() for one in layers if _is_norm(one))
        calls |= {id(layer): inf for layer in norms}
    start, cut = model.inputs[0], cut_before(model, names[first])
    below = nodes_between(start, cut) or []
    above = {id(node.operation) for node in nodes_between(cut, flat(model).output) or []}
    numbers = Counter(id(node.operation) for node in below)
    for operation, number in numbers.items():
        if calls.get(operation) != inf or operation in above:
            calls[operation] = number
    return FrozenCalls(calls)


def find_frozen_calls_beside(
    model: keras.Model, layers: Collection[keras.layers.Layer]
) -> FrozenCalls:
    """Returns the calls that run in inference mode while only added layers train.

    These are all other layers before the head. Layers in the head, such as dropout before the
    outputs, run in training mode, as in `find_frozen_calls`.

    Args:
        model: The whole model.
        layers: The added layers, at any depth; a dropout layer among them stays active.
    """
    added = {id(one) for layer in layers for one in with_nested(layer)}
    segmentation = segment(model)
    head = len(segmentation.ends) - 1
    in_head = {id(operation) for operation in segmentation.operations(head)}
    below = segmentation.cuts[: segmentation.starts[head] + 1] if head else ()
    numbers = Counter(id(operation) for cut in below for operation in cut.between)
    return FrozenCalls(
        {
            operation: number if operation in in_head else inf
            for operation, number in numbers.items()
            if operation not in added
        }
    )


def _is_norm(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def is_augmenting(layer: keras.layers.Layer) -> bool:
    """Whether a layer augments images, which it does in training mode only."""
    name = type(layer).__name__
    return name.startswith("Random") or name in _AUGMENTING


def _in_inference_mode(operation: keras.Operation) -> Callable[..., Any]:
    """Returns the operation in inference mode, except for augmenting layers in it."""
    if not any(map(is_augmenting, with_nested(operation))):
        return _in_mode(operation, training=False)
    if isinstance(operation, keras.Model) and operation.inputs:
        graph = keras.Model(operation.inputs, operation.outputs[0])
        return lambda inputs, **_: run_graph(graph, inputs, _in_inference_mode)
    return _in_mode(operation, training=True)


def _in_mode(operation: keras.Operation, *, training: bool) -> Callable[..., Any]:
    if not isinstance(operation, keras.layers.Layer):
        return operation
    return lambda *inputs, **given: operation(*inputs, **{**given, "training": training})
