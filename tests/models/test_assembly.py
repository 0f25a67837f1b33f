import random
import subprocess
import sys

import keras
import numpy as np
import pytest

from tlkit.errors import ArgumentError
from tlkit.models import catalogue
from tlkit.models.assembly import build_classifier
from tlkit.models.groups import set_trainable
from tlkit.models.heads import head_kind


def build(**arguments):
    return build_classifier(
        "resnet20", **({"class_names": ["a", "b"], "weights": None} | arguments)
    )


def names_of_head(model):
    names = [layer.name for layer in model.layers]
    return names[names.index("stage3_block3_out") + 1 :]


def test_vgg16_flatten_dense_binary_freezes_what_keras_users_freeze():
    model = build_classifier(
        "vgg16", ["cat", "dog"], image_size=64, weights=None,
        pooling="flatten", hidden=(256,), binary=True,
    )  # fmt: skip
    set_trainable(model, "block5")
    frozen = [layer.name for layer in model.layers if not layer.trainable]
    base = keras.applications.VGG16(include_top=False, weights=None)
    # the input layer's name and the preprocessing differ
    assert frozen[:2] == ["pixels", "preprocessing"]
    assert frozen[2:] == [layer.name for layer in base.layers[1:15]]
    assert model.output_shape == (None, 1)


def test_builds_the_head():
    assert names_of_head(build()) == ["head_pool", "head_dropout", "logits"]
    assert names_of_head(build(pooling="max", dropout=0)) == ["head_pool", "logits"]
    model = build(pooling="flatten", hidden=(8, 4), dropout=0.5, multi_label=True)
    assert names_of_head(model) == [
        "head_flatten",
        "head_dense_1",
        "head_dense_2",
        "head_dropout",
        "label_logits",
    ]
    assert model.get_layer("head_dropout").rate == 0.5
    assert isinstance(build(pooling="max").get_layer("head_pool"), keras.layers.GlobalMaxPooling2D)


@pytest.mark.parametrize(
    ("arguments", "kind", "num_outputs"),
    [
        ({"class_names": ["a", "b", "c"]}, "softmax", 3),
        ({"binary": True}, "binary", 1),
        ({"multi_label": True}, "multi_label", 2),
    ],
)
def test_the_kind_of_head_is_preserved_when_saved(arguments, kind, num_outputs, tmp_path):
    model = build(image_size=8, **arguments)
    assert model.output_shape == (None, num_outputs)
    model.save(tmp_path / "model.keras")
    assert head_kind(keras.models.load_model(tmp_path / "model.keras")) == kind


def test_takes_height_and_width():
    assert build(image_size=(24, 40)).input_shape == (None, 24, 40, 3)
    assert build(class_names=("猫", "Größe")).output_shape == (None, 2)


def test_logits_are_float32_under_a_mixed_policy(pixels, small_model):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build(class_names=["a", "b", "c"])
    finally:
        keras.config.set_dtype_policy("float32")
    images = pixels(model)
    assert model(images).dtype == "float32"
    assert model.get_layer("stage3_block3_2_conv").compute_dtype == "bfloat16"
    prepared = keras.Model(model.input, model.get_layer("preprocessing").output)(images)
    np.testing.assert_allclose(prepared, images / 127.5 - 1, rtol=1e-5, atol=1e-6)


def test_a_seed_gives_the_same_weights_and_restores_the_random_state():
    state = random.getstate()
    first, again, other = build(seed=3), build(seed=3), build(seed=4)
    assert random.getstate() == state
    for one, two in zip(first.weights, again.weights, strict=True):
        assert np.array_equal(one, two)
    assert not np.array_equal(first.get_layer("logits").kernel, other.get_layer("logits").kernel)
    name = "stage1_stem_conv"
    assert not np.array_equal(first.get_layer(name).kernel, other.get_layer(name).kernel)


def test_a_saved_classifier_loads_without_tlkit(tmp_path, monkeypatch, pixels):
    def plain(input_tensor, weights):
        x = keras.layers.Conv2D(4, 3, activation="relu")(input_tensor)
        return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x)

    monkeypatch.setattr(catalogue, "_registered", {})
    catalogue.register_backbone("plain", plain, "caffe", default_image_size=8)
    model = build_classifier("plain", ["a", "b"], weights=None)
    model.save(tmp_path / "model.keras")
    images = pixels(model)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy, keras; sys.modules['tlkit'] = None;"
        "model = keras.models.load_model('model.keras');"
        "numpy.save('outputs.npy', model(numpy.load('images.npy')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    assert np.array_equal(np.load(tmp_path / "outputs.npy"), model(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "vgg61"}, "`backbone` must be .*Did you mean .*'vgg16'"),
        ({"class_names": ["a"]}, "`class_names` must be at least two"),
        ({"class_names": "ab"}, "`class_names` must be at least two"),
        ({"class_names": ["a", "b", "a"]}, r"distinct names.*\['a'\] repeated"),
        ({"class_names": [0, 1]}, "`class_names` must be"),
        ({"image_size": 16}, "`image_size` must be at least 32 for the backbone 'vgg16'.*16"),
        ({"image_size": (64, 31)}, "`image_size` must be at least 32"),
        ({"image_size": 0}, "`image_size` must be a positive number"),
        ({"image_size": (1, 2, 3)}, "`image_size` must be a positive number of pixels, at most"),
        ({"image_size": 5000}, "`image_size` must be a positive number of pixels, at most 4,096"),
        ({"pooling": "avrg"}, "`pooling` must be one of .*Did you mean 'avg'"),
        ({"hidden": 256}, r"`hidden` must be a sequence.*hidden=\(256,\)"),
        ({"hidden": (0,)}, "`hidden` must be a whole number"),
        ({"dropout": 1}, "`dropout` must be a number of at least 0"),
        ({"dropout": True}, "`dropout` must be a number of at least 0"),
        ({"binary": True, "multi_label": True}, "`binary` must not be combined"),
        ({"binary": True, "class_names": ["a", "b", "c"]}, "exactly two class names.* 3 class"),
        ({"seed": -1}, "`seed` must be a whole number of at least 0"),
        ({"weights": 5}, "`weights` must be 'pretrained', None or the path"),
    ],
)
def test_refuses_bad_arguments_before_building(arguments, message):
    good = {"backbone": "vgg16", "class_names": ["a", "b"], "weights": None}
    with pytest.raises(ArgumentError, match=message):
        build_classifier(**(good | arguments))
