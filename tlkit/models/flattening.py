"""A functional model with the graphs of the models nested in it in its own.

Keras calls a model inside another one like a layer, and its graph is then out of sight. Here the
same layers are called again, one after the other, on the tensors that the nested model was given:
a graph of the same layers and the same weights, in which nothing is nested. The model itself stays
as it is. Where Keras is known to take an output for another shape than is computed, this graph has
the true one.
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
"""The names of the models that a layer is nested in, outermost first."""


@dataclass(frozen=True, eq=False)
class FlatGraph:
    """A model's graph without nesting.

    Attributes:
        input: The model's own input.
        output: What the model computes; the model's own output where nothing is nested in it and
            all shapes are what Keras takes them for.
        tensors: From the id of each tensor of the model's own graph to the same in this one.
        own: From the same ids to those tensors of the model's own graph.
        routes: From the id of each operation to where it is nested; the first place of several.
        names: From the id of each operation to its name, with its route where others bear it.
        nested: The models that were reached into, with their outputs at that time.
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
        """Whether the model, and those nested in it, still have the graphs that this is made of."""
        pairs = ((model, self._kept), *self.nested)
        return all(
            len(one.outputs) == len(outputs)
            and all(now is then for now, then in zip(one.outputs, outputs, strict=True))
            for one, outputs in pairs
        )


_FLAT: WeakKeyDictionary[keras.Model, FlatGraph] = WeakKeyDictionary()


def flat(model: keras.Model) -> FlatGraph:
    """Returns the graph of a functional model, with those of nested functional models in it.

    A nested model that may compute something of its own (a class that defines `call`, or has
    weights outside its layers), or whose inputs are given by name, stays one operation. So does one
    with a single kernel and a map of positions as output: a convolution with its normalisation,
    such as the steps between the stages of ConvNeXt.

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
    found = _FLAT.get(model)
    if found is None or not found.is_of(model):
        walk = _Walk()
        tensors: dict[int, keras.KerasTensor] = {}
        nodes = sorted_nodes(output)
        walk.along(nodes, tensors, (), training=None)
        found = _FLAT[model] = FlatGraph(
            input=model_input,
            output=tensors[id(output)],
            tensors=tensors,
            own={id(tensor): tensor for node in nodes for tensor in node.output_tensors},
            routes=walk.routes,
            names=walk.names(),
            nested=tuple(walk.nested),
            _kept=tuple(model.outputs),
        )
    return found


def flat_tensor(model: keras.Model, tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Returns the tensor of the flat graph that is the same as one of the model's own graph."""
    return flat(model).tensors.get(id(tensor), tensor)


def below(model: keras.Model, tensors: Any) -> keras.Model:
    """Returns the part of a model from its input to one or several tensors of its flat graph.

    Where the model's own graph has all of them, of the same shapes, it is made of that one.
    """
    graph = flat(model)
    own = {
        id(graph.tensors[key]): tensor
        for key, tensor in graph.own.items()
        if graph.tensors[key].shape == tensor.shape
    }
    if all(id(tensor) in own for tensor in keras.tree.flatten(tensors)):
        tensors = keras.tree.map_structure(lambda tensor: own[id(tensor)], tensors)
    return joined(graph.input, tensors)


def above(model: keras.Model, tensor: keras.KerasTensor, name: str | None = None) -> keras.Model:
    """Returns the part of a model from a tensor of its flat graph to its output."""
    return joined(tensor, flat(model).output, name=name)


def joined(inputs: Any, outputs: Any, *, name: str | None = None) -> keras.Model:
    """Returns a model of existing layers, of which several may have one name.

    Keras refuses such a model, for files tell layers apart by name. This one is not for saving:
    its layers bear other names while it is made, and then their own again.

    Args:
        inputs: As `keras.Model` takes them.
        outputs: Likewise.
        name: Its name.
    """
    with told_apart(keras.tree.flatten(outputs)):
        return keras.Model(inputs, outputs, name=name)


@contextmanager
def told_apart(outputs: Sequence[keras.KerasTensor]) -> Iterator[None]:
    """Gives the operations that compute some tensors names of their own for a while."""
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
    """One walk along a model's nodes, into those of nested models."""

    def __init__(self) -> None:
        self.routes: dict[int, Route] = {}
        self.nested: list[tuple[keras.Model, tuple[keras.KerasTensor, ...]]] = []
        self._operations: dict[int, keras.Operation] = {}

    def along(
        self,
        nodes: Sequence[Any],
        tensors: dict[int, keras.KerasTensor],
        route: Route,
        training: bool | None,
    ) -> None:
        """Calls the operations of nodes on what `tensors` has for what they read, and adds to it.

        Args:
            nodes: Each after those it reads.
            tensors: From the id of a tensor of these nodes to the one that stands for it.
            route: Where they are nested.
            training: What the nested model was called with.
        """
        for node in nodes:
            if all(id(tensor) in tensors for tensor in node.output_tensors):
                continue  # a nested model's input, which stands for what it was given
            operation = node.operation
            given = _given(node, tensors)
            if given is not None:
                own = node.arguments.kwargs.get("training")
                route_inside = (*route, operation.name)
                inner = {
                    id(tensor): self._cast(one, tensor.dtype, route_inside)
                    for tensor, one in zip(operation.inputs, given, strict=True)
                }
                inside = sorted_nodes(*operation.outputs)
                self.along(inside, inner, route_inside, training if own is None else own)
                self.nested.append((operation, tuple(operation.outputs)))
                found = [inner[id(tensor)] for tensor in operation.outputs]
            else:
                self._note(operation, route)
                found = _called(node, tensors, training, is_own=not route)
                if _is_of_counted_words(operation, found[0]):
                    found = [keras.ops.reshape(found[0], (-1, found[0].shape[-1]))]
                    self._note(operation_of(found[0]), route)
            tensors |= {id(t): f for t, f in zip(node.output_tensors, found, strict=True)}

    def _cast(self, tensor: keras.KerasTensor, dtype: str, route: Route) -> keras.KerasTensor:
        """Returns a tensor as a nested model takes it, which casts what it is given."""
        if tensor.dtype == dtype:
            return tensor
        tensor = keras.ops.cast(tensor, dtype)
        self._note(operation_of(tensor), route)
        return tensor

    def _note(self, operation: keras.Operation, route: Route) -> None:
        self.routes.setdefault(id(operation), route)
        self._operations.setdefault(id(operation), operation)

    def names(self) -> dict[int, str]:
        """Returns the name of each operation, with its route where others bear it."""
        counts = Counter(operation.name for operation in self._operations.values())
        return {
            key: operation.name
            if counts[operation.name] == 1
            else "/".join((*self.routes[key], operation.name))
            for key, operation in self._operations.items()
        }


def _called(
    node: Any, tensors: dict[int, keras.KerasTensor], training: bool | None, *, is_own: bool
) -> list[keras.KerasTensor]:
    """Returns the outputs of an operation, called anew where it reads other tensors here."""
    if is_own and all(tensors[id(tensor)] is tensor for tensor in node.input_tensors):
        return list(node.output_tensors)
    args, kwargs = keras.tree.map_structure(
        lambda value: tensors.get(id(value), value), (node.arguments.args, node.arguments.kwargs)
    )
    if training is not None and isinstance(node.operation, keras.layers.Layer):
        kwargs = {"training": training, **{k: v for k, v in kwargs.items() if v is not None}}
    return list(keras.tree.flatten(node.operation(*args, **kwargs)))


def _is_of_counted_words(operation: keras.Operation, output: keras.KerasTensor) -> bool:
    """Whether words are counted of texts in a column, of which Keras does not know the shape.

    Of `keras.Input((1,), dtype="string")` a TextVectorization computes `(batch, tokens)` with the
    modes "multi_hot", "count" and "tf_idf", while its `compute_output_spec` says
    `(batch, 1, tokens)` (Keras 3.15), and so do all layers behind it.
    """
    is_column = len(output.shape) == 3 and output.shape[1] == 1
    return is_column and isinstance(operation, keras.layers.TextVectorization)


def _given(node: Any, tensors: dict[int, keras.KerasTensor]) -> list[keras.KerasTensor] | None:
    """Returns what stands for the inputs of a nested model; `None` unless it can be reached into.

    Reached into is what is known to compute its graph and nothing else.
    """
    model = node.operation
    is_model = isinstance(model, keras.Model) and _computes_its_graph(model)
    if not is_model or _is_one_step(model):
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
    """Whether a model is no more than one layer with what belongs to it."""
    kernels = [layer for layer in with_nested(model) if any(_is_kernel(v) for v in layer.variables)]
    own = [layer for layer in kernels if not inner_layers(layer)]
    return len(own) <= 1 and all(len(output.shape) > 2 for output in model.outputs)


def _is_kernel(variable: keras.Variable) -> bool:
    return len(variable.shape) > 1


def _keeps_precision(model: keras.Sequential, tensor: keras.KerasTensor) -> bool:
    """Whether a Sequential model, which casts what it reads, takes the tensor as it is."""
    is_float = keras.backend.is_float_dtype(tensor.dtype)
    return not is_float or not model.autocast or tensor.dtype == model.input_dtype
