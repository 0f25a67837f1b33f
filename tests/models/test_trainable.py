"""`trainable` flags: whether the user set them, and restoring them, also in nested models."""

import keras
import numpy as np
import pytest

import tlkit
from tests.conftest import set_seeds
from tlkit.errors import ArgumentError
from tlkit.models.groups import choose_trainable, resolve_group, set_trainable
from tlkit.models.surgery import add_classes
from tlkit.models.trainable import Flags, has_user_flags, set_flag
from tlkit.training.stages import default_unfreeze
from tlkit.training.weight_change import restored_afterwards

layers = keras.layers


def base(name="base"):
    x = keras.Input((16, 16, 3))
    y = layers.Conv2D(4, 3, padding="same", name="block1_conv")(x)
    y = layers.MaxPooling2D(name="block1_pool")(y)
    y = layers.Conv2D(4, 3, padding="same", name="block2_conv")(y)
    y = layers.BatchNormalization(name="block2_norm")(y)
    return keras.Model(x, layers.MaxPooling2D(name="block2_pool")(y), name=name)


def nested():
    set_seeds(0)
    return keras.Sequential([base(), layers.Flatten(), layers.Dense(2, name="logits")])


def by_name(model):
    return {layer.name: layer for layer in model.get_layer("base").layers}


def trained_names(model):
    return {"/".join(v.path.split("/")[-2:]) for v in model.trainable_variables}


@pytest.mark.parametrize("unfreeze", ["head", "block2", "all"])
def test_groups_of_a_nested_model_are_set_whatever_its_own_flag(unfreeze):
    expected = {
        "head": {"logits/kernel", "logits/bias"},
        "block2": {"logits/kernel", "logits/bias", "block2_conv/kernel", "block2_conv/bias"},
    }
    expected["all"] = expected["block2"] | {"block1_conv/kernel", "block1_conv/bias"}
    for frozen_first in (False, True):
        model = nested()
        if frozen_first:
            model.get_layer("base").trainable = False
            by_name(model)["block1_conv"].trainable = True
        report = set_trainable(model, unfreeze)
        assert trained_names(model) == expected[unfreeze]
        assert report.num_trainable == sum(np.prod(v.shape) for v in model.trainable_variables)
        assert not by_name(model)["block2_norm"].trainable


def test_frozen_weights_of_a_nested_model_stay_bit_identical_in_plain_keras():
    """Also if the model was compiled, and trained as a whole, before it was frozen."""
    model = nested()
    x = np.random.default_rng(0).uniform(0, 1, (8, 16, 16, 3)).astype("float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(x, np.arange(8) % 2, verbose=0)
    for unfreeze, still in (("block2", ["block1_conv"]), ("head", ["block1_conv", "block2_conv"])):
        set_trainable(model, unfreeze)
        model.compile("adam", loss)
        before = {name: layer.get_weights() for name, layer in by_name(model).items()}
        logits = model.get_layer("logits").get_weights()
        model.fit(x, np.arange(8) % 2, verbose=0)
        for name, values in before.items():
            after = by_name(model)[name].get_weights()
            is_same = all(np.array_equal(a, b) for a, b in zip(values, after, strict=True))
            assert is_same == (name in still or not values or name == "block2_norm"), name
        assert not np.array_equal(logits[0], model.get_layer("logits").kernel)


def test_flags_of_single_variables_are_overridden_too():
    model = nested()
    by_name(model)["block2_conv"].kernel.trainable = False
    assert has_user_flags(model)
    set_trainable(model, "all")
    assert "block2_conv/kernel" in trained_names(model)


def test_flags_count_as_set_by_the_user_unless_tlkit_set_them():
    model = nested()
    assert not has_user_flags(model)
    choose_trainable(model, "head")
    assert not has_user_flags(model)
    assert default_unfreeze(model) == "all"
    by_name(model)["block2_conv"].trainable = True
    assert has_user_flags(model)
    choose_trainable(model, "block2")
    assert not has_user_flags(model)
    for layer in (*by_name(model).values(), *model.layers):
        layer.trainable = True
    assert has_user_flags(model)  # all set, and tlkit had set them differently
    assert default_unfreeze(model) == "as_is"


def test_flags_from_set_trainable_count_as_set_by_the_user():
    model = nested()
    set_trainable(model, "block2")
    assert default_unfreeze(model) == "as_is"


def test_a_grown_model_keeps_whether_the_user_set_flags():
    x = keras.Input((4,))
    for choose, expected in ((choose_trainable, False), (set_trainable, True)):
        hidden = layers.Dense(4, name="hidden")(x)
        model = keras.Model(x, layers.Dense(2, name="logits")(hidden))
        choose(model, "head")
        grown = add_classes(model, ["new"])
        assert not grown.get_layer("hidden").trainable
        assert has_user_flags(grown) == expected


def test_as_is_changes_nothing_and_reports_what_is_trainable():
    model = nested()
    by_name(model)["block1_conv"].trainable = False
    before = Flags.of(model)
    report = set_trainable(model, "as_is")
    assert report.groups == ("block2", "head")
    assert report.layers == ("block2_conv", "block2_norm", "logits")
    assert report.batch_norm == "train"
    after = Flags.of(model)
    assert [flag for _, flag in before.layers] == [flag for _, flag in after.layers]
    assert resolve_group(model, "as_is") == 1
    by_name(model)["block2_norm"].trainable = False
    by_name(model)["block2_conv"].trainable = False
    assert set_trainable(model, "as_is").groups == ("head",)
    assert set_trainable(model, "as_is").batch_norm == "frozen"


def test_updated_statistics_count_as_training():
    x = keras.Input((8, 8, 3))
    y = layers.BatchNormalization(center=False, scale=False, name="block1_norm")(x)
    y = layers.Conv2D(2, 3, name="block1_conv", trainable=False)(y)
    y = layers.Conv2D(2, 3, strides=2, name="block2_conv")(y)
    model = keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling2D()(y)))
    assert resolve_group(model, "as_is") == 0


def test_as_is_needs_trainable_weights():
    model = nested()
    model.trainable = False
    frozen = r"frozen as a whole: its own model\.trainable is False.*Set model\.trainable = True.*"
    with pytest.raises(ArgumentError, match=f"{frozen}block1, block2"):
        set_trainable(model, "as_is")
    model.trainable = True
    assert resolve_group(model, "as_is") == 0
    for layer in model.layers:
        layer.trainable = False
    with pytest.raises(ArgumentError, match=r"all of whose layers have trainable=False.*layer\.tr"):
        set_trainable(model, "as_is")


def test_flags_are_restored_in_every_layer():
    model = nested()
    by_name(model)["block1_conv"].trainable = False
    by_name(model)["block2_conv"].kernel.trainable = False
    expected = trained_names(model)
    for change in ("head", "all"):
        with restored_afterwards(model):
            set_trainable(model, change)
            assert trained_names(model) != expected
        assert trained_names(model) == expected
        assert [layer.trainable for layer in model.get_layer("base").layers].count(False) == 1


def test_a_flag_is_set_in_all_nested_layers_whatever_it_was_before():
    model = nested()
    inner = model.get_layer("base")
    by_name(model)["block1_conv"].trainable = False
    set_flag(inner, True)
    assert by_name(model)["block1_conv"].trainable


def test_names_in_the_report_are_unique():
    x = keras.Input((16, 16, 3))
    y = layers.Conv2D(3, 1, name="bring")(base("left")(x))
    y = layers.UpSampling2D(4)(y)
    y = layers.GlobalAveragePooling2D()(base("right")(y))
    model = keras.Model(x, layers.Dense(2, name="logits")(y))
    report = set_trainable(model, "all")
    assert {"left/block1_conv", "right/block1_conv", "bring"} <= set(report.layers)
    assert len(set(report.layers)) == len(report.layers) == 6
    names = [name for group in tlkit.layer_groups(model) for name in group.layers]
    assert len(set(names)) == len(names)
