"""Unique names of variables, and their uses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.conftest import set_seeds
from tlkit.continual.importance import accumulate_importance
from tlkit.errors import ArgumentError
from tlkit.models.variable_names import variable_names
from tlkit.models.weights import load_weights_file
from tlkit.training.rates import LayerwiseAdamW, layer_multipliers

layers = keras.layers
SCALES = {"left": 1.0, "right": 10.0}


def nested(name, size):
    x = keras.Input(size)
    y = layers.Conv2D(3, 3, padding="same", name="conv")(x)
    return keras.Model(x, layers.MaxPooling2D(name="pool")(y), name=name)


def twins():
    """Two nested models whose weights have the same paths and shapes."""
    set_seeds(0)
    x = keras.Input((8, 8, 3))
    y = nested("right", (4, 4, 3))(nested("left", (8, 8, 3))(x))
    y = layers.GlobalAveragePooling2D()(y)
    return keras.Model(x, layers.Dense(2, name="logits")(y))


def kernels(model):
    return [model.get_layer(name).get_layer("conv").kernel for name in SCALES]


def test_repeated_paths_are_prefixed_and_others_are_unchanged():
    model = twins()
    left, right = kernels(model)
    assert left.path == right.path == "conv/kernel"
    names = variable_names(model)
    assert names[id(left)] == "left/conv/kernel"
    assert names[id(right)] == "right/conv/kernel"
    assert names[id(model.get_layer("logits").kernel)] == "logits/kernel"
    assert len(set(names.values())) == len(names) == len(model.variables)


def test_the_same_names_after_saving_and_loading(tmp_path):
    model = twins()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found = [variable_names(one) for one in (model, loaded)]
    assert sorted(found[0].values()) == sorted(found[1].values())
    for name, id_ in ((name, id_) for id_, name in found[0].items()):
        (old,) = (v for v in model.variables if id(v) == id_)
        (new,) = (v for v in loaded.variables if found[1][id(v)] == name)
        np.testing.assert_array_equal(old, new)


def test_names_that_are_still_not_unique_are_numbered():
    class Pair(layers.Layer):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.parts = [layers.Dense(4, name="same") for _ in range(2)]

        def call(self, x):
            return self.parts[1](self.parts[0](x))

    model = keras.Sequential([keras.Input((4,)), Pair(name="pair"), layers.Dense(2)])
    names = sorted(name for name in variable_names(model).values() if "kernel" in name)
    assert [name for name in names if "same" in name] == [
        "pair/same/kernel",
        "pair/same/kernel#2",
    ]


def test_each_of_two_nested_models_has_its_own_importance():
    model = twins()
    x = np.random.default_rng(0).uniform(0, 9, (6, 8, 8, 3)).astype("float32")

    dataset = tf.data.Dataset.from_tensor_slices(x).batch(3)
    importance = tlkit.estimate_importance(model, dataset, method="mas", num_samples=6)
    of_each = []
    for image in x:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(image[None]) ** 2)
        of_each.append(tape.gradient(loss, [kernel.value for kernel in kernels(model)]))
    expected = [np.mean(np.abs(one), axis=0) for one in zip(*of_each, strict=True)]
    for name, values in zip(SCALES, expected, strict=True):
        np.testing.assert_allclose(importance[f"{name}/conv/kernel"], values, rtol=1e-4)
    assert "conv/kernel" not in importance
    twice = accumulate_importance(importance, importance)
    np.testing.assert_allclose(twice["left/conv/kernel"], 2 * expected[0], rtol=1e-4)


def test_each_is_anchored_with_its_own_importance():
    model = twins()
    importance = {
        name: np.full(variable.shape, SCALES.get(name.partition("/")[0], 1.0), np.float32)
        for variable in model.trainable_variables
        for name in [variable_names(model)[id(variable)]]
    }
    anchor = tlkit.anchor_weights(model, 2.0, importance)
    for kernel, scale in zip(kernels(model), SCALES.values(), strict=True):
        kernel.assign_add(np.ones(kernel.shape))
        total = sum(anchor.penalties().values())
        np.testing.assert_allclose(total, 2.0 * scale * np.prod(kernel.shape), rtol=1e-5)
        kernel.assign_sub(np.ones(kernel.shape))
    anchor.release()
    with pytest.raises(ArgumentError, match=r"none for left/conv/kernel \(3, 3, 3, 3\)"):
        tlkit.anchor_weights(model, 2.0, {"conv/kernel": np.ones((3, 3, 3, 3), np.float32)})


def test_each_has_its_own_synaptic_importance():
    model = twins()
    path = tlkit.SynapticPath(model)
    left, right = kernels(model)
    path.before_update([np.full(left.shape, -1.0, np.float32)], [left])
    left.assign_add(np.full(left.shape, 0.5, np.float32))
    path.after_update([left], [np.float32(1.0)])
    found = path.importance()
    assert found["left/conv/kernel"].min() > 0
    assert not found["right/conv/kernel"].any()
    assert right.path == left.path


def test_each_has_the_rate_of_its_own_group():
    model = twins()
    multipliers = layer_multipliers(model, 0.1)
    assert multipliers["logits/kernel"] == 1.0
    assert multipliers["right/conv/kernel"] == pytest.approx(0.1)
    assert multipliers["left/conv/kernel"] == pytest.approx(0.01)
    names = variable_names(model)
    optimizer = LayerwiseAdamW(0.01, multipliers=multipliers, names=names, weight_decay=0.0)
    variables = model.trainable_variables
    before = [variable.numpy() for variable in variables]
    optimizer.build(variables)
    optimizer.apply([np.ones(variable.shape, np.float32) for variable in variables])
    for variable, start in zip(variables, before, strict=True):
        change = np.abs(variable.numpy() - start).max()
        assert change == pytest.approx(0.01 * multipliers[names[id(variable)]], rel=1e-3)


def test_a_multiplier_that_several_variables_would_get_is_refused():
    variables = twins().trainable_variables
    optimizer = LayerwiseAdamW(0.01, multipliers={"conv/kernel": 0.1}, weight_decay=0.0)
    with pytest.raises(ArgumentError, match=r"multipliers of conv/kernel, a name that several"):
        optimizer.build(variables)


def test_weights_are_interpolated_by_name():
    old, new = twins(), twins()
    for model, value in ((old, 0.0), (new, 1.0)):
        for kernel, scale in zip(kernels(model), SCALES.values(), strict=True):
            kernel.assign(np.full(kernel.shape, scale * value, np.float32))
    half = tlkit.interpolate_weights(old, new, 0.5)
    for kernel, scale in zip(kernels(half), SCALES.values(), strict=True):
        np.testing.assert_array_equal(kernel, np.full(kernel.shape, scale / 2))


def test_weights_in_another_order_are_not_mixed_up():
    def model(order):
        x = keras.Input((4,))
        made = {name: layers.Dense(4, use_bias=False, name=name) for name in order}
        y = layers.Add()([made[name](x) for name in order])
        return keras.Model(x, layers.Dense(2, name="logits")(y))

    old, new = model("ab"), model("ba")
    assert [v.path for v in old.weights] != [v.path for v in new.weights]
    half = tlkit.interpolate_weights(old, new, 0.5)
    for name in "ab":
        ends = [one.get_layer(name).kernel.numpy() for one in (old, new)]
        np.testing.assert_allclose(half.get_layer(name).kernel, (ends[0] + ends[1]) / 2, rtol=1e-6)


def test_arrays_of_a_weights_file_are_loaded_by_name(tmp_path):
    model = twins()
    names = variable_names(model)
    arrays = {
        names[id(v)]: np.full(v.shape, number, np.float32)
        for number, v in enumerate(model.weights, start=1)
    }
    np.savez(tmp_path / "weights.npz", **arrays)
    load_weights_file(model, tmp_path / "weights.npz")
    for number, variable in enumerate(model.weights, start=1):
        assert np.all(variable.numpy() == number)
