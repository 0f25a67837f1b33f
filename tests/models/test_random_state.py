"""Random layers draw the same numbers for the same seed, for built and for loaded models."""

import keras
import numpy as np
import pytest
from keras import layers

import tlkit
from tlkit.models.random_state import seed_random_layers


@keras.saving.register_keras_serializable("tests")
class DrawsAtBirth(layers.Layer):
    """A user-defined layer with two generators in a list, and a seed that is not in its config."""

    def __init__(self, **given):
        super().__init__(**given)
        drawn = int(np.random.default_rng().integers(1, 10**9))
        self.generators = [keras.random.SeedGenerator(drawn), keras.random.SeedGenerator()]

    def call(self, x, training=False):
        return x + keras.random.normal((1,), seed=self.generators[0]) if training else x


class NotSaved(DrawsAtBirth):
    """A layer without a config."""

    def get_config(self):
        raise NotImplementedError


def network(own=DrawsAtBirth):
    """A nested model with generators in every kind of place."""
    inputs = keras.Input((8, 8, 3))
    x = layers.RandomFlip()(inputs)
    x = layers.SpatialDropout2D(0.2)(x)
    x = own()(layers.GaussianNoise(0.1)(x))
    x = layers.Reshape((16, 12))(x)
    x = layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x)
    x = layers.LSTM(3, recurrent_dropout=0.3)(x)
    inner = keras.Model(inputs, x)
    again = keras.Input((8, 8, 3))
    dropout = layers.Dropout(0.5)
    x = dropout(layers.Dense(4)(dropout(inner(again))))
    return keras.Model(again, layers.Dense(2, name="logits")(x))


def states(model):
    return [
        tuple(variable.numpy().tolist())
        for variable in model.variables
        if variable.path.endswith("seed_generator_state")
    ]


def test_two_loadings_of_one_file_have_one_state(tmp_path):
    network().save(tmp_path / "model.keras")
    first, second = (keras.saving.load_model(tmp_path / "model.keras") for _ in range(2))
    assert all(a != b for a, b in zip(states(first), states(second), strict=True))
    num = len(states(first))
    assert [seed_random_layers(model, 7) for model in (first, second)] == [num, num]
    assert states(first) == states(second)
    assert len(set(states(first))) == num  # each draws numbers of its own
    images = np.ones((4, 8, 8, 3), "float32")
    outputs = [model(images, training=True).numpy() for model in (first, second)]
    np.testing.assert_array_equal(*outputs)


def test_other_seeds_draw_other_numbers_and_weights_are_unchanged(tmp_path):
    model = network(NotSaved)
    weights = model.get_weights()
    seed_random_layers(model, 0)
    before = states(model)
    seed_random_layers(model, 1)
    assert not set(before) & set(states(model))
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_seed_that_a_layer_was_given_counts():
    def state_of(seed):
        model = keras.Sequential([keras.Input((4,)), layers.Dropout(0.5, seed=seed)])
        seed_random_layers(model, 0)
        return states(model)

    assert state_of(3) == state_of(3) != state_of(4)
    assert state_of(None) != state_of(3)


class Seen(keras.callbacks.Callback):
    """Records the state of all generators before each step."""

    def __init__(self, model):
        super().__init__()
        self.whole, self.states = model, []

    def on_train_batch_begin(self, batch, logs=None):
        self.states.append(states(self.whole))


@pytest.mark.slow
@pytest.mark.parametrize("views", [0, 1])
def test_fine_tuning_a_loaded_model_draws_by_its_seed(data, tmp_path, views):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, dropout=0.5)
    tlkit.train_head(model, data)
    model.save(tmp_path / "model.keras")

    def drawn(seed):
        loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
        seen = Seen(loaded)
        tlkit.fine_tune(loaded, data, epochs=1, views=views, seed=seed, callbacks=[seen])
        return seen.states

    first = drawn(0)
    assert first[0] != first[-1]  # dropout draws numbers
    assert drawn(0) == first
    assert drawn(1)[0] != first[0]


def test_a_head_trained_by_gradient_descent_draws_by_its_seed(data, tmp_path, monkeypatch):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, hidden=(4,))
    model.save(tmp_path / "model.keras")
    found = []
    monkeypatch.setattr(
        "tlkit.training.head.fit_model",
        lambda head, *_, **__: found.append(states(head)) or pytest.fail("seen enough"),
    )
    for seed in (0, 0, 1):
        loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
        with pytest.raises(pytest.fail.Exception, match="seen enough"):
            tlkit.train_head(loaded, data, seed=seed)
    assert found[0] == found[1] != found[2]
