"""The graph spec of a functional model: the calls of the plain network, with their added parts.

A network grows in three steps: `parse_graph` its graph, edit the graph spec, and
`tlkit.models.rebuild.build` a new model from it. The plain network is the original one; added
layers, recognised by their names (`tlkit.models.grown_names`), belong to the call that they extend.
So a grown network grows further by the same edits as a plain one.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from tlkit.errors import ArgumentError
from tlkit.models.graph import model_ends, sorted_nodes
from tlkit.models.grown_names import GrownName, grown_name_of, parse_name
from tlkit.models.trainable import has_user_flags
from tlkit.models.vocabularies import config_with_vocabulary
from tlkit.utils.keras_private import operation_of

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
MIXING_ACTIVATIONS = ("softmax", "log_softmax", "sparsemax")  # of all units together

Fill = Callable[[keras.layers.Layer], None]


@dataclass(frozen=True, eq=False)
class LayerSpec:
    """The spec of a layer (or other operation) to build: an existing one, with changes.

    Attributes:
        operation: The source of the class, the settings and, by default, the weights.
        changes: Settings that differ from those of `operation`.
        weights: The weights, in the order of `Layer.weights`, if they differ.
        fill: A function that sets the weights of the new layer after it is built, if needed.
    """

    operation: keras.Operation
    changes: Mapping[str, object] = field(default_factory=dict)
    weights: tuple[np.ndarray, ...] | None = None
    fill: Fill | None = None

    def changed(self, **changes: Any) -> "LayerSpec":
        """Returns the spec with further settings changed."""
        return replace(self, changes={**self.changes, **changes})

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the layer to build."""
        return {**config_with_vocabulary(self.operation), **self.changes}

    @property
    def num_units(self) -> int:
        """The number of units of a Dense layer, or of filters of a convolution."""
        return int(self.config[units_argument(self.operation)])


@dataclass(frozen=True)
class Ref:
    """A reference to one output of a call, in the arguments of other calls."""

    call: "Call"
    output: int = 0

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of part 0, including the batch."""
        return self.call.shapes[self.output]


@dataclass(eq=False)
class Call:
    """One call of an operation in the plain network.

    Attributes:
        args: Its positional arguments, with a `Ref` in place of each tensor.
        kwargs: Its keyword arguments, likewise.
        shapes: The shapes of its outputs for part 0, including the batch.
        layer_specs: Its layers, by (part read, part computed); (0, 0) is the plain layer. A layer
            that mixes units (Dense, a convolution) has one for each pair of parts of which one
            reads the other; any other layer has a copy (n, n) for each part.
        activation: The activation of a layer that mixes units, in the form of its config.
        joined: The parts in the order in which their outputs are concatenated; empty if they are
            not.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: tuple[tuple[int | None, ...], ...]
    layer_specs: dict[tuple[int, int], LayerSpec]
    activation: Any = "linear"
    joined: tuple[int, ...] = ()

    @property
    def layer_spec(self) -> LayerSpec:
        """The spec of the plain layer."""
        return self.layer_specs[0, 0]

    @property
    def operation(self) -> keras.Operation:
        """The operation of the plain layer."""
        return self.layer_spec.operation

    @property
    def name(self) -> str:
        """The plain layer's name."""
        return str(self.layer_spec.config["name"])

    @property
    def inputs(self) -> list[Ref]:
        """The outputs that it reads, in the order of its arguments."""
        leaves = keras.tree.flatten((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Ref)]

    @property
    def mixes_units(self) -> bool:
        """Whether each of its outputs is a sum over the units that it reads."""
        return mixes_units(self.operation)

    @property
    def parts(self) -> list[int]:
        """The parts that it has layers for; a concatenation has none."""
        return sorted({part for _, part in self.layer_specs})

    @property
    def num_units(self) -> int:
        """The number of units of a layer that mixes units, over all parts."""
        return sum(self.layer_specs[0, part].num_units for part in self.parts)


@dataclass(eq=False)
class GraphSpec:
    """The parsed graph of a functional model with one input and one output.

    Attributes:
        name: The model's name.
        calls: The calls, each after those it reads.
        output: The output of the model.
        has_flags: Whether the user has set its layers' `trainable` flags.
    """

    name: str
    calls: list[Call]
    output: Ref
    has_flags: bool = False

    def parts_at(self, ref: Ref) -> list[int]:
        """Returns the parts that an output has, 0 first."""
        if ref.call.joined:
            return [0]
        if isinstance(ref.call.operation, keras.layers.Concatenate):
            return sorted({part for read in ref.call.inputs for part in self.parts_at(read)})
        return ref.call.parts

    @property
    def next_part(self) -> int:
        """The number of the next part to add."""
        return 1 + max((part for call in self.calls for _, part in call.layer_specs), default=0)

    @property
    def newest_classes(self) -> int:
        """The number of the part of the classes added last; 0 if none were added."""
        return max((part for call in self.calls for part in call.joined), default=0)

    def is_shared(self, call: Call) -> bool:
        """Whether the layer is called more than once."""
        return sum(other.layer_spec is call.layer_spec for other in self.calls) > 1

    def readers(self, ref: Ref) -> Iterator[Call]:
        """Yields the calls that read an output."""
        return (call for call in self.calls if ref in call.inputs)


def units_argument(operation: keras.Operation) -> str:
    """Returns the name of the constructor's argument for the number of units."""
    return "units" if isinstance(operation, keras.layers.Dense) else "filters"


def mixes_units(operation: keras.Operation) -> bool:
    """Whether an operation is a Dense layer or a convolution with one group.

    Subclasses of these may compute anything, and do not count.
    """
    if type(operation) is keras.layers.Dense:
        return True
    return type(operation) in CONVOLUTIONS and operation.groups == 1


def parse_graph(model: keras.Model) -> GraphSpec:
    """Returns the graph spec of a functional model, grown or not. The model is not changed.

    Raises:
        ArgumentError: The model is not functional, or has several inputs or outputs; or a layer
            that tlkit did not add reads an added part.
    """
    _, output = model_ends(model)
    nodes = sorted_nodes(output)
    names = {node.operation.name for node in nodes}
    layer_specs: dict[int, LayerSpec] = {}
    refs: dict[int, Ref] = {}
    calls: dict[str, Call] = {}
    in_order: list[Call] = []
    added_nodes: list[tuple[Any, GrownName]] = []
    for node in nodes:
        name = grown_name_of(node.operation, names)
        if name.is_plain:
            args, kwargs = keras.tree.map_structure(
                lambda value: _ref_of(value, refs, model),
                (node.arguments.args, node.arguments.kwargs),
            )
            layer_spec = layer_specs.setdefault(id(node.operation), LayerSpec(node.operation))
            shapes = tuple(tuple(tensor.shape) for tensor in node.output_tensors)
            calls[name.base] = Call(tuple(args), kwargs, shapes, {(0, 0): layer_spec})
            in_order.append(calls[name.base])
        else:
            added_nodes.append((node, name))
        if not name.part and not name.reads:
            for position, tensor in enumerate(node.output_tensors):
                refs[id(tensor)] = Ref(calls[name.base], position)
    for call in in_order:
        if call.mixes_units:
            call.activation = call.operation.get_config()["activation"]
    for node, name in added_nodes:
        _attach(node, name, calls[name.base])
    has_flags = has_user_flags(model)
    return GraphSpec(model.name, in_order, _ref_of(output, refs, model), has_flags)


def _attach(node: Any, name: GrownName, call: Call) -> None:
    """Adds an added layer to the call that it extends."""
    operation = node.operation
    if name.role == "activation":
        call.activation = operation.get_config()["activation"]
    elif name.role == "classes":
        call.joined = tuple(
            parse_name(operation_of(tensor).name, [call.name]).part for tensor in node.input_tensors
        )
    elif name.reads:
        call.layer_specs[name.reads, name.part] = LayerSpec(operation)
    elif not name.role and not isinstance(operation, keras.layers.Concatenate):
        call.layer_specs[0 if call.mixes_units else name.part, name.part] = LayerSpec(operation)


def _ref_of(value: Any, refs: dict[int, Ref], model: keras.Model) -> Any:
    if not isinstance(value, keras.KerasTensor):
        return value
    if id(value) not in refs:
        name = operation_of(value).name
        raise ArgumentError(
            "`model` must have grown only by tlkit's functions. Received: "
            f"model={model.name!r}, in which one of your own layers reads {name!r}, one of several "
            "parts. Consolidate the model before you add layers: tlkit.consolidate(model)."
        )
    return refs[id(value)]
