"""The weights that new units begin with."""

import keras
import numpy as np

from tlkit.models.layer_spec import Fill, LayerSpec, units_argument


def norm_matched(old: keras.layers.Layer, random: np.random.Generator) -> Fill:
    """Returns what fills the kernel of new units: He's normal weights at the old units' norm.

    Each unit's weights are drawn from a normal distribution and scaled to the mean Euclidean norm
    of the old units' (the mean norm of an old channel's for a depthwise kernel). Where the old ones
    are all zero, the variance is He's, 2 / fan_in. The bias begins as the layer's own initializer
    says.

    Reference:
        He et al. (2015), section 2.2, https://arxiv.org/abs/1502.01852
    """
    num_axes = 2 if is_depthwise(old) else 1  # at the end of the kernel's shape, one unit each

    def fill(layer: keras.layers.Layer) -> None:
        norm = np.mean(norms(keras.ops.convert_to_numpy(old.kernel), num_axes))
        weights = random.standard_normal(tuple(layer.kernel.shape))
        if norm > 0:
            weights *= norm / norms(weights, num_axes)
        else:
            weights *= np.sqrt(2 / np.prod(weights.shape[:-num_axes]))
        layer.kernel.assign(weights)

    return fill


def norms(kernel: np.ndarray, num_axes: int = 1) -> np.ndarray:
    """Returns the Euclidean norm of each unit's incoming weights, units on the last axes."""
    axes = tuple(range(kernel.ndim - num_axes))
    return np.sqrt(np.square(kernel, dtype=np.float64).sum(axes))


def like_the_average(old: keras.layers.BatchNormalization) -> Fill:
    """Returns what fills the batch normalisation of new units: as the old ones are on average.

    Scale, shift and moving variance are the mean of the old units'; the moving mean is zero, as
    random incoming weights leave it.
    """

    def fill(layer: keras.layers.BatchNormalization) -> None:
        for name in ("gamma", "beta", "moving_variance"):
            variable = getattr(layer, name)
            if variable is not None:
                mean = np.mean(keras.ops.convert_to_numpy(getattr(old, name)))
                variable.assign(np.full(tuple(variable.shape), mean))

    return fill


def reader(layer_spec: LayerSpec) -> LayerSpec:
    """Returns a spec with which its units read further ones: with weights of zero."""
    return LayerSpec(
        layer_spec.operation,
        {
            units_argument(layer_spec.operation): layer_spec.num_units,
            "use_bias": False,
            "activation": "linear",
            "trainable": True,
            "kernel_initializer": "zeros",
        },
        fill=leave,
    )


def is_depthwise(operation: keras.Operation) -> bool:
    """Whether it is a depthwise convolution."""
    return isinstance(operation, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D)


def leave(layer: keras.layers.Layer) -> None:
    """Leaves a layer with the weights that its initializers gave it."""
