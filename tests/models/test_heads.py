import keras
import numpy as np
import pytest

from tlkit.errors import ArgumentError
from tlkit.models.assembly import build_classifier
from tlkit.models.heads import (
    feature_cut,
    head_from_features,
    head_kind,
    outputs_logits,
    probabilities,
)


def ending(*layers, units=3):
    return keras.Sequential([keras.Input((units,)), keras.layers.Dense(units), *layers])


@pytest.mark.parametrize(
    ("model", "kind", "is_logits"),
    [
        (ending, "softmax", True),
        (lambda: ending(units=1), "binary", True),
        (lambda: ending(keras.layers.Softmax()), "softmax", False),
        (lambda: ending(keras.layers.Activation("softmax", dtype="float32")), "softmax", False),
        (lambda: ending(keras.layers.Activation("sigmoid")), "multi_label", False),
        (lambda: ending(keras.layers.Activation("sigmoid"), units=1), "binary", False),
        (lambda: ending(keras.layers.Dense(3, name="label_logits")), "multi_label", True),
        (lambda: ending(keras.layers.Dense(1, name="logits")), "binary", True),
        (lambda: ending(keras.layers.Dense(3, name="binary_logit")), "softmax", True),
        (lambda: ending(keras.layers.Activation("linear", dtype="float32")), "softmax", True),
        (lambda: ending(ending(keras.layers.Softmax())), "softmax", False),
    ],
)
def test_derives_the_kind_of_the_outputs(model, kind, is_logits):
    built = model()
    assert head_kind(built) == kind
    assert outputs_logits(built) == is_logits


def test_reads_activations_that_are_operations():
    x = keras.Input((4,))
    y = keras.layers.Dense(2)(x)
    assert head_kind(keras.Model(x, keras.ops.sigmoid(y))) == "multi_label"
    assert not outputs_logits(keras.Model(x, keras.ops.softmax(y)))


def test_several_outputs_are_refused_by_name():
    x = keras.Input((4,))
    model = keras.Model(x, [keras.layers.Dense(1, name=name)(x) for name in ("age", "mood")])
    with pytest.raises(ArgumentError, match=r"one output.*'age', 'mood'"):
        head_kind(model)


def test_probabilities_of_every_kind():
    logits = np.array([[0.0, 1.0, -1.0]])
    softmax = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(probabilities(logits, ending()), softmax, rtol=1e-6)
    np.testing.assert_allclose(
        probabilities(softmax, ending(keras.layers.Softmax())), softmax, rtol=1e-6
    )
    sigmoid = 1 / (1 + np.exp(-logits))
    labels = ending(keras.layers.Dense(3, name="label_logits"))
    np.testing.assert_allclose(probabilities(logits, labels), sigmoid, rtol=1e-6)
    binary = probabilities(np.array([[2.0], [-2.0]]), ending(units=1))
    np.testing.assert_allclose(binary, [[0.119203, 0.880797], [0.880797, 0.119203]], rtol=1e-5)
    assert binary.dtype == "float32"


@pytest.mark.parametrize(
    ("arguments", "shape", "names"),
    [
        ({}, (None, 96), ["head_dropout", "logits"]),
        ({"dropout": 0, "pooling": "max"}, (None, 96), ["logits"]),
        (
            {"pooling": "flatten", "hidden": (8,)},
            (None, 1536),
            ["head_dense_1", "head_dropout", "logits"],
        ),
    ],
)
def test_the_head_on_features_computes_the_model_s_outputs(
    arguments, shape, names, pixels, tmp_path
):
    model = build_classifier("resnet20", ["a", "b"], image_size=16, weights=None, **arguments)
    features = keras.Model(model.input, feature_cut(model))(pixels(model))
    head = head_from_features(model)
    assert head.input_shape == shape
    assert [layer.name for layer in head.layers[1:]] == names
    assert np.array_equal(head(features), model(pixels(model)))


def test_training_the_head_trains_the_model(pixels, tmp_path):
    model = build_classifier("resnet20", ["a", "b"], image_size=8, weights=None)
    features = keras.Model(model.input, feature_cut(model))(pixels(model, 4))
    head = head_from_features(model)
    before = np.array(model(pixels(model, 4)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    head.compile(optimizer=keras.optimizers.Adam(0.1), loss=loss)
    head.fit(features, np.array([0, 1, 0, 1]), epochs=2, verbose=0)
    after = np.array(model(pixels(model, 4)))
    assert not np.array_equal(before, after)
    assert np.array_equal(head(features), after)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded(pixels(model, 4)), after)
    assert model.get_layer("logits").output is model.output


def test_the_features_of_a_keras_classifier():
    model = keras.applications.MobileNet(alpha=0.25, weights=None)
    assert feature_cut(model).shape == (None, 1, 1, 256)
    assert head_from_features(model).output_shape == (None, 1000)


def test_a_head_without_weights_has_no_features():
    x = keras.Input((8, 8, 3))
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(x))
    with pytest.raises(ArgumentError, match="must have a head with weights"):
        feature_cut(keras.Model(x, y))
