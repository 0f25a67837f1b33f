"""Backbones from Keras models of the user's own, in files and in memory."""

import json
import zipfile

import keras
import numpy as np
import pytest

import tlkit
from tlkit.errors import ArgumentError, WeightsError
from tlkit.models import own_backbones
from tlkit.models.backbone_files import read_backbone_file
from tlkit.models.backbone_spec import preprocessing_of
from tlkit.models.catalogue import find_backbone
from tlkit.models.flattening import below
from tlkit.models.heads import feature_cut
from tlkit.models.own_backbones import load_backbone, own_backbone

NAMES = ["cat", "dog"]


def trunk(inputs):
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="block1_conv")(inputs)
    x = keras.layers.BatchNormalization(name="block1_bn")(x)
    x = keras.layers.ReLU(name="block1_out")(x)
    return keras.layers.Conv2D(6, 3, strides=2, padding="same", name="block2_conv")(x)


def network(*, top="features", scaled=True, size=16, name="own"):
    inputs = keras.Input((size, size, 3), name="images")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1, name="scaling")(inputs) if scaled else inputs
    x = trunk(x)
    if top in ("pooled", "classes"):
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    if top == "classes":
        x = keras.layers.Dropout(0.5, name="drop")(x)
        x = keras.layers.Dense(3, activation="softmax", name="predictions")(x)
    return keras.Model(inputs, x, name=name)


def with_random_weights(model):
    generator = np.random.default_rng(0)
    model.set_weights([generator.uniform(0.1, 1, w.shape) for w in model.get_weights()])
    return model


def pixels(size=16):
    return np.random.default_rng(1).uniform(0, 255, (2, size, size, 3)).astype("float32")


def features_of(classifier):
    cut = feature_cut(classifier)
    return below(classifier, cut).predict(pixels(), verbose=0)


def pooled(model, inputs):
    """The mean of a model's last feature map, in plain Keras."""
    last = model.get_layer("block2_conv").output
    mean = keras.layers.GlobalAveragePooling2D()(last)
    return keras.Model(model.inputs, mean).predict(inputs, verbose=0)


@pytest.mark.parametrize("top", ["features", "pooled", "classes"])
def test_features_are_those_of_the_model_with_or_without_its_top(top, tmp_path):
    model = with_random_weights(network(top=top))
    model.save(tmp_path / "own.keras")
    expected = pooled(model, pixels())
    assert np.abs(expected).max() > 0.1
    for given in (model, tmp_path / "own.keras", str(tmp_path / "own.keras")):
        classifier = tlkit.build_classifier(given, NAMES)
        np.testing.assert_allclose(features_of(classifier), expected, rtol=1e-5)
        assert classifier.output_shape == (None, 2)
    found = own_backbone(model)
    assert found.features_from == "block2_conv"
    assert (
        found.cut_off
        == {
            "features": (),
            "pooled": ("pool",),
            "classes": ("pool", "drop", "predictions"),
        }[top]
    )
    assert (found.feature_shape, found.is_inside) == ((4, 4, 6), True)


def test_the_given_model_is_unchanged_and_shares_nothing():
    model = with_random_weights(network(top="classes"))
    model.trainable = False
    weights, calls = model.get_weights(), len(model.get_layer("block1_conv")._inbound_nodes)
    classifier = tlkit.build_classifier(model, NAMES)
    kernel = classifier.get_layer("block1_conv").kernel
    assert kernel.trainable  # flags of the given model are not those of the new one
    kernel.assign(kernel + 1)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert len(model.get_layer("block1_conv")._inbound_nodes) == calls
    assert not model.trainable
    assert classifier.get_layer("block1_conv").output.shape == (None, 8, 8, 4)  # one call only


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        ("tf", lambda x: x / 127.5 - 1),
        ("none", lambda x: x),
        ("127,128", lambda x: (x - 127) / 128),
        ((127, 128), lambda x: (x - 127) / 128),
        (([1, 2, 3], [4, 5, 6]), lambda x: (x - np.array([1, 2, 3])) / np.array([4, 5, 6])),
        (lambda: keras.layers.Rescaling(1 / 255), lambda x: x / 255),
    ],
)
def test_given_preprocessing_is_applied(preprocessing, expected):
    model = with_random_weights(network(scaled=False))
    classifier = tlkit.build_classifier(model, NAMES, preprocessing=preprocessing)
    found = features_of(classifier)
    np.testing.assert_allclose(found, pooled(model, expected(pixels())), rtol=1e-4)


def test_a_model_of_values_from_0_to_1_gets_them():
    inputs = keras.Input((16, 16, 3))
    layer = keras.layers.Normalization(mean=(0.48, 0.45, 0.4), variance=(0.05, 0.05, 0.05))
    model = with_random_weights(keras.Model(inputs, trunk(layer(inputs))))
    layer.build((None, 16, 16, 3))
    found = own_backbone(model)
    assert str(found).endswith("it contains its preprocessing; preprocessing: (pixels - 0) / 255")
    classifier = tlkit.build_classifier(model, NAMES)
    expected = keras.ops.mean(model(pixels() / 255), axis=(1, 2))
    np.testing.assert_allclose(features_of(classifier), expected, rtol=1e-4)


def test_nested_models_are_flattened_and_names_made_unique(tmp_path):
    inner = with_random_weights(network(scaled=False, name="inner"))
    inputs = keras.Input((16, 16, 3))
    x = inner(keras.layers.Rescaling(1 / 127.5, offset=-1, name="preprocessing")(inputs))
    x = keras.layers.Conv2D(2, 1, name="block1_conv")(x)  # the name of a nested layer
    x = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)
    outer = keras.Model(inputs, keras.layers.Dense(4, name="logits")(x), name="outer")
    classifier = tlkit.build_classifier(outer, NAMES)
    assert not any(isinstance(layer, keras.Model) for layer in classifier.layers)
    assert {"inner_block1_conv", "block1_conv", "preprocessing_2"} <= {
        layer.name for layer in classifier.layers
    }
    expected = keras.Model(inputs, outer.get_layer("head_pool").output)(pixels())
    np.testing.assert_allclose(features_of(classifier), expected, rtol=1e-5)
    classifier.save(tmp_path / "classifier.keras")
    loaded = keras.saving.load_model(tmp_path / "classifier.keras")
    np.testing.assert_array_equal(loaded(pixels()), classifier(pixels()))


def test_groups_are_trained_as_those_of_any_backbone(data, tmp_path):
    network(top="classes").save(tmp_path / "own.keras")
    model = tlkit.build_classifier(tmp_path / "own.keras", data.class_names, image_size=32)
    assert [group.name for group in tlkit.layer_groups(model)] == ["block1", "block2", "head"]
    report = tlkit.fine_tune(model, data, unfreeze="block2", epochs=1)
    change = report.stages[-1].weight_change
    assert change["block1"] == 0
    assert change["block2"] > 0


def test_weights_may_be_random_or_from_a_file(tmp_path):
    model = with_random_weights(network())
    random = tlkit.build_classifier(model, NAMES, weights=None, seed=1)
    kernel = random.get_layer("block1_conv").kernel.numpy()
    again = tlkit.build_classifier(model, NAMES, weights=None, seed=1)
    np.testing.assert_array_equal(again.get_layer("block1_conv").kernel, kernel)
    assert np.abs(kernel - model.get_layer("block1_conv").kernel).max() > 0.1
    model.save_weights(tmp_path / "own.weights.h5")
    loaded = tlkit.build_classifier(network(), NAMES, weights=tmp_path / "own.weights.h5")
    np.testing.assert_allclose(features_of(loaded), pooled(model, pixels()), rtol=1e-5)
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).save_weights(
        tmp_path / "other.weights.h5"
    )
    with pytest.raises(WeightsError, match="`weights` must be a weights file of"):
        tlkit.build_classifier(network(), NAMES, weights=tmp_path / "other.weights.h5")


def test_the_file_is_read_without_keras_for_its_size(tmp_path):
    network(size=48).save(tmp_path / "own.keras")
    spec = find_backbone(tmp_path / "own.keras")
    assert (spec.name, spec.default_image_size, spec.minimum_image_size) == ("own", 48, 1)
    open_sides = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(2, 3)])
    open_sides.save(tmp_path / "open.keras")
    assert find_backbone(tmp_path / "open.keras").default_image_size == 224
    model = tlkit.build_classifier(
        tmp_path / "open.keras", NAMES, preprocessing="none", image_size=(20, 24)
    )
    assert model.input_shape == (None, 20, 24, 3)


def test_code_in_a_file_is_not_run(tmp_path):
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, trunk(keras.layers.Lambda(lambda x: x / 255)(inputs)))
    model.save(tmp_path / "code.keras")
    for given in (tmp_path / "code.keras", model):
        with pytest.raises(ArgumentError, match="without running code from a file"):
            tlkit.build_classifier(given, NAMES, preprocessing="none")


def unnamed_class_file(folder):
    class Halving(keras.layers.Layer):
        def call(self, inputs):
            return inputs / 2

    inputs = keras.Input((16, 16, 3))
    keras.Model(inputs, trunk(Halving()(inputs))).save(folder / "class.keras")
    return folder / "class.keras"


def test_a_file_with_an_unknown_class_is_refused_in_words(tmp_path):
    with pytest.raises(ArgumentError, match="register classes of your own with"):
        load_backbone(unnamed_class_file(tmp_path), "none")


def two_inputs():
    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    return keras.Model(inputs, trunk(keras.layers.Add()(inputs)))


def channels_first():
    layers = [keras.Input((3, 32, 32)), keras.layers.Conv2D(4, 3, data_format="channels_first")]
    return keras.Sequential(layers)


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: network(scaled=False), "`preprocessing` must be given for a backbone in which"),
        (two_inputs, "must have one input"),
        (Subclassed, "`model` must be a functional model"),
        (
            lambda: keras.Sequential([keras.Input((8, 3)), keras.layers.Conv1D(2, 3)]),
            "`backbone` must be a model of images",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
            ),
            "`backbone` must have a last feature map",
        ),
        (channels_first, "must have layers with channels last"),
        (lambda: 3, "`backbone` must be the name of a backbone"),
        (lambda: "resnet51", "Did you mean 'resnet50'"),
        (lambda: "nowhere.keras", "the path of an existing .keras file"),
    ],
)
def test_unsuitable_backbones_are_refused_in_words(model, message):
    with pytest.raises(ArgumentError, match=message):
        tlkit.build_classifier(model(), NAMES)


def test_preprocessing_is_not_applied_twice():
    with pytest.raises(ArgumentError, match="must be left out for a backbone that contains its"):
        tlkit.build_classifier(network(), NAMES, preprocessing="tf")


def test_a_size_that_the_layers_do_not_take_is_named():
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(3, 9, padding="valid", name="block1_conv")(x)
    with pytest.raises(ArgumentError, match="`image_size` must be a size that the layers"):
        tlkit.build_classifier(keras.Model(inputs, x), NAMES, image_size=8)


def rewritten(path, **contents):
    """Replaces parts of a .keras file."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**parts, **contents}.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("kept", [0, 100, 1500])
def test_damaged_weights_in_a_file_are_refused_in_words(kept, tmp_path):
    path = tmp_path / "own.keras"
    network().save(path)
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    rewritten(path, **{"model.weights.h5": weights[:kept]})
    with pytest.raises(ArgumentError, match=r"must be an intact \.keras file"):
        load_backbone(path)


def test_a_damaged_archive_is_refused_in_words(tmp_path):
    path = tmp_path / "own.keras"
    network().save(path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("model.weights.h5").header_offset + 100
    content[start : start + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(ArgumentError, match=r"must be an intact \.keras file"):
        load_backbone(path)


@pytest.mark.parametrize(
    "config",
    [
        "[" * 100_000,
        '{"config": {"layers": [{"class_name": "InputLayer", "config": {"batch_shape": 3}}]}}',
    ],
)
def test_damaged_settings_in_a_file_are_refused_in_words(config, tmp_path):
    path = tmp_path / "own.keras"
    network().save(path)
    rewritten(path, **{"config.json": config})
    with pytest.raises(ArgumentError, match="a file that Keras has not written, that is damaged"):
        read_backbone_file(path)


def test_preprocessing_in_half_precision_is_found():
    with_half = {"dtype": keras.DTypePolicy("mixed_bfloat16")}
    for layer in (
        keras.layers.Rescaling(1 / 127.5, offset=-1, **with_half),
        keras.layers.Rescaling(1 / 255, **with_half),
    ):
        inputs = keras.Input((16, 16, 3))
        found = own_backbone(keras.Model(inputs, trunk(layer(inputs))))
        assert (found.is_inside, found.preprocessing) == (True, "none")


def transformer(*, top):
    """A transformer of plain layers, of 4 x 4 patches and a class token of zeros."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = keras.layers.Conv2D(8, 4, strides=4, name="patches")(x)
    x = keras.layers.Reshape((16, 8), name="tokens")(x)
    x = keras.layers.ZeroPadding1D((1, 0), name="with_class_token")(x)
    attended = keras.layers.MultiHeadAttention(2, 4, name="block1_attention")(x, x)
    x = keras.layers.LayerNormalization(name="block1_norm")(x + attended)
    if top == "mean":
        x = keras.layers.GlobalAveragePooling1D(name="mean")(x)
    if top == "classes":
        x = keras.layers.Dense(3, name="classes")(x[:, 0])
    return with_random_weights(keras.Model(inputs, x, name="vit"))


@pytest.mark.parametrize("top", ["tokens", "mean", "classes"])
def test_tokens_of_a_transformer_are_features(top, tmp_path):
    model = transformer(top=top)
    model.save(tmp_path / "vit.keras")
    tokens = keras.Model(model.inputs[0], model.get_layer("block1_norm").output)(pixels())
    for given in (model, tmp_path / "vit.keras"):
        np.testing.assert_allclose(
            features_of(tlkit.build_classifier(given, NAMES)), tokens[:, 0], rtol=1e-5, atol=1e-6
        )
        mean = features_of(tlkit.build_classifier(given, NAMES, pooling="avg"))
        expected = np.mean(tokens[:, 1:], axis=1)  # of the patches
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)
    found = own_backbone(model)
    assert (found.features_from, found.feature_shape) == ("block1_norm", (17, 8))
    assert "(17 × 8, 1 token before those of patches)" in str(found)
    names = {"tokens": (), "mean": ("mean",), "classes": ("get_item", "classes")}[top]
    assert [one.startswith(name) for one, name in zip(found.cut_off, names, strict=True)] == [
        True
    ] * len(names)


def test_tokens_without_patches_are_refused():
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Reshape((16, 48))(inputs)
    x = keras.layers.Dense(8)(x)
    model = keras.Model(inputs, keras.layers.MultiHeadAttention(2, 4)(x, x))
    with pytest.raises(ArgumentError, match="must compute its tokens from a feature map"):
        own_backbone(model, "none")


@pytest.mark.parametrize("content", [b"", b"PK", None])
def test_a_file_that_keras_has_not_written_is_refused(content, tmp_path):
    path = tmp_path / "own.keras"
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps({"config": []}))
    else:
        path.write_bytes(content)
    with pytest.raises(ArgumentError, match="a file that Keras has not written"):
        read_backbone_file(path)


def test_a_file_of_a_model_with_several_inputs_is_refused(tmp_path):
    two_inputs().save(tmp_path / "two.keras")
    with pytest.raises(ArgumentError, match="a model with 2 inputs"):
        read_backbone_file(tmp_path / "two.keras")
    rows = keras.Sequential([keras.Input((8, 3)), keras.layers.Conv1D(2, 3)])
    rows.save(tmp_path / "rows.keras")
    with pytest.raises(ArgumentError, match=r"a model with inputs \(None, 8, 3\)"):
        read_backbone_file(tmp_path / "rows.keras")


@pytest.mark.parametrize(
    "given", ["127", "1,0", "1,2,3", "1,-1", "a,b", "", "nan,1", (1, "x"), 5, (1, (1, 2, 3))]
)
def test_bad_preprocessing_is_named(given):
    with pytest.raises(ArgumentError, match="`preprocessing` must be one of"):
        preprocessing_of(given)


def test_the_note_has_the_feature_map_at_the_size_that_is_used(monkeypatch):
    notes = []
    monkeypatch.setattr(own_backbones, "note", notes.append)
    tlkit.build_classifier(network(size=16), NAMES, image_size=32)
    assert "features of block2_conv (8 × 8 × 6)" in notes[0]
