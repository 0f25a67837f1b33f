"""The sweep leaves the model unchanged, and finds the rate in a case with a known answer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.advice.learning_rate import _flat_reason, _smooth, _suggest
from tlkit.errors import ArgumentError, TrainingError
from tlkit.plots.training import plot_learning_rates
from tlkit.training.recipe import DEFAULT_LEARNING_RATE


def classifier(data):
    return tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)


def test_the_model_is_unchanged(data):
    model = classifier(data)
    tlkit.set_trainable(model, "stage3")
    regularizer = keras.regularizers.L2(0.1)
    model.trainable_variables[0].regularizer = regularizer
    trained = [variable.path for variable in model.trainable_variables]
    before = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    report = tlkit.find_learning_rate(model, data, unfreeze="all", num_steps=30)
    assert [variable.path for variable in model.trainable_variables] == trained
    assert model.trainable_variables[0].regularizer is regularizer
    for a, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, keras.ops.convert_to_numpy(variable))
    assert report.unfreeze == "all"
    assert len(report.rates) == len(report.losses) == len(report.smoothed) <= 30
    assert f"{report.suggestion:.1e}" in str(report)


def test_the_rules_find_the_valley_of_a_noisy_curve():
    """A loss that decreases from 1e-4 to 1e-1, then diverges, with noise of 10 % of the
    decrease."""
    rates = np.geomspace(1e-6, 1, 200)
    x = np.log10(rates)
    curve = np.interp(x, [-6, -4, -1, 0], [2.0, 2.0, 1.0, 4.0])
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(0, 0.1, len(rates))
        suggestions = _suggest(rates, _smooth(curve + noise))
        assert 1e-4 < np.median(list(suggestions.values())) < 1e-1
        assert suggestions["minimum"] == pytest.approx(1e-2, rel=1.5)


def is_flat(rates, losses):
    return bool(_flat_reason(rates, losses, _smooth(losses)))


def test_noise_around_one_loss_is_a_flat_curve():
    """Noise of any size is flat, and so is a loss that only increases, as for a solved head."""
    rates = np.geomspace(1e-6, 1, 100)
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(size=100)
        assert is_flat(rates, 0.5 + 0.1 * noise), seed
        assert is_flat(rates, 0.5 + 0.001 * noise), seed
    assert is_flat(rates, np.full(100, 0.3))
    assert is_flat(rates, np.linspace(1, 2, 100))
    rising = np.interp(np.log10(rates), [-6, -3, 0], [0.4, 0.4, 3.0])
    assert is_flat(rates, rising)


def test_a_decrease_above_the_noise_is_not_flat():
    rates = np.geomspace(1e-6, 1, 100)
    curve = np.interp(np.log10(rates), [-6, -4, -1.5, 0], [1.0, 1.0, 0.4, 4.0])
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 0.1, 100)
        assert not is_flat(rates, curve + noise), seed


def test_a_flat_curve_gives_the_default_with_a_note(data):
    """A loss of the labels alone, independent of the model."""

    class OfLabelsAlone(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.cast(y_true, "float32") + 0.0 * keras.ops.sum(y_pred, axis=-1)

    report = tlkit.find_learning_rate(
        classifier(data), data, unfreeze="head", num_steps=40, loss=OfLabelsAlone()
    )
    assert report.is_flat
    assert report.suggestion == DEFAULT_LEARNING_RATE
    assert report.suggestions == {}
    assert "learning_rate=5.0e-04 (default): the curve is flat" in str(report)
    (axes,) = plot_learning_rates(report).axes
    assert "default, as the curve is flat" in axes.get_legend_handles_labels()[1]


def test_a_first_rate_at_which_the_loss_diverges_raises(data):
    with pytest.raises(TrainingError, match="`lowest` must be a rate at which"):
        tlkit.find_learning_rate(
            classifier(data), data, unfreeze="all", lowest=1e5, highest=1e9, num_steps=20
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lowest": 0.0}, "`lowest` must be a positive number"),
        ({"lowest": 1.0, "highest": 0.1}, "`highest` must be above `lowest`"),
        ({"num_steps": 3}, "`num_steps` must be a whole number of at least 20"),
        ({"unfreeze": "stage9"}, "stage3"),
    ],
)
def test_invalid_arguments_raise(data, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        tlkit.find_learning_rate(classifier(data), data, **arguments)


def test_a_model_without_finite_loss_raises(data):
    model = classifier(data)
    kernel = model.get_layer("logits").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(TrainingError, match="`model` must have a finite loss"):
        tlkit.find_learning_rate(model, data, unfreeze="head")


@pytest.mark.slow
def test_a_custom_loss_is_used_in_the_sweep(data):
    """A loss of one-hot labels; the first values equal that loss on a batch."""
    model = classifier(data)
    plain, focal = (
        tlkit.find_learning_rate(model, data, unfreeze="all", num_steps=60, loss=loss).losses[0]
        for loss in (None, keras.losses.CategoricalFocalCrossentropy(from_logits=True))
    )
    assert focal < plain / 2  # focal loss has the factors (1 - p)**2 and 0.25
    with pytest.raises(ArgumentError, match="from_logits=True"):
        tlkit.find_learning_rate(
            model, data, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=False)
        )


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_fitted_model_does_not_end_the_sweep_at_low_rates(activation):
    """Batches with small losses that differ tenfold at the same weights."""
    layers = keras.layers
    texts = np.array([f"{('bad poor', 'good fine')[i % 2]} film {i}" for i in range(128)])
    words = layers.TextVectorization(max_tokens=200, output_sequence_length=8)
    words.adapt(texts)
    inputs = keras.Input((1,), dtype="string")
    pooled = layers.GlobalAveragePooling1D()(layers.Embedding(200, 4)(words(inputs)))
    model = keras.Model(inputs, layers.Dense(2, activation)(pooled))
    values = {"good": 30, "fine": 30, "bad": -30, "poor": -30}
    values |= {str(i): 36 if i % 2 == 0 else -36 for i in range(4, 128)}  # none in the first batch
    embeddings = np.zeros((200, 4), np.float32)
    for row, word in enumerate(words.get_vocabulary()):
        embeddings[row, 0] = values.get(word, 0)
    head = np.zeros((4, 2), np.float32)
    head[0] = (-1, 1)
    model.set_weights([embeddings, head, np.zeros(2, np.float32)])
    batches = tf.data.Dataset.from_tensor_slices((texts[:, None], np.arange(128) % 2)).batch(4)
    report = tlkit.find_learning_rate(model, batches, unfreeze="all", num_steps=30, highest=1e-4)
    assert len(report.losses) == 30
    assert 1000 * report.losses[0] < report.losses[1:].min() < report.losses.max() < 0.01
    assert report.is_flat


def test_the_plot_shows_the_suggestion(data):
    report = tlkit.find_learning_rate(classifier(data), data, unfreeze="all", num_steps=30)
    (axes,) = plot_learning_rates(report).axes
    assert axes.get_xscale() == "log"
    assert f"{report.suggestion:.1e}" in axes.get_title()


def test_variation_of_the_first_steps_is_not_a_decrease():
    """The first losses of a solved head vary; the loss falls a little at 1e-3, then diverges."""
    rates = np.geomspace(1e-6, 1e-1, 100)
    curve = np.interp(np.log10(rates), [-6, -4, -3, -1], [0.50, 0.50, 0.40, 2.0])
    curve[:2] += (0.4, -0.3)
    suggestions = _suggest(rates, _smooth(curve))
    assert 1e-5 < np.median(list(suggestions.values())) < 1e-3


def test_the_step_is_traced_once():
    traced = []

    class Noted(keras.losses.SparseCategoricalCrossentropy):
        def call(self, y_true, y_pred):
            if not tf.executing_eagerly():  # other calls do not trace the step
                traced.append(True)
            return super().call(y_true, y_pred)

    images = np.random.default_rng(0).integers(0, 100, (64, 32, 32, 3), "uint8")
    images[::2, :, :, 0] += 100
    labels = np.arange(64) % 2
    data = tlkit.load_arrays(images, labels, batch_size=16, splits=(1, 0, 0))
    loss = Noted(from_logits=True)
    tlkit.find_learning_rate(classifier(data), data, unfreeze="head", num_steps=30, loss=loss)
    assert len(traced) == 1
