"""Flattening: a functional model's graph with the graphs of nested models inlined.

Keras calls a nested model like a layer, which hides its graph. Here the same layers are called
again, one after the other, on the tensors that the nested model was called on: a graph of the same
layers and the same weights without nesting. The model itself is not changed. Where Keras is known
to infer a wrong output shape, this graph has the correct one.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import keras

from tlkit.models.graph import model_ends, sorted_nodes, with_nested
from tlkit.utils.keras_private import inner_layers, operation_of, own_variables

Route = tuple[str, ...]
"""The names of the nested models around a layer, outermost first."""


@dataclass(frozen=True, eq=False)
class FlatGraph:
    """A model's graph without nesting.

    Attributes:
        input: The model's own input.
        output: The output; the model's own output if nothing is nested and Keras infers all shapes
            correctly.
        tensors: From the id of each tensor of the model's own graph to its tensor in this graph.
        own: From the same ids to the tensors of the model's own graph.
        routes: From the id of each operation to its route; the first one if there are several.
        names: From the id of each operation to its name, prefixed with its route if it is not
            unique.
        nested: The models that were inlined, with their outputs at that time.
    """

    input: keras.KerasTensor
    output: keras.KerasTensor
    tensors: dict[int, keras.KerasTensor]
    own: dict[int, keras.KerasTensor]
    routes: dict[int, Route]
    names: dict[int, str]
    nested: tuple[tuple[keras.Model, tuple[keras.KerasTensor, ...]], ...]
    _kept: tuple[keras.KerasTensor, ...] = field(repr=False, default=())

    def is_of(self, model: keras.Model) -> bool:
        """Whether the model and its nested models still have the graphs that this was made from."""
        pairs = ((model, self._kept), *self.nested)
        return all(
            len(one.outputs) == len(outputs)
            and all(now is then for now, then in zip(one.outputs, outputs, strict=True))
            for one, outputs in pairs
        )


_FLAT: WeakKeyDictionary[keras.Model, FlatGraph] = WeakKeyDictionary()


def flat(model: keras.Model) -> FlatGraph:
    """Returns the graph of a functional model, with nested functional models inlined.

    A nested model that may compute more than its graph (a class that defines `call`, or has weights
    outside its layers), or whose inputs are given by name, stays one operation. So does a model
    with a single kernel and positions in its output: a convolution with its normalisation, such as
    the downsampling between the stages of ConvNeXt.

    Raises:
        ArgumentError: The model is not functional, or has several inputs or outputs.

    Example:
        >>> import keras
        >>> from tlkit.models.flattening import flat
        >>> inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="inside")])
        >>> model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(3, name="out")])
        >>> sorted(flat(model).names.values())[-2:]
        ['inside', 'out']
    """
    model_input, output = model_ends(model)
    graph = _FLAT.get(model)
    if graph is None or not graph.is_of(model):
        walk = _Walk()
        tensors: dict[int, keras.KerasTensor] = {}
        nodes = sorted_nodes(output)
        walk.visit(nodes, tensors, (), training=None)
        graph = _FLAT[model] = FlatGraph(
            input=model_input,
            output=tensors[id(output)],
            tensors=tensors,
            own={id(tensor): tensor for node in nodes for tensor in node.output_tensors},
            routes=walk.routes,
            names=walk.names(),
            nested=tuple(walk.nested),
            _kept=tuple(model.outputs),
        )
    return graph


def flat_tensor(model: keras.Model, tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Returns the tensor of the flat graph that corresponds to one of the model's own graph."""
    return flat(model).tensors.get(id(tensor), tensor)


def below(model: keras.Model, tensors: Any) -> keras.Model:
    """Returns the part of a model from its input to one or several tensors of its flat graph.

    It is made from the model's own graph if that has all of them, with the same shapes.
    """
    graph = flat(model)
    own = {
        id(graph.tensors[key]): tensor
        for key, tensor in graph.own.items()
        if graph.tensors[key].shape == tensor.shape
    }
    if all(id(tensor) in own for tensor in keras.tree.flatten(tensors)):
        tensors = keras.tree.map_structure(lambda tensor: own[id(tensor)], tensors)
    return submodel(graph.input, tensors)


def above(model: keras.Model, tensor: keras.KerasTensor, name: str | None = None) -> keras.Model:
    """Returns the part of a model from a tensor of its flat graph to its output."""
    return submodel(tensor, flat(model).output, name=name)


def on_input(model: keras.Model, inputs: keras.KerasTensor) -> keras.KerasTensor:
    """Returns the output of a model's layers called on another input, with the same weights.

    Nested models are inlined, so that their own inputs' sizes do not matter.

    Args:
        model: A functional model with one input and one output.
        inputs: A tensor in place of its input.
    """
    own, output = model_ends(model)
    tensors = {id(own): inputs}
    _Walk(keeps_steps=False).visit(sorted_nodes(output), tensors, (), training=None)
    return tensors[id(output)]


def submodel(inputs: Any, outputs: Any, *, name: str | None = None) -> keras.Model:
    """Returns a model of existing layers whose names need not be unique.

    Keras refuses such a model, because files identify layers by name. This model must not be saved:
    its layers have unique names only while it is made.

    Args:
        inputs: The inputs, as for `keras.Model`.
        outputs: The outputs, as for `keras.Model`.
        name: Name of the model.
    """
    with unique_operation_names(keras.tree.flatten(outputs)):
        return keras.Model(inputs, outputs, name=name)


@contextmanager
def unique_operation_names(outputs: Sequence[keras.KerasTensor]) -> Iterator[None]:
    """Temporarily gives unique names to the operations that compute some tensors."""
    operations = {
        id(node.operation): node.operation for output in outputs for node in sorted_nodes(output)
    }
    taken: set[str] = set()
    renamed: list[tuple[keras.Operation, str]] = []
    try:
        for operation in operations.values():
            own, number = operation.name, 1
            while operation.name in taken:
                number += 1
                operation.name = f"{own}__{number}"
            taken.add(operation.name)
            if number > 1:
                renamed.append((operation, own))
        yield
    finally:
        for operation, own in renamed:
            operation.name = own


class _Walk:
    """A traversal of a model's nodes and those of nested models.

    Args:
        keeps_steps: Whether nested models of one step, see `flat`, stay one operation.
    """

    def __init__(self, *, keeps_steps: bool = True) -> None:
        self._keeps_steps = keeps_steps
        self.routes: dict[int, Route] = {}
        self.nested: list[tuple[keras.Model, tuple[keras.KerasTensor, ...]]] = []
        self._operations: dict[int, keras.Operation] = {}

    def visit(
        self,
        nodes: Sequence[Any],
        tensors: dict[int, keras.KerasTensor],
        route: Route,
        training: bool | None,
    ) -> None:
        """Calls the operations of nodes on the corresponding tensors, and adds their outputs.

        Args:
            nodes: The nodes, each after those it reads.
            tensors: From the id of a tensor of these nodes to the corresponding one; extended.
            route: The route of the nodes.
            training: The `training` argument of the nested model's call.
        """
        for node in nodes:
            if all(id(tensor) in tensors for tensor in node.output_tensors):
                continue  # a nested model's input, which has a corresponding tensor already
            operation = node.operation
            given = self._inputs_of_nested(node, tensors)
            if given is not None:
                own = node.arguments.kwargs.get("training")
                route_inside = (*route, operation.name)
                inner = {
                    id(tensor): self._cast(one, tensor.dtype, route_inside)
                    for tensor, one in zip(operation.inputs, given, strict=True)
                }
                inside = sorted_nodes(*operation.outputs)
                self.visit(inside, inner, route_inside, training if own is None else own)
                self.nested.append((operation, tuple(operation.outputs)))
                outputs = [inner[id(tensor)] for tensor in operation.outputs]
            else:
                self._register(operation, route)
                outputs = _call_operation(node, tensors, training, is_own=not route)
                if _is_of_counted_words(operation, outputs[0]):
                    outputs = [keras.ops.reshape(outputs[0], (-1, outputs[0].shape[-1]))]
                    self._register(operation_of(outputs[0]), route)
            tensors |= {id(t): one for t, one in zip(node.output_tensors, outputs, strict=True)}

    def _inputs_of_nested(
        self, node: Any, tensors: dict[int, keras.KerasTensor]
    ) -> list[keras.KerasTensor] | None:
        """Returns the corresponding inputs of a nested model that is inlined, else `None`."""
        model = node.operation
        if self._keeps_steps and isinstance(model, keras.Model) and _is_one_step(model):
            return None
        return _inputs_of_nested(node, tensors)

    def _cast(self, tensor: keras.KerasTensor, dtype: str, route: Route) -> keras.KerasTensor:
        """Returns a tensor cast to the type that a nested model casts its inputs to."""
        if tensor.dtype == dtype:
            return tensor
        tensor = keras.ops.cast(tensor, dtype)
        self._register(operation_of(tensor), route)
        return tensor

    def _register(self, operation: keras.Operation, route: Route) -> None:
        self.routes.setdefault(id(operation), route)
        self._operations.setdefault(id(operation), operation)

    def names(self) -> dict[int, str]:
        """Returns the name of each operation, prefixed with its route if it is not unique."""
        counts = Counter(operation.name for operation in self._operations.values())
        return {
            key: operation.name
            if counts[operation.name] == 1
            else "/".join((*self.routes[key], operation.name))
            for key, operation in self._operations.items()
        }


def _call_operation(
    node: Any, tensors: dict[int, keras.KerasTensor], training: bool | None, *, is_own: bool
) -> list[keras.KerasTensor]:
    """Returns the outputs of an operation, called again if it reads different tensors."""
    if is_own and all(tensors[id(tensor)] is tensor for tensor in node.input_tensors):
        return list(node.output_tensors)
    args, kwargs = keras.tree.map_structure(
        lambda value: tensors.get(id(value), value), (node.arguments.args, node.arguments.kwargs)
    )
    if training is not None and isinstance(node.operation, keras.layers.Layer):
        kwargs = {"training": training, **{k: v for k, v in kwargs.items() if v is not None}}
    return list(keras.tree.flatten(node.operation(*args, **kwargs)))


def _is_of_counted_words(operation: keras.Operation, output: keras.KerasTensor) -> bool:
    """Whether an operation counts the words of texts in a column, for which Keras's shape is wrong.

    From `keras.Input((1,), dtype="string")` a TextVectorization computes `(batch, tokens)` in the
    modes "multi_hot", "count" and "tf_idf", while its `compute_output_spec` returns
    `(batch, 1, tokens)` (Keras 3.15), and all following layers infer from that.
    """
    is_column = len(output.shape) == 3 and output.shape[1] == 1
    return is_column and isinstance(operation, keras.layers.TextVectorization)


def _inputs_of_nested(
    node: Any, tensors: dict[int, keras.KerasTensor]
) -> list[keras.KerasTensor] | None:
    """Returns the corresponding inputs of a nested model; `None` if it cannot be inlined.

    Only models that are known to compute exactly their graph can be inlined.
    """
    model = node.operation
    if not isinstance(model, keras.Model) or not _computes_its_graph(model):
        return None
    others = {name: value for name, value in node.arguments.kwargs.items() if name != "training"}
    args = node.arguments.args
    if len(args) != 1 or any(value is not None for value in keras.tree.flatten(others)):
        return None
    read = [args[0]] if isinstance(args[0], keras.KerasTensor) else args[0]
    if not isinstance(read, list | tuple) or len(read) != len(model.inputs):
        return None
    given = []
    for tensor, own in zip(read, model.inputs, strict=True):
        if not isinstance(tensor, keras.KerasTensor) or len(tensor.shape) != len(own.shape):
            return None
        here = tensors[id(tensor)]
        if isinstance(model, keras.Sequential) and not _keeps_precision(model, here):
            return None
        given.append(here)
    return given


def _computes_its_graph(model: keras.Model) -> bool:
    if not model.inputs or not model.outputs or isinstance(model.input, dict):
        return False
    calls = (getattr(type(model), name).__module__ for name in ("call", "__call__"))
    is_plain = all(module.startswith("keras.") for module in calls)
    return is_plain and not own_variables(model) and model.activity_regularizer is None


def _is_one_step(model: keras.Model) -> bool:
    """Whether a model has at most one kernel, and positions in its output."""
    kernels = [layer for layer in with_nested(model) if any(_is_kernel(v) for v in layer.variables)]
    own = [layer for layer in kernels if not inner_layers(layer)]
    return len(own) <= 1 and all(len(output.shape) > 2 for output in model.outputs)


def _is_kernel(variable: keras.Variable) -> bool:
    return len(variable.shape) > 1


def _keeps_precision(model: keras.Sequential, tensor: keras.KerasTensor) -> bool:
    """Whether a Sequential model, which casts its inputs, leaves this tensor unchanged."""
    is_float = keras.backend.is_float_dtype(tensor.dtype)
    return not is_float or not model.autocast or tensor.dtype == model.input_dtype
