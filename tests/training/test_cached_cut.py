"""Stored activations: the same training as with the whole graph, and a reported fallback."""

import errno

import keras
import numpy as np
import pytest

import tlkit
from tests.conftest import bfloat16_differs_by, set_seeds
from tlkit.training import cached_cut
from tlkit.training.sources import source_of
from tlkit.training.store import FeatureStore
from tlkit.training.views import ViewPolicy


def classifier(data, **arguments):
    return tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, **arguments)


def tuned(data, **arguments):
    set_seeds(0)
    model = classifier(data, dropout=0.0)
    tlkit.train_head(model, data)
    report = tlkit.fine_tune(model, data, unfreeze="stage3", epochs=2, **arguments)
    return model, report.stages[-1]


@pytest.mark.slow
def test_stored_activations_train_as_the_whole_graph_does(photos, monkeypatch):
    """One step for each epoch, so that the order of the images does not matter."""
    monkeypatch.setattr("tlkit.training.frozen.has_bfloat16", lambda: False)
    data = tlkit.load_folder(photos, image_size=32, batch_size=64)
    model, stored = tuned(data, augment="none")
    other, whole = tuned(data, augment="none", views=0)
    assert any("stored activations, 1 view of" in note for note in stored.notes)
    assert any("the whole graph runs" in note for note in whole.notes)
    assert stored.num_forward_passes == data.train.num_images + data.validation.num_images
    for a, b in zip(stored.history, whole.history, strict=True):
        for name in ("loss", "cross_entropy", "val_cross_entropy"):
            assert a[name] == pytest.approx(b[name], rel=1e-3), name
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_the_whole_model_changes_only_above_the_cut(data):
    model, stage = tuned(data, augment="none")
    assert stage.weight_change["stage2"] == 0.0
    assert model.count_params() == classifier(data).count_params()
    images = next(iter(data.validation.dataset()))[0]
    assert model(images).shape == (len(images), 2)


def test_a_second_call_makes_no_forward_pass(data):
    tuned(data, augment="default", views=1)
    _, again = tuned(data, augment="default", views=1)
    assert again.num_forward_passes == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"views": 0}, "each epoch augments the images anew"),
        ({"views": 2}, "2 epochs are too few to store 2 views"),
        ({}, "each epoch augments the images anew"),
    ],
)
def test_the_reason_for_not_storing_is_reported(data, arguments, reason):
    _, stage = tuned(data, **arguments)
    assert any(reason in note for note in stage.notes)
    assert stage.num_forward_passes == 0


def test_without_a_frozen_group_and_for_plain_datasets_the_whole_graph_runs(data):
    model = classifier(data)
    report = tlkit.fine_tune(model, data, unfreeze="all", epochs=1, augment="none")
    assert any("no group is frozen" in note for note in report.stages[-1].notes)
    plain = tlkit.fine_tune(
        model, data.train.dataset(), unfreeze="stage3", epochs=1, augment="none"
    )
    assert any("may augment its images" in note for note in plain.stages[-1].notes)


def test_a_decision_has_one_type_and_carries_its_reason(data):
    model = classifier(data)
    given = {"views": ViewPolicy(), "epochs": 4, "cache": None}
    decision = cached_cut.cached_cut(model, source_of(model, data, None), "stage3", **given)
    assert decision.cut.views == 1
    assert decision.note.startswith("trained on stored activations, 1 view of each image")
    whole = cached_cut.cached_cut(model, source_of(model, data, None), "all", **given)
    assert whole == cached_cut.uncached("no group is frozen")
    assert whole.cut is None


def test_too_little_disk_space_is_reported(data, monkeypatch):
    monkeypatch.setattr(cached_cut, "_free_bytes", lambda cache: 1000)
    _, stage = tuned(data, augment="none")
    assert any("and the cache may use 0.0 GiB" in note for note in stage.notes)


def test_stored_activations_need_no_more_disk_space(data, monkeypatch, cache):
    tuned(data, augment="none")
    monkeypatch.setattr(cached_cut, "_free_bytes", lambda cache: 0)
    _, again = tuned(data, augment="none")
    assert any("stored activations" in note for note in again.notes)


def test_layers_that_augment_keep_the_whole_graph_running(data):
    images = keras.Input((32, 32, 3))
    x = keras.layers.RandomFlip(name="flip")(images)
    x = keras.layers.Conv2D(4, 3, strides=2, name="near")(x)
    x = keras.layers.Conv2D(4, 3, strides=2, name="far")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, keras.layers.Dense(2)(x))
    report = tlkit.fine_tune(model, data, unfreeze="head", epochs=2, augment="none")
    reason = "flip computes different activations in every epoch"
    assert any(reason in note for note in report.stages[-1].notes)


def test_a_full_disk_is_reported_and_leaves_no_partial_row(data, monkeypatch, cache):
    model = classifier(data)
    tlkit.train_head(model, data)
    append = FeatureStore.append

    def full(self, keys, rows):
        if len(self):
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, keys[:1], rows[:1])

    monkeypatch.setattr(FeatureStore, "append", full)
    report = tlkit.fine_tune(model, data, unfreeze="stage3", epochs=2, augment="none")
    assert any("the disk was full" in note for note in report.stages[-1].notes)
    assert report.accuracy_after is not None
    monkeypatch.setattr(FeatureStore, "append", append)
    again = tlkit.fine_tune(model, data, unfreeze="stage3", epochs=2, augment="none")
    passes = again.stages[-1].num_forward_passes
    assert passes == data.train.num_images + data.validation.num_images - 1


def test_other_errors_of_the_store_are_raised(data, monkeypatch):
    model = classifier(data)
    tlkit.train_head(model, data)

    def broken(self, keys, rows):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(FeatureStore, "append", broken)
    with pytest.raises(OSError, match="Input/output"):
        tlkit.fine_tune(model, data, unfreeze="stage3", epochs=2, augment="none")


def test_rows_stored_in_sixteen_bits_are_close(data, monkeypatch):
    from tlkit.training.features import extract_features
    from tlkit.training.frozen import FrozenPart, relative_difference

    bfloat16_differs_by(monkeypatch, 0.01)
    model = tlkit.build_classifier("resnet20", data.class_names)
    part = FrozenPart(keras.Model(model.input, model.get_layer("stage2_block3_out").output))
    exact = extract_features(part, data.train, exact=True)
    compact = extract_features(part, data.train, exact=False, compact=True)
    assert compact.precision == "bfloat16"
    assert compact.num_bytes == exact.num_bytes // 2
    difference = relative_difference(compact.load().astype(np.float32), exact.load())
    assert difference == pytest.approx(0.01, abs=0.004)  # bfloat16 itself rounds to 1 of 256
