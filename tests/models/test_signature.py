import keras
import numpy as np
import pytest

from tlkit.errors import ArgumentError
from tlkit.models.assembly import build_classifier
from tlkit.models.groups import cut_before, set_trainable
from tlkit.models.signature import signature


def build(image_size=8, seed=0, **arguments):
    return build_classifier(
        "resnet20", ["a", "b"], image_size=image_size, weights=None, seed=seed, **arguments
    )


def network(scale=0.5, units=3, use_bias=True, slice_end=2):
    x = keras.Input((4,))
    y = keras.layers.Dense(units, use_bias=use_bias, kernel_initializer="ones")(x)
    y = keras.layers.Rescaling(scale)(y)
    return keras.Model(x, y[:, :slice_end] + 1)


def test_equal_networks_have_the_same_signature_with_any_layer_names():
    first, second = network(), network()
    assert [a.name for a in first.layers] != [b.name for b in second.layers]
    assert signature(first) == signature(second)
    assert len(signature(first)) == 32


def test_another_setting_anywhere_changes_it():
    variants = [
        network(),
        network(scale=0.25),
        network(units=4),
        network(use_bias=False),
        network(slice_end=1),
    ]
    assert len({signature(variant) for variant in variants}) == len(variants)


def test_another_size_seed_or_precision_changes_it():
    variants = [build(), build(image_size=16), build(seed=1)]
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        variants.append(build())
    finally:
        keras.config.set_dtype_policy("float32")
    assert len({signature(variant) for variant in variants}) == len(variants)


def test_every_weight_counts():
    model = build()
    seen = {signature(model)}
    weights = model.weights[::8]
    for variable in weights:
        value = np.array(variable)
        value.flat[-1] += 1e-3
        variable.assign(value)
        seen.add(signature(model))
    assert len(seen) == len(weights) + 1


def test_freezing_running_and_another_head_do_not_count(pixels):
    model, other = build(), build(hidden=(5,), dropout=0.5)
    prefix = keras.Model(model.input, cut_before(model, "head"))
    before = signature(prefix)
    set_trainable(model, "head")
    model(pixels(model), training=True)  # changes the state of random generators
    set_trainable(model, "head")
    assert signature(prefix) == before
    assert signature(keras.Model(other.input, cut_before(other, "head"))) == before
    assert signature(keras.Model(model.input, cut_before(model, "stage3"))) != before


def test_nested_models_count_whole():
    def nest(scale):
        inner = keras.Sequential([keras.Input((4,)), keras.layers.Rescaling(scale)])
        x = keras.Input((4,))
        return keras.Model(x, inner(x))

    assert signature(nest(1.0)) == signature(nest(1.0)) != signature(nest(2.0))


def test_which_input_an_operation_reads_counts():
    def subtract(swap):
        x = keras.Input((4,))
        y = keras.layers.Rescaling(2.0)(x)
        return keras.Model(x, keras.layers.Subtract()([y, x] if swap else [x, y]))

    assert signature(subtract(True)) != signature(subtract(False))


def test_a_layer_without_config_is_refused_by_name():
    class Opaque(keras.layers.Layer):
        def __init__(self, function, **arguments):
            super().__init__(**arguments)
            self.function = function

        def call(self, x):
            return self.function(x)

    x = keras.Input((4,))
    model = keras.Model(x, Opaque(lambda y: y, name="opaque")(x))
    with pytest.raises(ArgumentError, match=r"'opaque' of class Opaque.*get_config"):
        signature(model)
