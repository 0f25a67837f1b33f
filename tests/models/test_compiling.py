"""Classifiers are compiled with the loss and metrics for their head, and stay compiled."""

import json
import zipfile

import keras
import numpy as np
import pytest

import tlkit
from tests.conftest import set_seeds
from tlkit.models.compiling import compile_classifier, ensure_compiled
from tlkit.models.groups import set_trainable
from tlkit.models.recompiling import recompile

KINDS = {
    "softmax": ({}, ["a", "b", "c"], keras.losses.SparseCategoricalCrossentropy),
    "binary": ({"binary": True}, ["a", "b"], keras.losses.BinaryCrossentropy),
    "multi_label": ({"multi_label": True}, ["a", "b", "c"], keras.losses.BinaryCrossentropy),
}


def built(kind="softmax"):
    set_seeds(0)
    arguments, names, _ = KINDS[kind]
    return tlkit.build_classifier("tiny_resnet", names, weights=None, **arguments)


def images_and_labels(kind, num=12):
    random = np.random.default_rng(0)
    x = random.uniform(0, 255, (num, 32, 32, 3)).astype("float32")
    if kind == "multi_label":
        return x, random.integers(0, 2, (num, 3))
    return x, np.arange(num) % len(KINDS[kind][1])


def loss_and_accuracy(model, kind, x, y):
    """Computes both in NumPy, in float64."""
    z = model.predict(x, verbose=0).astype(np.float64)
    if kind == "softmax":
        logs = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        return -logs[np.arange(len(y)), y].mean(), (z.argmax(axis=1) == y).mean()
    y = y.reshape(z.shape)
    return (np.log1p(np.exp(z)) - y * z).mean(), ((z > 0) == y).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_is_compiled_with_the_loss_and_the_accuracy_of_its_head(kind, tmp_path):
    model = built(kind)
    assert type(model.loss) is KINDS[kind][2]
    assert model.loss.get_config()["from_logits"]
    assert not model.optimizer.built  # built when needed
    x, y = images_and_labels(kind)
    found = model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(found, loss_and_accuracy(model, kind, x, y), rtol=1e-4)
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))["compile_config"]
    assert "tlkit" not in json.dumps(config)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.evaluate(x, y, verbose=0), found, rtol=1e-5)
    assert sum(np.prod(v.shape) for v in loaded.optimizer.variables) == 2  # steps and rate


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_models_with_probabilities_are_compiled_for_them(activation):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation)])
    compile_classifier(model)
    assert not model.loss.get_config()["from_logits"]
    x = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
    p = model.predict(x, verbose=0).astype(np.float64)
    if activation == "softmax":
        y = np.arange(8) % 3
        expected = [-np.log(p[np.arange(8), y]).mean(), (p.argmax(axis=1) == y).mean()]
    else:
        y = np.random.default_rng(1).integers(0, 2, (8, 3))
        losses = -(y * np.log(p) + (1 - y) * np.log(1 - p))
        expected = [losses.mean(), ((p > 0.5) == y).mean()]
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0), expected, rtol=1e-4)


def test_frozen_weights_stay_bit_identical_in_a_compiled_model():
    """Without recompiling, Keras's step would continue to train the weights that it had before."""
    model = built()
    x, y = images_and_labels("softmax")
    model.fit(x, y, verbose=0)
    model.optimizer.learning_rate = 0.01
    for unfreeze, frozen in (("stage3", ["stage1", "stage2"]), ("all", [])):
        set_trainable(model, unfreeze)
        assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
        before = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
        model.fit(x, y, verbose=0)
        for name, values in before.items():
            after = model.get_layer(name).get_weights()
            is_same = all(np.array_equal(a, b) for a, b in zip(values, after, strict=True))
            is_frozen = name.startswith(tuple(frozen)) if frozen else False
            assert is_same == (is_frozen or "bn" in name), name


def test_a_recompiled_model_keeps_its_settings():
    model = built()
    metric = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.3, momentum=0.9), loss, metrics=[metric])
    old = model.optimizer
    recompile(model)
    assert model.optimizer is not old
    assert model.optimizer.get_config() == old.get_config()
    assert model.loss is loss
    x, y = images_and_labels("softmax")
    assert set(model.evaluate(x, y, verbose=0, return_dict=True)) == {"loss", "top_2"}


@pytest.mark.parametrize("has_trained", [True, False])
def test_an_optimizer_with_a_state_is_saved_with_one(has_trained, tmp_path):
    """Keras warns when it loads a file with another number of variables."""
    model = built()
    model.compile("adam", model.loss)
    if has_trained:
        model.fit(*images_and_labels("softmax"), verbose=0)
    set_trainable(model, "stage3")
    assert model.optimizer.built == has_trained
    if has_trained:
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert len(loaded.optimizer.variables) == len(model.optimizer.variables)


def test_a_model_that_overrides_compile_is_not_recompiled():
    class Own(keras.Model):
        def compile(self, rate):
            super().compile(keras.optimizers.SGD(rate), "mse")

    x = keras.Input((4,))
    model = Own(x, keras.layers.Dense(2)(x))
    model.compile(0.3)
    old = model.optimizer
    ensure_compiled(model)
    assert model.optimizer is old


@pytest.mark.slow
@pytest.mark.parametrize("is_compiled", [True, False])
def test_training_leaves_a_model_that_keras_evaluates(data, is_compiled):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    if not is_compiled:
        model = keras.Model(model.inputs, model.outputs)
    for train in (
        lambda: tlkit.train_head(model, data),
        lambda: tlkit.fine_tune(model, data, unfreeze="stage3", epochs=1),
    ):
        train()
        found = model.evaluate(data.test.dataset(), verbose=0, return_dict=True)
        expected = tlkit.evaluate(model, data.test, data.class_names)
        assert found["accuracy"] == pytest.approx(expected.accuracy)
        assert found["loss"] == pytest.approx(expected.loss, rel=1e-3)
    frozen = {layer.name: layer.get_weights() for layer in model.layers if "stage1" in layer.name}
    model.fit(data.train.dataset(shuffle=True), shuffle=False, verbose=0)
    for name, values in frozen.items():
        after = model.get_layer(name).get_weights()
        assert all(np.array_equal(a, b) for a, b in zip(values, after, strict=True))


def test_a_binary_classifier_is_evaluated_as_it_was_trained(data):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, binary=True)
    tlkit.train_head(model, data)
    found = model.evaluate(data.test.dataset(), verbose=0, return_dict=True)
    expected = tlkit.evaluate(model, data.test, data.class_names)
    assert found["accuracy"] == pytest.approx(expected.accuracy)
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-3)
