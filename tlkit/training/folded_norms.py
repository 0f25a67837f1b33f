"""Batch normalisation folded into the convolution before it, while both are trained.

With fixed statistics it multiplies each channel by a factor and adds an offset. The factors times
the kernel, and the offsets as a bias, give the same outputs and gradients to rounding, without
passes over the feature maps: conv(x, k) * s + b = conv(x, k * s) + b, where
s = gamma / sqrt(variance + epsilon) and b = beta - mean * s.

No weight is changed, so a model saved later is unchanged.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from tlkit.models.graph import sorted_nodes
from tlkit.utils.keras_private import node_of

Call = Callable[..., Any]

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv2D,
)


def folded_calls(
    model: keras.Model, runs_in_inference: Callable[[keras.Operation], bool]
) -> Mapping[int, Call]:
    """Returns what to call instead of convolutions and the batch normalisation after them.

    Args:
        model: A functional model without nested ones.
        runs_in_inference: Whether all calls of an operation run in inference mode.

    Returns:
        For each of these operations, by its id, a function that is called instead. Convolutions
        without batch normalisation, subclasses of Keras's layers, layers called twice, and frozen
        kernels, whose gradients would be computed for nothing, are not among them.
    """
    nodes = sorted_nodes(model.output)
    called = Counter(id(node.operation) for node in nodes)
    used = Counter(id(node_of(tensor)) for node in nodes for tensor in node.input_tensors)
    used[id(node_of(model.output))] += 1
    calls: dict[int, Call] = {}
    for node in nodes:
        norm = node.operation
        if type(norm) is not keras.layers.BatchNormalization:
            continue
        if norm.trainable and not runs_in_inference(norm):  # with the statistics of each batch
            continue
        before = node_of(node.input_tensors[0])
        convolution = before.operation
        if (
            _is_foldable(convolution)
            and not runs_in_inference(convolution)
            and norm.axis in (-1, len(node.input_tensors[0].shape) - 1)
            and called[id(norm)] == called[id(convolution)] == used[id(before)] == 1
        ):
            calls[id(convolution)] = _folded(convolution, norm)
            calls[id(norm)] = _unchanged
    return calls


def _is_foldable(layer: keras.Operation) -> bool:
    return (
        type(layer) in _CONVOLUTIONS
        and layer.trainable
        and layer.data_format == "channels_last"
        and layer.padding != "causal"
        and layer.activation in (None, keras.activations.linear)
        and layer.activity_regularizer is None
        and not getattr(layer, "lora_enabled", False)
        and layer.quantization_mode is None
    )


def _folded(convolution: keras.layers.Layer, norm: keras.layers.BatchNormalization) -> Call:
    """Returns the function that computes both."""

    def call(inputs: tf.Tensor, **_: Any) -> tf.Tensor:
        factors = tf.math.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            factors *= norm.gamma
        offsets = -norm.moving_mean * factors
        if norm.center:
            offsets += norm.beta
        if convolution.use_bias:
            offsets += convolution.bias * factors
        kernel = tf.convert_to_tensor(convolution.kernel)
        kernel *= tf.reshape(factors, _factors_shape(convolution))
        dtype = convolution.compute_dtype
        inputs, kernel, offsets = (tf.cast(one, dtype) for one in (inputs, kernel, offsets))
        outputs = _convolved(convolution, inputs, kernel)
        return tf.cast(tf.nn.bias_add(outputs, offsets), norm.compute_dtype)

    return call


def _factors_shape(convolution: keras.layers.Layer) -> tuple[int, ...]:
    """Returns the shape in which one factor per output channel multiplies the kernel."""
    shape = tuple(convolution.kernel.shape)
    if isinstance(convolution, keras.layers.DepthwiseConv2D):
        return (1, 1, *shape[-2:])
    return (1,) * (len(shape) - 1) + shape[-1:]


def _convolved(convolution: keras.layers.Layer, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    operation = keras.ops.conv
    if isinstance(convolution, keras.layers.DepthwiseConv2D):
        operation = keras.ops.depthwise_conv
    return operation(
        inputs,
        kernel,
        strides=convolution.strides,
        padding=convolution.padding,
        data_format=convolution.data_format,
        dilation_rate=convolution.dilation_rate,
    )


def _unchanged(inputs: tf.Tensor, **_: Any) -> tf.Tensor:
    return inputs
