"""Removing units, through every kind of layer between a layer and its readers."""

import keras
import numpy as np
import pytest

from tlkit.errors import ArgumentError
from tlkit.models.layer_spec import parse_graph
from tlkit.models.pruning import keep_units, reach_of
from tlkit.models.surgery import add_classes, consolidate, count_units, new_layers, widen_layer

from .tiny import NETWORKS, are_equal, inputs, network, relative_difference, shaken, weights_of

layers = keras.layers


def widened(build, num=4):
    model = network(build)
    return shaken(widen_layer(model, "target", count_units(model, "target") + num))


@pytest.mark.parametrize("build", [b for b in NETWORKS if b.__name__ != "separable"])
def test_removing_units_read_with_zeros_keeps_the_outputs(build):
    model = widened(build)
    gone, stay = [1, 2], [0, 3]
    reads = [layer for layer in model.layers if "__reads1" in layer.name]
    assert reads
    for layer in reads:
        kernel = layer.kernel.numpy()
        per_unit = kernel.shape[-2] // 4
        owners = np.arange(kernel.shape[-2])
        # after Flatten units alternate; after a depthwise layer each unit's channels are adjacent
        owners = owners % 4 if build.__name__ == "flattened" else owners // per_unit
        if build.__name__ == "concatenated":
            owners = np.arange(kernel.shape[-2]) % 4
        kernel[..., np.isin(owners, gone), :] = 0
        layer.kernel.assign(kernel)
    before = weights_of(model)
    fewer = keep_units(model, {("target", 1): stay})
    assert are_equal(weights_of(model), before)
    assert count_units(fewer, "target") == count_units(model, "target") - 2
    images = inputs(model)
    assert relative_difference(fewer(images), model(images)) < 1e-5
    assert relative_difference(consolidate(fewer)(images), model(images)) < 1e-5


@pytest.mark.parametrize("build", NETWORKS)
def test_removing_all_units_restores_the_original_model(build):
    model = network(build)
    wider = widen_layer(model, "target", count_units(model, "target") + 4)
    fewer = keep_units(wider, {("target", 1): []})
    assert not new_layers(fewer)
    images = inputs(model)
    assert np.array_equal(fewer(images), model(images))


@pytest.mark.parametrize("build", NETWORKS)
def test_units_are_followed_to_the_channels_that_are_read(build):
    model = widened(build, 3)
    reach = reach_of(parse_graph(model), "target", 1)
    new, images = model.get_layer("target__grown1"), inputs(model)
    assert reach.read
    for tensor, owners in reach.read:
        assert len(owners) == tensor.shape[-1]
        features = keras.Model(model.inputs[0], tensor)
        before, kernel = features(images).numpy(), new.kernel.numpy()
        for unit in range(3):
            changed = kernel.copy()
            changed[..., unit] *= -3
            new.kernel.assign(changed)
            differs = (features(images).numpy() != before).reshape(-1, len(owners)).any(axis=0)
            assert set(owners[differs]) == {unit}
        new.kernel.assign(kernel)
    scaled = [layer.name for layer in reach.scaled]
    assert scaled == (["bn__grown1"] if build.__name__ == "convolution" else scaled)


def shared_dense(y):
    twice = layers.Dense(6, activation="relu", name="twice")
    return twice(twice(layers.Dense(6)(y)))


def shared_activation(y):
    relu = layers.ReLU(name="twice")
    return relu(layers.Dense(6)(relu(layers.Dense(6)(y))))


def shared_norm(y):
    norm = layers.BatchNormalization(name="twice")
    return norm(layers.Dense(6)(norm(layers.Dense(6)(y))))


def shared_model(y):
    block = keras.Sequential([keras.Input((6,)), layers.Dense(6, "tanh")], name="twice")
    return block(block(layers.Dense(6)(y)))


def shared_concatenation(y):
    joined = layers.Concatenate(name="twice")
    return layers.Dense(6)(joined([y, joined([y, y])]))


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize(
    "shared", [shared_dense, shared_activation, shared_norm, shared_model, shared_concatenation]
)
def test_a_model_with_a_shared_layer_is_pruned_like_any_other(shared, where):
    x = keras.Input((4,))
    y = shared(x) if where == "before" else x
    y = layers.Dense(3, activation="relu", name="target")(y)
    y = layers.Dense(6, name="reader")(y)
    y = shared(y) if where == "behind" else y
    model = shaken(keras.Model(x, layers.Dense(2, name="logits")(y)))
    images = inputs(model)
    grown = shaken(widen_layer(add_classes(model, ["new"]), "target", 7))
    kernel = grown.get_layer("reader__reads2").kernel
    kernel.assign(kernel.numpy() * np.array([[1], [0], [1], [0]]))
    fewer = keep_units(grown, {("target", 2): [0, 2]})
    assert relative_difference(fewer(images), grown(images)) < 1e-6
    assert sum(layer.name == "twice" for layer in fewer.layers) == 1
    assert fewer.get_layer("target__grown2").units == 2
    plain = consolidate(fewer)
    assert relative_difference(plain(images), grown(images)) < 1e-5
    assert sum(layer.name == "twice" for layer in plain.layers) == 1


def test_classes_and_other_parts_are_kept():
    model = network(NETWORKS[0])
    grown = add_classes(model, ["d", "e"])
    grown = widen_layer(grown, "reader", 7, isolate=True)
    grown = shaken(widen_layer(grown, "target", 8, isolate=True))
    fewer = keep_units(grown, {("reader", 2): [1], ("target", 3): [0, 2]})
    images = inputs(model)
    assert np.array_equal(fewer(images)[:, :3], grown(images)[:, :3])
    assert fewer.get_layer("reader__grown2__reads3").kernel.shape == (2, 1)
    again = widen_layer(fewer, "target", 9, isolate=True)
    assert np.array_equal(again(images), fewer(images))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (
            {("taget", 1): [0]},
            r"\('taget', 1\)\. Did you mean 'target'.*Added layers: \[\('target', 1\)\]",
        ),
        ({("target", 0): [0]}, "must name layers that widen_layer has added"),
        ({("target", 2): [0]}, "must name layers that widen_layer has added"),
        ({("target", 1): [4]}, "positions from 0 to 3"),
        ({("target", 1): [0, 0]}, "distinct positions"),
    ],
)
def test_invalid_units_are_refused(kept, message):
    with pytest.raises(ArgumentError, match=message):
        keep_units(widened(NETWORKS[0]), kept)
