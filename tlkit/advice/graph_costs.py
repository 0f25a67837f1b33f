"""Costs of a network counted from its graph: multiply-adds, activations and peak memory."""

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

import keras

from tlkit.errors import ArgumentError
from tlkit.models.boundaries import segment
from tlkit.models.flattening import flat
from tlkit.models.graph import (
    inner_nodes,
    is_nested,
    model_ends,
    sorted_nodes,
)
from tlkit.models.groups import layer_groups
from tlkit.models.multiply_adds import multiply_adds_of

FLOAT_BYTES = 4


@dataclass(frozen=True)
class GroupCost:
    """The cost of one group of layers for one image.

    Attributes:
        name: The name in `layer_groups(model)`.
        num_parameters: Number of values in its weights.
        multiply_adds: Number of multiply-adds in a forward pass.
        num_activations: Number of output values of its layers, which a training step keeps.
        num_inputs: Number of input values, which are stored per image if everything below is
            frozen.
    """

    name: str
    num_parameters: int
    multiply_adds: int
    num_activations: int
    num_inputs: int


def group_costs(model: keras.Model) -> tuple[GroupCost, ...]:
    """Returns the costs of each group of `layer_groups(model)`, input side first.

    Multiply-adds are counted as `tlkit.models.multiply_adds.count_multiply_adds` does.

    Raises:
        ArgumentError: The model cannot be divided into groups, or has an input of variable size.

    Example:
        >>> import keras
        >>> from tlkit.advice.graph_costs import group_costs
        >>> x = keras.Input((8, 8, 3))
        >>> y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 1)(x))
        >>> model = keras.Model(x, keras.layers.Dense(2)(y))
        >>> [(cost.name, cost.multiply_adds) for cost in group_costs(model)]
        [('group_1', 768), ('head', 8)]
    """
    _check_size(model)
    segmentation = segment(model)
    groups = layer_groups(model)
    group_of: dict[int, int] = {}
    for index in range(len(groups)):
        for operation in segmentation.operations(index):
            group_of.setdefault(id(operation), index)
    work, values = [0] * len(groups), [0] * len(groups)
    for node in _nodes(model):
        index = group_of[id(node.operation)]
        work[index] += multiply_adds_of(node)
        values[index] += _num_values(node)
    return tuple(
        GroupCost(
            name=group.name,
            num_parameters=group.num_parameters,
            multiply_adds=work[index],
            num_activations=values[index],
            num_inputs=segmentation.cuts[start].num_values,
        )
        for index, (group, start) in enumerate(zip(groups, segmentation.starts, strict=True))
    )


def peak_activations(model: keras.Model) -> int:
    """Returns the peak number of values in memory during one image's forward pass.

    Nodes run in topological order; a tensor is in memory from its computation until the last node
    that reads it has run. Temporary memory of operations is not counted.

    Raises:
        ArgumentError: The model is not functional, has several inputs or outputs, or an input of
            variable size.

    Example:
        >>> import keras
        >>> from tlkit.advice.graph_costs import peak_activations
        >>> x = keras.Input((10,))
        >>> y = keras.layers.Dense(40)(x)
        >>> peak_activations(keras.Model(x, keras.layers.Dense(5)(y)))
        50
    """
    _check_size(model)
    output = flat(model).output
    nodes = sorted_nodes(output)
    readers = Counter(
        key for node in nodes for key in {id(tensor) for tensor in node.input_tensors}
    )
    readers[id(output)] += 1
    in_memory: dict[int, int] = {}
    peak = 0
    for node in nodes:
        in_memory |= {id(tensor): _size(tensor) for tensor in node.output_tensors}
        peak = max(peak, sum(in_memory.values()))
        for key in {id(tensor) for tensor in node.input_tensors}:
            readers[key] -= 1
            if not readers[key]:
                in_memory.pop(key, None)
    return peak


def _check_size(model: keras.Model) -> None:
    shape = tuple(model_ends(model)[0].shape)
    if None in shape[1:]:
        raise ArgumentError(
            "`model` must take inputs of one size, on which its costs depend. Received: "
            f"model={model.name!r} with the input shape {shape}. Build it with a fixed "
            "`image_size`, such as 224."
        )


def _nodes(model: keras.Model) -> list[Any]:
    return sorted_nodes(flat(model).output)


def _num_values(node: Any) -> int:
    if is_nested(node):
        return sum(_num_values(inner) for inner in inner_nodes(node))
    return sum(_size(tensor) for tensor in node.output_tensors)


def _size(tensor: keras.KerasTensor) -> int:
    return prod(tensor.shape[1:])
