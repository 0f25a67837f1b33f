"""The engine that computes features: chosen by agreement and speed, the same for all of a part."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.models.heads import feature_cut
from tlkit.training import engines, frozen
from tlkit.training.engines import OPENVINO, TENSORFLOW
from tlkit.training.features import extract_features
from tlkit.training.frozen import FrozenPart
from tlkit.utils.openvino import UnsupportedError


@pytest.fixture
def data(photos):
    return tlkit.load_folder(photos, image_size=32)


@pytest.fixture
def model():
    return tlkit.build_classifier("tiny_resnet", ["green", "red"], weights=None)


@pytest.fixture(autouse=True)
def work_and_speed_are_enough(monkeypatch):
    monkeypatch.setattr(engines, "MIN_WORK", 0)
    monkeypatch.setattr(engines, "MIN_SPEEDUP", 0)


def part_of(model):
    return FrozenPart(keras.Model(model.input, feature_cut(model)))


def openvino_replaced(monkeypatch, change):
    """Replaces the function of OpenVINO by TensorFlow's with its outputs changed."""

    def changed(part, precision):
        return lambda images: change(part.float32(images), images)

    monkeypatch.setattr(FrozenPart, "openvino", changed)


def test_features_by_openvino_are_what_the_model_computes(data, model):
    features = extract_features(part_of(model), data.train, exact=True)
    assert features.filler.choice.engine == OPENVINO
    assert "-openvino-float32" in features.store.path.name
    assert "in float32, by OpenVINO (" in features.note
    cut = keras.Model(model.input, feature_cut(model))
    live = np.concatenate([cut(images) for images, _ in data.train.dataset(shuffle=False)])
    np.testing.assert_allclose(features.load(), live, rtol=1e-4, atol=1e-5)


def test_the_choice_is_stored_and_holds_for_further_images(data, model, monkeypatch):
    extract_features(part_of(model), data.train, exact=True)
    monkeypatch.setattr(engines, "MIN_WORK", np.inf)
    monkeypatch.setattr(engines, "_measured", None)  # it would be called
    assert extract_features(part_of(model), data.train, exact=True).num_forward_passes == 0
    further = extract_features(part_of(model), data.test, exact=True)
    assert further.filler.choice.engine == OPENVINO
    assert further.num_forward_passes == data.test.num_images


def test_few_images_are_not_worth_the_preparation(data, model, monkeypatch):
    monkeypatch.setattr(engines, "MIN_WORK", np.inf)
    monkeypatch.setattr(FrozenPart, "openvino", None)  # it would be called
    features = extract_features(part_of(model), data.train, exact=True)
    assert features.filler.choice == engines.EngineChoice(TENSORFLOW, "")
    assert features.note == f"in float32: {features.store.path}"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows, images: rows * 1.001, "OpenVINO differs by 1.0e-03"),
        (lambda rows, images: rows * np.nan, "OpenVINO differs by nan"),
        (
            lambda rows, images: rows + 1e-6 * tf.cast(len(images), tf.float32),
            "features by OpenVINO depend on the batch",
        ),
    ],
)
def test_an_engine_that_disagrees_is_not_used(data, model, monkeypatch, change, reason):
    openvino_replaced(monkeypatch, change)
    features = extract_features(part_of(model), data.train, exact=True)
    assert features.filler.choice == engines.EngineChoice(TENSORFLOW, reason)
    assert f"by TensorFlow ({reason})" in features.note
    cut = keras.Model(model.input, feature_cut(model))
    live = np.concatenate([cut(images) for images, _ in data.train.dataset(shuffle=False)])
    np.testing.assert_allclose(features.load(), live, rtol=1e-4, atol=1e-5)


def test_a_slower_engine_is_not_used(data, model, monkeypatch):
    monkeypatch.setattr(engines, "MIN_SPEEDUP", np.inf)
    features = extract_features(part_of(model), data.train, exact=True)
    assert features.filler.choice.engine == TENSORFLOW
    assert "OpenVINO is " in features.note
    assert "times as fast as TensorFlow" in features.note


def test_without_openvino_features_come_from_tensorflow(data, model, monkeypatch):
    extract_features(part_of(model), data.train, exact=True)  # by OpenVINO
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    features = extract_features(part_of(model), data.train, exact=True)
    assert features.filler.choice == engines.EngineChoice()
    assert features.num_forward_passes == data.train.num_images


def test_a_gpu_is_used_by_tensorflow(data, model, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    features = extract_features(part_of(model), data.train, exact=True)
    assert features.filler.choice == engines.EngineChoice()


def test_tables_of_words_stay_with_tensorflow(monkeypatch):
    texts = tf.constant([["good"], ["bad"]])
    words = keras.layers.TextVectorization(output_mode="multi_hot", max_tokens=4)
    words.adapt(texts)
    inputs = keras.Input((1,), dtype="string")
    part = FrozenPart(keras.Model(inputs, words(inputs)))
    assert part.openvino("float32") is None


def test_a_network_that_openvino_cannot_compute_stays_with_tensorflow(data, model, monkeypatch):
    inputs = keras.Input((1,), dtype="string")
    hashed = keras.layers.Hashing(num_bins=4)(inputs)
    part = FrozenPart(keras.Model(inputs, keras.layers.Rescaling(1.0)(hashed)))
    with pytest.raises(UnsupportedError, match="StringToHashBucket"):
        part.openvino("float32")

    def unsupported(part, precision):
        raise UnsupportedError

    monkeypatch.setattr(FrozenPart, "openvino", unsupported)
    features = extract_features(part_of(model), data.train, exact=True)
    assert features.filler.choice.engine == TENSORFLOW
    assert "OpenVINO cannot compute this network" in features.note


def test_bfloat16_falls_back_to_the_precision_of_the_processor(data, model):
    part = part_of(model)
    images = next(iter(data.train.dataset(shuffle=False)))[0]
    exact, fast = part.float32(images).numpy(), part.openvino("bfloat16")(images).numpy()
    difference = frozen.relative_difference(fast, exact)
    assert difference < (frozen.MAX_BFLOAT16_DIFFERENCE * 2 if frozen.has_bfloat16() else 1e-4)
