import keras
import numpy as np
import pytest

import tlkit
from tests.conftest import set_seeds


@pytest.fixture
def model():
    set_seeds(0)
    return tlkit.build_classifier("tiny_resnet", ["grey", "red"], weights=None)


@pytest.fixture(scope="session")
def data():
    """Images of two classes that differ in one colour channel."""
    labels = np.arange(64) % 2
    images = np.random.default_rng(0).integers(0, 99, (64, 32, 32, 3), "uint8")
    images[labels == 1, :, :, 0] += 60
    return tlkit.load_arrays(images, labels, ["grey", "red"], batch_size=16)


class Blind(keras.losses.Loss):
    """A constant loss of zero."""

    def call(self, y_true, y_pred):
        return 0.0 * keras.ops.sum(y_pred, axis=-1)


@pytest.fixture
def blind():
    return Blind()


@pytest.fixture(scope="session")
def small():
    """A network small enough for per-sample gradients in a loop, with random images."""
    set_seeds(1)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    for variable in model.get_layer("norm").weights:
        variable.assign(np.random.default_rng(2).uniform(0.5, 1.5, variable.shape))
    images = np.random.default_rng(3).normal(0, 1, (10, 8, 8, 3)).astype("float32")
    labels = np.arange(10) % 3
    return model, images, labels
