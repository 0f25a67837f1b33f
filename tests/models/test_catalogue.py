import json
import subprocess
import sys

import keras
import pytest
from keras.src.utils import file_utils

from tlkit.errors import ArgumentError
from tlkit.models import catalogue
from tlkit.models.assembly import build_classifier
from tlkit.models.catalogue import (
    backbone_table,
    find_backbone,
    list_backbones,
    register_backbone,
)


@pytest.fixture
def registered(monkeypatch):
    """The registry of backbones for one test, restored after it."""
    registered = {}
    monkeypatch.setattr(catalogue, "_registered", registered)
    return registered


def tiny(input_tensor, weights):
    x = keras.layers.Conv2D(4, 3, strides=2, name="block1_conv")(input_tensor)
    return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x)


def test_importing_the_catalogue_loads_no_keras():
    code = (
        "import sys, tlkit; tlkit.list_backbones();"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_contains_every_keras_backbone():
    modules = {"vgg16", "resnet", "densenet", "imagenet_utils"}  # modules are not capitalised
    functions = {name for name in dir(keras.applications) if name[0].isupper()} - modules
    built = {spec.build.args[0] for spec in list_backbones() if hasattr(spec.build, "args")}
    assert built == functions


def test_lists_plausible_figures(registered):
    for spec in list_backbones():
        assert spec.minimum_image_size <= spec.default_image_size
        assert spec.num_parameters > 100_000
        assert spec.imagenet_top1 is None or 0.5 < spec.imagenet_top1 < 0.9
        assert spec.name in str(spec)
        assert spec.multiply_adds > spec.num_parameters
        assert spec.license in ("MIT", "Apache 2.0", "BSD 3-Clause", "CC BY 4.0")
    names = [spec.name for spec in list_backbones()]
    assert len(names) == len(set(names)) == 51


def test_names_the_file_that_keras_downloads(monkeypatch, tmp_path):
    """For the smallest network of each family that has such a file."""
    asked = []

    def get_file(fname=None, origin=None, *args, **kwargs):
        asked.append(fname)
        raise RuntimeError("no download in this test")

    monkeypatch.setattr(file_utils, "get_file", get_file)
    names = ["vgg16", "mobilenet_025", "mobilenet_v2_035", "mobilenet_v3_small_075"]
    for name in [*names, "efficientnet_b0", "resnet50_v2", "densenet121", "nasnet_mobile"]:
        spec = find_backbone(name)
        size = spec.default_image_size
        with pytest.raises(RuntimeError, match="no download"):
            spec.build(keras.Input((size, size, 3)), "pretrained")
        assert asked[-1] == spec.weights_file


def test_weights_are_local_once_their_file_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    spec = find_backbone("vgg16")
    assert not spec.is_local
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / spec.weights_file).touch()
    assert spec.is_local
    assert find_backbone("resnet20").is_local  # part of the package
    table = backbone_table([spec, find_backbone("resnet50")]).splitlines()
    assert table[1].split()[:6] == ["vgg16", "ImageNet", "CC", "BY", "4.0", "yes"]
    assert table[2].split()[:4] == ["resnet50", "ImageNet", "MIT", "no"]
    assert len({len(line) for line in table}) == 1


def test_a_backbone_without_figures_is_listed(registered):
    spec = register_backbone("tiny", tiny, lambda: keras.layers.Rescaling(1), default_image_size=32)
    entry = spec.as_dict()
    assert entry["num_parameters"] is entry["license"] is entry["weights"] is None
    assert not entry["is_local"]
    json.dumps(entry)
    assert backbone_table([spec]).splitlines()[1].split() == ["tiny", "-", "-", "no", "32", *"---"]


def test_suggests_near_matches_of_an_unknown_backbone():
    with pytest.raises(ArgumentError, match=r"`backbone` must be .*'resnet5O'.*'resnet50'"):
        find_backbone("resnet5O")
    with pytest.raises(ArgumentError, match="`backbone` must be"):
        find_backbone(None)


def test_a_registered_backbone_can_be_built_listed_and_replaced(registered):
    spec = register_backbone("tiny", tiny, "tf", default_image_size=32, minimum_image_size=8)
    assert list_backbones()[-1] is spec is find_backbone("tiny")
    model = build_classifier("tiny", ["a", "b"], weights=None)
    assert model.input_shape == (None, 32, 32, 3)
    assert [layer.name for layer in model.layers][:3] == ["pixels", "preprocessing", "block1_conv"]
    again = register_backbone("tiny", tiny, default_image_size=64)
    assert find_backbone("tiny") is again


def test_a_registered_backbone_may_bring_its_own_preprocessing_layer(registered):
    register_backbone(
        "tiny", tiny, lambda: keras.layers.Rescaling(1 / 255, name="mine"), default_image_size=32
    )
    assert build_classifier("tiny", ["a", "b"], weights=None).get_layer("mine").scale == 1 / 255


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg16"}, "`name` must be a name that no built-in"),
        ({"name": ""}, "`name` must be"),
        ({"build": "tiny"}, "`build` must be a function"),
        ({"preprocessing": "tff"}, "`preprocessing` must be one of .* Did you mean 'tf'"),
        ({"default_image_size": 0}, "`default_image_size` must be"),
        ({"minimum_image_size": 64}, "`default_image_size` must be a whole number of at least 64"),
    ],
)
def test_refuses_a_bad_registration(registered, arguments, message):
    good = {"name": "tiny", "build": tiny, "default_image_size": 32}
    with pytest.raises(ArgumentError, match=message):
        register_backbone(**(good | arguments))
    assert not registered


def test_a_nested_backbone_is_refused_with_a_remedy(registered):
    def nested(input_tensor, weights):
        inner = keras.applications.MobileNet(
            alpha=0.25, include_top=False, weights=None, input_shape=(32, 32, 3)
        )
        return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], inner(input_tensor))

    register_backbone("nested", nested, "tf", default_image_size=32)
    with pytest.raises(ArgumentError, match=r"one flat graph.*nested.*input_tensor"):
        build_classifier("nested", ["a", "b"], weights=None)


def test_a_backbone_not_built_on_the_given_tensor_is_refused(registered):
    def apart(input_tensor, weights):
        return tiny(keras.Input((32, 32, 3)), weights)

    def pooled(input_tensor, weights):
        x = keras.layers.GlobalAveragePooling2D()(tiny(input_tensor, weights).output)
        return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x)

    for build, message in (
        (apart, "an input of its own.*input_tensor"),
        (lambda input_tensor, weights: None, "must return a keras.Model"),
        (pooled, "outputs .batch, rows, columns, channels"),
    ):
        register_backbone("bad", build, default_image_size=32)
        with pytest.raises(ArgumentError, match=message):
            build_classifier("bad", ["a", "b"], weights=None)
