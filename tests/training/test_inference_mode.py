"""The frozen part runs in inference mode while the rest trains."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import tlkit
from tlkit.models.groups import set_trainable
from tlkit.training.inference_mode import find_frozen_calls, find_frozen_calls_beside
from tlkit.training.step import hooked


class DropsInside(layers.Layer):
    """Dropout in a layer whose own call has no `training` argument."""

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
    """Records the mode of each call."""

    seen: list

    def call(self, x, training=None):
        self.seen.append(training)
        return x


def network(*noise, before=(), behind=()):
    """Noise after the first convolution, followed by two more groups."""
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
    trainee = hooked(model, frozen_calls=find_frozen_calls(model, unfreeze, trainable))
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
def test_noise_is_off_in_the_frozen_part_and_on_after_it(noise, images):
    model = network(noise())
    np.testing.assert_array_equal(
        outputs_in_training(model, images), model(images, training=False).numpy()
    )
    if noise is nested:  # its input has another shape
        return
    model = network(noise(), behind=[noise()])
    assert not np.allclose(outputs_in_training(model, images), model(images, training=False))
    assert not np.allclose(outputs_in_training(model, images, "all"), model(images, training=False))


def test_a_shared_dropout_layer_is_off_in_the_frozen_part_only(images):
    dropout = layers.Dropout(0.5)
    model = network(dropout)
    trainable = tlkit.set_trainable(model, 2)
    first = find_frozen_calls(model, 2, trainable).calls[id(dropout)]
    assert first == float("inf")
    model = network(dropout, behind=[dropout])
    trainable = tlkit.set_trainable(model, 2)
    part = find_frozen_calls(model, 2, trainable)
    assert part.calls[id(dropout)] == 1
    assert id(dropout) not in part.above_cut().calls
    assert not np.allclose(outputs_in_training(model, images), model(images, training=False))


def test_with_added_layers_all_others_before_the_head_are_frozen():
    dropout = layers.Dropout(0.5)
    model = network(dropout)
    added = model.layers[-3]
    calls = find_frozen_calls_beside(model, [added]).calls
    assert calls[id(dropout)] == float("inf")
    assert id(added) not in calls
    assert id(model.layers[-1]) not in calls
    inputs = keras.Input((8, 8, 3))
    x = dropout(layers.Conv2D(4, 3)(inputs))
    x = dropout(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x)))
    in_both = keras.Model(inputs, layers.Dense(2)(x))
    assert find_frozen_calls_beside(in_both, []).calls[id(dropout)] == 1


@pytest.mark.parametrize("is_nested", [False, True])
def test_layers_that_augment_images_stay_active(is_nested, images):
    """Each image is unchanged or mirrored, and nothing is dropped."""
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
    """Returns the model's JSON without compile settings and `trainable` flags."""
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


def test_a_learning_rate_sweep_runs_the_frozen_part_in_inference_mode(images):
    data = tlkit.load_arrays(images.astype("uint8"), np.arange(16) % 2, splits=(1, 0, 0))
    below = Watching()
    below.seen = []
    model = network(below)
    tlkit.find_learning_rate(model, data, unfreeze=2, num_steps=20, augment="none")
    assert below.seen
    assert True not in below.seen


@pytest.mark.parametrize("stored", [False, True])
def test_scales_and_offsets_train_with_frozen_statistics(data, stored):
    model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
    tlkit.train_head(model, data, head="linear")
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    late = [layer for layer in norms if layer.name.startswith("stage3")]
    before = {layer.name: layer.get_weights() for layer in norms}
    options = {"unfreeze": "stage3", "augment": "none"} if stored else {"unfreeze": "all"}
    report = tlkit.fine_tune(
        model, data, epochs=2, batch_norm="affine", kept_fraction=1.0, **options
    )
    assert "statistics frozen" in str(report)
    for layer in norms:
        changed = [
            not np.array_equal(one, other)
            for one, other in zip(layer.get_weights(), before[layer.name], strict=True)
        ]
        is_trained = layer in late or not stored
        assert changed == [is_trained, is_trained, False, False]


def test_a_step_on_scales_and_offsets_is_that_of_keras_in_inference_mode(data):
    """As `base(x, training=False)` with a trainable base."""
    inputs = keras.Input((8, 8, 3))
    norm = layers.BatchNormalization()
    x = layers.Flatten()(layers.Conv2D(2, 3)(norm(layers.Conv2D(2, 3)(inputs))))
    model = keras.Model(inputs, layers.Dense(2)(x))
    report = set_trainable(model, "all", batch_norm="affine")
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype("float32")
    expected = model(images, training=False)
    got = find_frozen_calls(model, "all", report).run(model, images)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert len(norm.trainable_variables) == 2
