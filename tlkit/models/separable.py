"""Splitting separable convolutions into a depthwise and a 1x1 convolution, and fusing them."""

import keras
import numpy as np

from tlkit.models.layer_spec import Call, GraphSpec, LayerSpec, Ref

DEPTHWISE = "__depthwise"
_KINDS = {
    keras.layers.SeparableConv1D: (keras.layers.DepthwiseConv1D, keras.layers.Conv1D),
    keras.layers.SeparableConv2D: (keras.layers.DepthwiseConv2D, keras.layers.Conv2D),
}
_SHARED_SETTINGS = ("trainable", "dtype", "data_format")
_DEPTHWISE_SETTINGS = ("kernel_size", "strides", "padding", "dilation_rate", "depth_multiplier")
_POINTWISE_SETTINGS = (
    *("filters", "use_bias", "activation", "bias_initializer", "bias_regularizer"),
    *("bias_constraint", "activity_regularizer"),
)


def split_separable(graph_spec: GraphSpec, call: Call) -> None:
    """Replaces a separable convolution by a depthwise and a 1x1 convolution.

    Their outputs are bit-identical. The 1x1 convolution keeps the name; the depthwise one is called
    NAME__depthwise.
    """
    old = call.operation
    config = call.layer_spec.config
    depthwise_class, pointwise_class = _KINDS[type(old)]
    shared = {key: config[key] for key in _SHARED_SETTINGS}
    depthwise = depthwise_class(
        **{key: config[key] for key in _DEPTHWISE_SETTINGS},
        **shared,
        use_bias=False,
        depthwise_initializer=config["depthwise_initializer"],
        depthwise_regularizer=config["depthwise_regularizer"],
        depthwise_constraint=config["depthwise_constraint"],
        name=f"{call.name}{DEPTHWISE}",
    )
    pointwise = pointwise_class(
        kernel_size=1,
        **{key: config[key] for key in _POINTWISE_SETTINGS},
        **shared,
        kernel_initializer=config["pointwise_initializer"],
        kernel_regularizer=config["pointwise_regularizer"],
        kernel_constraint=config["pointwise_constraint"],
        name=call.name,
    )

    shape = call.inputs[0].shape
    middle = depthwise.compute_output_shape(shape)
    depthwise.build(shape)
    depthwise.kernel.assign(old.depthwise_kernel)
    pointwise.build(middle)
    pointwise.kernel.assign(old.pointwise_kernel)
    if old.use_bias:
        pointwise.bias.assign(old.bias)

    before = Call(call.args, call.kwargs, (middle,), {(0, 0): LayerSpec(depthwise)})
    graph_spec.calls.insert(graph_spec.calls.index(call), before)
    # the call itself is changed, so that references to it stay valid
    call.args, call.kwargs = (Ref(before),), {}
    call.layer_specs = {(0, 0): LayerSpec(pointwise)}
    call.activation = config["activation"]


def fuse_separable(graph_spec: GraphSpec) -> None:
    """Fuses the two layers of each separable convolution that was split, in place.

    Each call must have only one part.
    """
    for before in list(graph_spec.calls):
        readers = list(graph_spec.readers(Ref(before)))
        if not before.name.endswith(DEPTHWISE) or len(readers) != 1:
            continue
        call = readers[0]
        kinds = [kind for kind, pair in _KINDS.items() if type(call.operation) is pair[1]]
        is_pair = call.name == before.name.removesuffix(DEPTHWISE) and kinds
        if is_pair and call.inputs == [Ref(before)]:
            call.layer_specs = {(0, 0): _separable(kinds[0], before.layer_spec, call.layer_spec)}
            call.args, call.kwargs = before.args, before.kwargs
            graph_spec.calls.remove(before)


def _separable(
    kind: type[keras.layers.Layer], depthwise: LayerSpec, pointwise: LayerSpec
) -> LayerSpec:
    first, second = depthwise.config, pointwise.config
    layer = kind(
        **{key: first[key] for key in _DEPTHWISE_SETTINGS},
        **{key: second[key] for key in (*_POINTWISE_SETTINGS, *_SHARED_SETTINGS, "name")},
        depthwise_initializer=first["depthwise_initializer"],
        depthwise_regularizer=first["depthwise_regularizer"],
        depthwise_constraint=first["depthwise_constraint"],
        pointwise_initializer=second["kernel_initializer"],
        pointwise_regularizer=second["kernel_regularizer"],
        pointwise_constraint=second["kernel_constraint"],
    )
    return LayerSpec(layer, weights=(*_weights_of(depthwise), *_weights_of(pointwise)))


def _weights_of(layer_spec: LayerSpec) -> tuple[np.ndarray, ...]:
    return layer_spec.weights or tuple(layer_spec.operation.get_weights())
