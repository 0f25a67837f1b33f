"""The graph of a functional model: its nodes in order, and their layers and parameters.

For nodes see `tlkit.utils.keras_private.node_of`.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

import keras

from tlkit.errors import ArgumentError
from tlkit.utils.keras_private import (
    node_of,
    operation_of,
    own_trainable_variables,
    with_inner_layers,
)

FIRST_OF_KERNEL, FIXED_LAYER = "head_normalization", "head_landmarks"
"""Names of the first layer of a closed-form head, and of its frozen projection, whose weights are
never trained."""


def check_model(argument: str, model: object) -> None:
    """Raises `ArgumentError` unless it is a built Keras model."""
    if not isinstance(model, keras.Model):
        raise ArgumentError(
            f"`{argument}` must be a keras.Model. Received: {argument} of type "
            f"{type(model).__name__}. Load one for example with keras.saving.load_model(path)."
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
            "keras.Model(inputs, outputs), or start the Sequential with keras.Input(shape)."
        )
    for kind, tensors in (("input", inputs), ("output", outputs)):
        if len(tensors) != 1:
            names = ", ".join(repr(operation_of(tensor).name) for tensor in tensors)
            raise ArgumentError(
                f"`model` must have one {kind}. Received: model={model.name!r} with "
                f"{len(tensors)} {kind}s: {names}. Choose one: keras.Model(input, output)."
            )
    return inputs[0], outputs[0]


def sorted_nodes(*outputs: keras.KerasTensor) -> list[Any]:
    """Returns the Keras nodes that the outputs are computed from, each after those it reads.

    The order depends only on the structure of the graph, not on names.
    """
    nodes: list[Any] = []
    done: set[int] = set()
    stack = [(node_of(output), False) for output in reversed(outputs)]
    while stack:
        node, has_inputs_done = stack.pop()
        if id(node) in done:
            continue
        if has_inputs_done:
            done.add(id(node))
            nodes.append(node)
            continue
        stack.append((node, True))
        stack.extend((node_of(tensor), False) for tensor in reversed(node.input_tensors))
    return nodes


def nodes_between(start: keras.KerasTensor, output: keras.KerasTensor) -> list[Any] | None:
    """Returns the nodes that compute `output` from `start`, each after those it reads.

    `None` if `output` depends on anything else too, for example if a path bypasses `start`.
    """
    nodes: list[Any] = []
    done: set[int] = set()
    stack = [(output, False)]
    while stack:
        tensor, has_inputs_done = stack.pop()
        if tensor is start:
            continue
        node = node_of(tensor)
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


def parameters(operation: keras.Operation) -> list[Any]:
    """Returns the variables that `operation` trains if it is not frozen, including nested ones."""
    return [
        variable
        for layer in with_nested(operation)
        if layer.name != FIXED_LAYER
        for variable in own_trainable_variables(layer)
    ]


def with_nested(operation: keras.Operation) -> list[keras.layers.Layer]:
    """Returns a layer and all layers inside it; empty for an operation that is not a layer."""
    if not isinstance(operation, keras.layers.Layer):
        return []
    return with_inner_layers(operation)


def count_parameters(operations: Any) -> int:
    """Returns the number of values in all weights of the operations, each variable once."""
    weights = {
        id(weight): weight
        for operation in operations
        for weight in getattr(operation, "weights", ())
    }
    return sum(prod(weight.shape) for weight in weights.values())


def is_nested(node: Any) -> bool:
    """Whether the operation of a node is a model with nodes of its own."""
    return isinstance(node.operation, keras.Model) and bool(node.operation.outputs)


def inner_nodes(node: Any) -> Iterator[Any]:
    """Yields the nodes inside a nested model, except its input."""
    for output in node.operation.outputs:
        for found in sorted_nodes(output):
            if not isinstance(found.operation, keras.layers.InputLayer):
                yield found
