"""The spec of inputs and outputs is derived from the model."""

import keras
import numpy as np
import pytest

import tlkit
from tlkit.errors import ArgumentError
from tlkit.models.model_spec import PIXELS, UNIT, describe_model

layers = keras.layers


def classifier(before, shape=(16, 16, 3), dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    x = before(inputs)
    x = layers.Conv2D(4, 3)(x) if len(x.shape) == 4 else x
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def normalization(mean, deviation):
    return layers.Normalization(mean=mean, variance=np.broadcast_to(deviation, np.shape(mean)) ** 2)


def nested(inputs):
    inner = keras.Sequential([keras.Input((16, 16, 3)), layers.Rescaling(1 / 255)])
    return keras.Sequential([keras.Input((16, 16, 3)), inner, layers.Conv2D(3, 3)])(inputs)


@pytest.mark.parametrize(
    "before",
    [
        layers.Rescaling(1 / 255),
        layers.Rescaling(1 / 127.5, offset=-1),
        normalization(120.0, 58.0),
        layers.Lambda(lambda x: x / 255.0),
        lambda x: x / 127.5 - 1,
        lambda x: layers.Rescaling(1 / 255)(layers.RandomFlip()(x)),
        lambda x: layers.ZeroPadding2D()(layers.Rescaling(1 / 255)(x)),
        keras.applications.mobilenet_v2.preprocess_input,
        keras.applications.vgg16.preprocess_input,
        nested,
    ],
    ids=[
        "rescaling",
        "tf",
        "normalization",
        "lambda",
        "operations",
        "augmentation",
        "padding",
        "mobilenet_v2",
        "vgg16",
        "nested",
    ],
)
def test_a_model_that_scales_pixels_takes_pixels(before):
    assert describe_model(classifier(before)).value_range == PIXELS


@pytest.mark.parametrize(
    "before",
    [
        lambda x: x,
        layers.BatchNormalization(),
        layers.UnitNormalization(),
        normalization(3000.0, 1000.0),
        normalization(0.0, 1.0),
        normalization(0.45, 0.01),
        normalization((0.485, 0.456, 120.0), 0.22),
        layers.Rescaling(2.0),
        lambda x: 1 - x,
        lambda x: x * 0,
    ],
    ids=[
        "nothing",
        "batch norm",
        "unit norm",
        "reflectance",
        "standardised",
        "narrow",
        "one channel of another range",
        "scale alone",
        "negative",
        "none of it",
    ],
)
def test_a_model_with_other_preprocessing_may_take_any_values(before):
    assert describe_model(classifier(before)).value_range is None


@pytest.mark.parametrize(
    "before",
    [
        layers.Rescaling(2.0, offset=-1),
        normalization(0.45, 0.22),
        normalization((0.485, 0.456, 0.406), np.array((0.229, 0.224, 0.225))),
        lambda x: x * 2 - 1,
        lambda x: (x - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]),
        lambda x: x - 0.5,
    ],
    ids=["rescaling", "normalization", "its statistics", "operations", "torch", "centred"],
)
def test_an_image_model_that_scales_zero_to_one_takes_that_range(before):
    assert describe_model(classifier(before)).value_range == UNIT


def test_zero_to_one_is_certain_only_with_three_channels():
    for shape in ((16, 16, 1), (16, 16, 4), (16, 16), (7,)):
        model = classifier(layers.Rescaling(2.0, offset=-1), shape)
        assert describe_model(model).value_range is None


@pytest.mark.parametrize("shape", [(28, 28), (784,), (None, None, 3)])
def test_pixels_need_not_come_as_images_of_one_size(shape):
    inputs = keras.Input(shape)
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(x)) if len(shape) == 3 else x
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    assert describe_model(model).value_range == PIXELS


def test_columns_of_a_table_are_not_pixels():
    model = classifier(normalization(40.0, 20.0), shape=(7,))
    assert describe_model(model).value_range is None
    assert describe_model(classifier(layers.Rescaling(1 / 255), dtype="uint8")).value_range


@pytest.mark.parametrize("name", ["resnet20", "efficientnet_b0", "convnext_tiny", "vgg16"])
def test_backbones_take_pixels(name):
    size = None if name == "resnet20" else 32
    model = tlkit.build_classifier(name, ["a", "b"], weights=None, image_size=size)
    assert describe_model(model).value_range == PIXELS


def test_the_record_names_shape_type_and_outputs():
    spec = describe_model(classifier(lambda x: x, (16, 16, 1), "uint8"))
    assert (spec.input_shape, spec.input_dtype) == ((None, 16, 16, 1), "uint8")
    assert (spec.kind, spec.num_outputs, spec.num_classes) == ("softmax", 3, 3)
    assert (spec.takes_images, spec.takes_text, spec.num_tokens) == (True, False, None)
    tokens = keras.Input((4,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(50, 2)(tokens))
    spec = describe_model(keras.Model(tokens, layers.Dense(1, "sigmoid")(x)))
    assert (spec.num_classes, spec.num_tokens, spec.takes_images) == (2, 50, False)


def test_a_model_without_one_row_of_values_is_refused():
    inputs = keras.Input((8, 8, 3))
    with pytest.raises(ArgumentError, match=r"must return one row .* shape \(None, 8, 8, 2\)"):
        describe_model(keras.Model(inputs, layers.Dense(2)(inputs)))
    output = layers.Dense(2)(layers.Flatten()(inputs))
    with pytest.raises(ArgumentError, match=r"must return one tensor.* a dictionary with 'a'"):
        describe_model(keras.Model(inputs, {"a": output}))
    assert np.ndim(describe_model(keras.Model([inputs], [output])).num_outputs) == 0


@pytest.mark.parametrize(
    "last", [[layers.Dense(1, "softmax")], [layers.Dense(1), layers.Softmax()]], ids=["one", "two"]
)
def test_a_softmax_over_one_output_is_named_before_labels_are(last):
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), *last])
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), "uint8")
    data = tlkit.load_arrays(pixels, np.arange(20) % 2)
    message = r"softmax over one output, which is 1\.0 .*\"sigmoid\"\), or two outputs"
    for function in (
        describe_model,
        lambda model: tlkit.train_head(model, data),
        lambda model: tlkit.fine_tune(model, data, epochs=1),
        lambda model: tlkit.evaluate(model, data.train),
    ):
        with pytest.raises(ArgumentError, match=message):
            function(model)
