"""Separable convolutions taken apart into the two layers that they are, and put together again."""

import keras
import numpy as np

from tlkit.models.layer_spec import Call, Composition, Piece, Ref

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


def take_apart_separable(composition: Composition, call: Call) -> None:
    """Replaces a separable convolution by a depthwise and a 1x1 one.

    The two compute the same to the bit. The 1x1 convolution keeps the name; the depthwise one is
    called NAME__depthwise.
    """
    old = call.operation
    config = call.piece.config
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

    before = Call(call.args, call.kwargs, (middle,), {(0, 0): Piece(depthwise)})
    composition.calls.insert(composition.calls.index(call), before)
    # The call itself changes, so that whatever reads it still does
    call.args, call.kwargs = (Ref(before),), {}
    call.pieces = {(0, 0): Piece(pointwise)}
    call.activation = config["activation"]


def put_together_separable(composition: Composition) -> None:
    """Makes one layer again of each separable convolution that was taken apart, in place.

    Each call must have one part only.
    """
    for before in list(composition.calls):
        readers = list(composition.readers(Ref(before)))
        if not before.name.endswith(DEPTHWISE) or len(readers) != 1:
            continue
        call = readers[0]
        kinds = [kind for kind, pair in _KINDS.items() if type(call.operation) is pair[1]]
        is_pair = call.name == before.name.removesuffix(DEPTHWISE) and kinds
        if is_pair and call.inputs == [Ref(before)]:
            call.pieces = {(0, 0): _separable(kinds[0], before.piece, call.piece)}
            call.args, call.kwargs = before.args, before.kwargs
            composition.calls.remove(before)


def _separable(kind: type[keras.layers.Layer], depthwise: Piece, pointwise: Piece) -> Piece:
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
    return Piece(layer, weights=(*_weights_of(depthwise), *_weights_of(pointwise)))


def _weights_of(piece: Piece) -> tuple[np.ndarray, ...]:
    return piece.weights or tuple(piece.operation.get_weights())
