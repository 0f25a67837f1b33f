"""Opening: a model's graph with the layers inside composite layers in place of these.

A transformer's encoder is often a single layer that holds all blocks. Groups, layer-wise rates,
stored activations and adapters need the blocks. Here `call` of such a layer is run on symbolic
tensors, which yields the graph of the layers inside it, with the same weights.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import keras
import numpy as np

from tlkit.models.graph import sorted_nodes
from tlkit.utils.keras_private import inner_layers, is_graph_operation, node_of, operation_of

Replacement = Callable[..., Any]
"""`replacement(layer, *args, **kwargs)` returns what the layer computes, made of other layers."""

_TOLERANCE = 1e-5  # of the largest output
_NUM_ROWS = 2
_NOMINAL_SIZE = 8  # replaces sizes that are not fixed


@dataclass(frozen=True, eq=False)
class Opened:
    """A model without composite layers, as far as they can be opened.

    Attributes:
        input: The given input.
        output: The output, computed from it by the model's own layers.
        closed: Names of the composite layers that stay as they are.
    """

    input: keras.KerasTensor
    output: keras.KerasTensor
    closed: tuple[str, ...]

    @property
    def model(self) -> keras.Model:
        """A new model from the input to the output."""
        return keras.Model(self.input, self.output)


def opened(
    model: keras.Model,
    inputs: keras.KerasTensor,
    replacements: Mapping[str, Replacement] | None = None,
) -> Opened:
    """Calls the layers of a model, and those inside its composite layers, on another input.

    A layer that is not one of Keras's own and that holds layers with weights is opened if its
    `call` only calls layers and `keras.ops`: if the graph of these has all of its weights, is the
    same in training and in inference mode, and computes the same on a batch of random numbers.
    Otherwise it is called as it is. The operations inside an opened layer are renamed: the names of
    the layers around them come first.

    Args:
        model: A functional model with one input and one output, without nested models. Its layers
            are renamed.
        inputs: The tensor in place of its input.
        replacements: From the name of a layer's class to a function that builds what it computes.

    Example:
        >>> import keras
        >>> from tlkit.models.opening import opened
        >>> class Encoder(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.blocks = [keras.layers.Dense(4, name=f"block{i}") for i in (1, 2)]
        ...         for block in self.blocks:
        ...             block.build(shape)
        ...     def call(self, inputs):
        ...         return self.blocks[1](self.blocks[0](inputs))
        >>> rows = keras.Input((4,))
        >>> model = keras.Model(rows, Encoder(name="encoder")(rows))
        >>> [layer.name for layer in keras.Model(rows, opened(model, rows).output).layers[1:]]
        ['encoder_block1', 'encoder_block2']
    """
    opening = _Opening(replacements or {})
    tensors = {id(model.inputs[0]): inputs}
    opening.visit(sorted_nodes(model.outputs[0]), tensors, "")
    return Opened(inputs, tensors[id(model.outputs[0])], tuple(opening.closed))


@dataclass(eq=False)
class _Opening:
    """A traversal that opens layers."""

    replacements: Mapping[str, Replacement]
    closed: list[str] = field(default_factory=list)
    _renamed: set[int] = field(default_factory=set)
    _taken: set[str] = field(default_factory=set)

    def visit(self, nodes: list[Any], tensors: dict[int, Any], prefix: str) -> None:
        """Calls the operations of nodes on the corresponding tensors, and adds their outputs."""
        _call_again(nodes, tensors, partial(self._call, prefix))

    def _call(
        self, prefix: str, operation: keras.Operation, args: Any, kwargs: Any
    ) -> list[keras.KerasTensor]:
        replacement = self.replacements.get(type(operation).__name__)
        if replacement is not None:
            output = replacement(operation, *args, **kwargs)
            for new in _operations_between(_symbols([args, kwargs]), output):
                self._rename(new, _joined(prefix, operation.name))
            return list(keras.tree.flatten(output))
        if isinstance(operation, keras.layers.Identity):
            return _symbols([args, kwargs])[:1]
        self._rename(operation, prefix)
        if not _is_composite(operation):
            return _outputs(operation, args, kwargs)
        trace = _trace(operation, args, kwargs)
        if trace is None:
            self.closed.append(operation.name)
            return _outputs(operation, args, kwargs)
        given = _symbols([args, kwargs])
        inner = {id(own): one for own, one in zip(trace.inputs, given, strict=True)}
        self.visit(sorted_nodes(*trace.outputs), inner, operation.name)
        return [inner[id(tensor)] for tensor in trace.outputs]

    def _rename(self, operation: keras.Operation, prefix: str) -> None:
        """Puts a prefix before an operation's name, once."""
        if id(operation) not in self._renamed:
            self._renamed.add(id(operation))
            # the automatic names of code such as `x * 2` depend on what else was built
            is_code = bool(prefix) and is_graph_operation(operation)
            name = type(operation).__name__.lower() if is_code else operation.name
            unique, number = _joined(prefix, name), 1
            while unique in self._taken:
                number += 1
                unique = f"{_joined(prefix, name)}_{number}"
            self._taken.add(unique)
            operation.name = unique


@dataclass(frozen=True, eq=False)
class _Trace:
    """The graph inside a layer.

    Attributes:
        inputs: One symbolic tensor for each tensor that the layer was called on.
        outputs: What the layers inside it compute from these.
    """

    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]


def _trace(layer: keras.layers.Layer, args: Any, kwargs: Any) -> _Trace | None:
    """Returns the graph inside a layer, `None` if it may compute something else."""
    try:
        trace = _traced(layer, args, kwargs, training=None)
        in_training = _traced(layer, args, kwargs, training=True)
        is_same = _computes_the_same(layer, args, kwargs, trace)
    except Exception:  # whatever code that expects numbers, or other sizes, raises
        return None
    if not is_same or _steps(trace) != _steps(in_training):
        return None
    found = {
        id(variable)
        for node in sorted_nodes(*trace.outputs)
        for variable in getattr(node.operation, "weights", ())
    }
    return trace if found == {id(variable) for variable in layer.weights} else None


def _traced(layer: keras.layers.Layer, args: Any, kwargs: Any, training: bool | None) -> _Trace:
    symbols = _symbols([args, kwargs])
    inputs = [keras.Input(batch_shape=one.shape, dtype=one.dtype) for one in symbols]
    args, kwargs = _with_tensors([args, kwargs], symbols, inputs)
    kwargs = {name: value for name, value in kwargs.items() if name != "training"}
    if "training" in inspect.signature(layer.call).parameters:
        kwargs["training"] = training
    outputs = keras.tree.flatten(layer.call(*args, **kwargs))
    tensors = {id(tensor): tensor for tensor in inputs}
    _call_again(sorted_nodes(*outputs), tensors, _outputs)
    return _Trace(inputs, [tensors[id(tensor)] for tensor in outputs])


def _call_again(
    nodes: list[Any], tensors: dict[int, Any], call: Callable[[keras.Operation, Any, Any], Any]
) -> None:
    """Calls the operations of nodes on the corresponding tensors, and adds their outputs."""

    def corresponding(value: Any) -> Any:
        return tensors.get(id(value), value)

    for node in nodes:
        if all(id(tensor) in tensors for tensor in node.output_tensors):
            continue  # an input
        own = (node.arguments.args, node.arguments.kwargs)
        outputs = call(node.operation, *keras.tree.map_structure(corresponding, own))
        tensors.update((id(t), one) for t, one in zip(node.output_tensors, outputs, strict=True))


def _outputs(operation: keras.Operation, args: Any, kwargs: Any) -> list[Any]:
    """Returns the outputs of an operation.

    Code that takes the size of the batch from a symbolic tensor gets `None`; `keras.ops.reshape`
    takes that for symbolic tensors only.
    """
    if not _is_reshape(operation) or None not in operation.newshape:
        return list(keras.tree.flatten(operation(*args, **kwargs)))
    _, *others = operation.newshape  # the first is that of the batch
    num_values = prod(args[0].shape[1:])
    free = num_values // prod(side for side in others if side != -1)
    shape = (-1, *(free if side == -1 else side for side in others))
    return [keras.ops.reshape(args[0], shape)]


def _steps(trace: _Trace) -> list[Any]:
    """Returns what tells two graphs of a layer apart: layers with weights, and kinds of others.

    `call` may create layers without weights anew.
    """
    operations = [node.operation for node in sorted_nodes(*trace.outputs)]
    return [id(one) if getattr(one, "weights", ()) else type(one).__name__ for one in operations]


def _computes_the_same(layer: keras.layers.Layer, args: Any, kwargs: Any, trace: _Trace) -> bool:
    generator = np.random.default_rng(0)
    values = [_random(tensor, generator) for tensor in trace.inputs]
    given = _with_tensors([args, kwargs], _symbols([args, kwargs]), values)
    expected = keras.tree.flatten(layer(*given[0], **given[1]))
    found = keras.tree.flatten(keras.Model(trace.inputs, trace.outputs)(values, training=False))
    pairs = [
        (keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))
        for one, other in zip(expected, found, strict=True)
    ]
    return all(
        one.shape == other.shape and np.abs(one - other).max() <= _TOLERANCE * np.abs(one).max()
        for one, other in pairs
    )


def _random(tensor: keras.KerasTensor, generator: np.random.Generator) -> Any:
    first, *sides = tensor.shape
    shape = (first or _NUM_ROWS, *(side or _NOMINAL_SIZE for side in sides))
    return keras.ops.cast(generator.normal(size=shape).astype(np.float32), tensor.dtype)


def _is_reshape(operation: keras.Operation) -> bool:
    return is_graph_operation(operation) and type(operation).__name__ == "Reshape"


def _is_composite(operation: keras.Operation) -> bool:
    """Whether an operation is a layer, not one of Keras's own, that holds layers with weights."""
    is_keras = type(operation).__module__.startswith("keras.")
    if is_keras or not isinstance(operation, keras.layers.Layer):
        return False
    return any(layer.weights for layer in inner_layers(operation))


def _symbols(structure: Any) -> list[keras.KerasTensor]:
    found = keras.tree.flatten(structure)
    return [one for one in found if isinstance(one, keras.KerasTensor)]


def _with_tensors(structure: Any, tensors: list[Any], others: list[Any]) -> Any:
    """Returns a structure with other tensors in place of its own."""
    by_id = {id(one): other for one, other in zip(tensors, others, strict=True)}
    return keras.tree.map_structure(lambda one: by_id.get(id(one), one), structure)


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}_{name}" if prefix else name


def _operations_between(given: list[keras.KerasTensor], outputs: Any) -> list[keras.Operation]:
    """Returns the operations that compute the outputs from given tensors."""
    known = {id(one) for one in given}
    stack, found = _symbols(outputs), dict[int, keras.Operation]()
    while stack:
        tensor = stack.pop()
        operation = operation_of(tensor)
        if id(tensor) not in known and id(operation) not in found:
            found[id(operation)] = operation
            stack.extend(node_of(tensor).input_tensors)
    return list(found.values())[::-1]
