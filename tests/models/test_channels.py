"""Backbones of RGB images for grey images and for images with more channels."""

import keras
import numpy as np
import pytest

import tlkit
from tlkit.errors import ArgumentError
from tlkit.models import channels
from tlkit.models.assembly import build_classifier
from tlkit.models.channels import with_channels
from tlkit.models.flattening import below
from tlkit.models.groups import layer_groups
from tlkit.models.heads import feature_cut
from tlkit.models.model_spec import PIXELS, describe_model

from .expectations import IMAGE_SIZES

NAMES = ["ant", "bee"]
SAME_FOR_ALL_COLOURS = ("resnet20", "mobilenet_v2_035", "efficientnet_b0", "tiny_resnet")
"""Backbones for which grey images have exactly the features of the same images in RGB."""


def pixels(model, seed=0):
    shape = (2, *model.input_shape[1:])
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


def features_of(model, images):
    return np.asarray(below(model, feature_cut(model))(images, training=False))


def both(name, number, size=None):
    """The classifier of RGB images, and that of so many channels with the same weights."""
    given = {"image_size": size or IMAGE_SIZES.get(name, 32), "weights": None, "seed": 0}
    return (
        build_classifier(name, NAMES, **given),
        build_classifier(name, NAMES, channels=number, **given),
    )


@pytest.mark.parametrize("name", SAME_FOR_ALL_COLOURS)
def test_a_grey_image_has_the_features_of_the_same_image_in_rgb(name):
    rgb, grey = both(name, 1)
    assert grey.input_shape[1:] == (*rgb.input_shape[1:3], 1)
    images = pixels(grey)
    expected = features_of(rgb, np.repeat(images, 3, axis=-1))
    found = features_of(grey, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_colours_with_different_preprocessing_differ_at_the_padding_only():
    x = keras.Input((16, 16, 3))
    y = keras.layers.Rescaling([0.01, 0.02, 0.03], offset=[-1.0, -2.0, -1.5])(x)
    y = keras.layers.ZeroPadding2D(1)(y)
    rgb = keras.Model(x, keras.layers.Conv2D(4, 3, use_bias=False)(y))
    grey = with_channels(rgb, 1)
    images = pixels(grey)
    expected, found = np.asarray(rgb(np.repeat(images, 3, axis=-1))), np.asarray(grey(images))
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-4)
    assert np.abs(found - expected).max() > 0.01  # where a kernel reads padding


def test_two_channels_share_the_kernel():
    rgb, two = both("tiny_resnet", 2)
    grey = pixels(rgb)[..., :1]
    expected = features_of(rgb, np.repeat(grey, 3, axis=-1))
    found = features_of(two, np.repeat(grey, 2, axis=-1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["tiny_resnet", "vgg16", "resnet50"])
def test_further_channels_count_once_the_first_group_is_trained(name):
    rgb, five = both(name, 5)
    images = pixels(five)
    expected = features_of(rgb, images[..., :3])
    found = features_of(five, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    first = next(layer for layer in five.layers if isinstance(layer, keras.layers.Conv2D))
    first.kernel.assign(first.kernel + 0.1)
    changed = features_of(five, images)
    without = images.copy()
    without[..., 3:] = 0
    assert np.abs(changed - features_of(five, without)).max() > 1e-6


def test_the_rest_of_the_model_is_the_same(monkeypatch):
    notes = []
    monkeypatch.setattr(channels, "note", notes.append)
    rgb, grey = both("resnet20", 1)
    (shown,) = notes
    assert shown.startswith("resnet20: the kernel of ")
    assert shown.endswith(" is summed over red, green and blue for grey images")
    own, adapted = layer_groups(rgb), layer_groups(grey)
    assert [group.name for group in own] == [group.name for group in adapted]
    assert [group.num_parameters for group in own[1:]] == [
        group.num_parameters for group in adapted[1:]
    ]
    assert own[0].num_parameters - adapted[0].num_parameters == 2 * 3 * 3 * 16
    assert describe_model(grey).value_range == PIXELS
    assert all(len(layer._inbound_nodes) == 1 for layer in grey.layers)
    assert all(layer.trainable for layer in grey.layers)


def test_published_weights_are_kept():
    rgb = build_classifier("resnet20", NAMES)
    grey = build_classifier("resnet20", NAMES, channels=1)
    images = pixels(grey)
    expected = features_of(rgb, np.repeat(images, 3, axis=-1))
    np.testing.assert_allclose(features_of(grey, images), expected, rtol=0, atol=1e-4)


def test_it_loads_in_plain_keras(tmp_path):
    _, grey = both("efficientnet_b0", 1)
    grey.save(tmp_path / "grey.keras")
    images = pixels(grey)
    loaded = keras.saving.load_model(tmp_path / "grey.keras")
    np.testing.assert_array_equal(loaded(images), grey(images))


def test_three_channels_are_the_default():
    rgb, same = both("tiny_resnet", 3)
    images = pixels(rgb)
    np.testing.assert_array_equal(same(images), rgb(images))


@pytest.mark.parametrize("number", [0, -1, 1.0, True, "1"])
def test_another_number_is_refused(number):
    with pytest.raises(ArgumentError, match="`channels` must be"):
        build_classifier("tiny_resnet", NAMES, weights=None, channels=number)


def own_model(first, number=3):
    x = keras.Input((16, 16, number))
    return keras.Model(x, keras.layers.Conv2D(4, 3, name="last")(first(x)))


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (keras.layers.DepthwiseConv2D(3), "has a DepthwiseConv2D where a Conv2D"),
        (keras.ops.sqrt, "preprocessing that is not affine"),
        (keras.layers.AveragePooling2D(2), "preprocessing that is not affine"),
    ],
)
def test_a_backbone_that_cannot_be_adapted_is_refused(first, reason):
    with pytest.raises(ArgumentError, match=rf"`channels` must be a number.*{reason}"):
        build_classifier(own_model(first), NAMES, preprocessing="none", channels=1)


def test_images_that_another_layer_reads_are_refused():
    x = keras.Input((16, 16, 3))
    y = keras.layers.Conv2D(3, 3, padding="same", name="first")(x)
    model = keras.Model(x, keras.layers.Add()([x, y]))
    with pytest.raises(ArgumentError, match="layers besides 'first'"):
        with_channels(model, 1)


def test_a_model_of_grey_images_is_used_as_it_is(tmp_path):
    own = own_model(keras.layers.Rescaling(1 / 255), number=1)
    own.save(tmp_path / "grey.keras")
    for backbone in (own, tmp_path / "grey.keras"):
        model = build_classifier(backbone, NAMES)
        assert model.input_shape == (None, 16, 16, 1)
        images = pixels(model)
        expected = np.asarray(own(images)).mean(axis=(1, 2))
        np.testing.assert_allclose(features_of(model, images), expected, atol=1e-5)
        with pytest.raises(ArgumentError, match=r"takes 1\. Give channels=1"):
            build_classifier(backbone, NAMES, channels=3)


def test_grey_images_are_learned_kept_grey():
    images = np.random.default_rng(0).integers(0, 120, (60, 32, 32), "uint8")
    images[30:] += 100
    data = tlkit.load_arrays(images, np.arange(60) // 30, NAMES, channels=1, batch_size=16)
    model = build_classifier("tiny_resnet", NAMES, weights=None, channels=1)
    tlkit.train_head(model, data)
    report = tlkit.fine_tune(model, data, epochs=1, augment="strong", kept_fraction=1.0)
    assert all(report.stages[-1].weight_change.values())
    assert tlkit.evaluate(model, data.test).num_images == data.test.num_images


def test_images_and_model_must_have_the_same_channels():
    images = np.random.default_rng(0).integers(0, 255, (40, 32, 32), "uint8")
    labels = np.arange(40) % 2
    rgb = tlkit.load_arrays(images, labels, NAMES)
    grey = tlkit.load_arrays(images, labels, NAMES, channels=1)
    for model_channels, data, remedy in ((1, rgb, "channels=1"), (3, grey, "channels=1")):
        model = build_classifier("tiny_resnet", NAMES, weights=None, channels=model_channels)
        for call in (tlkit.train_head, tlkit.fine_tune):
            with pytest.raises(ArgumentError, match=rf"`model` must take images.*{remedy}"):
                call(model, data)
