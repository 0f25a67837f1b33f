"""The cuts of a functional model: the tensors that every path from input to output crosses."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import keras
import tensorflow as tf

from tlkit.models.flattening import Route, flat, submodel
from tlkit.models.graph import parameters, sorted_nodes
from tlkit.models.grown_names import grown_name_of

NOMINAL_SIZE = 256  # replaces sizes that are not fixed, as only ratios matter


@dataclass(frozen=True)
class Cut:
    """A tensor that every path from the input to the output crosses.

    In a grown network it may be a cut of the plain network only: added layers then run in parallel,
    with their own tensors.

    Attributes:
        tensor: The tensor; that of the original layers if added layers run in parallel.
        operation: The original operation that computes it.
        between: The operations since the previous cut, including added ones.
        shape: The tensor's shape without the batch; sizes that are not fixed are those for a
            256-pixel input.
        is_whole: Whether no other tensor runs in parallel.
    """

    tensor: keras.KerasTensor
    operation: keras.Operation
    between: tuple[keras.Operation, ...]
    shape: tuple[int, ...]
    is_whole: bool = True

    @property
    def is_spatial(self) -> bool:
        """Whether there are positions (rows, columns, time steps) in addition to channels."""
        return len(self.shape) >= 2

    @property
    def num_positions(self) -> int:
        """The number of positions for each image; 1 without positions."""
        return prod(self.shape[:-1])

    @property
    def num_values(self) -> int:
        """The number of values for each image."""
        return prod(self.shape)

    @property
    def parameters(self) -> list[Any]:
        """The variables since the previous cut that can be trainable, frozen or not."""
        return [variable for operation in self.between for variable in parameters(operation)]


def find_cuts(model: keras.Model) -> list[Cut]:
    """Returns the cuts of a functional model, from its input to its output, both included.

    Calls are visited in topological order; whenever exactly one output is open (computed, and still
    to be read), every path crosses it. The graphs of nested models are included: the tensors are
    those of `tlkit.models.flattening.flat`. An added layer counts as part of the call that it
    extends, so that a grown network has the cuts of the plain one.

    Raises:
        ArgumentError: See `model_ends`.
    """
    graph = flat(model)
    output = graph.output
    calls = _plain_calls(sorted_nodes(output), graph.routes)
    outputs = {
        id(tensor): (index, position)
        for index, call in enumerate(calls)
        for node in call
        for position, tensor in enumerate(node.output_tensors)
    }
    crossing: dict[_Output, dict[int, keras.KerasTensor]] = {
        outputs[id(output)]: {id(output): output}
    }
    reads: list[set[_Output]] = []
    for index, call in enumerate(calls):
        tensors = [tensor for node in call for tensor in node.input_tensors]
        tensors = [tensor for tensor in tensors if outputs[id(tensor)][0] != index]
        reads.append({outputs[id(tensor)] for tensor in tensors})
        for tensor in tensors:
            crossing.setdefault(outputs[id(tensor)], {})[id(tensor)] = tensor
    readers = Counter(read for call in reads for read in call)
    readers[outputs[id(output)]] += 1
    cuts: list[tuple[_Output, tuple[keras.Operation, ...]]] = []
    open_outputs: set[_Output] = set()
    between: list[keras.Operation] = []
    for index, call in enumerate(calls):
        between.extend(node.operation for node in call)
        for read in reads[index]:
            readers[read] -= 1
            if not readers[read]:
                open_outputs.remove(read)
        computed = {(index, position) for position in range(len(call[0].output_tensors))}
        open_outputs |= {one for one in computed if readers[one]}
        if len(open_outputs) == 1:
            cuts.append((next(iter(open_outputs)), tuple(between)))
            between = []
    tensors = [
        next(iter(crossing[index, position].values()))
        if len(crossing[index, position]) == 1
        else calls[index][0].output_tensors[position]
        for (index, position), _ in cuts
    ]
    return [
        Cut(tensor, calls[cut[0]][0].operation, operations, shape, len(crossing[cut]) == 1)
        for tensor, (cut, operations), shape in zip(
            tensors, cuts, _sizes(graph.input, tensors), strict=True
        )
    ]


_Output = tuple[int, int]
"""The index of the call that computes it, and its position among that call's outputs."""


def _plain_calls(nodes: list[Any], routes: Mapping[int, Route]) -> list[list[Any]]:
    """Groups added nodes with the node of the plain network that they extend."""
    names: dict[Route, set[str]] = {}
    for node in nodes:
        names.setdefault(routes[id(node.operation)], set()).add(node.operation.name)
    by_name: dict[tuple[Route, str], list[Any]] = {}
    calls, added_nodes = [], []
    for node in nodes:
        route = routes[id(node.operation)]
        name = grown_name_of(node.operation, names[route])
        if name.is_plain:
            calls.append([node])
            by_name[route, node.operation.name] = calls[-1]
        else:
            added_nodes.append(((route, name.base), node))
    for base, node in added_nodes:
        if base not in by_name:  # a name that only looks like one of tlkit's
            return [[one] for one in nodes]
        by_name[base].append(node)
    position = {
        id(tensor): index
        for index, call in enumerate(calls)
        for node in call
        for tensor in node.output_tensors
    }
    are_in_order = all(
        position[id(tensor)] <= index
        for index, call in enumerate(calls)
        for node in call
        for tensor in node.input_tensors
    )
    return calls if are_in_order else [[one] for one in nodes]


def _sizes(
    model_input: keras.KerasTensor, tensors: list[keras.KerasTensor]
) -> list[tuple[int, ...]]:
    shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
    if any(None in shape for shape in shapes):
        nominal = (1, *(size or NOMINAL_SIZE for size in model_input.shape[1:]))
        measured = submodel(model_input, tensors)
        shapes = [tuple(shape[1:]) for shape in measured.compute_output_shape(nominal)]
        if any(None in shape for shape in shapes):  # a layer does not report a size that is fixed
            images = tf.TensorSpec(nominal, model_input.dtype)
            run = tf.function(lambda x: measured(x, training=False), autograph=False)
            traced = run.get_concrete_function(images).structured_outputs
            shapes = [tuple(spec.shape[1:]) for spec in traced]
    return [tuple(size or NOMINAL_SIZE for size in shape) for shape in shapes]
