"""The layers and weights of a model on images of another size."""

import keras
import numpy as np
import pytest

import tlkit
from tlkit.errors import ArgumentError
from tlkit.models.heads import head_kind


def noise(*shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


@pytest.mark.parametrize("head", [{}, {"binary": True}, {"multi_label": True}])
@pytest.mark.parametrize("size", [48, (32, 40)], ids=str)
def test_the_model_equals_one_that_was_built_at_that_size(head, size):
    given = {"weights": None, "seed": 3, **head}
    model = tlkit.build_classifier("resnet20", ["a", "b"], image_size=32, **given)
    built = tlkit.build_classifier("resnet20", ["a", "b"], image_size=size, **given)
    resized = tlkit.at_image_size(model, size)
    images = noise(3, *built.input_shape[1:])
    np.testing.assert_allclose(resized.predict(images), built.predict(images), atol=1e-5)
    assert resized.input_shape == built.input_shape
    assert head_kind(resized) == head_kind(model)
    assert resized.compiled
    assert model.input_shape == (None, 32, 32, 3)


def test_the_weights_are_shared():
    model = tlkit.build_classifier("tiny_resnet", ["a", "b"], weights=None)
    resized = tlkit.at_image_size(model, 40)
    assert [id(one) for one in resized.weights] == [id(one) for one in model.weights]
    tlkit.set_trainable(resized, "head")
    assert 0 < len(resized.trainable_variables) < len(resized.weights)


def test_nested_models_are_inlined(tmp_path):
    inner = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3), keras.layers.ReLU()], name="base"
    )
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(inner(keras.ops.flip(inputs, axis=1)))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    resized = tlkit.at_image_size(model, 44)
    images = noise(2, 44, 44, 3)
    kernel, bias = inner.layers[0].get_weights()
    features = np.maximum(keras.ops.conv(images[:, ::-1], kernel) + bias, 0).mean(axis=(1, 2))
    weights = model.layers[-1].get_weights()
    expected = features @ weights[0] + weights[1]
    np.testing.assert_allclose(resized.predict(images), expected, rtol=1e-4, atol=1e-4)
    resized.save(tmp_path / "resized.keras")
    loaded = keras.saving.load_model(tmp_path / "resized.keras")
    np.testing.assert_allclose(loaded.predict(images), expected, rtol=1e-4, atol=1e-4)


def with_layers(*layers):
    return keras.Sequential([keras.Input((8, 8, 3)), *layers, keras.layers.Dense(2)])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (with_layers(keras.layers.Flatten()), "16 × 16 pixels for model=.*which takes 8 × 8"),
        (with_layers(keras.layers.Reshape((192,))), "must be a size that the layers of the model"),
        (
            with_layers(keras.layers.Lambda(lambda x: keras.ops.reshape(x, (-1, 192)))),
            r"one image has outputs of shape \(4, 2\)",
        ),
        (with_layers(), "`model` must compute one row of values from images"),
        (keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)]), "one row of values from"),
    ],
)
def test_models_of_one_size_are_refused(model, message):
    with pytest.raises(ArgumentError, match=message):
        tlkit.at_image_size(model, 16)


@pytest.mark.parametrize("size", [0, 2.5, (16,), True, "large"])
def test_the_size_is_checked(size):
    model = tlkit.build_classifier("tiny_resnet", ["a", "b"], weights=None)
    with pytest.raises(ArgumentError, match="`image_size` must be a positive number of pixels"):
        tlkit.at_image_size(model, size)
