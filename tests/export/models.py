"""Models and images for the tests of all formats."""

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_sample_images

from tests.conftest import set_seeds

SIZE = (24, 32)
NAMES = ("ant", "bee", "猫 & <dog>")
HEADS = {"softmax": (3, None), "binary": (1, None), "multi_label": (3, "sigmoid")}


def small_model(kind="softmax", scale=50.0):
    """A model that is hard to convert: grouped convolution, exact GELU, statistics as constants."""
    set_seeds(0)
    num_outputs, activation = HEADS[kind]
    inputs = keras.Input((*SIZE, 3))
    # more than 128 constants, which TensorFlow captures and does not write into a graph
    statistics = np.linspace(90, 130, 32 * 3).reshape(32, 3)
    x = keras.layers.Normalization(axis=(2, 3), mean=statistics, variance=statistics**2)(inputs)
    x = keras.layers.Conv2D(32, 3, strides=2)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2D(32, 3, groups=8, activation="gelu")(x)
    x = keras.layers.DepthwiseConv2D(3, activation="silu")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dropout(0.5, seed=0)(x)
    x = keras.layers.Dense(num_outputs, activation=activation)(x)
    model = keras.Model(inputs, x, name="small")
    model.layers[-1].kernel.assign(model.layers[-1].kernel * scale)
    return model


@keras.saving.register_keras_serializable("tests")
class InverseErrorFunction(keras.layers.Layer):
    """An operation that neither LiteRT nor ONNX has."""

    def call(self, inputs):
        return keras.ops.erfinv(inputs / 300)


def foreign_model():
    inputs = keras.Input((*SIZE, 3))
    x = keras.layers.GlobalAveragePooling2D()(InverseErrorFunction()(inputs))
    return keras.Model(inputs, x)


def random_images(size=SIZE):
    """Sixteen views of the two images that come with scikit-learn, uint8."""
    views = []
    for image in load_sample_images().images:
        for view in (image, image[:, ::-1], image[::-1], 255 - image):
            views += [view, view[:200, :300]]
    return np.stack(
        [tf.cast(tf.image.resize(view, size, antialias=True), tf.uint8) for view in views]
    )


def names_for(kind):
    return NAMES[:2] if kind == "binary" else NAMES
