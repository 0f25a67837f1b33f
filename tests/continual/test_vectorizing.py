"""Samples are vectorised for tested layers, and processed one by one otherwise."""

import keras
import numpy as np
import pytest

import tlkit
from tests.conftest import set_seeds
from tests.continual.test_importance import batches, reference_importance
from tests.keras_layers import CASES
from tlkit.continual.vectorizing import PROVEN_LAYERS, PROVEN_OPERATIONS, reason_not_to_vectorize

PROVEN_CASES = [
    case
    for case in CASES
    if type(case.make()) in PROVEN_LAYERS and not reason_not_to_vectorize(case.model())
]
OTHERS = [
    case
    for case in CASES
    if type(case.make()) not in PROVEN_LAYERS and len(case.shapes) == 1 and case.dtype == "float32"
]


def mean_squares(model, inputs, num_outputs):
    """The mean of squared gradients of log p, computed one sample at a time."""

    def of_label(logits, i):
        del i
        logs = keras.ops.log_softmax(logits)
        return [(logs[c], keras.ops.exp(logs[c]), np.square) for c in range(num_outputs)]

    return reference_importance(model, inputs, of_label)


def assert_close(importance, expected):
    """Compares relative to the largest value: some are zero up to rounding."""
    scale = max(values.max() for values in expected.values())
    for path, values in expected.items():
        np.testing.assert_allclose(importance[path], values, rtol=1e-4, atol=1e-5 * scale)


def classifier(case):
    """A model with weights before and after the layer, so that gradients pass through it."""
    set_seeds(0)
    inputs = keras.Input(case.shapes[0])
    given = keras.layers.Dense(case.shapes[0][-1], name="before")(inputs)
    layer = case.make()
    if case.call is not None:
        output = case.call(layer, given)
    else:
        output = layer(given if len(case.shapes) == 1 else [given, inputs])
    size = int(np.prod([side or 1 for side in output.shape[1:]]))
    if None in output.shape[1:]:
        flat = keras.layers.GlobalAveragePooling1D()(output)
    else:
        flat = keras.layers.Reshape((size,))(output)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(flat))


@pytest.mark.slow
@pytest.mark.parametrize("case", PROVEN_CASES, ids=lambda case: case.name)
def test_vectorised_layers_give_the_same_as_single_samples(case):
    model = classifier(case)
    images = np.random.default_rng(0).normal(size=(5, *case.shapes[0])).astype("float32")
    importance = tlkit.estimate_importance(model, batches(images))
    assert not importance.notes
    assert_close(importance, mean_squares(model, images, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("EinsumDense_two_axes", "EinsumDense_open", "MultiHeadAttention", "GroupQueryAttention"),
        *("MultiHeadAttention_along_rows", "LSTM", "GRU", "SimpleRNN", "Bidirectional"),
        *(
            "ConvLSTM1D",
            "TimeDistributed",
            "Conv1DTranspose",
            "SeparableConv2D",
            "Resizing",
            "Lambda",
        ),
    ],
)
def test_other_layers_are_processed_one_by_one_and_give_the_same(name):
    case = next(case for case in OTHERS if case.name == name)
    model = classifier(case)
    images = np.random.default_rng(0).normal(size=(3, *case.shapes[0])).astype("float32")
    importance = tlkit.estimate_importance(model, batches(images))
    assert type(case.make()).__name__ in importance.notes[0]
    assert_close(importance, mean_squares(model, images, 2))


@pytest.mark.parametrize("name", ["Conv2D_dilated", "Conv2D_groups"])
def test_convolutions_that_some_processors_cannot_vectorise_are_processed_one_by_one(name):
    case = next(case for case in CASES if case.name == name)
    model = classifier(case)
    images = np.random.default_rng(0).normal(size=(3, *case.shapes[0])).astype("float32")
    importance = tlkit.estimate_importance(model, batches(images))
    assert "Conv2D" in importance.notes[0]
    assert_close(importance, mean_squares(model, images, 2))


def test_every_vectorised_layer_has_a_test_case():
    covered = {type(case.make()) for case in PROVEN_CASES}
    assert set(PROVEN_LAYERS) - covered <= {keras.layers.InputLayer}


class OwnDense(keras.layers.Dense):
    """A user-defined layer, which may compute anything."""


class OwnModel(keras.Model):
    """A subclassed model, whose call may do anything."""


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OwnDense(2), "OwnDense"),
        (lambda: keras.layers.Dense(2, activation=keras.ops.erf), "Dense"),
        (lambda: keras.layers.Dense(2, activity_regularizer="l2"), "Dense"),
        (lambda: keras.layers.Dense(2, dtype="float64"), "Dense"),
        (lambda: lambda x: keras.ops.cumsum(x, axis=-1), "Cumsum"),
        (lambda: lambda x: keras.ops.einsum("ab,ac->abc", x, x), "Einsum"),
        (lambda: keras.layers.Reshape((1, 2, 2, 1)), "Reshape"),
        (lambda: keras.Sequential([keras.Input((4,)), OwnDense(2)]), "OwnDense"),
    ],
)
def test_untested_operations_are_named(make, words):
    inputs = keras.Input((4,))
    assert words in reason_not_to_vectorize(keras.Model(inputs, make()(inputs)))


def test_a_subclassed_model_is_not_vectorised_whole_or_nested():
    inputs = keras.Input((4,))
    own = OwnModel(inputs, keras.layers.Dense(2)(inputs))
    assert "OwnModel" in reason_not_to_vectorize(own)
    assert "OwnModel" in reason_not_to_vectorize(keras.Model(inputs, own(inputs)))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x * 2.0 - 1.0,
        lambda x: -(x / 3.0) + x,
        lambda x: x[..., ::-1],
    ],
)
def test_tested_operations_in_the_graph_are_vectorised(make):
    set_seeds(0)
    inputs = keras.Input((6,))
    given = keras.layers.Dense(6, name="before")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(make(given)))
    kinds = {type(operation).__name__ for operation in model.operations}
    assert kinds & PROVEN_OPERATIONS
    images = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    importance = tlkit.estimate_importance(model, batches(images))
    assert not importance.notes
    assert_close(importance, mean_squares(model, images, 2))


def test_a_network_of_the_catalogue_without_depthwise_layers_is_vectorised():
    model = tlkit.build_classifier("resnet20", ["a", "b"], weights=None)
    assert not reason_not_to_vectorize(model)


def test_a_vision_transformer_is_processed_one_by_one():
    set_seeds(0)
    inputs = keras.Input((8, 8, 3))
    patches = keras.layers.Conv2D(8, 4, strides=4)(inputs)
    x = keras.layers.Reshape((4, 8))(patches)
    normed = keras.layers.LayerNormalization()(x)
    x = x + keras.layers.MultiHeadAttention(2, 4)(normed, normed)
    x = x + keras.layers.Dense(8, "gelu")(keras.layers.LayerNormalization()(x))
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype("float32")
    importance = tlkit.estimate_importance(model, batches(images))
    assert "MultiHeadAttention" in importance.notes[0]
    assert_close(importance, mean_squares(model, images, 3))
