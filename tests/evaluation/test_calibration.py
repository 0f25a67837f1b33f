import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.calibration import best_factor, calibrate, fit_temperature

NAMES = ("ant", "bee", "cat")


def logits_and_labels(num_images, factor, seed=0, num_classes=3):
    """Labels drawn from the softmax of logits, which are then multiplied by `factor`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (num_images, num_classes))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) < generator.random((num_images, 1))).sum(axis=1)
    return (factor * logits).astype(np.float32), np.minimum(labels, num_classes - 1)


def pixel_model(activation=None, num_outputs=3, as_layer=False):
    """A model whose logits are the values of its one pixel."""
    inputs = keras.Input((1, 1, 3))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(
        num_outputs,
        activation=None if as_layer else activation,
        kernel_initializer="identity",
        bias_initializer="zeros",
    )(x)
    if as_layer:
        x = keras.layers.Activation(activation)(x)
    return keras.Model(inputs, x)


def dataset_of(logits, labels):
    pixels = logits.reshape(-1, 1, 1, 3).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(64)


@pytest.mark.parametrize(
    ("activation", "as_layer"), [(None, False), ("softmax", False), ("softmax", True)]
)
@pytest.mark.parametrize("factor", [3.0, 0.4])
def test_the_known_temperature_is_recovered(activation, as_layer, factor):
    model = pixel_model(activation, as_layer=as_layer)
    logits, labels = logits_and_labels(3000, factor)
    others, their_labels = logits_and_labels(3000, factor, seed=1)
    before = tlkit.evaluate(model, dataset_of(others, their_labels), NAMES)
    report = calibrate(model, dataset_of(logits, labels))
    after = tlkit.evaluate(model, dataset_of(others, their_labels), NAMES)
    assert report.temperature == pytest.approx(factor, rel=0.08)
    assert report.interval[0] < factor < report.interval[1]
    assert report.num_images == 3000
    assert report.loss_after < report.loss_before
    assert after.loss < before.loss
    assert after.reliability.error < before.reliability.error / 2
    assert after.reliability.error < after.reliability.error_by_chance[1]
    assert not before.reliability.error < before.reliability.error_by_chance[1]
    assert after.confusion.tolist() == before.confusion.tolist()


@pytest.mark.parametrize("kind", ["softmax", "binary", "multi_label"])
def test_the_report_equals_an_evaluation_of_the_calibrated_model(kind):
    num_outputs = 1 if kind == "binary" else 3
    name = {"softmax": "logits", "binary": "binary_logit", "multi_label": "label_logits"}[kind]
    inputs = keras.Input((1, 1, 3))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(num_outputs, name=name, kernel_initializer="identity")(x)
    model = keras.Model(inputs, x)
    logits, labels = logits_and_labels(200, 4.0)
    if kind == "binary":
        labels = (labels == 0).astype(int)
    if kind == "multi_label":
        labels = np.eye(3)[labels]
    data = dataset_of(logits, labels)
    before = tlkit.evaluate(model, data)
    report = calibrate(model, data)
    after = tlkit.evaluate(model, data)
    assert report.temperature != 1.0
    assert report.loss_before == pytest.approx(before.loss, rel=1e-5)
    assert report.loss_after == pytest.approx(after.loss, rel=1e-5)
    assert report.before.error == pytest.approx(before.reliability.error, rel=1e-4)
    assert report.after.error == pytest.approx(after.reliability.error, rel=1e-4)
    assert after.accuracy == before.accuracy
    assert json.loads(json.dumps(report.as_dict()))["temperature"] == report.temperature
    assert f"(n = {report.num_images}, 95 % CI " in str(report)


def test_sigmoid_and_logit_heads_get_the_same_temperature():
    logits, labels = logits_and_labels(300, 2.0)
    reports = []
    for activation, name in ((None, "binary_logit"), ("sigmoid", "share")):
        inputs = keras.Input((1, 1, 3))
        x = keras.layers.Flatten()(inputs)
        x = keras.layers.Dense(1, activation, name=name, kernel_initializer="ones")(x)
        reports.append(calibrate(keras.Model(inputs, x), dataset_of(logits, labels > 0)))
    # probabilities near 0 and 1 are clipped, which loses precision of the largest logits
    assert reports[0].temperature == pytest.approx(reports[1].temperature, rel=1e-2)


def test_the_temperature_maximises_the_likelihood():
    logits, labels = logits_and_labels(500, 2.5)
    report = fit_temperature(logits, labels, "softmax")

    def loss(temperature):
        scaled = tf.constant(logits / temperature)
        return float(tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(
            labels, scaled, from_logits=True
        )))  # fmt: skip

    assert report.loss_after == pytest.approx(loss(report.temperature), rel=1e-5)
    for factor in (0.9, 1.1):
        assert loss(report.temperature * factor) > report.loss_after
    rise = 500 * (loss(report.interval[0]) - report.loss_after)
    assert 2 * rise == pytest.approx(3.8415, rel=0.01)  # chi-square, one degree of freedom


@pytest.mark.parametrize("num_images", [30, 300])
@pytest.mark.parametrize("margin", [0.01, 0.4, 2.0])
def test_all_correct_images_give_the_confidence_of_the_rule_of_succession(margin, num_images):
    """After n correct images the next one is with (n + 1) / (n + 2); all have one margin here."""
    model = pixel_model()
    labels = np.arange(num_images) % 3
    data = dataset_of(margin * np.eye(3)[labels], labels)
    report = calibrate(model, data)
    expected = (num_images + 1) / (num_images + 2)
    assert report.temperature == pytest.approx(
        margin / np.log(2 * expected / (1 - expected)), rel=1e-3
    )
    confidence = np.asarray(tf.nn.softmax(model.predict(data, verbose=0))).max(axis=1)
    assert confidence == pytest.approx(expected, abs=1e-3)
    assert report.loss_after < report.loss_before
    assert "rule of succession" in report.notes[0]
    assert f"{num_images} of {num_images} images are correct" in str(report)


@pytest.mark.parametrize("kind", ["binary", "multi_label"])
def test_all_correct_images_give_the_same_confidence_for_every_head(kind):
    targets = np.arange(40) % 2
    logits = 0.3 * (2.0 * targets - 1)[:, np.newaxis]
    if kind == "multi_label":
        targets = np.stack([targets, 1 - targets], axis=1)
        logits = 0.3 * (2.0 * targets - 1)
    report = fit_temperature(logits, targets, kind)
    assert report.temperature == pytest.approx(0.3 / np.log(41), rel=1e-3)
    assert report.interval[0] < report.temperature < report.interval[1] < 1


@pytest.mark.parametrize("kind", ["softmax", "binary", "multi_label"])
def test_the_factor_of_separated_classes_follows_from_the_number_of_images(kind):
    """Otherwise it would be the largest one allowed, with weights too large for float32."""
    targets = np.arange(40) % 2
    logits = 0.3 * np.stack([1.0 - 2 * targets, 2.0 * targets - 1], axis=1)
    confidence = np.log(41) / (2 if kind == "softmax" else 1)
    if kind == "binary":
        logits = logits[:, 1:]
    if kind == "multi_label":
        targets = np.stack([1 - targets, targets], axis=1)
    factor = best_factor(logits, targets, kind, np.ones(40), (-2.0, 6.0))
    assert factor == pytest.approx(confidence / 0.3, rel=1e-3)


def test_a_calibrated_model_is_unchanged():
    model = pixel_model()
    weights = model.get_weights()
    report = calibrate(model, dataset_of(9 * np.eye(3)[np.arange(60) % 3], np.arange(60) % 3))
    assert report.temperature == 1.0
    assert report.loss_after == report.loss_before
    assert "unchanged: 60 of 60 images are correct" in str(report)
    assert all(map(np.array_equal, model.get_weights(), weights))


def test_uninformative_logits_become_less_confident():
    generator = np.random.default_rng(0)
    logits, labels = 8 * generator.normal(size=(400, 3)), np.arange(400) % 3
    report = fit_temperature(logits, labels, "softmax")
    assert 1 < report.temperature == report.interval[0]
    assert report.loss_after < report.loss_before / 3
    assert "do not bound the temperature from above" in report.notes[0]


@pytest.mark.parametrize("scale", [0.001, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("accuracy", [0.0, 0.4, 0.9, 1.0])
def test_the_interval_contains_the_temperature(scale, accuracy):
    generator = np.random.default_rng(1)
    labels = np.arange(60) % 3
    named = np.where(generator.random(60) < accuracy, labels, (labels + 1) % 3)
    logits = scale * (np.eye(3)[named] + 0.1 * generator.normal(size=(60, 3)))
    report = fit_temperature(logits, labels, "softmax")
    low, high = report.interval
    assert low <= report.temperature <= high
    assert report.loss_after <= report.loss_before


def test_a_temperature_without_gain_is_not_used():
    model = pixel_model()
    logits, labels = logits_and_labels(60, 1.05)
    report = calibrate(model, dataset_of(logits, labels))
    assert report.temperature == 1.0
    assert report.interval[0] < 1 < report.interval[1]
    assert "hardly better than 1" in report.notes[0]
    assert report.after.error == report.before.error
    np.testing.assert_array_equal(model.get_weights()[0], np.eye(3))


def test_a_mixed_precision_model_keeps_float32_weights():
    model = tlkit.build_classifier("resnet20", NAMES)
    for layer in model.layers[:-1]:
        layer.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3)).astype(np.float32)
    model.layers[-1].kernel.assign(9 * model.layers[-1].kernel)
    labels = np.argmax(model(pixels), axis=1)
    labels[:12] = (labels[:12] + 1) % 3
    before = model.layers[-1].get_weights()
    report = calibrate(model, tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(20))
    kernel, _ = model.layers[-1].get_weights()
    assert report.temperature != 1.0
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel, before[0] / report.temperature, rtol=1e-6)


def test_models_and_images_unfit_for_calibration_raise():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 1, 1, 3), np.uint8)
    data = tlkit.load_arrays(pixels, np.arange(60) % 3, NAMES)
    model = pixel_model()
    with pytest.raises(ArgumentError, match="`images` must be images that the model was not"):
        calibrate(model, data.train)
    with pytest.raises(DataError, match=r"at least 20 to fit a temperature\. Received: 7"):
        calibrate(model, dataset_of(np.zeros((7, 3)), np.zeros(7)))
    with pytest.raises(
        DataError, match="`images` must have labels that are whole numbers from 0 to 2"
    ):
        calibrate(model, dataset_of(np.zeros((30, 3)), np.full(30, 3)))
    inputs = keras.Input((1, 1, 3))
    for end in (
        keras.layers.Flatten()(inputs),
        keras.layers.Dense(3, "relu")(keras.layers.Flatten()(inputs)),
        keras.layers.Softmax()(keras.layers.Dense(3, "relu")(keras.layers.Flatten()(inputs))),
    ):
        with pytest.raises(ArgumentError, match="`model` must end in a plain Dense layer"):
            calibrate(keras.Model(inputs, end), dataset_of(np.zeros((30, 3)), np.zeros(30)))


def test_the_interval_has_its_nominal_coverage():
    """About 95 % of the intervals of 200 samples contain the true temperature."""
    covered = 0
    for seed in range(200):
        logits, labels = logits_and_labels(80, 2.0, seed=seed)
        low, high = fit_temperature(logits, labels, "softmax").interval
        covered += low <= 2.0 <= high
    assert abs(covered / 200 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 200)
