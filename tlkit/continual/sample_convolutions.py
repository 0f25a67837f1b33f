"""Convolutions whose per-sample filter gradients `tf.vectorized_map` can vectorise."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import keras
import tensorflow as tf

from tlkit.models.graph import with_nested


@contextmanager
def vectorizable_convolutions(model: keras.Model) -> Iterator[None]:
    """Replaces the model's plain convolutions by ones whose filter gradients need no loop.

    TensorFlow's rule for these gradients is a loop over samples (`Conv2DBackpropFilter` in
    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/ops/parallel_for/pfor.py,
    with the words "Fix that!"; this module can be removed then). Computed as the product of the
    filter's input patches and the gradient of the outputs, it is one batched matrix product. Only
    the order of float sums differs.
    """
    layers = [layer for layer in with_nested(model) if is_plain_convolution(layer)]
    for layer in layers:
        layer.convolution_op = _convolution_of(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.convolution_op


def count_patch_values(model: keras.Model) -> int:
    """Returns the number of values in one sample's patches, over all plain convolutions."""
    return sum(
        prod(layer.kernel.shape[:3]) * prod(layer.output.shape[1:3])
        for layer in with_nested(model)
        if is_plain_convolution(layer) and None not in layer.output.shape[1:3]
    )


def is_plain_convolution(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a convolution whose gradients can be vectorised over samples.

    Without oneDNN, which TensorFlow does not use on some processors, its CPU gradients do not
    support dilated filters, nor groups of channels in a loop over samples.
    """
    return (
        type(layer) is keras.layers.Conv2D
        and layer.groups == 1
        and tuple(layer.dilation_rate) == (1, 1)
        and layer.data_format == "channels_last"
    )


def _convolution_of(layer: keras.layers.Conv2D) -> Callable[[Any, Any], tf.Tensor]:
    given = {
        "strides": layer.strides,
        "padding": layer.padding.upper(),
    }

    @tf.custom_gradient
    def convolve(images: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        outputs = tf.nn.conv2d(images, kernel, **given)
        patches = _patches(images, kernel.shape[:2], outputs.shape[1:3], **given)
        seen = tf.reshape(patches, [-1, patches.shape[-1]])

        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            by_images = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(images), **given)
            each = tf.reshape(upstream, [-1, upstream.shape[-1]])
            return by_images, tf.reshape(tf.matmul(seen, each, transpose_a=True), kernel.shape)

        return outputs, gradients

    def call(inputs: Any, kernel: Any) -> tf.Tensor:
        images = tf.convert_to_tensor(inputs)
        if None in images.shape[1:]:  # patches need a fixed image size
            return type(layer).convolution_op(layer, inputs, kernel)
        return convolve(images, tf.convert_to_tensor(kernel))

    return call


def _patches(
    images: tf.Tensor,
    size: Sequence[int],
    num_outputs: Sequence[int],
    *,
    strides: Sequence[int],
    padding: str,
) -> tf.Tensor:
    """Returns the filter's input patch at each output, `(batch, height, width, values)`.

    Uses slices, which `tf.vectorized_map` supports; it does not support
    `tf.image.extract_patches`.
    """
    pads = [(0, 0)] * 2
    if padding == "SAME":
        for axis in range(2):
            reach = (num_outputs[axis] - 1) * strides[axis] + size[axis]
            missing = max(reach - images.shape[axis + 1], 0)
            pads[axis] = (missing // 2, missing - missing // 2)
    padded = tf.pad(images, [(0, 0), *pads, (0, 0)])
    seen = []
    for row in range(size[0]):
        for column in range(size[1]):
            bottom = row + (num_outputs[0] - 1) * strides[0] + 1
            right = column + (num_outputs[1] - 1) * strides[1] + 1
            seen.append(padded[:, row : bottom : strides[0], column : right : strides[1]])
    return tf.concat(seen, axis=-1)
