"""Batch normalisation folded into the convolution before it: same outputs and gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.models.groups import set_trainable
from tlkit.training.folded_norms import folded_calls
from tlkit.training.inference_mode import find_frozen_calls
from tlkit.utils.keras_private import run_graph

LAYERS = keras.layers
CONVOLUTIONS = {
    "biased": ((12, 12, 3), lambda: LAYERS.Conv2D(4, 3, strides=2, padding="same")),
    "grouped": ((12, 12, 4), lambda: LAYERS.Conv2D(6, 3, groups=2, use_bias=False)),
    "dilated": ((12, 12, 3), lambda: LAYERS.Conv2D(4, 3, dilation_rate=2)),
    "depthwise": ((12, 12, 3), lambda: LAYERS.DepthwiseConv2D(3, strides=2, padding="same")),
    "two by depth": ((9, 9, 3), lambda: LAYERS.DepthwiseConv2D(3, depth_multiplier=2)),
    "of a sequence": ((20, 3), lambda: LAYERS.Conv1D(5, 4, strides=2)),
    "of a volume": ((6, 6, 6, 2), lambda: LAYERS.Conv3D(3, 2)),
}


def with_norm(shape, convolution, norm=None):
    """Returns a model of a convolution and a batch normalisation with random weights."""
    inputs = keras.Input(shape)
    norm = norm or LAYERS.BatchNormalization()
    model = keras.Model(inputs, norm(convolution(inputs)))
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    return model


def is_norm(operation):
    return isinstance(operation, LAYERS.BatchNormalization)


def gradients_of(model, replaced):
    """Returns outputs and the gradients of a function of them, some operations being replaced."""

    def call_of(operation):
        if id(operation) in replaced:
            return replaced[id(operation)]
        return lambda *args, **given: operation(*args, **{**given, "training": False})

    generator = np.random.default_rng(1)
    inputs = generator.normal(size=(3, *model.input_shape[1:])).astype("float32")
    with tf.GradientTape() as tape:
        outputs = run_graph(model, tf.constant(inputs), call_of)
        weights = generator.normal(size=outputs.shape).astype("float32")
        loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * weights)
    return outputs, tape.gradient(loss, [one.value for one in model.trainable_variables])


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_outputs_and_gradients_are_the_same(kind):
    shape, build = CONVOLUTIONS[kind]
    model = with_norm(shape, build())
    replaced = folded_calls(model, is_norm)
    assert len(replaced) == 2
    outputs, gradients = gradients_of(model, {})
    folded_outputs, folded_gradients = gradients_of(model, replaced)
    np.testing.assert_allclose(folded_outputs, outputs, rtol=1e-5, atol=1e-5)
    assert len(gradients) == len(model.trainable_variables) >= 3
    for folded, gradient in zip(folded_gradients, gradients, strict=True):
        np.testing.assert_allclose(folded, gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("scale", "center"), [(True, False), (False, True), (False, False)])
def test_without_factors_or_offsets(scale, center):
    norm = LAYERS.BatchNormalization(scale=scale, center=center, epsilon=0.01)
    model = with_norm((8, 8, 2), LAYERS.Conv2D(3, 3, use_bias=False), norm)
    replaced = folded_calls(model, is_norm)
    outputs, gradients = gradients_of(model, {})
    folded_outputs, folded_gradients = gradients_of(model, replaced)
    np.testing.assert_allclose(folded_outputs, outputs, rtol=1e-5, atol=1e-5)
    for folded, gradient in zip(folded_gradients, gradients, strict=True):
        np.testing.assert_allclose(folded, gradient, rtol=1e-4, atol=1e-4)


def test_the_type_of_the_outputs_stays():
    policy = keras.DTypePolicy("mixed_bfloat16")
    norm = LAYERS.BatchNormalization(dtype=policy)
    model = with_norm((8, 8, 2), LAYERS.Conv2D(3, 3, dtype=policy), norm)
    outputs, _ = gradients_of(model, {})
    folded, _ = gradients_of(model, folded_calls(model, is_norm))
    assert folded.dtype == outputs.dtype == tf.bfloat16
    np.testing.assert_allclose(
        tf.cast(folded, tf.float32), tf.cast(outputs, tf.float32), rtol=0.05, atol=0.2
    )


class OwnConvolution(LAYERS.Conv2D):
    """A subclass may compute anything."""


def frozen():
    layer = LAYERS.Conv2D(4, 3)
    layer.trainable = False
    return layer


@pytest.mark.parametrize(
    "build",
    [
        lambda: LAYERS.Conv2D(4, 3, activation="relu"),
        lambda: LAYERS.Conv2D(4, 3, activity_regularizer="l2"),
        lambda: OwnConvolution(4, 3),
        lambda: LAYERS.SeparableConv2D(4, 3),
        frozen,
    ],
)
def test_other_convolutions_are_not_replaced(build):
    assert not folded_calls(with_norm((8, 8, 3), build()), is_norm)


def test_causal_padding_is_not_replaced():
    assert not folded_calls(with_norm((9, 3), LAYERS.Conv1D(4, 3, padding="causal")), is_norm)


def test_norms_of_another_axis_are_not_replaced():
    norm = LAYERS.BatchNormalization(axis=1)
    assert not folded_calls(with_norm((8, 8, 3), LAYERS.Conv2D(4, 3), norm), is_norm)


def test_norms_that_train_and_convolutions_that_do_not_are_not_replaced():
    model = with_norm((8, 8, 3), LAYERS.Conv2D(4, 3))
    assert not folded_calls(model, lambda operation: False)
    assert not folded_calls(model, lambda operation: True)


def test_outputs_that_are_used_twice_are_not_replaced():
    inputs = keras.Input((8, 8, 3))
    features = LAYERS.Conv2D(4, 3)(inputs)
    both = LAYERS.Add()([LAYERS.BatchNormalization()(features), features])
    assert not folded_calls(keras.Model(inputs, both), is_norm)
    convolution = LAYERS.Conv2D(3, 3, padding="same")
    twice = LAYERS.BatchNormalization()(convolution(convolution(inputs)))
    assert not folded_calls(keras.Model(inputs, twice), is_norm)


def test_training_folds_norms_whose_statistics_are_fixed(monkeypatch):
    model = tlkit.build_classifier("mobilenet_025", ["a", "b"], image_size=32, weights=None)
    calls = []
    call = LAYERS.BatchNormalization.call

    def recorded(layer, *args, **given):
        calls.append(layer.name)
        return call(layer, *args, **given)

    monkeypatch.setattr(LAYERS.BatchNormalization, "call", recorded)
    for batch_norm, expected in (("affine", 0), ("frozen", 0), ("train", 27)):
        report = set_trainable(model, "all", batch_norm=batch_norm)
        find_frozen_calls(model, "all", report).run(model, tf.zeros((1, 32, 32, 3)))
        assert len(calls) == expected
