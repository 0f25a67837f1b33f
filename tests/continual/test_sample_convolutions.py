"""Per-sample gradients of convolutions equal TensorFlow's, without a loop over samples."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import set_seeds
from tlkit.continual.sample_convolutions import count_patch_values, vectorizable_convolutions

SETTINGS = [
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": (2, 3), "padding": "valid"},
    {"kernel_size": 3, "strides": 2, "padding": "same"},
    {"kernel_size": (3, 2), "strides": (1, 2), "padding": "valid"},
    {"kernel_size": 1, "strides": 2, "padding": "same"},
    {"kernel_size": 4, "strides": 3, "padding": "same"},
]


def network(**settings):
    set_seeds(0)
    inputs = keras.Input((9, 8, 2))
    x = keras.layers.Conv2D(3, **settings, name="first")(inputs)
    x = keras.layers.Conv2D(2, 2, name="second", padding="same", activation="tanh")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def gradients_of(model, images):
    """Returns the per-sample gradients in one vectorised graph."""
    weights = [v.value for v in model.trainable_variables]

    def of_one(image):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(model(image[None]) ** 2)
        return tape.gradient(value, weights)

    traced = tf.function(lambda x: tf.vectorized_map(of_one, x, fallback_to_while_loop=False))
    return traced.get_concrete_function(tf.constant(images))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_gradients_equal_those_of_single_samples_without_a_loop(settings):
    model = network(**settings)
    images = np.random.default_rng(0).normal(size=(5, 9, 8, 2)).astype("float32")
    with vectorizable_convolutions(model):
        run = gradients_of(model, images)
    assert not [op.type for op in run.graph.get_operations() if "While" in op.type]
    found = run(tf.constant(images))
    for i, image in enumerate(images):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(model(image[None]) ** 2)
        expected = tape.gradient(value, model.trainable_variables)
        for one, own in zip(found, expected, strict=True):
            np.testing.assert_allclose(one[i], own, rtol=1e-4, atol=1e-6)


def test_the_layers_are_restored_and_others_are_unchanged():
    model = network(kernel_size=3)
    with vectorizable_convolutions(model):
        assert "convolution_op" in vars(model.get_layer("first"))
    for name in ("first", "second"):
        assert "convolution_op" not in vars(model.get_layer(name))
    inputs = keras.Input((8, 8, 4))
    grouped = keras.Model(inputs, keras.layers.Conv2D(4, 3, groups=2, name="grouped")(inputs))
    with vectorizable_convolutions(grouped):
        assert "convolution_op" not in vars(grouped.get_layer("grouped"))


def test_patches_have_the_inputs_of_each_output():
    assert count_patch_values(network(kernel_size=3)) == 7 * 6 * (9 * 2) + 7 * 6 * (4 * 3)
