"""Tiny networks whose layer "target" can be widened, one for each kind of layer on the way."""

import keras
import numpy as np

from tests.conftest import set_seeds

layers = keras.layers


def dense():
    x = keras.Input((6,))
    y = layers.Dense(5, activation="relu", name="target")(x)
    y = layers.Dropout(0.5)(y)
    y = layers.Dense(4, activation="tanh", name="reader")(y)
    return x, layers.Dense(3, name="logits")(y)


def convolution():
    x = keras.Input((8, 8, 2))
    y = layers.Conv2D(4, 3, strides=2, name="target", use_bias=False)(x)
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(y))
    y = layers.MaxPooling2D(2, 1, name="pool")(y)
    y = layers.Conv2D(5, 2, activation="relu", name="reader")(y)
    return x, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(y))


def flattened():
    x = keras.Input((6, 6, 2))
    y = layers.Conv2D(3, 3, activation="relu", name="target")(x)
    y = layers.Flatten(name="flat")(layers.SpatialDropout2D(0.2)(y))
    return x, layers.Dense(3, name="logits")(y)


def depthwise():
    x = keras.Input((8, 8, 2))
    y = layers.Conv2D(4, 1, name="target")(x)
    y = layers.ZeroPadding2D()(y)
    y = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="depthwise")(y)
    y = layers.Conv2D(5, 1, name="reader")(layers.BatchNormalization()(y))
    return x, layers.Dense(3, name="logits")(layers.GlobalMaxPooling2D()(y))


def separable():
    x = keras.Input((8, 8, 2))
    y = layers.SeparableConv2D(4, 3, depth_multiplier=2, activation="relu", name="target")(x)
    y = layers.BatchNormalization()(y)
    y = layers.SeparableConv2D(5, 3, strides=2, activation="relu", name="reader")(y)
    return x, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(y))


def concatenated():
    x = keras.Input((6, 6, 2))
    y = layers.Conv2D(3, 1, name="target")(x)
    y = layers.Concatenate(name="inner")([x, y, y])
    z = layers.Conv2D(2, 1, name="reader")(y)
    z = layers.Flatten()(layers.Concatenate(name="outer")([y, z]))
    return x, layers.Dense(3, name="logits")(z)


def residual():
    x = keras.Input((6, 6, 2))
    y = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    z = layers.Conv2D(3, 3, padding="same", name="target")(layers.ReLU()(y))
    z = layers.Conv2D(4, 3, padding="same", name="reader")(layers.LeakyReLU()(z))
    y = layers.Add(name="sum")([y, z])
    return x, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(y))


def operations():
    x = keras.Input((6,))
    y = layers.Dense(5, name="target")(x)
    y = keras.ops.relu6(y + 3.0) * (1 / 6)
    return x, layers.Dense(3, name="logits")(y)


def reshaped():
    x = keras.Input((6, 6, 2))
    y = layers.Conv2D(4, 3, name="target")(x)
    y = layers.Reshape((1, 1, 4))(layers.GlobalAveragePooling2D()(y))
    y = layers.Conv2D(3, 1, activation="sigmoid", name="reader")(y)
    return x, layers.Dense(3, name="logits")(layers.Flatten()(y))


def sequence():
    x = keras.Input((9, 2))
    y = layers.Conv1D(4, 3, activation="gelu", name="target")(x)
    y = layers.SeparableConv1D(3, 2, name="reader")(y)
    return x, layers.Dense(3, name="logits")(layers.GlobalAveragePooling1D()(y))


NETWORKS = (
    *(dense, convolution, flattened, depthwise, separable),
    *(concatenated, residual, operations, reshaped, sequence),
)


def network(build):
    """Builds a network with random weights, biases and statistics of batch normalisation."""
    set_seeds(0)
    model = keras.Model(*build(), name=build.__name__)
    shaken(model)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            statistics = np.random.default_rng(3).uniform(0.5, 2, (2, *layer.moving_mean.shape))
            layer.moving_mean.assign(statistics[0] - 1)
            layer.moving_variance.assign(statistics[1])
    return model


def shaken(model):
    """Changes every weight of a model slightly."""
    random = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(variable.numpy() + 0.2 * random.standard_normal(variable.shape))
    return model


def inputs(model, num=4):
    random = np.random.default_rng(2)
    return random.standard_normal((num, *model.input_shape[1:])).astype("float32")


def weights_of(model):
    return [variable.numpy() for variable in model.variables]


def are_equal(some, others):
    return len(some) == len(others) and all(
        np.array_equal(a, b) for a, b in zip(some, others, strict=True)
    )


def relative_difference(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())
