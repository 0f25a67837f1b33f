"""What trains if `trainable` flags were set explicitly, for models built in different ways."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.conftest import set_seeds
from tlkit.models.graph import with_nested
from tlkit.training.weight_change import WatchedWeights

layers = keras.layers
NUM_FROZEN = 15


def vgg16():
    return keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))


def through_build_classifier():
    model = tlkit.build_classifier(
        "vgg16",
        ["grey", "red"],
        image_size=32,
        weights=None,
        pooling="flatten",
        hidden=(256,),
        dropout=0,
        binary=True,
    )
    names = [layer.name for layer in vgg16().layers[:NUM_FROZEN]]
    for layer in model.layers:
        if layer.name in names:
            layer.trainable = False
    return model


def on_top(x):
    x = layers.Flatten()(x)
    x = layers.Dense(256, activation="relu", name="hidden")(x)
    return layers.Dense(1, activation="sigmoid", name="out")(x)


def as_flat_functional_model():
    base = vgg16()
    for layer in base.layers[:NUM_FROZEN]:
        layer.trainable = False
    return keras.Model(base.input, on_top(base.output))


def nested_in_sequential():
    base = vgg16()
    for layer in base.layers[:NUM_FROZEN]:
        layer.trainable = False
    return keras.Sequential(
        [
            base,
            layers.Flatten(),
            layers.Dense(256, activation="relu", name="hidden"),
            layers.Dense(1, activation="sigmoid", name="out"),
        ]
    )


def nested_in_a_functional_model():
    base = vgg16()
    for layer in base.layers[:NUM_FROZEN]:
        layer.trainable = False
    x = keras.Input((32, 32, 3))
    return keras.Model(x, on_top(base(x, training=False)))


def weights_by_layer(model):
    return {
        layer.name: [variable.numpy() for variable in layer.variables]
        for layer in with_nested(model)
        if layer.variables and not isinstance(layer, keras.Model)
    }


def changed_layers(before, model):
    after = weights_by_layer(model)
    return {
        name
        for name, values in before.items()
        if not all(np.array_equal(a, b) for a, b in zip(values, after[name], strict=True))
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        through_build_classifier,
        as_flat_functional_model,
        nested_in_sequential,
        nested_in_a_functional_model,
    ],
)
def test_vgg16_with_its_first_fifteen_layers_frozen(build):
    """As in tutorials, all layers are frozen except block 5 and the head."""
    set_seeds(0)
    model = build()
    last = [layer for layer in with_nested(model) if isinstance(layer, layers.Dense)][-1]
    last.bias.assign([0.1])  # counts as trained, so that no head is solved
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((images, np.arange(4) % 2)).batch(4)
    flags = [layer.trainable for layer in with_nested(model)]
    before = weights_by_layer(model)
    stage = tlkit.fine_tune(model, batches, epochs=1).stages[-1]
    assert stage.trainable.num_trainable == 7_211_009
    assert stage.trainable.groups == ("block5", "head")
    assert stage.trainable.frozen_groups == ("block1", "block2", "block3", "block4")
    changed = changed_layers(before, model)
    assert changed - {"head_dense_1", "binary_logit", "hidden", "out"} == {
        f"block5_conv{number}" for number in (1, 2, 3)
    }
    assert len(changed) == 5
    assert [layer.trainable for layer in with_nested(model)] == flags
    assert (
        "explicitly set `trainable` flags (7,211,009 of 14,846,273 parameters trainable) are "
        "respected; give `unfreeze`"
    ) in str(stage)


def blocks(name="base", first="block1"):
    x = keras.Input((32, 32, 3))
    y = layers.Rescaling(1 / 255)(x)
    y = layers.Conv2D(4, 3, activation="relu", name=f"{first}_conv")(y)
    y = layers.MaxPooling2D(4, name=f"{first}_pool")(y)
    y = layers.Conv2D(6, 3, activation="relu", padding="same", name="block2_conv1")(y)
    y = layers.Conv2D(6, 3, activation="relu", padding="same", name="block2_conv2")(y)
    y = layers.BatchNormalization(name="block2_norm")(y)
    return keras.Model(x, layers.MaxPooling2D(name="block2_pool")(y), name=name)


def nested(data):
    set_seeds(0)
    base = blocks()
    model = keras.Sequential(
        [base, layers.GlobalAveragePooling2D(), layers.Dense(len(data.class_names), name="logits")]
    )
    model.get_layer("logits").bias.assign([0.1, -0.1])
    return model, {layer.name: layer for layer in base.layers}


FAST = {"epochs": 2, "augment": "none", "learning_rate": 1e-2}


@pytest.mark.parametrize("is_stored", [True, False])
def test_frozen_layers_within_a_group_stay_bit_identical(data, is_stored):
    model, layer = nested(data)
    for name in ("block1_conv", "block2_conv1", "block2_norm"):
        layer[name].trainable = False
    before = weights_by_layer(model)
    given = data if is_stored else data.train.dataset()
    stage = tlkit.fine_tune(model, given, **(FAST if is_stored else {"epochs": 1})).stages[-1]
    assert any("stored activations" in note for note in stage.notes) == is_stored
    assert stage.trainable.layers == ("block2_conv2", "logits")
    assert changed_layers(before, model) <= {"block2_conv2", "logits"}
    if not is_stored:
        assert changed_layers(before, model) == {"block2_conv2", "logits"}


def test_a_layer_unfrozen_in_a_frozen_base_trains(data):
    """As in Keras, where the flags of the variables decide."""
    model, layer = nested(data)
    model.get_layer("base").trainable = False
    layer["block2_conv2"].trainable = True
    before = weights_by_layer(model)
    stage = tlkit.fine_tune(model, data, **FAST).stages[-1]
    assert any("stored activations" in note for note in stage.notes)
    assert stage.trainable.layers == ("block2_conv2", "logits")
    assert changed_layers(before, model) <= {"block2_conv2", "logits"}
    assert not model.get_layer("base").trainable
    assert layer["block2_conv2"].trainable_variables


def test_overriding_flags_is_reported(data):
    model, layer = nested(data)
    layer["block1_conv"].trainable = False
    before = weights_by_layer(model)
    stage = tlkit.fine_tune(model, data.train.dataset(), unfreeze="all", epochs=1).stages[-1]
    assert "block1_conv" in changed_layers(before, model)
    flags = "explicitly set `trainable` flags (578 of 690 parameters trainable)"
    assert f"{flags} are overridden" in str(stage)
    assert "unfreeze='as_is'" in str(stage)


def test_without_explicit_flags_nothing_is_reported(data):
    model, _ = nested(data)
    report = tlkit.fine_tune(model, data, **FAST)
    again = tlkit.fine_tune(model, data, **FAST)
    for stage in (*report.stages, *again.stages):
        assert stage.trainable.groups[0] == "block1"
        assert "explicitly" not in str(stage)


def test_solving_the_head_restores_flags(data):
    model, layer = nested(data)
    model.get_layer("logits").bias.assign([0.0, 0.0])
    layer["block1_conv"].trainable = False
    report = tlkit.train_head(model, data)
    assert report.stages[0].trainable.groups == ("head",)
    assert "set explicitly; they are restored" in str(report)
    assert [one.trainable for one in layer.values()] == [n != "block1_conv" for n in layer]
    stage = tlkit.fine_tune(model, data, **FAST).stages[-1]
    assert stage.trainable.layers == ("block2_conv1", "block2_conv2", "block2_norm", "logits")
    assert stage.trainable.batch_norm == "train"


@pytest.mark.parametrize("first", [tlkit.train_head, tlkit.fine_tune])
def test_a_frozen_base_stays_frozen_if_the_head_was_solved_before(data, first):
    """The flags are then the same as if tlkit itself had chosen the head alone."""
    model, _ = nested(data)
    model.get_layer("logits").bias.assign([0.0, 0.0])
    model.get_layer("base").trainable = False
    before = weights_by_layer(model)
    first(model, data, **(FAST if first is tlkit.fine_tune else {}))
    stage = tlkit.fine_tune(model, data, **FAST).stages[-1]
    assert stage.trainable.groups == ("head",)
    assert "explicitly set" in str(stage)
    assert changed_layers(before, model) == {"logits"}


def test_a_base_that_was_unfrozen_again_trains(data):
    model, _ = nested(data)
    model.get_layer("base").trainable = False
    tlkit.train_head(model, data)
    model.get_layer("base").trainable = True
    stage = tlkit.fine_tune(model, data, **FAST).stages[-1]
    assert stage.trainable.frozen_groups == ()


def test_a_head_that_flags_freeze_is_not_solved(data):
    model, _ = nested(data)
    model.get_layer("logits").bias.assign([0.0, 0.0])
    model.get_layer("logits").trainable = False
    before = weights_by_layer(model)
    report = tlkit.fine_tune(model, data, **FAST)
    assert [stage.name for stage in report.stages] == ["fine-tune"]
    assert "logits" not in changed_layers(before, model)


def test_as_is_refers_to_the_flags_at_the_start_of_the_call_in_every_stage(data):
    model, layer = nested(data)
    layer["block2_conv1"].trainable = False
    stages = [tlkit.Stage("head", epochs=1), tlkit.Stage("as_is", epochs=1)]
    report = tlkit.fine_tune(model, data, stages=stages, augment="none")
    assert "block2_conv1" not in report.stages[-1].trainable.layers
    assert "block2_conv2" in report.stages[-1].trainable.layers
    assert not layer["block2_conv1"].trainable


def test_a_run_is_resumed_only_with_the_same_flags(data, tmp_path):
    def started(frozen):
        model, layer = nested(data)
        layer[frozen].trainable = False
        return model

    arguments = {**FAST, "run_directory": tmp_path / "run"}
    tlkit.fine_tune(started("block1_conv"), data, **arguments)
    with pytest.raises(tlkit.RunError, match=r"frozen=\['block1_conv/kernel'"):
        tlkit.fine_tune(started("block2_conv1"), data, **arguments)
    tlkit.fine_tune(started("block1_conv"), data, **arguments)


def test_a_frozen_weight_that_changes_is_an_error(data):
    model, layer = nested(data)
    layer["block2_conv1"].trainable = False
    bias = layer["block2_conv1"].bias

    class ChangesBias(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            bias.assign_add(np.ones(bias.shape))

    before = weights_by_layer(model)
    with pytest.raises(tlkit.TrainingError, match=r"must stay unchanged.*block2_conv1/bias\. A"):
        tlkit.fine_tune(model, data, callbacks=[ChangesBias()], **FAST)
    assert not changed_layers(before, model)
    assert not WatchedWeights(model).changed_frozen


def test_layer_decay_reaches_into_nested_models(data):
    model, layer = nested(data)
    before = {name: layer[name].kernel.numpy() for name in ("block1_conv", "block2_conv2")}
    tlkit.fine_tune(
        model,
        data.train.dataset().take(1),
        unfreeze="all",
        epochs=1,
        layer_decay=0.1,
        schedule="constant",
        weight_decay=0.0,
        kept_fraction=1.0,
    )
    change = {name: np.abs(layer[name].kernel.numpy() - old).max() for name, old in before.items()}
    # AdamW's first step is the learning rate for each weight with a gradient
    assert change["block2_conv2"] == pytest.approx(5e-5, rel=0.05)
    assert change["block1_conv"] == pytest.approx(5e-6, rel=0.05)


def test_two_nested_models_with_the_same_names_train_from_stored_activations(data):
    set_seeds(0)
    left, right = blocks("left"), blocks("right")
    x = keras.Input((32, 32, 3))
    y = layers.Conv2D(3, 1, name="between")(layers.UpSampling2D(11)(left(x)))
    y = right(layers.Cropping2D(((0, 1), (0, 1)))(y))
    model = keras.Model(x, layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(y)))
    model.get_layer("logits").bias.assign([0.1, -0.1])
    for layer in (*left.layers, *right.layers[:-3]):
        layer.trainable = False
    model.get_layer("between").trainable = False
    before = [one.get_weights() for one in (left, right)]
    stage = tlkit.fine_tune(model, data, **FAST).stages[-1]
    assert any("stored activations" in note for note in stage.notes)
    assert stage.trainable.layers == ("right/block2_conv2", "right/block2_norm", "logits")
    after = [one.get_weights() for one in (left, right)]
    assert all(np.array_equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert [layer.name for layer in right.layers].count("block2_conv2") == 1


def test_a_model_frozen_as_a_whole_is_reported(data):
    model, _ = nested(data)
    model.trainable = False
    for train in (tlkit.fine_tune, tlkit.find_learning_rate):
        with pytest.raises(tlkit.ArgumentError, match=r"`model`.* its own model\.trainable is Fal"):
            train(model, data)
    assert not model.trainable
    report = tlkit.fine_tune(model, data, unfreeze="all", **FAST)
    note = (
        "the model was frozen as a whole (trainable=False, set explicitly or before it was saved)"
    )
    assert str(report.stages[-1]).count(note) == 1
    assert model.trainable
    assert len(model.trainable_variables) == 10  # with scale and offset of batch normalisation


def test_a_model_whose_layers_are_all_frozen_is_reported(data):
    model, _ = nested(data)
    for layer in model.layers:
        layer.trainable = False
    with pytest.raises(tlkit.ArgumentError, match="all of whose layers have trainable=False"):
        tlkit.fine_tune(model, data)
    report = tlkit.fine_tune(model, data, unfreeze="head", **FAST)
    assert "was frozen in all of its layers" in str(report.stages[-1])
