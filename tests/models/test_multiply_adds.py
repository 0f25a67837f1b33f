"""Multiply-adds of each Keras layer, compared with expected counts."""

import inspect

import keras
import pytest

from tests.keras_layers import CASES
from tlkit.models.graph import sorted_nodes
from tlkit.models.multiply_adds import count_multiply_adds, multiply_adds_of

L = keras.layers

WITHOUT_A_CASE = {
    # abstract classes, wrappers of other libraries, or cells that are not called directly
    *("Layer", "Wrapper", "InputLayer", "InputSpec", "FlaxLayer", "JaxLayer", "TFSMLayer"),
    *("TorchModuleWrapper", "Pipeline", "SimpleRNNCell", "LSTMCell", "GRUCell", "StackedRNNCells"),
    # preprocessing of texts, numbers and sounds, without weights
    *("StringLookup", "IntegerLookup", "TextVectorization", "Hashing", "HashedCrossing"),
    *("Discretization", "CategoryEncoding", "MelSpectrogram", "STFTSpectrogram"),
    # augmentation, inactive in inference
    *("AugMix", "AutoContrast", "CutMix", "MixUp", "RandAugment", "Equalization", "Solarization"),
    *("ContrastLimitedAdaptiveHistogramEqualization", "MaxNumBoundingBoxes"),
}


def of_layer(case):
    output = keras.tree.flatten(case.model().outputs)[0]
    return sum(multiply_adds_of(node) for node in sorted_nodes(output))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_layer_has_the_expected_count(case):
    assert of_layer(case) == case.multiply_adds


def test_every_layer_of_keras_has_a_case():
    classes = {value.__name__ for value in vars(keras.layers).values() if inspect.isclass(value)}
    with_case = {type(case.make()).__name__ for case in CASES}
    missing = classes - with_case - WITHOUT_A_CASE
    assert {name for name in missing if not name.startswith("Random")} == set()


class OwnDense(L.Dense):
    """A user-defined layer with twice the multiply-adds."""

    def call(self, inputs):
        return super().call(inputs) + super().call(-inputs)


class OwnAttention(L.Layer):
    """A user-defined layer that computes attention."""

    def __init__(self):
        super().__init__()
        self.attention, self.after = L.MultiHeadAttention(2, 3), L.Dense(4)

    def call(self, inputs):
        return self.after(self.attention(inputs, inputs))


@keras.saving.register_keras_serializable("tests")
class OwnCell(L.SimpleRNNCell):
    """A user-defined recurrent cell."""


@pytest.mark.parametrize(
    ("make", "shape", "count"),
    [
        (lambda: OwnDense(3), (4,), 24),
        (OwnAttention, (6, 4), 4 * 6 * 4 * 6 + 2 * 6 * 6 * 6 + 6 * 4 * 4),
        (lambda: L.RNN(OwnCell(3)), (6, 4), 6 * 21),
        (lambda: L.Lambda(lambda y: keras.ops.matmul(y, y)), (5, 5), 125),
        (lambda: lambda x: keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1))), (5, 3), 75),
        (lambda: lambda x: keras.ops.einsum("abc,adc->abd", x, x), (5, 3), 75),
        (lambda: lambda x: x * 2.0 + 1.0, (5, 3), 0),
        (lambda: L.Bidirectional(L.RNN(OwnCell(3))), (6, 4), 2 * 6 * 21),
        (lambda: L.TimeDistributed(OwnDense(3)), (6, 4), 6 * 24),
    ],
)
def test_user_defined_layers_are_traced(make, shape, count):
    inputs = keras.Input(shape)
    assert count_multiply_adds(keras.Model(inputs, make()(inputs))) == count


@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D", "SeparableConv2D"])
def test_channels_first_counts_the_same_positions(kind):
    counts = []
    for data_format, shape in (("channels_last", (6, 5, 4)), ("channels_first", (4, 6, 5))):
        inputs = keras.Input(shape)
        size = {} if kind == "DepthwiseConv2D" else {"filters": 3}
        layer = getattr(L, kind)(kernel_size=3, data_format=data_format, **size)
        counts.append(count_multiply_adds(keras.Model(inputs, layer(inputs))))
    assert counts[0] == counts[1] > 0


def test_a_size_that_is_not_fixed_counts_as_one():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, L.Conv2D(4, 3)(inputs))
    assert count_multiply_adds(model) == 9 * 3 * 4
