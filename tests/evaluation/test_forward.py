"""The cached trace of evaluation and prediction is reused, but never when it is outdated."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import tlkit
from tlkit.evaluation import forward
from tlkit.evaluation.forward import forward_of

IMAGES = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3)).astype("float32")


class Doubled(keras.layers.Layer):
    """A custom layer with state that is not in its config."""

    factor = 2.0

    def call(self, images):
        return self.factor * images


def a_model(*layers):
    images = x = keras.Input((8, 8, 3))
    for layer in layers:
        x = layer(x)
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    x = keras.layers.Dropout(0.5, name="dropout")(keras.layers.Flatten()(x))
    return keras.Model(images, keras.layers.Dense(2, name="head")(x))


@pytest.fixture
def traces(monkeypatch):
    """Counts how often a model is traced."""
    count = []
    own = keras.Model.__call__

    def call(self, *args, **kwargs):
        count.append(self)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "__call__", call)
    return count


def expected(model):
    return keras.ops.convert_to_numpy(model(IMAGES, training=False))


def test_the_trace_is_reused_with_other_weights(traces):
    model = a_model()
    first = forward_of(model)(IMAGES)
    model.set_weights([weight + 0.25 for weight in model.get_weights()])
    model.get_layer("conv").trainable = False
    again = forward_of(model)(IMAGES)
    assert len(traces) == 1
    assert not np.allclose(again, first)
    np.testing.assert_allclose(again, expected(model), rtol=1e-5)


def test_evaluation_and_prediction_share_the_trace(traces):
    images = np.random.default_rng(1).integers(0, 255, (20, 8, 8, 3), "uint8")
    data = tlkit.load_arrays(images, [0, 1] * 10, ["a", "b"])
    model = a_model()
    tlkit.evaluate(model, data.train)
    tlkit.predict(model, IMAGES, ["a", "b"])
    assert len(traces) == 1


def test_another_activation_needs_a_new_trace():
    model = a_model()
    forward_of(model)(IMAGES)
    model.get_layer("conv").activation = keras.activations.tanh
    np.testing.assert_allclose(forward_of(model)(IMAGES), expected(model), rtol=1e-5)


def test_another_precision_needs_a_new_trace():
    model = a_model()
    before = forward_of(model)(IMAGES)
    model.get_layer("conv").dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    after = forward_of(model)(IMAGES)
    assert not np.array_equal(before, after)
    np.testing.assert_allclose(after, expected(model), rtol=1e-5)


def test_other_variables_need_a_new_trace():
    model = a_model()
    forward_of(model)(IMAGES)
    head = model.get_layer("head")
    head.enable_lora(1)
    head.lora_kernel_b.assign(keras.ops.ones_like(head.lora_kernel_b))
    np.testing.assert_allclose(forward_of(model)(IMAGES), expected(model), rtol=1e-5)


def test_adapted_statistics_need_a_new_trace():
    normalization = keras.layers.Normalization()
    model = a_model(normalization)
    before = forward_of(model)(IMAGES)
    normalization.adapt(IMAGES)
    after = forward_of(model)(IMAGES)
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, expected(model), rtol=1e-5)


def test_a_custom_layer_is_always_traced_again():
    doubled = Doubled()
    model = a_model(doubled)
    before = forward_of(model)(IMAGES)
    doubled.factor = 3.0
    after = forward_of(model)(IMAGES)
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, expected(model), rtol=1e-5)


@pytest.mark.parametrize("kind", [keras.layers.Lambda, keras.layers.Activation])
def test_a_custom_function_is_always_traced_again(kind):
    factor = [2.0]
    model = a_model(kind(lambda images: factor[0] * images))
    forward_of(model)(IMAGES)
    factor[0] = 3.0
    np.testing.assert_allclose(forward_of(model)(IMAGES), expected(model), rtol=1e-5)


def functions_in(saved_model):
    saved = saved_model_pb2.SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
    return len(saved.meta_graphs[0].object_graph_def.concrete_functions)


class Odd:
    """An initializer that Keras accepts but cannot serialize."""

    def __call__(self, shape, dtype=None):
        return keras.ops.ones(shape, dtype)


@pytest.mark.parametrize("initializer", [lambda shape, **_: keras.ops.ones(shape), Odd()])
def test_a_model_with_an_unreadable_config_is_evaluated(initializer):
    model = a_model(keras.layers.Conv2D(3, 1, kernel_initializer=initializer))
    for _ in range(2):
        np.testing.assert_allclose(forward_of(model)(IMAGES), expected(model), rtol=1e-5)


def test_the_trace_is_not_saved(tmp_path):
    used, fresh = a_model(), a_model()
    forward_of(used)(IMAGES)
    for model, name in ((used, "used"), (fresh, "fresh")):
        tf.saved_model.save(model, tmp_path / name)
    assert functions_in(tmp_path / "used") == functions_in(tmp_path / "fresh")
    used.save(tmp_path / "used.keras")
    copy = keras.models.load_model(tmp_path / "used.keras")
    np.testing.assert_allclose(forward_of(copy)(IMAGES), expected(used), rtol=1e-5)


@pytest.mark.slow
def test_the_function_for_several_devices_is_reused_and_dies_with_the_model():
    model = tlkit.build_classifier("tiny_resnet", ["a", "b"], weights=None)
    run = forward._cached(model, forward._trace_on_shards)
    assert forward._cached(model, forward._trace_on_shards) is run
    assert run(tf.zeros((2, 32, 32, 3))).shape == (2, 2)
    alive = weakref.ref(model)
    del model, run
    gc.collect()
    assert alive() is None


def test_the_trace_is_not_stored_on_the_model_and_dies_with_it():
    model = a_model()
    before = set(vars(model))
    forward_of(model)(IMAGES)
    assert set(vars(model)) == before
    kept = weakref.ref(model)
    del model
    gc.collect()
    assert kept() is None
