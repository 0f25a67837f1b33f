"""Backbones of KerasHub: computing the same as KerasHub's, flat, of plain Keras layers."""

import json
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.errors import ArgumentError, WeightsError
from tlkit.evaluation.explanation import explain
from tlkit.models.backbone_files import split_name, with_absolute_path
from tlkit.models.catalogue import find_backbone
from tlkit.models.flattening import above, below
from tlkit.models.heads import feature_cut
from tlkit.models.needed_packages import needed_packages
from tlkit.models.own_backbones import load_backbone
from tlkit.models.pooling import pooling_of
from tlkit.models.tokens import token_grid

keras_hub = pytest.importorskip(
    "keras_hub", reason="KerasHub is not installed: pip install 'tlkit[hub]'"
)

from .hub import DEVIATION, FAMILIES, MEAN, SIZE, TRANSFORMERS, backbone, save_preset  # noqa: E402

NAMES = ["ant", "bee", "cat"]
pytestmark = pytest.mark.filterwarnings("ignore:.*does not support masking")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


def of_families(*names):
    """Runs a test on some of the families, with the same models as the other tests."""
    return pytest.mark.parametrize("family", names, indirect=True, scope="module")


@pytest.fixture(scope="module")
def preset(family, tmp_path_factory):
    return save_preset(family, tmp_path_factory.mktemp(family) / "preset")


@pytest.fixture(scope="module")
def classifier(preset):
    return tlkit.build_classifier(preset, NAMES)


def images(model, count=2):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(1).uniform(0, 255, shape).astype("float32")


def own_outputs(preset, pixels):
    """The outputs of KerasHub's backbone: a feature map, tokens, or pooled features."""
    prepared = (pixels - np.array(MEAN)) / np.array(DEVIATION)
    own = keras_hub.models.Backbone.from_preset(preset.removeprefix("keras_hub:"))
    return np.asarray(keras.Model(own.inputs[0], own.outputs[0])(prepared.astype("float32")))


def expected_features(family, preset, pixels):
    return pooled_as_usual(family, own_outputs(preset, pixels))


def pooled_as_usual(family, outputs):
    if family in ("vit", "dinov2", "dinov2_giant", "dinov3", "dinov3_gated"):
        return outputs[:, 0]
    return outputs if outputs.ndim == 2 else outputs.mean(axis=tuple(range(1, outputs.ndim - 1)))


def features_of(model, pixels):
    return np.asarray(below(model, feature_cut(model))(pixels, training=False))


def test_features_are_those_of_keras_hub(family, preset, classifier):
    pixels = images(classifier)
    expected = expected_features(family, preset, pixels)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(
        features_of(classifier, pixels), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


def test_all_layers_are_plain_keras_and_can_be_trained(classifier, family):
    assert {type(layer).__module__.split(".")[0] for layer in classifier.layers} == {"keras"}
    assert not any(isinstance(layer, keras.Model) for layer in classifier.layers)
    assert all(layer.trainable for layer in classifier.layers)
    head = tlkit.layer_groups(classifier)[-1].num_parameters
    own = backbone(family)
    # what is left out: mask tokens, embeddings that are only interpolated, and unused pooling
    unused = ("mask_token", "/position_embeddings")
    expected = sum(
        int(np.prod(v.shape)) for v in own.trainable_variables if not v.path.endswith(unused)
    )
    assert sum(int(np.prod(v.shape)) for v in classifier.trainable_variables) - head == expected


def test_the_saved_model_needs_no_package_but_keras(classifier, tmp_path):
    classifier.save(tmp_path / "model.keras")
    assert needed_packages(tmp_path / "model.keras") == ()


@of_families("dinov3_gated", "swin")
def test_a_process_without_keras_hub_computes_the_same(classifier, tmp_path):
    pixels = images(classifier)
    classifier.save(tmp_path / "model.keras")
    np.save(tmp_path / "pixels.npy", pixels)
    code = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model(sys.argv[1])\n"
        "np.save(sys.argv[3], model(np.load(sys.argv[2])))\n"
        "assert not {'keras_hub', 'tlkit'} & set(sys.modules)\n"
    )
    files = [str(tmp_path / name) for name in ("model.keras", "pixels.npy", "found.npy")]
    subprocess.run([sys.executable, "-c", code, *files], check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(files[2]), classifier(pixels))


@of_families(*TRANSFORMERS)
def test_each_block_is_a_group(family, classifier):
    names = {"swin": "stage_0_blocks", "vit": "block", "siglip": "block"}
    block = names.get(family, "layer")
    blocks = [group for group in tlkit.layer_groups(classifier) if block in group.name]
    assert len(blocks) == 2
    assert len({group.num_parameters for group in blocks}) <= 2  # the last one has a final norm


@of_families("vit", "dinov3", "mobilenet")
def test_grey_images_have_the_features_of_rgb_ones(preset, classifier):
    grey = tlkit.build_classifier(preset, NAMES, channels=1)
    pixels = images(grey)
    expected = features_of(classifier, np.repeat(pixels, 3, axis=-1))
    difference = np.abs(features_of(grey, pixels) - expected).max()
    assert difference <= 1e-3 * np.abs(expected).max()  # of convolutions with padding


@of_families("vit", "dinov2", "swin", "efficientnet")
def test_another_size_is_built_where_the_backbone_allows_it(preset):
    model = tlkit.build_classifier(preset, NAMES, image_size=64)
    assert model.input_shape == (None, 64, 64, 3)
    assert np.isfinite(model(images(model))).all()


def test_features_of_another_size_are_those_of_keras_hub(tmp_path):
    wide = tlkit.build_classifier(
        save_preset("dinov3", tmp_path / "wide"), NAMES, image_size=(32, 48)
    )
    expected = backbone_at("dinov3", (32, 48))
    pixels = images(wide)
    prepared = ((pixels - np.array(MEAN)) / np.array(DEVIATION)).astype("float32")
    tokens = keras.Model(expected.inputs[0], expected.outputs[0])(prepared)
    np.testing.assert_allclose(features_of(wide, pixels), tokens[:, 0], rtol=0, atol=1e-4)


def backbone_at(name, size):
    """KerasHub's backbone for another size, with the same weights; for weights of any size."""
    own = backbone(name)
    config = {**own.get_config(), "image_shape": (*size, 3)}
    other = type(own).from_config(config)
    other.set_weights(own.get_weights())
    return other


def test_positions_of_another_size_are_interpolated(tmp_path):
    preset = save_preset("vit", tmp_path)
    small, large = (tlkit.build_classifier(preset, NAMES, image_size=size) for size in (32, 64))
    own, other = (
        model.get_layer("vit_patching_and_embedding_position_embedding").get_weights()[0]
        for model in (small, large)
    )
    assert (own.shape, other.shape) == ((17, 16), (65, 16))
    np.testing.assert_array_equal(own[0], other[0])  # that of the class token
    grid, resized = own[1:].reshape(4, 4, 16), other[1:].reshape(8, 8, 16)
    halved = resized.reshape(4, 2, 4, 2, 16).mean(axis=(1, 3))
    np.testing.assert_allclose(halved[1:3, 1:3], grid[1:3, 1:3], atol=0.05)


def test_a_grid_that_is_no_square_is_interpolated(tmp_path):
    settings = {**FAMILIES["vit"][2], "image_shape": (32, 48, 3)}
    keras_hub.models.ViTBackbone(**settings).save_to_preset(str(tmp_path))
    model = tlkit.build_classifier(f"keras_hub:{tmp_path}:tf", NAMES, image_size=(64, 48))
    table = model.get_layer("vit_patching_and_embedding_position_embedding").get_weights()[0]
    assert table.shape == (1 + 8 * 6, 16)


def test_a_backbone_with_layers_that_cannot_be_copied_is_refused(tmp_path):
    settings = {**FAMILIES["dinov2"][2]}
    for name in ("position_embedding_shape", "num_register_tokens"):
        settings.pop(name)
    keras_hub.models.DeiTBackbone(**settings).save_to_preset(str(tmp_path))
    with pytest.raises(ArgumentError, match="whose layers cannot be copied"):
        tlkit.build_classifier(f"keras_hub:{tmp_path}:tf", NAMES)


def test_stochastic_depth_drops_whole_branches(tmp_path):
    settings = {**FAMILIES["swin"][2], "depths": (2,), "num_heads": (2,), "drop_path": 0.9}
    keras_hub.models.SwinTransformerBackbone(**settings).save_to_preset(str(tmp_path))
    model = tlkit.build_classifier(f"keras_hub:{tmp_path}:tf", NAMES)
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert max(rates) == pytest.approx(0.9)
    pixels = images(model)
    outputs = [np.asarray(model(pixels, training=True)) for _ in range(2)]
    assert np.abs(outputs[0] - outputs[1]).max() > 0
    np.testing.assert_array_equal(model(pixels), model(pixels))


@pytest.mark.parametrize("pooling", ["class_token", "avg", "max", "flatten"])
def test_pooling_of_tokens(pooling, tmp_path):
    preset = save_preset("dinov2", tmp_path)
    model = tlkit.build_classifier(preset, NAMES, pooling=pooling)
    pixels = images(model)
    tokens = own_outputs(preset, pixels)
    patches = tokens[:, 3:]  # after a class token and two registers
    expected = {
        "class_token": tokens[:, 0],
        "avg": patches.mean(axis=1),
        "max": patches.max(axis=1),
        "flatten": tokens.reshape(2, -1),
    }[pooling]
    np.testing.assert_allclose(features_of(model, pixels), expected, rtol=0, atol=1e-4)


def test_attention_pooling_is_trained_with_the_backbone(tmp_path):
    preset = save_preset("siglip", tmp_path)
    model = tlkit.build_classifier(preset, NAMES)
    *_, pooling, head = tlkit.layer_groups(model)
    assert any("attention" in layer for layer in pooling.layers)
    assert head.num_parameters == 16 * 3 + 3
    mean = tlkit.build_classifier(preset, NAMES, pooling="avg")
    assert mean.count_params() == model.count_params() - pooling.num_parameters


def test_weights_are_random_if_asked_for(tmp_path):
    preset = save_preset("vit", tmp_path)
    one, same, other = (
        tlkit.build_classifier(preset, NAMES, weights=None, seed=seed) for seed in (0, 0, 1)
    )
    kernels = [
        model.get_layer("vit_patching_and_embedding_patch_embedding").get_weights()[0]
        for model in (one, same, other, tlkit.build_classifier(preset, NAMES))
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert all(np.abs(kernels[0] - one).max() > 1e-3 for one in kernels[2:])


def patches_that_count(model, image, label):
    """Grad-CAM on the tokens that the last block reads."""
    names = [group.name for group in tlkit.layer_groups(model)]
    tokens = tlkit.models.groups.cut_before(model, names[-2])
    grid = token_grid(model, tokens)
    values = tf.Variable(below(model, tokens)(image))
    rest = above(model, tokens)
    with tf.GradientTape() as tape:
        logit = rest(values)[0, label]
    first = grid.num_prefix_tokens
    weights = tf.reduce_mean(tape.gradient(logit, values)[0, first:], axis=0)
    return np.maximum(values[0, first:].numpy() @ weights.numpy(), 0).reshape(
        grid.rows, grid.columns
    )


@of_families(*TRANSFORMERS)
def test_grad_cam_shows_the_patches_that_count(classifier):
    """The heatmap is that of a gradient that is computed here, patch by patch."""
    image = np.round(images(classifier, 1))
    found = explain(classifier, image[0], NAMES, label="bee")
    assert found.heatmap.shape == classifier.input_shape[1:3]
    expected = patches_that_count(classifier, image, NAMES.index("bee"))
    expected = tf.image.resize(expected[..., None] / expected.max(), found.heatmap.shape)
    np.testing.assert_allclose(found.heatmap, expected[..., 0], rtol=0, atol=1e-4)


@of_families("vit")
def test_the_class_token_is_no_patch(classifier):
    names = [group.name for group in tlkit.layer_groups(classifier)]
    tokens = tlkit.models.groups.cut_before(classifier, names[-2])
    assert token_grid(classifier, tokens).num_prefix_tokens == 1


def prepared(pixels):
    return ((pixels - np.array(MEAN)) / np.array(DEVIATION)).astype("float32")


@pytest.fixture(scope="module")
def file(family, tmp_path_factory):
    path = tmp_path_factory.mktemp(family) / "own.keras"
    backbone(family).save(path)
    return path


def test_a_file_of_keras_hub_is_a_backbone(family, file):
    loaded = keras.saving.load_model(file, compile=False)
    size = None if loaded.inputs[0].shape[1] else SIZE
    given = (MEAN, DEVIATION)
    model = tlkit.build_classifier(file, NAMES, preprocessing=given, image_size=size)
    pixels = images(model)
    outputs = np.asarray(keras.Model(loaded.inputs[0], loaded.outputs[0])(prepared(pixels)))
    expected = pooled_as_usual(family, outputs)
    np.testing.assert_allclose(
        features_of(model, pixels), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )
    assert needed_packages(file) == ("keras_hub",)
    assert not any(type(one).__module__.startswith("keras_hub") for one in model.operations)


@of_families(*TRANSFORMERS)
def test_the_model_of_a_transformer_is_a_backbone_again(classifier, tmp_path):
    classifier.save(tmp_path / "first.keras")
    again = tlkit.build_classifier(tmp_path / "first.keras", ["yes", "no"])
    pixels = images(classifier)
    np.testing.assert_array_equal(features_of(again, pixels), features_of(classifier, pixels))
    groups = [[group.name for group in tlkit.layer_groups(one)] for one in (classifier, again)]
    assert groups[0] == groups[1]
    with pytest.raises(ArgumentError, match="`image_size` must be a size that the layers"):
        tlkit.build_classifier(tmp_path / "first.keras", NAMES, image_size=48)


@of_families("vit", "siglip")
def test_tokens_of_a_file_are_pooled_as_asked(family, file):
    found = load_backbone(file, "none")
    assert (found.num_prefix_tokens, found.has_pooling) == (
        (1, False) if family == "vit" else (0, True)
    )
    own = {pooling_of(found.spec, None), "avg", "flatten"}
    shapes = {
        pooling: features_of(
            (model := tlkit.build_classifier(file, NAMES, preprocessing="tf", pooling=pooling)),
            images(model),
        ).shape
        for pooling in own
    }
    num_tokens = 17 if family == "vit" else 16
    assert shapes.pop("flatten") == (2, 16 * num_tokens)
    assert set(shapes.values()) == {(2, 16)}
    if family == "vit":
        with pytest.raises(ArgumentError, match="no attention pooling of its own"):
            tlkit.build_classifier(file, NAMES, preprocessing="tf", pooling="attention")


def test_positions_of_a_file_are_interpolated(tmp_path):
    backbone("vit").save(tmp_path / "vit.keras")
    model = tlkit.build_classifier(tmp_path / "vit.keras", NAMES, preprocessing="tf", image_size=48)
    assert token_grid(model, model.get_layer("vit_encoder_ln").output).rows == 6
    backbone("dinov2").save(tmp_path / "dino.keras")
    with pytest.raises(ArgumentError, match="Use the size that it was trained at, 32 × 32"):
        tlkit.build_classifier(tmp_path / "dino.keras", NAMES, preprocessing="tf", image_size=48)


def test_a_classifier_of_keras_hub_brings_its_preprocessing(tmp_path):
    convert = keras_hub.layers.ViTImageConverter(
        image_size=(SIZE, SIZE),
        scale=[1 / one for one in DEVIATION],
        offset=[-mean / one for mean, one in zip(MEAN, DEVIATION, strict=True)],
    )
    whole = keras_hub.models.ViTImageClassifier(
        backbone=backbone("vit"),
        num_classes=5,
        preprocessor=keras_hub.models.ViTImageClassifierPreprocessor(convert),
    )
    whole.save(tmp_path / "whole.keras")
    found = load_backbone(tmp_path / "whole.keras")
    np.testing.assert_allclose(found.preprocessing.mean, MEAN, rtol=1e-5)
    assert "output_dense" in found.cut_off[-1] or "predictions" in found.cut_off[-1]
    model = tlkit.build_classifier(tmp_path / "whole.keras", NAMES)
    pixels = images(model)
    tokens = np.asarray(whole.backbone(prepared(pixels)))
    np.testing.assert_allclose(features_of(model, pixels), tokens[:, 0], rtol=0, atol=1e-5)


def test_a_file_of_keras_hub_without_it_says_what_to_install(tmp_path, monkeypatch):
    backbone("vit").save(tmp_path / "vit.keras")
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ArgumentError, match=r"vit\.keras.* pip install 'tlkit\[hub\]'"):
        load_backbone(tmp_path / "vit.keras", "tf")


def test_the_preset_of_a_network_of_images_and_texts_is_that_of_images(tmp_path):
    vision = backbone("siglip")
    text = keras_hub.models.SigLIPTextEncoder(
        vocabulary_size=20,
        embedding_dim=16,
        hidden_dim=16,
        num_layers=1,
        num_heads=2,
        intermediate_dim=32,
        max_sequence_length=8,
    )
    both = keras_hub.models.SigLIPBackbone(vision, text)
    both.save_to_preset(str(tmp_path))
    model = tlkit.build_classifier(f"keras_hub:{tmp_path}", NAMES, preprocessing="none")
    pixels = images(model) / 255
    np.testing.assert_allclose(
        features_of(model, pixels),
        np.asarray(keras.Model(vision.inputs[0], vision.outputs[0])(pixels)),
        rtol=0,
        atol=1e-5,
    )


def test_what_is_found_in_a_preset_is_said(tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr("tlkit.models.keras_hub_presets.note", notes.append)
    tlkit.build_classifier(save_preset("vit", tmp_path), NAMES)
    assert "features 17 × 16; preprocessing: (pixels - (120, 110, 100)) / (60, 50, 40)" in notes[0]
    assert notes[0].endswith("its own converter crops images (bilinear)")


def test_preprocessing_replaces_that_of_the_converter_and_is_needed_without_one(tmp_path):
    preset = save_preset("vit", tmp_path / "with")
    model = tlkit.build_classifier(preset, NAMES, preprocessing="none")
    pixels = images(model)
    converted = tlkit.build_classifier(preset, NAMES)
    scaled = pixels * np.array(DEVIATION, "float32") + np.array(MEAN, "float32")
    np.testing.assert_allclose(
        features_of(model, pixels), features_of(converted, scaled), rtol=0, atol=1e-3
    )
    bare = save_preset("vit", tmp_path / "without", converter=False)
    with pytest.raises(ArgumentError, match="must be given for a preset without an image conv"):
        tlkit.build_classifier(bare, NAMES)
    assert tlkit.build_classifier(f"{bare}:tf", NAMES).input_shape == (None, 32, 32, 3)


def test_a_local_preset_is_described_without_keras(tmp_path):
    preset = save_preset("siglip", tmp_path)
    code = (
        "import sys\n"
        "from tlkit.models.catalogue import find_backbone\n"
        "spec = find_backbone(sys.argv[1])\n"
        "print(spec.default_image_size, spec.minimum_image_size, spec.num_prefix_tokens)\n"
        "assert not {'keras', 'keras_hub', 'tensorflow'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, preset]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["32", "8", "0"]


def test_names_of_presets_are_taken_apart():
    assert split_name("keras_hub:vit_base") == ("keras_hub:vit_base", None)
    assert split_name("keras_hub:hf://user/vit:tf") == ("keras_hub:hf://user/vit", "tf")
    assert with_absolute_path("keras_hub:vit_base") == "keras_hub:vit_base"


def test_paths_of_presets_are_made_absolute(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    assert with_absolute_path("keras_hub:own:tf") == f"keras_hub:{tmp_path / 'own'}:tf"


def test_bad_presets_are_refused(tmp_path, monkeypatch):
    preset = save_preset("vit", tmp_path / "vit")
    with pytest.raises(ArgumentError, match=r"`image_size` must be a multiple of 8 .* Use 32"):
        tlkit.build_classifier(preset, NAMES, image_size=36)
    with pytest.raises(ArgumentError, match="no attention pooling of its own"):
        tlkit.build_classifier(preset, NAMES, pooling="attention")
    with pytest.raises(ArgumentError, match="'resnet20' has no class token"):
        tlkit.build_classifier("resnet20", NAMES, weights=None, pooling="class_token")
    with pytest.raises(ArgumentError, match=r"there is no config\.json"):
        find_backbone(f"keras_hub:{tmp_path}")
    with pytest.raises(ArgumentError, match="there is no such folder"):
        find_backbone("keras_hub:./folder")
    with pytest.raises(ArgumentError, match="Did you mean 'vit_base_patch16_224_imagenet'"):
        find_backbone("keras_hub:vit_base_patch16_224_imagene")
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    config["config"].pop("image_shape")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArgumentError, match="a preset of a backbone for images"):
        find_backbone(f"keras_hub:{tmp_path / 'text'}")
    (tmp_path / "vit" / "model.weights.h5").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        tlkit.build_classifier(preset, NAMES)
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ArgumentError, match=r"pip install 'tlkit\[hub\]'"):
        find_backbone("keras_hub:vit_tiny")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", '{"class_name": "ViTBackbone", "config": {"image_shape": 3}}'),
        ("image_converter.json", "null"),
        ("image_converter.json", '{"config": {"scale": 0, "offset": 0}}'),
        ("image_converter.json", '{"config": {"scale": "x"}}'),
    ],
)
def test_damaged_presets_are_refused_in_words(file, content, tmp_path):
    preset = save_preset("vit", tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(ArgumentError, match=r"`(backbone|preprocessing)` must be"):
        find_backbone(preset)


@pytest.mark.parametrize(
    ("size", "message"), [(36, "a multiple of 8 pixels .* Use 32"), (24, "at least 32 for")]
)
def test_sizes_that_swin_does_not_take_are_named(size, message, tmp_path):
    preset = save_preset("swin", tmp_path)
    with pytest.raises(ArgumentError, match=f"`image_size` must be {message}"):
        tlkit.build_classifier(preset, NAMES, image_size=size)


@pytest.mark.network
def test_a_preset_is_downloaded_by_its_name():
    try:
        socket.create_connection(("www.kaggle.com", 443), timeout=5).close()
    except OSError:
        pytest.skip("there is no network to download presets from")
    model = tlkit.build_classifier("keras_hub:mobilenet_v3_small_050_imagenet", NAMES)
    assert model.input_shape == (None, 224, 224, 3)
