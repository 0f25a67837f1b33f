"""Opening of composite layers: a graph of the layers inside them, where it computes the same."""

import keras
import numpy as np
import pytest

import tlkit
from tlkit.models import plain_copies
from tlkit.models.needed_packages import needed_packages
from tlkit.models.opening import opened

UNITS = 4


class Block(keras.layers.Layer):
    """A residual block."""

    def __init__(self, rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def build(self, shape):
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.dense = keras.layers.Dense(UNITS, activation="gelu", name="dense")
        self.dropout = keras.layers.Dropout(self.rate, name="dropout")
        for layer in (self.norm, self.dense):
            layer.build(shape)

    def call(self, inputs, training=None):
        return inputs + self.dropout(self.dense(self.norm(inputs)), training=training)


class Encoder(keras.layers.Layer):
    """A chain of blocks."""

    block = Block

    def build(self, shape):
        self.blocks = [self.block(name=f"block{number}") for number in (1, 2)]
        for block in self.blocks:
            block.build(shape)

    def call(self, inputs, training=None):
        for block in self.blocks:
            inputs = block(inputs, training=training)
        return inputs


class WithOwnWeight(Block):
    def build(self, shape):
        super().build(shape)
        self.scale = self.add_weight(shape=(UNITS,), initializer="ones", name="scale")

    def call(self, inputs, training=None):
        return super().call(inputs, training=training) * self.scale


class Noisy(Block):
    """Computes something else in training."""

    def call(self, inputs, training=None):
        outputs = super().call(inputs, training=training)
        return outputs * 2 if training else outputs


class WithNumbers(Block):
    """Needs numbers, which symbolic tensors do not have."""

    def call(self, inputs, training=None):
        rows = keras.ops.arange(keras.ops.shape(inputs)[0], dtype="float32")
        return super().call(inputs, training=training) + 0 * rows[:, None, None]


class WithoutOne(Block):
    """Does not use one of its layers."""

    def call(self, inputs, training=None):
        return inputs + self.dense(inputs)


class Unlike(Block):
    """Computes something else when it is traced than when it is called."""

    def __call__(self, inputs, **kwargs):
        return super().__call__(inputs, **kwargs) + 1


def around(layer):
    """A model with a plain layer before and after one layer, both with weights that are not 0."""
    inputs = keras.Input((3, UNITS))
    x = keras.layers.Dense(UNITS, name="first")(inputs)
    x = keras.layers.Dense(UNITS, name="last")(layer(x))
    model = keras.Model(inputs, x)
    generator = np.random.default_rng(0)
    model.set_weights([generator.uniform(0.1, 1, w.shape) for w in model.get_weights()])
    return model


def open_model(model):
    inputs = keras.Input((3, UNITS))
    found = opened(model, inputs)
    return keras.Model(inputs, found.output), found.closed


ROWS = np.random.default_rng(1).normal(size=(5, 3, UNITS)).astype("float32")


def test_an_encoder_is_opened_down_to_plain_layers():
    model = around(Encoder(name="encoder"))
    expected = np.asarray(model(ROWS))
    plain, closed = open_model(model)
    assert closed == ()
    assert {type(layer).__module__.split(".")[0] for layer in plain.layers} == {"keras"}
    names = [layer.name for layer in plain.layers if layer.weights]
    inner = [f"encoder_block{number}_{name}" for number in (1, 2) for name in ("norm", "dense")]
    assert names == ["first", *inner, "last"]
    np.testing.assert_array_equal(plain(ROWS), expected)
    assert {id(weight) for weight in plain.weights} == {id(weight) for weight in model.weights}
    assert len({operation.name for operation in plain.operations}) == len(plain.operations)


BLOCKS = ("encoder_block1", "encoder_block2")


@pytest.mark.parametrize(
    ("kind", "whole"),
    [
        (WithOwnWeight, BLOCKS),
        (Noisy, BLOCKS),
        (WithNumbers, BLOCKS),
        (WithoutOne, BLOCKS),
        (Unlike, ("encoder",)),
    ],
)
def test_a_layer_that_may_compute_something_else_stays_whole(kind, whole):
    encoder = type("Own", (Encoder,), {"block": kind})(name="encoder")
    model = around(encoder)
    expected = [np.asarray(model(ROWS, training=training)) for training in (False, True)]
    plain, closed = open_model(model)
    assert closed == whole
    for training, one in zip((False, True), expected, strict=True):
        np.testing.assert_array_equal(plain(ROWS, training=training), one)


def test_dropout_inside_a_layer_is_active_in_training_only():
    plain, closed = open_model(around(Block(rate=0.5, name="block")))
    assert closed == ()
    outputs = [np.asarray(plain(ROWS, training=True)) for _ in range(2)]
    assert np.abs(outputs[0] - outputs[1]).max() > 0
    np.testing.assert_array_equal(plain(ROWS), plain(ROWS))


def test_a_layer_that_is_called_twice_keeps_its_weights_together():
    shared = Block(name="shared")
    inputs = keras.Input((3, UNITS))
    model = keras.Model(inputs, shared(shared(inputs)))
    expected = np.asarray(model(ROWS))
    plain, closed = open_model(model)
    assert closed == ()
    assert len(plain.weights) == len(model.weights) == 4
    np.testing.assert_array_equal(plain(ROWS), expected)


def test_the_batch_may_have_any_size_where_code_reads_it():
    class Split(keras.layers.Layer):
        def build(self, shape):
            self.dense = keras.layers.Dense(UNITS)
            self.dense.build((None, 3, 2, UNITS // 2))

        def call(self, inputs):
            batch, rows, _ = keras.ops.shape(inputs)
            parts = keras.ops.reshape(inputs, (batch, rows, 2, -1))
            return keras.ops.reshape(self.dense(parts), (batch, -1, UNITS))

    model = around(Split(name="split"))
    plain, closed = open_model(model)
    assert closed == ()
    for count in (1, 5):
        np.testing.assert_array_equal(plain(ROWS[:count]), model(ROWS[:count]))


@pytest.fixture
def own_file(tmp_path):
    """A file of a network with a layer of blocks, of a class that is registered."""
    keras.saving.register_keras_serializable("test_opening")(Block)
    keras.saving.register_keras_serializable("test_opening")(Encoder)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = keras.layers.Conv2D(UNITS, 4, strides=4, name="patches")(x)
    x = keras.layers.Reshape((16, UNITS))(x)
    x = Encoder(name="encoder")(x)
    x = keras.layers.Reshape((4, 4, UNITS))(x)
    keras.Model(inputs, x, name="own").save(tmp_path / "own.keras")
    return tmp_path / "own.keras"


def test_a_backbone_file_with_composite_layers_is_opened(own_file):
    model = tlkit.build_classifier(own_file, ["ant", "bee"])
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    assert "encoder_block2_dense" in [layer.name for layer in model.layers]


def test_the_packages_of_the_layers_in_a_file_are_found(own_file, tmp_path):
    assert needed_packages(own_file) == (Encoder.__module__.partition(".")[0],)
    tlkit.build_classifier(own_file, ["ant", "bee"]).save(tmp_path / "plain.keras")
    assert needed_packages(tmp_path / "plain.keras") == ()


def test_layers_that_stay_whole_are_named(monkeypatch):
    notes = []
    monkeypatch.setattr(plain_copies, "note", notes.append)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = keras.layers.Conv2D(UNITS, 4, strides=4, name="patches")(x)
    x = WithOwnWeight(name="scaled")(x)
    tlkit.build_classifier(keras.Model(inputs, x, name="own"), ["ant", "bee"])
    assert notes[-1] == "own: layers that stay whole: scaled"
