"""The graph of a functional model: its nodes in order, and the cuts between them.

This module alone reads Keras's node structure (`_keras_history`, `_inbound_nodes`) and the
variables that a layer would train were it not frozen (`_trainable_variables`); Keras has no
public access to either.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import keras
import tensorflow as tf

from tlkit.errors import ArgumentError
from tlkit.models.grown_names import grown_name_of

NOMINAL_SIZE = 256  # stands in for sizes a model leaves open, where only ratios matter


@dataclass(frozen=True)
class Cut:
    """A tensor that every path from the input to the output crosses.

    In a network that has grown it may be one in the plain network only: what was added then runs
    beside it, in tensors of its own.

    Attributes:
        tensor: The tensor; that of the layers of the start where others run beside it.
        operation: What computes it, a layer of the start.
        between: The operations since the cut before, what was added beside them included.
        shape: The tensor's shape without the batch; open sizes as for a 256-pixel input.
        is_whole: Whether no other tensor runs beside it.
    """

    tensor: keras.KerasTensor
    operation: keras.Operation
    between: tuple[keras.Operation, ...]
    shape: tuple[int, ...]
    is_whole: bool = True

    @property
    def is_spatial(self) -> bool:
        """Whether there are positions (rows, columns, time steps) beside the channels."""
        return len(self.shape) >= 2

    @property
    def num_positions(self) -> int:
        """Number of positions for each image; 1 without any."""
        return prod(self.shape[:-1])

    @property
    def num_values(self) -> int:
        """Number of values for each image."""
        return prod(self.shape)

    @property
    def parameters(self) -> list[Any]:
        """The variables, frozen or not, that could train since the cut before."""
        return [variable for operation in self.between for variable in parameters(operation)]


def check_model(argument: str, model: object) -> None:
    """Raises `ArgumentError` unless it is a Keras model that has its weights."""
    if not isinstance(model, keras.Model):
        raise ArgumentError(
            f"`{argument}` must be a keras.Model. Received: {argument} of type "
            f"{type(model).__name__}. Load one with keras.saving.load_model(path), say."
        )
    if not model.built:
        raise ArgumentError(
            f"`{argument}` must be built. Received: {argument}={model.name!r}, which has no "
            "weights yet. Call it on a batch first."
        )


def model_ends(model: keras.Model) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns the input and the output tensor of a functional model that has one of each.

    Raises:
        ArgumentError: The model is not functional or not built, or has several inputs or outputs.
    """
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ArgumentError(
            "`model` must be a functional model, or a Sequential one that is built. Received: "
            f"model={type(model).__name__} {getattr(model, 'name', '')!r}. Build it with "
            "keras.Model(inputs, outputs), or begin the Sequential with keras.Input(shape)."
        )
    for kind, tensors in (("input", inputs), ("output", outputs)):
        if len(tensors) != 1:
            names = ", ".join(repr(tensor._keras_history.operation.name) for tensor in tensors)
            raise ArgumentError(
                f"`model` must have one {kind}. Received: model={model.name!r} with "
                f"{len(tensors)} {kind}s: {names}. Choose one: keras.Model(input, output)."
            )
    return inputs[0], outputs[0]


def sorted_nodes(output: keras.KerasTensor) -> list[Any]:
    """Returns the Keras nodes that `output` is computed from, each after those it reads.

    The order depends on the graph's structure alone, never on names. A node has the attributes
    `operation`, `arguments`, `input_tensors` and `output_tensors`.
    """
    nodes: list[Any] = []
    done: set[int] = set()
    stack = [(producing_node(output), False)]
    while stack:
        node, has_inputs_done = stack.pop()
        if id(node) in done:
            continue
        if has_inputs_done:
            done.add(id(node))
            nodes.append(node)
            continue
        stack.append((node, True))
        stack.extend((producing_node(tensor), False) for tensor in reversed(node.input_tensors))
    return nodes


def nodes_between(start: keras.KerasTensor, output: keras.KerasTensor) -> list[Any] | None:
    """Returns the nodes that compute `output` from `start`, each after those it reads.

    `None` where `output` depends on anything else too, as where a path leads past `start`.
    """
    nodes: list[Any] = []
    done: set[int] = set()
    stack = [(output, False)]
    while stack:
        tensor, has_inputs_done = stack.pop()
        if tensor is start:
            continue
        node = producing_node(tensor)
        if id(node) in done:
            continue
        if not node.input_tensors:
            return None
        if has_inputs_done:
            done.add(id(node))
            nodes.append(node)
            continue
        stack.append((tensor, True))
        stack.extend((one, False) for one in reversed(node.input_tensors))
    return nodes


def producing_node(tensor: keras.KerasTensor) -> Any:
    """Returns the Keras node that `tensor` is an output of."""
    operation, node_index, _ = tensor._keras_history
    return operation._inbound_nodes[node_index]


def find_cuts(model: keras.Model) -> list[Cut]:
    """Returns the cuts of a functional model, from its input to its output, both included.

    Calls are swept in topological order; wherever exactly one output is open (computed, and still
    to be read), every path crosses it. What was added beside a layer counts as part of its call,
    so that a network that has grown has the cuts of the plain one.

    Raises:
        ArgumentError: See `model_ends`.
    """
    model_input, output = model_ends(model)
    calls = _plain_calls(sorted_nodes(output))
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
    found: list[tuple[_Output, tuple[keras.Operation, ...]]] = []
    still_open: set[_Output] = set()
    between: list[keras.Operation] = []
    for index, call in enumerate(calls):
        between.extend(node.operation for node in call)
        for read in reads[index]:
            readers[read] -= 1
            if not readers[read]:
                still_open.remove(read)
        computed = {(index, position) for position in range(len(call[0].output_tensors))}
        still_open |= {one for one in computed if readers[one]}
        if len(still_open) == 1:
            found.append((next(iter(still_open)), tuple(between)))
            between = []
    tensors = [
        next(iter(crossing[index, position].values()))
        if len(crossing[index, position]) == 1
        else calls[index][0].output_tensors[position]
        for (index, position), _ in found
    ]
    return [
        Cut(tensor, calls[cut[0]][0].operation, operations, shape, len(crossing[cut]) == 1)
        for tensor, (cut, operations), shape in zip(
            tensors, found, _sizes(model_input, tensors), strict=True
        )
    ]


_Output = tuple[int, int]
"""Which call computes it, and the position among that call's outputs."""


def _plain_calls(nodes: list[Any]) -> list[list[Any]]:
    """Puts what was added together with the node of the plain network that it stands beside."""
    names = {node.operation.name for node in nodes}
    by_name: dict[str, list[Any]] = {}
    calls, beside = [], []
    for node in nodes:
        name = grown_name_of(node.operation, names)
        if name.is_plain:
            by_name[node.operation.name] = [node]
            calls.append(by_name[node.operation.name])
        else:
            beside.append((name.base, node))
    for base, node in beside:
        if base not in by_name:  # a name that only looks like one that tlkit gave
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


def parameters(operation: keras.Operation) -> list[Any]:
    """Returns the variables that `operation` trains when it is not frozen, nested ones included."""
    return [variable for layer in with_nested(operation) for variable in layer._trainable_variables]


def with_nested(operation: keras.Operation) -> list[keras.layers.Layer]:
    """Returns a layer and all layers inside it; nothing for an operation that is no layer."""
    if not isinstance(operation, keras.layers.Layer):
        return []
    return operation._flatten_layers()


def count_parameters(operations: Any) -> int:
    """Returns the number of values in all weights of the operations, each variable once."""
    weights = {
        id(weight): weight
        for operation in operations
        for weight in getattr(operation, "weights", ())
    }
    return sum(prod(weight.shape) for weight in weights.values())


def _sizes(
    model_input: keras.KerasTensor, tensors: list[keras.KerasTensor]
) -> list[tuple[int, ...]]:
    shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
    if any(None in shape for shape in shapes):
        nominal = (1, *(size or NOMINAL_SIZE for size in model_input.shape[1:]))
        measured = keras.Model(model_input, tensors)
        shapes = [tuple(shape[1:]) for shape in measured.compute_output_shape(nominal)]
        if any(None in shape for shape in shapes):  # by a layer that tells no more, though it knows
            images = tf.TensorSpec(nominal, model_input.dtype)
            run = tf.function(lambda x: measured(x, training=False), autograph=False)
            traced = run.get_concrete_function(images).structured_outputs
            shapes = [tuple(spec.shape[1:]) for spec in traced]
    return [tuple(size or NOMINAL_SIZE for size in shape) for shape in shapes]


def is_nested(node: Any) -> bool:
    """Whether the operation of a node is a model with nodes of its own."""
    return isinstance(node.operation, keras.Model) and bool(node.operation.outputs)


def inner_nodes(node: Any) -> Iterator[Any]:
    """The nodes inside a nested model, its input left out."""
    for output in node.operation.outputs:
        for found in sorted_nodes(output):
            if not isinstance(found.operation, keras.layers.InputLayer):
                yield found
