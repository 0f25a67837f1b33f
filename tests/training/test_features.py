"""Stored features: each image goes through the frozen part once, and a changed part has its own."""

import dataclasses
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.conftest import bfloat16_differs_by, write_photos
from tlkit.data.augmentation import Augmentation
from tlkit.models.heads import feature_cut
from tlkit.training import features, frozen
from tlkit.training.engines import EngineChoice
from tlkit.training.features import extract_features
from tlkit.training.store import FeatureStore, stored_files
from tlkit.training.views import ViewPolicy


def classifier(**arguments):
    return tlkit.build_classifier("tiny_resnet", ["green", "red"], weights=None, **arguments)


def prefix_of(model):
    return frozen.FrozenPart(keras.Model(model.input, feature_cut(model)))


@pytest.fixture
def data(photos):
    return tlkit.load_folder(photos, image_size=32)


def test_features_are_what_the_model_computes(data):
    whole = classifier()
    features = extract_features(prefix_of(whole), data.train, exact=True)
    model = keras.Model(whole.input, feature_cut(whole))
    live = np.concatenate([model(images) for images, _ in data.train.dataset(shuffle=False)])
    np.testing.assert_allclose(features.load(), live, rtol=1e-4, atol=1e-5)
    assert features.num_forward_passes == data.train.num_images
    np.testing.assert_array_equal(features.labels, data.train.labels)


def test_a_second_extraction_makes_no_forward_pass(data, monkeypatch):
    model = classifier()
    first = extract_features(prefix_of(model), data.train, exact=False)

    def forbidden(*arguments):
        raise AssertionError("a forward pass")

    monkeypatch.setattr(frozen.FrozenPart, "_frozen", property(forbidden))
    again = extract_features(prefix_of(model), data.train, exact=False)
    assert again.num_forward_passes == 0
    np.testing.assert_array_equal(again.load(), first.load())


def test_features_of_images_resized_in_another_way_are_stored_apart(data):
    part, split = prefix_of(classifier()), data.train
    assert next(ViewPolicy().keys(split))[0] == f"{split.digests[0]}-32x32"
    extract_features(part, split, exact=True)
    padded = dataclasses.replace(split, resize="pad")
    assert extract_features(part, padded, exact=True).num_forward_passes == split.num_images
    assert extract_features(part, split, exact=True).num_forward_passes == 0


def test_stored_features_are_shown_without_a_count(data, monkeypatch):
    shown = []
    plain = features.bar

    def noted(description, total, unit=""):
        shown.append((description, total))
        return plain(description, total, unit)

    monkeypatch.setattr(features, "bar", noted)
    model = classifier()
    for _ in range(2):
        extract_features(prefix_of(model), data.train, exact=True)
    assert shown[0] == (f"features of {data.train.name} images", data.train.num_images)
    assert shown[-1] == (f"features of {data.train.name} images (already stored)", None)


def test_new_images_cost_one_forward_pass_each(data, photos):
    model = classifier()
    extract_features(prefix_of(model), data.train, exact=False)
    write_photos(photos, {"green": 40, "red": 30})
    more = tlkit.load_folder(photos, image_size=32)
    added = more.train.num_images - data.train.num_images
    assert added > 0
    features = extract_features(prefix_of(model), more.train, exact=False)
    assert features.num_forward_passes == added


@pytest.mark.parametrize("change", ["weight", "size", "preprocessing"])
def test_a_changed_prefix_never_hits_old_rows(photos, change):
    model = classifier()
    data = tlkit.load_folder(photos, image_size=32)
    extract_features(prefix_of(model), data.train, exact=False)
    if change == "weight":
        model.get_layer("stage2_1_conv").kernel.assign_add(
            tf.fill(model.get_layer("stage2_1_conv").kernel.shape, 1e-7)
        )
    elif change == "size":
        data = tlkit.load_folder(photos, image_size=40)
        model = classifier(image_size=40)
    else:
        scaled = [layer for layer in model.layers if isinstance(layer, keras.layers.Rescaling)]
        scaled[0].offset = -0.9
    features = extract_features(prefix_of(model), data.train, exact=False)
    assert features.num_forward_passes == data.train.num_images


def test_the_head_does_not_belong_to_the_prefix(data):
    model = classifier()
    extract_features(prefix_of(model), data.train, exact=False)
    model.get_layer("logits").kernel.assign_add(tf.ones_like(model.get_layer("logits").kernel))
    assert extract_features(prefix_of(model), data.train, exact=False).num_forward_passes == 0


def test_views_are_stored_one_by_one_and_differ(data):
    prefix = prefix_of(classifier())
    features = extract_features(
        prefix, data.train, exact=True, views=ViewPolicy(Augmentation("default"), 2)
    )
    n = data.train.num_images
    assert features.num_forward_passes == 2 * n
    rows = features.load()
    assert not np.allclose(rows[:n], rows[n:])
    np.testing.assert_array_equal(features.labels, np.tile(data.train.labels, 2))
    more = extract_features(
        prefix, data.train, exact=True, views=ViewPolicy(Augmentation("default"), 3)
    )
    assert more.num_forward_passes == n


def test_a_dataset_is_identified_by_its_pixels(data):
    prefix = prefix_of(classifier())
    first = extract_features(prefix, data.train.dataset(shuffle=True), exact=True)
    again = extract_features(prefix, data.train.dataset(shuffle=True), exact=True)
    assert first.num_forward_passes == data.train.num_images
    assert again.num_forward_passes == 0
    by_key = dict(zip(first.keys, first.labels, strict=True))
    assert [by_key[key] for key in again.keys] == again.labels.tolist()


def test_an_empty_dataset_is_refused():
    empty = tf.data.Dataset.from_tensor_slices((np.zeros((0, 32, 32, 3)), np.zeros(0))).batch(4)
    with pytest.raises(tlkit.DataError, match="without a batch"):
        extract_features(prefix_of(classifier()), empty, exact=True)


def test_bfloat16_is_used_where_it_agrees_and_only_there(data, monkeypatch):
    bfloat16_differs_by(monkeypatch, 0.9 * frozen.MAX_BFLOAT16_DIFFERENCE)
    agreeing = extract_features(prefix_of(classifier()), data.train, exact=False)
    assert agreeing.precision == "bfloat16"
    exact = extract_features(prefix_of(classifier()), data.train, exact=True)
    assert exact.precision == "float32"
    difference = frozen.relative_difference(agreeing.load(), exact.load())
    assert difference == pytest.approx(0.9 * frozen.MAX_BFLOAT16_DIFFERENCE, rel=1e-3)
    bfloat16_differs_by(monkeypatch, 1.1 * frozen.MAX_BFLOAT16_DIFFERENCE)
    other = classifier(seed=1)
    assert extract_features(prefix_of(other), data.train, exact=False).precision == "float32"


def test_the_precision_is_not_derived_from_the_file_name(tmp_path):
    part = prefix_of(classifier())
    with FeatureStore("demo-bfloat16", part.output_shape, folder=tmp_path) as store:
        filler = features._Filler(part, store, "float32", EngineChoice())
        found = features.Features(store, (), np.zeros(0), None, *[np.zeros(0)] * 2, filler, list)
        assert found.precision == "float32"


def test_without_bfloat16_support_features_are_float32(data, monkeypatch):
    monkeypatch.setattr(features, "MIN_BFLOAT16_WORK", 0)
    monkeypatch.setattr(frozen, "has_bfloat16", lambda: False)
    part = prefix_of(classifier())
    assert part.bfloat16 is None
    assert extract_features(part, data.train, exact=False).precision == "float32"


BFLOAT16_SETTINGS = {
    "TF_ENABLE_ONEDNN_OPTS=0": False,
    "ONEDNN_MAX_CPU_ISA=AVX512_CORE": False,
    "ONEDNN_MAX_CPU_ISA=AVX2": False,
    "DNNL_MAX_CPU_ISA=avx2": False,
    "ONEDNN_MAX_CPU_ISA=ALL": True,
}


@pytest.mark.slow
@pytest.mark.parametrize("setting", BFLOAT16_SETTINGS)
def test_bfloat16_is_used_only_if_onednn_may_use_it(setting):
    """oneDNN reads its settings when a process starts, so each setting has its own process."""
    name, value = setting.split("=")
    others = {key: v for key, v in os.environ.items() if "ONEDNN" not in key and "DNNL" not in key}
    asked = "from tlkit.training import frozen; print(frozen.has_bfloat16())"
    answers = [
        subprocess.run(
            [sys.executable, "-c", asked], env=environment, capture_output=True, check=True
        ).stdout.decode()
        for environment in ({**others, name: value}, others)[: 1 + BFLOAT16_SETTINGS[setting]]
    ]
    assert answers[0] == (answers[1] if BFLOAT16_SETTINGS[setting] else "False\n")


@pytest.mark.skipif(not frozen.has_bfloat16(), reason="no bfloat16 in this process")
def test_bfloat16_leaks_into_no_other_function():
    model = classifier()
    images = tf.random.stateless_uniform((4, 32, 32, 3), [0, 0], 0, 255)
    live = tf.function(lambda x: model(x, training=False))
    before = live(images).numpy()
    frozen.FrozenPart(model).bfloat16(images)
    fresh = tf.function(lambda x: model(x, training=False))
    np.testing.assert_array_equal(live(images).numpy(), before)
    np.testing.assert_array_equal(fresh(images).numpy(), before)


def test_views_and_copies_of_an_image_share_its_number(data):
    copies = data.train.subset(np.array([0, 1, 0]))
    views = ViewPolicy(Augmentation("light"), 2)
    features = extract_features(prefix_of(classifier()), copies, exact=True, views=views)
    a, b, c = features.images[:3]
    assert a == c != b
    np.testing.assert_array_equal(features.images[:3], features.images[3:])


def test_a_damaged_row_is_computed_again(data):
    tlkit.train_head(classifier(), data)
    (store,) = stored_files()
    content = bytearray(store[0].read_bytes())
    content[5] ^= 1
    store[0].write_bytes(content)
    report = tlkit.train_head(classifier(), data)
    assert report.stages[-1].num_forward_passes == 1


def test_little_work_is_done_in_float32(data):
    part = prefix_of(tlkit.build_classifier("resnet20", ["green", "red"]))
    assert part.multiply_adds * data.train.num_images < features.MIN_BFLOAT16_WORK
    assert extract_features(part, data.train, exact=False).precision == "float32"


def test_images_of_another_size_are_refused_and_nothing_is_stored(data, cache):
    with pytest.raises(tlkit.ArgumentError, match=r"`data\.train` must have the image size of the"):
        tlkit.train_head(classifier(), data.at_size(48))
    assert not list(cache.rglob("*.rows"))


def test_a_network_for_any_image_size_has_rows_for_each_size(data):
    inputs = keras.Input((None, None, 3))
    outputs = keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    part = frozen.FrozenPart(keras.Model(inputs, outputs))
    small, large = data.train, data.at_size(48).train
    extract_features(part, small, exact=True)
    found = extract_features(part, large, exact=True)
    assert found.num_forward_passes == large.num_images
    live = np.concatenate([part.float32(images) for images, _ in large.dataset(shuffle=False)])
    np.testing.assert_allclose(found.load(), live, rtol=1e-5)
