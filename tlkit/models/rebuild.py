"""Building functional models from graph specs; all new layers of grown models are made here."""

from typing import Any

import keras

from tlkit.errors import ArgumentError
from tlkit.models.graph import with_nested
from tlkit.models.grown_names import GrownName
from tlkit.models.layer_spec import (
    MIXING_ACTIVATIONS,
    Call,
    GraphSpec,
    LayerSpec,
    Ref,
)
from tlkit.models.trainable import record_flags
from tlkit.models.vocabularies import with_same_vocabularies

Parts = dict[int, keras.KerasTensor]


def build(graph_spec: GraphSpec) -> keras.Model:
    """Builds an independent model: new layers with copies of the weights, part by part.

    Raises:
        ArgumentError: A layer cannot be recreated from its config.
    """
    model = _Builder().build(graph_spec)
    if not graph_spec.has_flags:  # the layers' flags must not count as explicitly set
        record_flags(model)
    return model


def copy_layer(layer_spec: LayerSpec, name: str) -> keras.Operation:
    """Returns a new layer with a spec's settings, without weights."""
    operation = layer_spec.operation
    _check_activation(operation)
    try:
        if isinstance(operation, keras.Model):
            return with_same_vocabularies(operation)
        return type(operation).from_config({**layer_spec.config, "name": name})
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ArgumentError(
            "`model` must have layers that can be recreated from their config. Received: a "
            f"model with the layer {operation.name!r} of class {type(operation).__name__}: "
            f"{' '.join(str(error).split())} Return all arguments from its get_config."
        ) from error


def _check_activation(operation: keras.Operation) -> None:
    """Raises `ArgumentError` if an activation has the name of one of Keras's, but is not that."""
    function = getattr(operation, "activation", None)
    module = getattr(function, "__module__", "") or ""
    if function is None or module.startswith(("keras.", "tensorflow.")):
        return
    if isinstance(operation.get_config().get("activation"), str):
        raise ArgumentError(
            "`model` must have layers that can be recreated from their config. Received: a "
            f"model whose layer {operation.name!r} has a custom activation with the name of one of "
            f"Keras's: {function.__name__!r}. Give it another name."
        )


def copy_weights(source: keras.Operation, target: keras.Operation) -> None:
    """Copies the weights of a layer, and of those inside it, to another of the same structure."""
    for old, new in zip(with_nested(source), with_nested(target), strict=True):
        state: dict[str, object] = {}
        old.save_own_variables(state)
        if state:
            new.load_own_variables(state)  # not `set_weights`: some layers compute values from them


class _Builder:
    """A traversal of the calls that builds the layers."""

    def __init__(self) -> None:
        self._layers: dict[LayerSpec, keras.Operation] = {}  # shared layers stay shared
        self._tensors: dict[Ref, Parts] = {}

    def build(self, graph_spec: GraphSpec) -> keras.Model:
        model_input = None
        for call in graph_spec.calls:
            if isinstance(call.operation, keras.layers.InputLayer):
                model_input = copy_layer(call.layer_spec, call.name).output
                outputs: list[Parts] = [{0: model_input}]
            elif call.mixes_units:
                outputs = [self._mixed(call)]
            elif isinstance(call.operation, keras.layers.Concatenate):
                outputs = [self._concatenated(call)]
            else:
                outputs = self._copied(call)
            if call.joined:
                outputs = [self._joined(call, outputs[0])]
            self._tensors |= {Ref(call, i): parts for i, parts in enumerate(outputs)}
        output = self._tensors[graph_spec.output][0]
        return keras.Model(model_input, output, name=graph_spec.name)

    def _mixed(self, call: Call) -> Parts:
        """Returns each part as the sum over the parts of the input that it reads."""
        inputs = self._tensors[call.inputs[0]]
        return {part: self._sum(call, part, inputs) for part in call.parts}

    def _sum(self, call: Call, part: int, inputs: Parts) -> keras.KerasTensor:
        read = [n for n in sorted(inputs) if (n, part) in call.layer_specs]
        activation = "linear" if _acts_on_all(call) else call.activation
        if len(read) == 1:
            layer_spec = call.layer_specs[0, part]
            if layer_spec.config["activation"] != activation:
                layer_spec = layer_spec.changed(activation=activation)
            return self._call(call, layer_spec, GrownName(call.name, part), inputs[0])
        terms = [
            self._call(
                call,
                call.layer_specs[n, part].changed(activation="linear"),
                GrownName(call.name, part, n),
                inputs[n],
            )
            for n in read
        ]
        dtype = call.operation.dtype_policy
        name = str(GrownName(call.name, part, role="sum"))
        total = keras.layers.Add(name=name, dtype=dtype)(terms)
        if activation == "linear":
            return total
        name = str(GrownName(call.name, part, role="activation"))
        return _activation(activation, name, dtype)(total)

    def _concatenated(self, call: Call) -> Parts:
        refs = call.inputs
        parts = sorted({part for ref in refs for part in self._tensors[ref]})
        joined: Parts = {}
        for part in parts:
            tensors = [self._tensors[ref][part] for ref in refs if part in self._tensors[ref]]
            if len(tensors) == 1 and part:
                joined[part] = tensors[0]
            elif part == 0:
                joined[0] = self._call(call, call.layer_spec, GrownName(call.name), None)
            else:
                name = str(GrownName(call.name, part))
                joined[part] = copy_layer(call.layer_spec, name)(tensors)
        return joined

    def _copied(self, call: Call) -> list[Parts]:
        """Returns each part computed by its own copy of a layer that does not mix units."""
        by_part = {
            part: keras.tree.flatten(
                self._call(call, layer_spec, GrownName(call.name, part), None, part=part)
            )
            for (_, part), layer_spec in sorted(call.layer_specs.items())
        }
        return [
            {part: tensors[position] for part, tensors in by_part.items()}
            for position in range(len(by_part[0]))
        ]

    def _joined(self, call: Call, parts: Parts) -> Parts:
        dtype = getattr(call.operation, "dtype_policy", None)
        name = str(GrownName(call.name, role="classes"))
        side_by_side = keras.layers.Concatenate(name=name, dtype=dtype)
        tensor = side_by_side([parts[part] for part in call.joined])
        if _acts_on_all(call):
            name = str(GrownName(call.name, role="activation"))
            tensor = _activation(call.activation, name, dtype)(tensor)
        return {0: tensor}

    def _call(
        self,
        call: Call,
        layer_spec: LayerSpec,
        name: GrownName,
        tensor: keras.KerasTensor | None,
        *,
        part: int = 0,
    ) -> Any:
        """Calls a layer on a tensor, or on the arguments of its call, and sets its weights."""

        def tensor_of(value: Any) -> Any:
            if not isinstance(value, Ref):
                return value
            return self._tensors[value][part] if tensor is None else tensor

        layer = self._layers.get(layer_spec)
        is_new = layer is None
        if layer is None:
            layer = self._layers[layer_spec] = copy_layer(layer_spec, str(name))
        args, kwargs = keras.tree.map_structure(tensor_of, (call.args, call.kwargs))
        outputs = layer(*args, **kwargs)
        if is_new and layer_spec.fill is not None:
            layer_spec.fill(layer)
        elif is_new and layer_spec.weights is not None:
            layer.set_weights(layer_spec.weights)
        elif is_new:
            copy_weights(layer_spec.operation, layer)
        return outputs


def _acts_on_all(call: Call) -> bool:
    """Whether the activation of a layer that mixes units needs all parts concatenated."""
    return call.mixes_units and bool(call.joined) and is_mixing(call.activation)


def is_mixing(activation: Any) -> bool:
    """Whether an activation, in the form of a config, acts on all units together."""
    return activation in MIXING_ACTIVATIONS


def _activation(activation: Any, name: str, dtype: Any) -> keras.layers.Activation:
    # the config may refer to a registered function, which `from_config` resolves
    return keras.layers.Activation.from_config(
        {"activation": activation, "name": name, "dtype": dtype}
    )
