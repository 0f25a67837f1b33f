"""Unusual models: layers called twice, several inputs or outputs, nested and Sequential models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.conftest import set_seeds
from tlkit.errors import ArgumentError
from tlkit.models.cuts import find_cuts
from tlkit.training.weight_change import weights_by_group


def called_twice():
    """A network that calls a convolution at two resolutions, which therefore are one group."""
    set_seeds(0)
    twice = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="twice")
    images = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(images)
    x = twice(keras.layers.Conv2D(8, 3, padding="same", name="first")(x))
    x = twice(keras.layers.MaxPooling2D()(x))
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Conv2D(8, 3, name="last")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(2, name="logits")(x))


def several_inputs_or_outputs(kind):
    x, y = keras.Input((32, 32, 3), name="x"), keras.Input((32, 32, 3), name="y")
    pooled = keras.layers.GlobalAveragePooling2D()
    first = keras.layers.Dense(2, name="first")
    if kind == "outputs":
        return keras.Model(x, [first(pooled(x)), keras.layers.Dense(2, name="second")(pooled(x))])
    return keras.Model([x, y], first(pooled(keras.layers.Add()([x, y]))))


def test_a_layer_that_is_called_twice_trains_like_any_other(data):
    model = called_twice()
    before = model.get_layer("twice").get_weights()
    report = tlkit.fine_tune(model, data.train.dataset(), unfreeze="all", epochs=1, layer_decay=0.5)
    stage = report.stages[-1]
    assert any({"first", "twice"} <= set(group.layers) for group in tlkit.layer_groups(model))
    assert "twice" in stage.trainable.layers
    assert all(change > 0 for change in stage.weight_change.values())
    for a, b in zip(before, model.get_layer("twice").get_weights(), strict=True):
        assert not np.array_equal(a, b)


@pytest.mark.parametrize(("augment", "noted"), [("none", "stored activations"), ("light", "runs")])
def test_groups_below_the_first_trainable_one_stay_unchanged(data, augment, noted):
    model = called_twice()
    tlkit.train_head(model, data)
    before = weights_by_group(model)
    stage = tlkit.fine_tune(
        model, data, unfreeze=2, epochs=2, augment=augment, learning_rate=1e-3
    ).stages[-1]
    assert any(noted in note for note in stage.notes)
    (frozen,) = stage.trainable.frozen_groups
    assert stage.weight_change[frozen] == 0.0
    for a, b in zip(before[frozen], weights_by_group(model)[frozen], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("train", [tlkit.fine_tune, tlkit.train_head, tlkit.find_learning_rate])
def test_a_layer_of_both_head_and_backbone_is_refused_by_name(data, train):
    twice = keras.layers.Dense(8, name="twice")
    images = keras.Input((32, 32, 3))
    x = twice(keras.layers.Conv2D(8, 3)(images))
    x = twice(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(images, keras.layers.Dense(2)(x))
    with pytest.raises(ArgumentError, match="layer 'twice' is called both in the head and before"):
        train(model, data)


@pytest.mark.parametrize("train", [tlkit.fine_tune, tlkit.train_head, tlkit.find_learning_rate])
@pytest.mark.parametrize("plain", [False, True], ids=["ImageData", "Dataset"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("outputs", "`model` must have one output.* 2 outputs: 'first', 'second'"),
        ("inputs", "`model` must have one input.* 2 inputs: 'x', 'y'"),
    ],
)
def test_several_inputs_or_outputs_are_refused_by_name(data, train, plain, kind, message):
    with pytest.raises(ArgumentError, match=message):
        train(several_inputs_or_outputs(kind), data.train.dataset() if plain else data)


@pytest.mark.parametrize("train", [tlkit.fine_tune, tlkit.train_head, tlkit.find_learning_rate])
def test_a_model_without_a_graph_is_refused(data, train):
    class Subclassed(keras.Model):
        def call(self, images):
            return images

    with pytest.raises(ArgumentError, match="`model` must be a functional model"):
        train(Subclassed(), data)


def test_a_sequential_model_is_fine_tuned_like_any_other(data):
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, strides=2, name="near"),
            keras.layers.Conv2D(4, 3, strides=2, name="far"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    report = tlkit.fine_tune(model, data.train.dataset(), unfreeze="all", epochs=1)
    assert all(change > 0 for change in report.stages[-1].weight_change.values())
    stored = tlkit.fine_tune(model, data, unfreeze="head", epochs=2, augment="none").stages[-1]
    assert any("stored activations" in note for note in stored.notes)


def test_a_nested_backbone_has_its_own_groups(data):
    """As in Keras's guide, the backbone is called inside the graph, in inference mode."""
    backbone = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    cut = backbone.get_layer("stage3_out").output
    backbone = keras.Model(backbone.input, cut, name="backbone")
    images = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(backbone(images, training=False))
    model = keras.Model(images, keras.layers.Dense(2)(x))
    for unfreeze, expected in (
        ("head", [False, False, False, True]),
        ("stage3", [False, False, True, True]),
        ("all", [True, True, True, True]),
    ):
        stage = tlkit.fine_tune(model, data.train.dataset(), unfreeze=unfreeze, epochs=1).stages[-1]
        assert list(stage.weight_change) == ["stage1", "stage2", "stage3", "head"]
        assert [change > 0 for change in stage.weight_change.values()] == expected


def test_a_size_that_a_layer_does_not_report_is_taken_from_the_traced_graph():
    inputs = keras.Input((12, 8))
    x = keras.layers.EinsumDense("abc,cd->abd", (None, 4), name="mixed")(inputs)
    x = keras.layers.Conv1D(3, 3, name="seen")(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(x)))
    assert [cut.shape for cut in find_cuts(model)][1] == (12, 4)
    values = np.random.default_rng(0).normal(size=(32, 12, 8)).astype("float32")
    labels = (values.mean(axis=(1, 2)) > 0).astype(int)
    dataset = tf.data.Dataset.from_tensor_slices((values, labels)).batch(16)
    assert tlkit.train_head(model, dataset).stages[0].weight_change["head"] > 0
    changes = tlkit.fine_tune(model, dataset, unfreeze="all", epochs=1).stages[-1].weight_change
    assert all(change > 0 for change in changes.values())


def test_activations_without_a_fixed_shape_are_not_stored(data):
    images = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 255)(images)
    for number in range(3):
        x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name=f"conv{number}")(x)
    model = keras.Model(images, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    report = tlkit.fine_tune(model, data, unfreeze=2, epochs=2, augment="none")
    assert any("activations without a fixed shape" in note for note in report.stages[-1].notes)
