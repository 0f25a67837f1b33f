"""The initial weights of new units."""

import keras
import numpy as np

from tlkit.models.layer_spec import Fill, LayerSpec, units_argument


def norm_matched(old: keras.layers.Layer, random: np.random.Generator) -> Fill:
    """Returns a function that fills the kernel of new units with random weights at the old norm.

    Each unit's weights are drawn from a normal distribution and scaled to the mean Euclidean norm
    of the old units (the mean norm of an old channel for a depthwise kernel). If the old weights
    are all zero, the variance is He's, 2 / fan_in. The bias is set by the layer's initializer.

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


def averaged_norm(old: keras.layers.BatchNormalization) -> Fill:
    """Returns a function that fills the batch normalisation of new units with averages.

    Scale, shift and moving variance are the means over the old units; the moving mean is zero, as
    expected with random incoming weights.
    """

    def fill(layer: keras.layers.BatchNormalization) -> None:
        for name in ("gamma", "beta", "moving_variance"):
            variable = getattr(layer, name)
            if variable is not None:
                mean = np.mean(keras.ops.convert_to_numpy(getattr(old, name)))
                variable.assign(np.full(tuple(variable.shape), mean))

    return fill


def zero_reader(layer_spec: LayerSpec) -> LayerSpec:
    """Returns a spec of a layer with zero weights, through which its units read other units."""
    return LayerSpec(
        layer_spec.operation,
        {
            units_argument(layer_spec.operation): layer_spec.num_units,
            "use_bias": False,
            "activation": "linear",
            "trainable": True,
            "kernel_initializer": "zeros",
        },
        fill=keep_initial_weights,
    )


def is_depthwise(operation: keras.Operation) -> bool:
    """Whether an operation is a depthwise convolution."""
    return isinstance(operation, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D)


def keep_initial_weights(layer: keras.layers.Layer) -> None:
    """Keeps the weights that a layer's initializers have set."""
