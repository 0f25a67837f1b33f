"""Mixed precision: the layers that compute the logits stay in float32, also in nested models."""

import keras
import pytest

from tlkit.training.precision import computed_in


def nested():
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="far")(images)
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, name="logits")]
    return keras.Model(images, keras.Sequential(head, name="head")(x))


def with_activation():
    images = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, name="far")(images))
    x = keras.layers.Dense(2, name="logits")(x)
    return keras.Model(images, keras.layers.Softmax(name="probabilities")(x))


@pytest.mark.parametrize("build", [nested, with_activation])
def test_logits_stay_float32(build):
    model = build()
    layers = {layer.name: layer for layer in model._flatten_layers()}
    with computed_in(model, "mixed_bfloat16"):
        assert layers["far"].compute_dtype == "bfloat16"
        assert layers["logits"].compute_dtype == "float32"
        if "probabilities" in layers:
            assert layers["probabilities"].compute_dtype == "float32"
    assert {layer.compute_dtype for layer in layers.values()} == {"float32"}
