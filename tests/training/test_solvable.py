"""Heads with operations around their Dense layer: solved if that is exact, else trained."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tlkit
from tlkit.models.heads import head_from_features, probabilities
from tlkit.training.solvable import solvable_head


def three_classes():
    """Three pixels in three classes that overlap."""
    random = np.random.default_rng(0)
    labels = np.arange(150) % 3
    images = random.integers(60, 160, (150, 1, 1, 3))
    images[np.arange(150), 0, 0, labels] += 50
    return tlkit.load_arrays(images.astype("uint8"), labels, ["a", "b", "c"])


def two_classes():
    data = three_classes()
    keep = data.train.labels < 2
    pixels = np.concatenate([x for x, _ in data.train.dataset()])[keep]
    return tlkit.load_arrays(pixels.astype("uint8"), data.train.labels[keep], ["a", "b"])


def with_head(head):
    """A network with an almost trivial backbone, and dropout first in its head."""
    inputs = keras.Input((1, 1, 3))
    convolution = layers.Conv2D(3, 1, use_bias=False)
    x = layers.Rescaling(1 / 100)(convolution(inputs))
    convolution.kernel.assign(np.eye(3)[np.newaxis, np.newaxis])
    return keras.Model(inputs, head(layers.Dropout(0.2)(layers.GlobalMaxPooling2D()(x))))


def found_in(head):
    """Returns the `SolvableHead` of a head, the head, and its model."""
    model = with_head(head)
    tlkit.set_trainable(model, "head")
    alone = head_from_features(model)
    return solvable_head(alone, model), alone, model


def trained(head, data, **given):
    model = with_head(head)
    report = tlkit.train_head(model, data, head="linear", **given)
    return tlkit.evaluate(model, data.validation), report.stages[0]


class Clip(layers.Layer):
    """Clips large values, and is linear close to zero."""

    def call(self, x):
        return ops.clip(x, -0.5, 0.5)


class CentredByBatch(layers.Layer):
    """Its output for an image depends on the others in the batch."""

    def call(self, x):
        return x - ops.mean(x, axis=0)


def softmax(x):
    """A function that differs from what its name says."""
    return ops.softmax(7 * x)


def rescaled_twice(x):
    rescaled = layers.Rescaling(3.0)
    return rescaled(layers.Dense(3)(rescaled(x)))


def called_twice(x):
    dense = layers.Dense(3)
    return dense(x) + dense(2 * x)


def both_from_one(x):
    z = layers.Dense(1)(x)
    return ops.concatenate([-z, z], axis=-1)


def between(before, after):
    return lambda x: after(layers.Dense(3)(before(x)))


def same(x):
    return x


EXACT = {
    "times 50": between(same, lambda z: z * 50.0),
    "times 0.01": between(same, lambda z: z * 0.01),
    "negated": between(same, lambda z: -z),
    "temperature": between(same, lambda z: layers.Softmax()(z / 2.5)),
    "negative temperature": between(same, lambda z: ops.softmax(z * -4.0)),
    "shifted": between(same, lambda z: z + np.float32([1, 2, 3])),
    "scaled one by one": between(same, lambda z: z * np.float32([1, -2, 30])),
    "mixed": between(same, lambda z: z @ np.float32([[1, 2, 0], [0, 1, 3], [0, 0, -1]])),
    "reversed": between(same, lambda z: z[:, ::-1]),
    "centred": between(same, lambda z: z - ops.mean(z, axis=-1, keepdims=True)),
    "log of softmax": between(same, ops.log_softmax),
    "softmax": layers.Dense(3, "softmax"),
    "activation layer": between(same, layers.Activation("softmax")),
    "dropout behind": between(same, layers.Dropout(0.3)),
    "flattened": between(layers.Flatten(), layers.Flatten()),
    "rescaled by one layer twice": rescaled_twice,
    "noise before": between(layers.GaussianNoise(0.1), same),
    "scaled before": between(lambda x: x * 1000.0 - 3.0, same),
    "batch norm that is frozen": between(layers.BatchNormalization(), lambda z: -z),
    "more units than logits": lambda x: ops.reshape(layers.Dense(6)(x), (-1, 3, 2))[..., 0],
    "clipped far off": between(same, lambda z: ops.clip(z, -100, 100)),
}


def softmax_of(logits):
    return keras.ops.convert_to_numpy(ops.softmax(logits))


@pytest.mark.parametrize("head", EXACT.values(), ids=EXACT.keys())
def test_the_weights_of_a_head_follow_from_the_logits_it_is_to_have(head):
    found, alone, model = found_in(head)
    assert found.dense is not None, found.why_not
    random = np.random.default_rng(0)
    kernel, bias = random.normal(size=(3, 3)), random.normal(size=3)
    features = random.normal(size=(20, 3)).astype("float32")
    for variable, value in zip(found.dense.weights, found.weights_for(kernel, bias), strict=True):
        variable.assign(value)
    wanted = softmax_of(found.read_by_dense(features) @ kernel + bias)
    given = probabilities(alone(features, training=False), model)
    np.testing.assert_allclose(given, wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["times 50", "negated", "log of softmax", "scaled before"])
def test_a_head_is_solved_with_the_operations_in_it(name):
    """With the same loss as a head without operations on the same features."""
    plain, _ = trained(layers.Dense(3), three_classes())
    found, stage = trained(EXACT[name], three_classes())
    assert not stage.history, stage.notes
    assert found.loss == pytest.approx(plain.loss, rel=1e-3)
    assert found.accuracy == plain.accuracy > 0.5


def test_the_inputs_of_the_dense_layer_are_solved_on():
    """Here squares, while the features themselves are uninformative."""
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    signs = random.choice([-1, 1], (200, 1, 1, 3))
    images = 100 + signs * np.where(labels, 90, 20)[:, None, None, None]
    data = tlkit.load_arrays(images.astype("uint8"), labels, ["near", "far"])

    def squares(x):
        return layers.Dense(2)(ops.square(x - 1.0))

    found, stage = trained(squares, data)
    assert not stage.history
    assert found.accuracy == 1.0
    plain, _ = trained(layers.Dense(2), data)
    assert plain.accuracy < 0.8


@pytest.mark.parametrize(
    "head",
    [
        lambda x: -layers.Dense(1)(x),
        layers.Dense(1, "sigmoid"),
        lambda x: ops.sigmoid(layers.Dense(1)(x) * 20.0),
        both_from_one,
    ],
    ids=["negated", "sigmoid", "sharp sigmoid", "both from one"],
)
def test_one_logit_is_solved_with_the_operations_behind_it(head):
    data = two_classes()
    plain, _ = trained(layers.Dense(1), data)
    found, stage = trained(head, data)
    assert not stage.history, stage.notes
    assert found.loss == pytest.approx(plain.loss, rel=1e-3)


NOT_SOLVABLE = {
    "tanh in the layer": (layers.Dense(3, "tanh"), "activation 'tanh'"),
    "tanh": (between(same, ops.tanh), "not linear or not invertible: 'tanh"),
    "softmax inside": (lambda x: layers.Dense(3, "softmax")(x) * 5.0, "activation 'softmax'"),
    "a layer that clips": (between(same, Clip()), "not linear or not invertible: 'clip"),
    "nothing is left": (
        between(same, lambda z: z * 0.0),
        "not linear or not invertible: 'multiply",
    ),
    "two of three left": (
        between(same, lambda z: z * np.float32([1, 0, 0])),
        "not linear or not invertible: 'multiply",
    ),
    "largest of two": (
        lambda x: ops.max(ops.reshape(layers.Dense(6)(x), (-1, 3, 2)), axis=-1),
        "not linear or not invertible",
    ),
    "batch before": (between(CentredByBatch(), same), "depend on other images of the batch"),
    "batch behind": (between(same, CentredByBatch()), "not linear or not invertible"),
    "twice": (called_twice, "called 2 times"),
    "a path past it": (lambda x: layers.Dense(3)(x) + x, "bypasses layer"),
    "hidden": (lambda x: layers.Dense(3)(layers.Dense(4)(x)), "2 of its layers are trainable"),
    "a weight behind": (
        lambda x: layers.PReLU()(layers.Dense(3)(x)),
        "2 of its layers are trainable",
    ),
    "a constraint": (layers.Dense(3, kernel_constraint="non_neg"), "constraint"),
    "no bias to compensate": (
        lambda x: layers.Dense(3, use_bias=False)(x) + np.float32([1, 2, 3]),
        "no bias",
    ),
}


@pytest.mark.parametrize(("head", "why"), NOT_SOLVABLE.values(), ids=NOT_SOLVABLE.keys())
def test_why_a_head_cannot_be_solved(head, why):
    found, _, _ = found_in(head)
    assert found.dense is None
    assert why in found.why_not


@pytest.mark.parametrize(
    ("head", "why"),
    [
        NOT_SOLVABLE["tanh in the layer"],
        (layers.Dense(3, softmax), "its outputs differ from the solution's"),
        (between(same, layers.Softmax(axis=0)), "its outputs differ from the solution's"),
        (between(lambda x: ops.log(x - 10.0), same), "not finite for every image"),
    ],
    ids=["tanh", "another softmax", "softmax over images", "not finite"],
)
def test_a_head_that_cannot_be_solved_is_trained_and_the_reason_reported(head, why):
    model = with_head(head)
    try:
        notes = tlkit.train_head(model, three_classes(), epochs=1).stages[0].notes
    except tlkit.TrainingError:  # gradient descent fails on infinite inputs too
        assert "finite" in why
        return
    (note,) = [note for note in notes if "trained by gradient descent" in note]
    assert why in note


def test_an_ignored_regularizer_is_reported():
    _, stage = trained(layers.Dense(3, kernel_regularizer="l2", name="last"), three_classes())
    assert any("the regularizer of 'last' is ignored" in note for note in stage.notes)
