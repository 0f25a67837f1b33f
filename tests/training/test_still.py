"""What is frozen computes as in inference while the rest trains."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import tlkit
from tlkit.training.step import hooked
from tlkit.training.still import still_beside, still_part


class DropsInside(layers.Layer):
    """Dropout in a layer whose own call knows of no mode."""

    def __init__(self, **given):
        super().__init__(**given)
        self.dropout = layers.Dropout(0.5)

    def call(self, x):
        return self.dropout(x)


class SkipsAtRandom(layers.Layer):
    """Stochastic depth as users write it."""

    def call(self, x, training=None):
        if not training:
            return x
        return x * keras.ops.cast(
            keras.random.uniform((keras.ops.shape(x)[0], 1, 1, 1)) > 0.5, "float32"
        )


class Watching(layers.Layer):
    """Writes down in which mode it was called."""

    seen: list

    def call(self, x, training=None):
        self.seen.append(training)
        return x


def network(*noise, before=(), behind=()):
    """Noise behind the first convolution, which two more groups follow."""
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for layer in before:
        x = layer(x)
    x = layers.Conv2D(4, 3, padding="same")(x)
    for layer in noise:
        x = layer(x)
    x = layers.BatchNormalization(momentum=0.5)(x)
    x = layers.Conv2D(4, 3, padding="same")(layers.MaxPooling2D()(x))
    x = layers.Conv2D(4, 3, padding="same")(layers.MaxPooling2D()(x))
    for layer in behind:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def outputs_in_training(model, images, unfreeze=2):
    trainable = tlkit.set_trainable(model, unfreeze)
    trainee = hooked(model, still=still_part(model, unfreeze, trainable))
    return trainee(images, training=True).numpy()


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (16, 8, 8, 3)).astype("float32")


def nested():
    return keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Dropout(0.5), layers.SpatialDropout2D(0.5)]
    )


@pytest.mark.parametrize(
    "noise",
    [
        lambda: layers.Dropout(0.5),
        lambda: layers.GaussianNoise(1.0),
        lambda: layers.GaussianDropout(0.5),
        lambda: layers.AlphaDropout(0.5),
        DropsInside,
        SkipsAtRandom,
        nested,
    ],
)
def test_noise_in_the_frozen_part_is_off_and_behind_it_on(noise, images):
    model = network(noise())
    np.testing.assert_array_equal(
        outputs_in_training(model, images), model(images, training=False).numpy()
    )
    if noise is nested:  # of another size
        return
    model = network(noise(), behind=[noise()])
    assert not np.allclose(outputs_in_training(model, images), model(images, training=False))
    assert not np.allclose(outputs_in_training(model, images, "all"), model(images, training=False))


def test_one_dropout_layer_for_all_the_network_is_off_in_the_frozen_part_alone(images):
    dropout = layers.Dropout(0.5)
    model = network(dropout)
    trainable = tlkit.set_trainable(model, 2)
    first = still_part(model, 2, trainable).calls[id(dropout)]
    assert first == float("inf")
    model = network(dropout, behind=[dropout])
    trainable = tlkit.set_trainable(model, 2)
    part = still_part(model, 2, trainable)
    assert part.calls[id(dropout)] == 1
    assert id(dropout) not in part.above_cut().calls
    assert not np.allclose(outputs_in_training(model, images), model(images, training=False))


def test_beside_added_layers_all_before_the_head_is_off():
    dropout = layers.Dropout(0.5)
    model = network(dropout)
    added = model.layers[-3]
    calls = still_beside(model, [added]).calls
    assert calls[id(dropout)] == float("inf")
    assert id(added) not in calls
    assert id(model.layers[-1]) not in calls
    inputs = keras.Input((8, 8, 3))
    x = dropout(layers.Conv2D(4, 3)(inputs))
    x = dropout(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x)))
    in_both = keras.Model(inputs, layers.Dense(2)(x))
    assert still_beside(in_both, []).calls[id(dropout)] == 1


@pytest.mark.parametrize("is_nested", [False, True])
def test_layers_that_augment_images_go_on_doing_so(is_nested, images):
    """Each image comes as it is or mirrored, and nothing is dropped."""
    own = [layers.RandomFlip("horizontal", seed=1), layers.Dropout(0.5)]
    before = [keras.Sequential([keras.Input((8, 8, 3)), *own])] if is_nested else own
    model = network(before=before)
    given = outputs_in_training(model, images)
    plain = model(images, training=False).numpy()
    mirrored = model(images[:, :, ::-1], training=False).numpy()
    is_plain = np.isclose(given, plain, rtol=1e-4, atol=1e-3).all(axis=1)
    is_mirrored = np.isclose(given, mirrored, rtol=1e-4, atol=1e-3).all(axis=1)
    assert (is_plain | is_mirrored).all()
    assert is_plain.any()
    assert is_mirrored.any()


def _architecture(model):
    """All but what the model is compiled with, as if everything trained."""
    config = {**json.loads(model.to_json()), "compile_config": None}
    return json.dumps(config).replace('"trainable": false', '"trainable": true')


@pytest.mark.parametrize("given", [{"views": 0}, {"views": 1, "augment": "none"}])
def test_fine_tuning_calls_the_frozen_part_in_inference_mode(given):
    data = tlkit.load_arrays(
        np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), "uint8"), np.arange(40) % 2
    )
    below, above = Watching(), Watching()
    below.seen, above.seen = [], []
    model = network(below, behind=[above])
    before = _architecture(model)
    below.seen.clear()
    tlkit.fine_tune(model, data, unfreeze=2, epochs=2, **given)
    assert True not in below.seen
    assert True in above.seen
    assert _architecture(model) == before


def test_a_sweep_of_rates_sees_the_frozen_part_as_training_will(images):
    data = tlkit.load_arrays(images.astype("uint8"), np.arange(16) % 2, splits=(1, 0, 0))
    below = Watching()
    below.seen = []
    model = network(below)
    tlkit.find_learning_rate(model, data, unfreeze=2, num_steps=20, augment="none")
    assert below.seen
    assert True not in below.seen
