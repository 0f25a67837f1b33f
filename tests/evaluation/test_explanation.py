"""Grad-CAM highlights the decisive region, for every family, every head and frozen layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tlkit
from tests.models.expectations import IMAGE_SIZES
from tlkit.data.resizing import resize_image
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.explanation import class_maps, explain, explain_mistakes
from tlkit.evaluation.metrics import evaluate_probabilities
from tlkit.models.groups import cut_before

NAMES = ("blue", "red")


def colour_model(activation="linear", units=2):
    """A model whose logits are the means of blue and of red, so that the correct map is known."""
    x = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 255)(x)
    y = keras.layers.Conv2D(2, 1, use_bias=False, name="colours")(scaled)
    y = keras.layers.AveragePooling2D(4, name="coarse")(y)
    y = keras.layers.GlobalAveragePooling2D()(y)
    model = keras.Model(x, keras.layers.Dense(units, activation, name="out")(y))
    kernel = np.zeros((1, 1, 3, 2))
    kernel[0, 0, 2, 0] = kernel[0, 0, 0, 1] = 1  # blue, red
    model.get_layer("colours").kernel.assign(kernel)
    out = np.eye(2) if units == 2 else np.array([[-1.0], [1.0]])
    model.get_layer("out").kernel.assign(10 * out)
    return model


def red_left_blue_right():
    image = np.zeros((32, 32, 3), np.uint8)
    image[8:16, 4:12, 0] = 250
    image[20:28, 20:28, 2] = 255
    return image


def fraction_inside(heatmap, rows, columns):
    return heatmap[rows, columns].sum() / heatmap.sum()


@pytest.mark.parametrize(
    ("activation", "units"), [("linear", 2), ("softmax", 2), ("linear", 1), ("sigmoid", 1)]
)
def test_the_map_points_at_the_colour_of_the_class(activation, units):
    model = colour_model(activation, units)
    red = explain(model, red_left_blue_right(), NAMES, label="red")
    blue = explain(model, red_left_blue_right(), NAMES, label=0)
    assert (red.label, blue.label) == ("red", "blue")
    assert fraction_inside(red.heatmap, slice(4, 20), slice(0, 16)) > 0.95
    assert fraction_inside(blue.heatmap, slice(16, 32), slice(16, 32)) > 0.95
    assert red.heatmap.max() == blue.heatmap.max() == 1
    assert red.probability + blue.probability == pytest.approx(1)
    assert red.layer == "coarse"


def test_the_map_equals_the_formula():
    """For a linear head after average pooling, the map's weights are the head's, per position."""
    model = tlkit.build_classifier("resnet20", ["a", "b", "c"], dropout=0)
    random = np.random.default_rng(0)
    kernel = random.normal(size=model.get_layer("logits").kernel.shape)
    model.get_layer("logits").kernel.assign(kernel)
    pixels = random.integers(0, 255, (2, 32, 32, 3)).astype("uint8")
    maps = keras.Model(model.input, cut_before(model, "head"))(pixels.astype("float32")).numpy()
    expected = np.maximum(maps @ kernel[:, 2], 0)
    heatmaps, shares = class_maps(model, pixels, np.array([2, 2]))
    assert shares.sum(axis=1) == pytest.approx(1)
    for heat, raw in zip(heatmaps, expected, strict=True):
        wanted = Image.fromarray((raw / raw.max()).astype("float32"))
        wanted = np.asarray(wanted.resize((32, 32), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(heat, wanted, atol=0.02)


def test_frozen_layers_do_not_change_the_map():
    model = tlkit.build_classifier("resnet20", NAMES)
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype("uint8")
    tlkit.set_trainable(model, "all")
    free = explain(model, image, NAMES, label="red")
    nodes = sum(len(layer._inbound_nodes) for layer in model.layers)
    tlkit.set_trainable(model, "head")
    model.trainable = False
    frozen = explain(model, image, NAMES, label="red")
    np.testing.assert_allclose(free.heatmap, frozen.heatmap, atol=1e-5)
    assert sum(len(layer._inbound_nodes) for layer in model.layers) == nodes


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGE_SIZES)
def test_every_family_can_be_explained(name):
    size = IMAGE_SIZES[name]
    names = [f"class {number}" for number in range(8)]  # one of so many has a non-empty map
    model = tlkit.build_classifier(name, names, image_size=size, weights=None)
    image = np.random.default_rng(0).integers(0, 255, (size, size, 3)).astype("uint8")
    for label in names:
        one = explain(model, image, names, label=label)
        assert one.heatmap.shape == (size, size)
        assert np.isfinite(one.heatmap).all()
        assert one.heatmap.max() == 0 or 0.5 < one.heatmap.max() <= 1
        assert one.overlay().shape == (size, size, 3)
        if one.heatmap.any():
            return
    pytest.fail("the maps of all classes are empty")


def test_files_are_decoded_as_by_predict(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(red_left_blue_right()).resize((64, 48)).save(path)
    model = colour_model()
    explanation = explain(model, path, NAMES)
    (prediction,) = tlkit.predict(model, path, NAMES)
    assert explanation.label == explanation.predicted == prediction.label
    assert explanation.probability == pytest.approx(prediction.probability, abs=1e-5)
    assert explanation.path == str(path)
    assert str(path) in str(explanation)
    explanation.save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as saved:
        assert saved.size == (32 + 4 + 32, 32)


def test_a_class_without_support_has_an_empty_map():
    model = colour_model()
    image = np.zeros((32, 32, 3), np.uint8)
    explanation = explain(model, image, NAMES, label="red")
    assert not explanation.heatmap.any()
    assert "no position of coarse supports it" in str(explanation)
    np.testing.assert_array_equal(explanation.overlay(), image)


def test_the_overlay_is_grey_at_zero_heat():
    overlay = explain(colour_model(), red_left_blue_right(), NAMES, label="red").overlay()
    assert len(set(overlay[24, 24])) == 1
    assert len(set(overlay[12, 8])) > 1


def test_an_overlay_can_have_another_size():
    explanation = explain(colour_model(), red_left_blue_right(), NAMES, label="red")
    large = np.kron(red_left_blue_right(), np.ones((3, 2, 1), np.uint8))
    overlay = explanation.over(large)
    assert overlay.shape == (96, 64, 3)
    assert len(set(overlay[72, 48])) == 1
    assert len(set(overlay[36, 16])) > 1


def test_explain_mistakes_agrees_with_explain(tmp_path):
    model = colour_model()
    paths = []
    for number in range(7):
        image = red_left_blue_right()
        image[..., 0] //= 1 + number
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        paths.append(str(tmp_path / f"{number}.png"))
    predictions = tlkit.predict(model, paths, NAMES)
    shares = np.array([list(one.probabilities.values()) for one in predictions])
    labels = 1 - shares.argmax(axis=1)
    report = evaluate_probabilities(shares, labels, NAMES, paths=paths)
    (tmp_path / "0.png").unlink()
    found = explain_mistakes(model, report, limit=6)
    worst = [mistake.index for mistake in report.mistakes[:6]]
    assert set(found) == set(worst) - {0}
    for mistake in report.mistakes[:6]:
        if mistake.index:
            alone = explain(model, mistake.path, NAMES, label=mistake.predicted)
            one = found[mistake.index]
            np.testing.assert_allclose(one.heatmap, alone.heatmap, atol=1e-5)
            np.testing.assert_array_equal(one.image, alone.image)
            assert one.label == one.predicted == mistake.predicted
            assert one.probability == pytest.approx(mistake.probability, abs=1e-5)


def test_maps_are_of_the_image_as_it_was_resized(tmp_path):
    model, wide = colour_model(), np.zeros((20, 64, 3), np.uint8)
    wide[:, :32, 0], wide[:, 32:, 2] = 250, 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    report = evaluate_probabilities(
        np.array([[1.0, 0.0]]), np.array([1]), NAMES, paths=[str(tmp_path / "wide.png")]
    )
    for resize in ("crop", "pad"):
        expected = resize_image(tf.constant(wide), (32, 32), resize).numpy()
        for image in (tmp_path / "wide.png", wide):
            found = explain(model, image, NAMES, resize=resize)
            np.testing.assert_array_equal(found.image, expected)
        mistakes = explain_mistakes(model, report, resize=resize)
        np.testing.assert_array_equal(mistakes[0].image, expected)


def test_models_without_feature_maps_and_multi_label_models_have_no_explanations():
    flat = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
    flat.add(keras.layers.Dense(2))
    report = evaluate_probabilities(np.eye(2), np.array([1, 0]), NAMES, paths=[__file__] * 2)
    assert explain_mistakes(flat, report) == {}
    several = evaluate_probabilities(
        np.eye(2), np.ones((2, 2), int), NAMES, kind="multi_label", paths=[__file__] * 2
    )
    assert explain_mistakes(colour_model(), several) == {}


def test_unfit_models_images_and_labels_raise(tmp_path):
    model = colour_model()
    image = red_left_blue_right()
    with pytest.raises(ArgumentError, match="Did you mean 'red'"):
        explain(model, image, NAMES, label="rad")
    with pytest.raises(ArgumentError, match="a number from 0 to 1"):
        explain(model, image, NAMES, label=2)
    with pytest.raises(ArgumentError, match=r"`image` must be one image\. Received: 2"):
        explain(model, np.stack([image, image]), NAMES)
    with pytest.raises(DataError, match="`image` must be image files"):
        explain(model, tmp_path / "none.png", NAMES)
    flat = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
    flat.add(keras.layers.Dense(2))
    with pytest.raises(ArgumentError, match="`model` must have a two-dimensional feature map"):
        explain(flat, image, NAMES)
