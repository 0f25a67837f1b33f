"""Routes of added units: the layers that pass them on, that read them, and that cannot."""

from dataclasses import dataclass
from math import prod
from typing import Any

import keras

from tlkit.models.layer_spec import (
    CONVOLUTIONS,
    SEPARABLE,
    Call,
    GraphSpec,
    Ref,
)
from tlkit.utils.keras_private import is_graph_operation

_LAYERS = keras.layers
_ELEMENTWISE_ACTIVATIONS = frozenset(
    [
        *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu"),
        *("hard_swish", "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "mish", "relu"),
        *("relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus", "softsign"),
        *("sparse_plus", "sparse_sigmoid", "squareplus", "swish", "tanh", "tanh_shrink"),
        "threshold",
    ]
)
_ELEMENTWISE_OPERATIONS = frozenset(
    [
        *("Abs", "Add", "Divide", "Elu", "Exp", "Gelu", "HardSigmoid", "HardSilu", "HardTanh"),
        *("LeakyRelu", "LogSigmoid", "Maximum", "Minimum", "Mish", "Multiply", "Negative"),
        *("Relu", "Relu6", "Selu", "Sigmoid", "Silu", "Softplus", "Softsign", "Sqrt", "Square"),
        *("Subtract", "Tanh", "TrueDivide"),
    ]
)
_PASSING = (
    *(_LAYERS.ReLU, _LAYERS.LeakyReLU, _LAYERS.ELU, _LAYERS.Identity),
    *(_LAYERS.Dropout, _LAYERS.AlphaDropout, _LAYERS.GaussianDropout, _LAYERS.GaussianNoise),
    *(
        getattr(_LAYERS, f"{kind}{n}D")
        for kind in (
            "SpatialDropout",
            "AveragePooling",
            "MaxPooling",
            "GlobalAveragePooling",
            "GlobalMaxPooling",
            "ZeroPadding",
            "Cropping",
            "UpSampling",
        )
        for n in (1, 2, 3)
    ),
)
_DEPTHWISE = (_LAYERS.DepthwiseConv1D, _LAYERS.DepthwiseConv2D)
_SUMS = ("Add", "Subtract", "Average", "Maximum", "Minimum")
_NORMALISATIONS = ("LayerNormalization", "GroupNormalization", "UnitNormalization")


class UnitsStopError(Exception):
    """Added units cannot be passed on; the message is a clause that says where and why."""


@dataclass(frozen=True)
class Route:
    """The calls that the units of a layer reach.

    Attributes:
        passing: Calls that pass them on, with the number of channels that they get for these
            units; concatenations are excluded.
        readers: Calls that mix them into their own units.
    """

    passing: tuple[tuple[Call, int], ...]
    readers: tuple[Call, ...]


def find_route(graph_spec: GraphSpec, origin: Call, num_new: int) -> Route:
    """Follows `num_new` units added to `origin` to all calls that read them.

    Raises:
        UnitsStopError: A call on the route does not support more units.
    """
    if graph_spec.is_shared(origin):
        raise UnitsStopError("the layer is shared: it is called several times")
    if origin.joined:
        raise UnitsStopError(_OUTPUTS)
    _check_data_format(origin)
    activation = origin.operation.get_config()["activation"]
    _check_activation(origin, origin.activation if origin.mixes_units else activation)
    channels = {Ref(origin): num_new}
    passing: list[tuple[Call, int]] = []
    readers: list[Call] = []
    for call in graph_spec.calls:
        arriving = [channels[ref] for ref in call.inputs if ref in channels]
        if not arriving:
            continue
        if graph_spec.is_shared(call):
            raise UnitsStopError(
                f"the layer {call.name!r} after it is shared: it is called several times"
            )
        if call.mixes_units or type(call.operation) in SEPARABLE:
            _check_data_format(call)
            if call.operation.activity_regularizer is not None:
                raise UnitsStopError(f"{call.name!r}, which reads it, has an activity_regularizer")
            readers.append(call)
            continue
        if call.joined:
            raise UnitsStopError(_OUTPUTS)
        if isinstance(call.operation, keras.layers.Concatenate):
            _check_concatenation(call)
            channels[Ref(call)] = sum(arriving)
            continue
        check_passing(call)
        passing.append((call, arriving[0]))
        channels[Ref(call)] = arriving[0] * _factor(call)
    if graph_spec.output in channels:
        raise UnitsStopError(_OUTPUTS)
    return Route(tuple(passing), tuple(readers))


_OUTPUTS = "its units are the model's outputs (to add classes: tlkit.add_classes(model, new_names))"


def check_passing(call: Call) -> None:
    """Raises `UnitsStopError` unless each channel of its output comes from one that it reads."""
    operation, name = call.operation, call.name
    kind = type(operation).__name__
    if isinstance(operation, keras.layers.Layer):
        _check_data_format(call)
    if len(call.inputs) > 1:
        _refuse_merging(call)
    if kind in _NORMALISATIONS:
        raise UnitsStopError(f"{name!r} ({kind}) normalises over the units that would be added")
    if isinstance(operation, CONVOLUTIONS):
        raise UnitsStopError(
            f"{name!r}, which reads it, is a grouped convolution (groups={operation.groups}), "
            "whose groups would change"
        )
    if type(operation) in _DEPTHWISE:
        _check_activation(call, operation.get_config()["activation"])
    if not passes(call):
        raise UnitsStopError(
            f"{name!r} of class {kind} is between it and the layers that read it, and tlkit does "
            "not know how it treats added units"
        )


def passes(call: Call) -> bool:
    """Whether each channel of a call's output is known to come from one that it reads."""
    operation = call.operation
    kind = type(operation)
    if not isinstance(operation, keras.layers.Layer):
        is_known = is_graph_operation(operation) and kind.__name__ in _ELEMENTWISE_OPERATIONS
        return is_known and _has_constants(call)
    if kind is _LAYERS.Activation or kind in _DEPTHWISE:
        return is_elementwise(operation.get_config()["activation"])
    if kind is _LAYERS.BatchNormalization:
        return operation.axis in (-1, len(call.shapes[0]) - 1)
    if kind is _LAYERS.Rescaling:
        return all(isinstance(n, int | float) for n in (operation.scale, operation.offset))
    if kind is _LAYERS.Reshape:
        return keeps_channels(call)
    return (kind in _PASSING or kind is _LAYERS.Flatten) and _takes_any_number(operation)


def _takes_any_number(operation: keras.layers.Layer) -> bool:
    """Whether a layer supports any number of channels, in particular a dropout's noise shape."""
    noise_shape = getattr(operation, "noise_shape", None)
    return noise_shape is None or noise_shape[-1] in (None, 1)


def is_elementwise(activation: Any) -> bool:
    """Whether an activation, in the form of a config, is known to act on each unit separately."""
    return isinstance(activation, str) and activation in _ELEMENTWISE_ACTIVATIONS


def keeps_channels(call: Call) -> bool:
    """Whether the last axis of a `Reshape` is the channel axis of its input."""
    return call.inputs[0].shape[-1] == call.shapes[0][-1]


def _has_constants(call: Call) -> bool:
    """Whether an operation reads one tensor, and otherwise only plain numbers."""
    others = [x for x in keras.tree.flatten((call.args, call.kwargs)) if not isinstance(x, Ref)]
    return len(call.inputs) == 1 and all(isinstance(x, int | float) for x in others)


def _factor(call: Call) -> int:
    """Returns the number of output channels for each input channel."""
    if type(call.operation) in _DEPTHWISE:
        return int(call.operation.depth_multiplier)
    if type(call.operation) is _LAYERS.Flatten:
        return num_positions(call)
    return 1


def num_positions(call: Call) -> int:
    """Returns the number of positions of each channel in a call's input."""
    return prod(size or 1 for size in call.inputs[0].shape[1:-1])


def _check_activation(call: Call, activation: Any) -> None:
    if not is_elementwise(activation):
        raise UnitsStopError(
            f"{call.name!r} has the activation {activation!r}, which is not known to act on each "
            "unit separately"
        )


def _check_data_format(call: Call) -> None:
    if getattr(call.operation, "data_format", None) == "channels_first":
        raise UnitsStopError(
            f"{call.name!r} has data_format='channels_first', and units are added to the last axis"
        )


def _check_concatenation(call: Call) -> None:
    if call.operation.axis not in (-1, len(call.shapes[0]) - 1):
        raise UnitsStopError(
            f"{call.name!r} concatenates along axis {call.operation.axis}, not along the units"
        )


def _refuse_merging(call: Call) -> None:
    kind = type(call.operation).__name__
    if kind in _SUMS:
        raise UnitsStopError(
            f"its output goes into {call.name!r} ({kind}), a residual sum, all of whose "
            "inputs, and thus layers throughout the network, would have to grow too"
        )
    raise UnitsStopError(
        f"its output is merged with another layer's in {call.name!r} ({kind}), which would have "
        "to grow too"
    )
