import urllib.error

import keras
import numpy as np
import pytest

from tlkit.errors import WeightsError
from tlkit.models import catalogue, resnet20
from tlkit.models.assembly import build_classifier
from tlkit.models.heads import feature_cut
from tlkit.models.preprocessing import preprocess
from tlkit.models.resnet20 import ResNet20
from tlkit.models.weights import load_weights_file

MAXIMUM_BYTES = 1_200_000  # of the weights that ship with the package


def mobilenet(alpha=0.25, include_top=False):
    shape = (224, 224, 3) if include_top else (32, 32, 3)
    return keras.applications.MobileNet(
        alpha=alpha, include_top=include_top, weights=None, input_shape=shape
    )


def build(weights, backbone="mobilenet_025", **arguments):
    return build_classifier(backbone, ["a", "b"], image_size=32, weights=weights, **arguments)


def backbone_weights(model):
    return [w.numpy() for layer in model.layers[:-3] for w in layer.weights]


def write_resnet20(path, change=lambda arrays: None):
    backbone = ResNet20(keras.Input((32, 32, 3)))
    arrays = {v.path: v.numpy().astype(np.float16) for v in backbone.variables}
    change(arrays)
    np.savez_compressed(path, **arrays)
    return arrays


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_loads_files_of_plain_keras(suffix, tmp_path):
    network = mobilenet()
    path = tmp_path / f"network{suffix}"
    network.save_weights(path) if suffix == ".weights.h5" else network.save(path)
    loaded = backbone_weights(build(str(path) if suffix == ".h5" else path))
    for one, two in zip(loaded, network.get_weights(), strict=True):
        assert np.array_equal(one, two)


def test_loads_kerass_own_imagenet_file(shared, pixels):
    path = shared / "weights" / "mobilenet_2_5_224_tf_no_top.h5"
    model = build(path)
    reference = keras.applications.MobileNet(
        alpha=0.25, include_top=False, weights=path, input_shape=(32, 32, 3), pooling="avg"
    )
    images = pixels(model)
    features = keras.Model(model.input, feature_cut(model))(images)
    expected = reference(keras.applications.mobilenet.preprocess_input(images.copy()))
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)


def test_a_missing_file_is_named_before_anything_is_built():
    with pytest.raises(WeightsError, match=r"`weights` must be .*existing file.*'gone.h5'"):
        build("gone.h5")
    with pytest.raises(WeightsError, match="Did you mean 'imagenet'"):
        build("imagnet")


@pytest.mark.parametrize(
    "name", ["text.h5", "text.weights.h5", "text.keras", "text.npz", "text.txt"]
)
def test_a_text_file_is_refused(name, tmp_path):
    path = tmp_path / name
    path.write_text("no weights")
    with pytest.raises(WeightsError, match="`weights` must be a weights file of") as caught:
        build(path)
    assert caught.value.__cause__ is not None
    assert str(path) in str(caught.value)


def test_the_file_of_another_network_is_refused(tmp_path):
    for number, network in enumerate((mobilenet(alpha=0.5), ResNet20(keras.Input((32, 32, 3))))):
        for suffix in (".weights.h5", ".h5"):
            path = tmp_path / f"other{number}{suffix}"
            network.save_weights(path) if suffix == ".weights.h5" else network.save(path)
            with pytest.raises(WeightsError, match=r"`weights` must be .*other"):
                build(path)


def test_the_file_with_the_classifier_is_refused_with_a_remedy(tmp_path):
    path = tmp_path / "mobilenet_2_5_224_tf.h5"
    mobilenet(include_top=True).save(path)
    with pytest.raises(WeightsError, match=r"file with the classifier.*no_top\.h5"):
        build(path)


def test_a_file_that_leaves_weights_unset_is_refused(tmp_path, monkeypatch):
    model = ResNet20(keras.Input((32, 32, 3)))
    path = tmp_path / "some.weights.h5"
    model.save_weights(path)
    monkeypatch.setattr(keras.Model, "load_weights", lambda *_: None)  # a loader that does nothing
    with pytest.raises(WeightsError, match="in which 105 of 105 are missing"):
        load_weights_file(model, path)


def test_an_efficientnet_file_gets_images_scaled_as_in_keras(tmp_path, monkeypatch, pixels):
    network = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    normalization = next(
        layer for layer in network.layers if isinstance(layer, keras.layers.Normalization)
    )
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalization.set_weights([mean, deviation, np.array(0)])  # as in the published files
    path = tmp_path / "efficientnetb0_notop.h5"
    network.save(path)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: str(path))
    published = keras.applications.EfficientNetB0(
        include_top=False, weights="imagenet", input_shape=(32, 32, 3), pooling="avg"
    )
    model = build(path, "efficientnet_b0")
    images = pixels(model)
    features = keras.Model(model.input, feature_cut(model))(images)
    assert np.array_equal(features, published(images))


def test_a_file_in_the_folder_of_keras_is_used_without_a_download(monkeypatch, tmp_path):
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", None)
    (tmp_path / "models").mkdir()
    published = keras.applications.MobileNet(
        (32, 32, 3), alpha=0.25, include_top=False, weights=None
    )
    published.save(tmp_path / "models" / "mobilenet_2_5_224_tf_no_top.h5")
    kernel = build("pretrained").get_layer("conv1").kernel
    np.testing.assert_array_equal(kernel, published.get_layer("conv1").kernel)


def test_a_failed_download_names_the_file_the_folder_and_remedies(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", fail)
    with pytest.raises(WeightsError) as caught:
        build("pretrained")
    message = str(caught.value)
    folder = str(tmp_path / "models")
    for part in ("mobilenet_2_5_224_tf_no_top.h5", folder, "weights=PATH", "'resnet20'"):
        assert part in message
    assert "\n" not in message

    def stall(*_, **__):
        raise TimeoutError("timed out")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", stall)
    with pytest.raises(WeightsError, match="timed out"):
        build("imagenet")


def test_a_backbone_without_pretrained_weights_is_refused(monkeypatch):
    def plain(input_tensor, weights):
        x = keras.layers.Conv2D(4, 3)(input_tensor)
        return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x)

    monkeypatch.setattr(catalogue, "_registered", {})
    catalogue.register_backbone("plain", plain, default_image_size=32)
    with pytest.raises(WeightsError, match=r"without pretrained weights.*'plain'"):
        build("pretrained", "plain")


def test_resnet20_loads_arrays_by_variable_path(tmp_path, monkeypatch):
    arrays = write_resnet20(tmp_path / "resnet20.npz")
    monkeypatch.setattr(resnet20, "WEIGHTS_FILE", tmp_path / "resnet20.npz")
    for model in (build("pretrained", "resnet20"), build(tmp_path / "resnet20.npz", "resnet20")):
        for variable in model.variables:
            if variable.path in arrays:
                assert np.array_equal(variable, arrays.pop(variable.path, variable))
    assert not arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("stage1_stem_bn/gamma"), "missing .*stage1_stem_bn/gamma"),
        (lambda arrays: arrays.update(extra=np.zeros(1)), "unknown .*extra"),
        (lambda arrays: arrays.update({"stage1_stem_bn/beta": np.zeros(3)}), r"is \(3,\), not"),
        (
            lambda arrays: arrays.update({"stage1_stem_bn/beta": np.full(16, np.nan)}),
            "are missing or NaN",
        ),
    ],
)
def test_resnet20_refuses_other_arrays(change, message, tmp_path):
    write_resnet20(tmp_path / "bad.npz", change)
    with pytest.raises(WeightsError, match=message):
        build(tmp_path / "bad.npz", "resnet20")


def test_the_included_weights_load_and_are_small():
    assert resnet20.WEIGHTS_FILE.stat().st_size <= MAXIMUM_BYTES
    pixels = keras.Input((32, 32, 3))
    backbone = ResNet20(preprocess(pixels, "tf"), "pretrained")
    assert all(np.isfinite(weight).all() for weight in backbone.weights)
    assert backbone.count_params() == 590_896
