"""Test-time views: predictions as the mean over an image and its mirror image."""

import json

import keras
import numpy as np
import pytest

import tlkit
from tests.conftest import write_photos
from tlkit.errors import ArgumentError
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.runs.config import RunConfig
from tlkit.runs.inference import evaluate_run, export_run
from tlkit.runs.predicting import predict_with


@pytest.mark.parametrize("head", [{}, {"binary": True}, {"multi_label": True}])
def test_the_outputs_are_the_mean_over_both_views(head):
    model = tlkit.build_classifier("tiny_resnet", ["a", "b"], weights=None, **head)
    both = tlkit.average_flips(model)
    images = np.random.default_rng(0).uniform(0, 255, (5, 32, 32, 3)).astype("float32")
    mean = (model.predict(images) + model.predict(images[:, :, ::-1])) / 2
    np.testing.assert_allclose(both.predict(images), mean, atol=1e-5)
    assert head_kind(both) == head_kind(model)
    assert outputs_logits(both)
    assert both.count_params() == model.count_params()
    assert both.compiled


def test_probabilities_are_averaged_as_probabilities():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, "softmax")(x))
    both = tlkit.average_flips(model)
    images = np.random.default_rng(0).uniform(0, 255, (5, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(both.predict(images).sum(axis=1), 1.0, atol=1e-5)
    assert head_kind(both) == "softmax"
    assert not outputs_logits(both)


@pytest.mark.slow
def test_a_run_predicts_and_is_measured_with_both_views(tmp_path):
    photos = write_photos(tmp_path / "photos", {"green": 60, "red": 60})
    given = {"backbone": "resnet20", "mode": "head", "image_size": 32}
    run = tlkit.train_run(photos, out=tmp_path / "run", tta="flip", **given)
    plain, served = run.load_model(), run.load_served_model()
    image = photos / "green" / "000.jpg"
    (predicted,) = predict_with(run.path, [image])
    (expected,) = tlkit.predict(served, image, run.class_names)
    assert predicted.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    assert plain.count_params() == served.count_params()
    views = run.metrics["test_time_views"]
    assert views["name"] == "flip"
    assert views["comparison"]["num_images"] == run.metrics["validation"]["num_images"]
    assert len(views["milliseconds"]) == 2
    assert "test-time views" in (run.path / "report.html").read_text("utf-8")
    assert run.record["arguments"]["tta"] == "flip"
    assert run.load_model().layers[-1].name == "logits"
    other = write_photos(tmp_path / "other", {"green": 9, "red": 9}, seed=7)
    report = evaluate_run(run.path, other)
    assert report.num_images > 0
    exported = export_run(run.path, tmp_path / "exported", "keras")
    loaded = keras.saving.load_model(exported.formats[0].path)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(loaded.predict(pixels), served.predict(pixels), atol=1e-5)


def test_a_run_without_views_has_none_in_its_metrics(tmp_path):
    photos = write_photos(tmp_path / "photos", {"green": 30, "red": 30})
    run = tlkit.train_run(photos, out=tmp_path / "run", backbone="resnet20", mode="head")
    assert json.loads((run.path / "metrics.json").read_text())["test_time_views"] is None


def test_contradictions_are_refused():
    with pytest.raises(ArgumentError, match="`tta` must be"):
        RunConfig(photos="photos", tta="crop")
    with pytest.raises(ArgumentError, match="`tta` must be 'none' with `reject_unknown`"):
        RunConfig(photos="photos", tta="flip", reject_unknown=True)
    with pytest.raises(ArgumentError, match="`head` must be left out with mode='fine-tune'"):
        RunConfig(photos="photos", mode="fine-tune", head="linear")
    with pytest.raises(ArgumentError, match="`head` must be one of"):
        RunConfig(photos="photos", head="svm")
    assert RunConfig(photos="photos", head="linear").mode == "head"
