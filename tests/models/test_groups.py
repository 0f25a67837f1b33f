import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.errors import ArgumentError
from tlkit.models.assembly import build_classifier
from tlkit.models.catalogue import find_backbone
from tlkit.models.cuts import NOMINAL_SIZE, find_cuts
from tlkit.models.groups import cut_before, cuts, layer_groups, resolve_group, set_trainable
from tlkit.models.heads import feature_cut, head_from_features
from tlkit.models.surgery import add_classes, new_layers, widen_layer

from .expectations import BOUNDARIES


def boundaries(model):
    groups = layer_groups(model)
    assert groups[-1].name == "head"
    return {group.name: group.boundary for group in groups[:-1]}


def group_names(model):
    return [group.name for group in layer_groups(model)]


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet_v2_035"])
def test_groups_end_with_blocks_without_a_fixed_size(name):
    pixels = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(find_backbone(name).build(pixels, None).output)
    model = keras.Model(pixels, keras.layers.Dense(2)(x))
    assert boundaries(model) == BOUNDARIES[name]


def test_cuts_split_the_graph(small_model):
    found = cuts(small_model)
    assert found[0] is small_model.input
    assert found[-1] is small_model.output
    by_name = {tensor._keras_history.operation.name for tensor in found}
    assert {"stage1_block1_out", "stage1_block1_add", "stage3_block1_out"} <= by_name
    assert not {"stage1_block1_1_conv", "stage3_block1_0_bn", "stage2_block2_2_bn"} & by_name


def test_the_top_of_a_keras_classifier_is_its_head():
    mobilenet = keras.applications.MobileNet(alpha=0.25, weights=None)
    assert boundaries(mobilenet) == BOUNDARIES["mobilenet_025"]
    assert "conv_preds" in layer_groups(mobilenet)[-1].layers
    vgg16 = build_classifier("vgg16", ["a", "b"], image_size=32, weights=None, pooling="flatten")
    assert boundaries(vgg16) == BOUNDARIES["vgg16"]  # block5_pool is 1x1 here


def test_sequential_models_work():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="wide1"),
            layers.MaxPooling2D(name="pool"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(3, name="scores"),
        ]
    )
    assert group_names(model) == ["group_1", "wide1", "head"]
    assert layer_groups(model)[1].boundary == "pool"
    report = set_trainable(model, "head")
    assert report.layers == ("scores",)
    assert report.batch_norm == "none"
    assert cut_before(model, "wide1").shape == (None, 16, 16, 8)


def test_multilayer_perceptrons_and_text_models_work():
    layers = keras.layers
    x = keras.Input((28, 28))
    y = layers.Dense(9, name="fc1")(layers.Flatten()(x))
    y = layers.Dropout(0.1)(layers.Dense(9, name="fc2")(y))
    perceptron = keras.Model(x, layers.Dense(2)(y))
    assert group_names(perceptron) == ["group_1", "head"]
    assert [name for name in layer_groups(perceptron)[1].layers if "dropout" in name]
    linear = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    assert group_names(linear) == ["head"]
    tokens = keras.Input((None,), dtype="int32")
    y = layers.Embedding(50, 8)(tokens)
    y = layers.GlobalAveragePooling1D()(layers.Conv1D(8, 3, strides=2)(y))
    text = keras.Model(tokens, layers.Dense(2)(y))
    assert group_names(text) == ["group_1", "group_2", "head"]


def test_a_nested_model_that_is_one_layer_is_frozen_as_a_whole():
    inner = keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()]
    )
    x = keras.Input((16, 16, 3))
    y = keras.layers.GlobalMaxPooling2D()(inner(x))
    model = keras.Model(x, keras.layers.Dense(2)(y))
    assert set_trainable(model, "head").num_trainable == 10
    assert not inner.trainable_variables
    report = set_trainable(model, "all")
    assert inner.name in report.layers
    assert [v.path.split("/")[-1] for v in inner.trainable_variables] == ["kernel", "bias"]
    assert len(set_trainable(model, "all", batch_norm="train").layers) == 2
    assert len(inner.trainable_variables) == 4


def test_a_layer_used_in_two_resolutions_moves_the_boundary():
    shared = keras.layers.Conv2D(3, 1, name="shared")
    x = keras.Input((32, 32, 3))
    y = keras.layers.MaxPooling2D()(shared(x))
    y = keras.layers.MaxPooling2D()(shared(y))
    y = keras.layers.Conv2D(8, 3, strides=2)(y)
    y = keras.layers.GlobalAveragePooling2D()(y)
    model = keras.Model(x, keras.layers.Dense(2)(y))
    assert [set(g.layers) & {"shared"} for g in layer_groups(model)] == [{"shared"}, set(), set()]


def test_a_layer_used_in_the_head_and_before_it_is_refused():
    shared = keras.layers.Dense(4, name="twice")
    x = keras.Input((8, 4))
    y = shared(keras.layers.GlobalAveragePooling1D()(shared(x)))
    with pytest.raises(ArgumentError, match=r"head that shares no layer.*'twice'"):
        layer_groups(keras.Model(x, y))


def test_models_that_are_not_one_functional_graph_are_refused():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    for model in (Subclassed(), keras.Sequential([keras.layers.Dense(2)])):
        with pytest.raises(ArgumentError, match="`model` must be a functional model"):
            layer_groups(model)
    a, b = keras.Input((2,), name="left"), keras.Input((2,), name="right")
    with pytest.raises(ArgumentError, match=r"one input.*'left', 'right'"):
        layer_groups(keras.Model([a, b], keras.layers.Add()([a, b])))
    outputs = [keras.layers.Dense(1, name=name)(a) for name in ("age", "mood")]
    with pytest.raises(ArgumentError, match=r"one output.*'age', 'mood'"):
        layer_groups(keras.Model(a, outputs))


def test_resolves_names_and_numbers(small_model):
    meant = {"stage1": 0, "all": 0, "stage3": 2, "head": 3, 1: 3, 2: 2, 4: 0}
    for unfreeze, index in meant.items():
        assert resolve_group(small_model, unfreeze) == index
    for bad in (0, -1, 5, True, None, 1.5, "stage9"):
        with pytest.raises(
            ArgumentError, match=r"`unfreeze` must be .*stage1, stage2, stage3, head"
        ):
            resolve_group(small_model, bad)
    with pytest.raises(ArgumentError, match="Did you mean 'stage3' or"):
        set_trainable(small_model, "stag3")
    with pytest.raises(ArgumentError, match="`group_name` must be"):
        cut_before(small_model, "stage9")
    with pytest.raises(
        ArgumentError, match="`batch_norm` must be one of 'frozen', 'affine', 'train'"
    ):
        set_trainable(small_model, "head", batch_norm="freeze")


def test_the_report_names_what_is_trainable():
    model = build_classifier("resnet20", ["a", "b"], weights=None)
    report = set_trainable(model, 2)
    assert report.groups == ("stage3", "head")
    assert report.frozen_groups == ("stage1", "stage2")
    assert "stage3_block1_1_conv" in report.layers
    assert not any(name.endswith("_bn") for name in report.layers)
    assert str(report).startswith(f"{report.num_trainable:,} of 591,090 parameters trainable")
    assert "frozen: stage1, stage2" in str(report)
    trained = set_trainable(model, 2, batch_norm="train")
    assert any(name.endswith("stage3_block3_2_bn") for name in trained.layers)
    assert not any(name == "stage2_block1_1_bn" for name in trained.layers)


def test_a_group_without_trainable_weights_is_refused_and_changes_nothing():
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(2, 3, name="conv")(x)
    model = keras.Model(x, keras.layers.GlobalAveragePooling2D(name="pool")(y))
    model.get_layer("conv").trainable = False
    with pytest.raises(ArgumentError, match=r"`unfreeze` must be .*'head' has none"):
        set_trainable(model, "head")
    assert not model.get_layer("conv").trainable
    assert model.get_layer("pool").trainable
    assert set_trainable(model, "all").layers == ("conv",)


def test_only_trainable_weights_change(pixels):
    model = build_classifier("resnet20", ["a", "b", "c"], image_size=8, weights=None)
    report = set_trainable(model, "stage3")
    before = {variable.path: variable.numpy() for variable in model.weights}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss)
    model.fit(pixels(model, 6), np.arange(6) % 3, epochs=2, verbose=0)
    changed = {v.path.split("/")[0] for v in model.weights if (v.numpy() != before[v.path]).any()}
    assert changed == set(report.layers)


def plain_chain():
    x = keras.Input((8, 8, 3))
    y = keras.layers.Rescaling(1 / 255)(x)
    y = keras.layers.Conv2D(3, 3, strides=2, activation="relu", name="conv1")(y)
    y = keras.layers.Conv2D(4, 3, name="conv2")(y)
    y = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(y))
    y = keras.layers.GlobalAveragePooling2D(name="head_pool")(y)
    return keras.Model(x, keras.layers.Dense(2, name="logits")(y))


def grown_chain(plain=None):
    """A model grown in isolation from the first layer to the logits, without a cut in between."""
    grown = add_classes(plain or plain_chain(), ["c", "d"])
    for name, number in (("conv2", 6), ("conv1", 5)):
        grown = widen_layer(grown, name, number, isolate=True)
    return grown


def test_a_grown_model_has_the_groups_of_the_plain_one():
    model = plain_chain()
    bigger = grown_chain(model)
    plain, grown = layer_groups(model), layer_groups(bigger)
    assert len(plain) > 1
    assert [group.name for group in grown] == [group.name for group in plain]
    assert [group.boundary for group in grown] == [group.boundary for group in plain]
    for before, after in zip(plain, grown, strict=True):
        assert {name.split("__")[0] for name in after.layers} == set(before.layers)
    names = [name for group in grown for name in group.layers]
    assert sorted(names) == sorted(layer.name for layer in bigger.layers)
    assert "logits__classes" in grown[-1].layers
    assert "conv2__grown2__reads3" not in grown[-1].layers


def test_cuts_of_a_grown_model_are_crossed_by_every_path():
    model = grown_chain()
    ends = {tensor._keras_history.operation.name for tensor in cuts(model)}
    assert len(ends) == len(cuts(model)) == 3  # input, scaled pixels, and all logits
    assert "logits__classes" in ends
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    for tensor in (cut_before(model, "head"), feature_cut(model)):
        features = keras.Model(model.input, tensor)(images)
        assert np.array_equal(keras.Model(tensor, model.output)(features), model(images))
    assert head_from_features(model).output_shape == (None, 4)


def test_only_new_layers_are_trainable_with_unfreeze_new():
    model = grown_chain()
    new = {layer.name for layer in new_layers(model) if layer.weights}
    report = set_trainable(model, "new")
    assert set(report.layers) == new - {"norm__grown2"}
    assert report.batch_norm == "frozen"
    assert set(set_trainable(model, "new", batch_norm="train").layers) == new
    head = set(set_trainable(model, "head").layers)
    assert head == {"logits", "logits__grown1", "logits__grown1__reads2"}
    classes = add_classes(model, ["e"])
    assert set_trainable(classes, "new").layers == ("logits__grown4", "logits__grown4__reads2")
    assert resolve_group(classes, "new") == len(layer_groups(classes)) - 1
    with pytest.raises(ArgumentError, match=r"`unfreeze` must be 'new' only for.*without any"):
        set_trainable(plain_chain(), "new")


def test_names_that_only_look_like_those_of_grown_layers_do_no_harm():
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(3, 3, name="conv")(x)
    y = keras.layers.Conv2D(3, 3, name="conv__grown1")(keras.layers.ReLU()(y))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(y)))
    assert len(cuts(model)) == len(model.layers)
    assert layer_groups(model)[-1].num_parameters == 8


def test_a_size_that_a_layer_does_not_report_is_taken_from_a_trace():
    inputs = keras.Input((12, 8))
    x = keras.layers.EinsumDense("abc,cd->abd", (None, 4), name="mixed")(inputs)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    shapes = {cut.operation.name: cut.shape for cut in find_cuts(model)}
    assert shapes["mixed"] == (12, 4)
    assert [group.num_parameters for group in tlkit.layer_groups(model)] == [32, 10]


def test_a_size_that_is_not_in_the_trace_is_nominal():
    inputs = keras.Input((12, 8))
    x = keras.layers.Lambda(
        lambda x: tf.boolean_mask(x, x[0, :, 0] > 0, axis=1), output_shape=(None, 8), name="some"
    )(inputs)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    shapes = {cut.operation.name: cut.shape for cut in find_cuts(model)}
    assert shapes["some"] == (NOMINAL_SIZE, 8)


def transformer(pooling):
    """Two blocks of attention and a Dense layer, each with a residual connection."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 4, strides=4, name="patches")(inputs)
    x = keras.layers.Reshape((16, 8))(x)
    for number in (1, 2):
        y = keras.layers.LayerNormalization(name=f"block{number}_norm")(x)
        x = x + keras.layers.MultiHeadAttention(2, 4, name=f"block{number}_attention")(y, y)
        x = x + keras.layers.Dense(8, activation="gelu", name=f"block{number}_dense")(x)
    x = keras.layers.LayerNormalization(name="last_norm")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(pooling(x)))


@pytest.mark.parametrize(
    "pooling", [lambda x: x[:, 0], keras.layers.GlobalAveragePooling1D(name="mean")]
)
def test_each_block_of_a_transformer_is_a_group(pooling):
    groups = layer_groups(transformer(pooling))
    assert [group.name for group in groups] == ["group_1", "block1", "group_3", "head"]
    assert "patches" in groups[0].layers
    assert [layer for layer in groups[2].layers if "block2" in layer or "last" in layer] == [
        "block2_norm",
        "block2_attention",
        "block2_dense",
        "last_norm",
    ]


def test_attention_that_pools_is_no_part_of_the_head():
    query = keras.layers.Embedding(1, 8, name="query")

    def pool(tokens):
        first = query(keras.ops.zeros_like(tokens[:, :1, 0], dtype="int32"))
        return keras.layers.MultiHeadAttention(2, 4, name="pool")(first, tokens)[:, 0]

    *_, pooling, head = layer_groups(transformer(pool))
    assert {"query", "pool"} <= set(pooling.layers)
    assert "logits" in head.layers
