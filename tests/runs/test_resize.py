"""A run resizes images in one way: in training, and wherever it is used afterwards."""

import html
import json

import numpy as np
import pytest
from PIL import Image

import tlkit
from tests.conftest import write_photos
from tlkit.data.settings import RESIZES
from tlkit.errors import ArgumentError
from tlkit.evaluation.prediction_stream import predict_exported
from tlkit.runs.config import RunConfig
from tlkit.runs.inference import evaluate_run, export_run
from tlkit.runs.predicting import predict_with

GIVEN = {"backbone": "tiny_resnet", "weights": None, "mode": "head"}


def write_wide(folder, counts, seed=0):
    """Images of 40 × 100 pixels whose class is faintly seen, at the edges only."""
    for path in write_photos(folder, counts, seed=seed).glob("*/*.jpg"):
        edge = np.asarray(Image.open(path))[:, :20] // 12 + 85
        wide = np.concatenate([edge, np.full((40, 60, 3), 90, np.uint8), edge], axis=1)
        Image.fromarray(wide).save(path, quality=95)
    return folder


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("padded")
    photos = write_wide(folder / "photos", {"green": 40, "red": 40})
    return photos, tlkit.train_run(photos, out=folder / "run", resize="pad", **GIVEN)


def probabilities(predictions):
    return [list(one.probabilities.values()) for one in predictions]


def test_whatever_uses_a_run_resizes_as_in_training(padded, tmp_path):
    photos, run = padded
    files = sorted(photos.rglob("*.jpg"))[38:42]
    expected = probabilities(
        tlkit.predict(run.load_model(), files, run.class_names, resize=run.resize)
    )
    plain = probabilities(tlkit.predict(run.load_model(), files, run.class_names))
    assert np.abs(np.subtract(expected, plain)).max() > 1e-3
    export_run(run.path, tmp_path / "again", "saved_model")
    for predictions in (
        predict_with(run.path, files),
        predict_with(run.path, files, safe=True),
        predict_exported(tmp_path / "again", files),
    ):
        np.testing.assert_allclose(probabilities(predictions), expected, atol=1e-5)
    other = write_wide(tmp_path / "other", {"green": 5, "red": 5}, seed=7)
    report = evaluate_run(run.path, other)
    files = sorted(other.rglob("*.jpg"))
    predictions = tlkit.predict(run.load_model(), files, run.class_names, resize="pad")
    pairs = zip(predictions, files, strict=True)
    losses = [-np.log(one.probabilities[path.parent.name]) for one, path in pairs]
    assert report.loss == pytest.approx(np.mean(losses), abs=1e-5)


def test_the_files_of_a_run_say_how_images_are_resized(padded):
    _, run = padded
    assert run.resize == run.record["resize"] == run.record["arguments"]["resize"] == "pad"
    serving = json.loads((run.path / "saved_model" / "assets" / "serving.json").read_text())
    assert serving["resize"] == "pad"
    card = (run.path / "model_card.md").read_text("utf-8")
    assert f"Its images must be {RESIZES['pad']}" in card
    assert f"Images are {RESIZES['pad']}; small" in card
    page = html.unescape((run.path / "report.html").read_text("utf-8"))
    assert "--resize pad" in page
    assert RESIZES["pad"] in page


def test_a_default_run_does_not_mention_it(tmp_path, photos):
    run = tlkit.train_run(photos, out=tmp_path / "run", **GIVEN)
    assert "resize" not in run.record
    assert "resize" not in run.record["arguments"]
    assert run.resize == "stretch"
    assert "--resize" not in (run.path / "report.html").read_text("utf-8")
    again = tlkit.train_run(photos, out=tmp_path / "run", resize="stretch", **GIVEN)
    assert again.record == run.record
    with pytest.raises(tlkit.RunError, match="a run with resize=None instead of 'crop'"):
        tlkit.train_run(photos, out=tmp_path / "run", resize="crop", **GIVEN)


def test_a_warm_started_run_takes_over_the_resizing(padded, tmp_path):
    _, run = padded
    new = write_wide(tmp_path / "new", {"green": 20, "red": 20}, seed=3)
    later = tlkit.train_run(new, out=tmp_path / "later", from_run=run.path, mode="head")
    assert later.resize == later.record["resize"] == "pad"
    assert "resize" not in later.record["arguments"]
    assert "--resize" not in (later.path / "report.html").read_text("utf-8")
    file = next(new.rglob("*.jpg"))
    (expected,) = tlkit.predict(later.load_model(), file, later.class_names, resize="pad")
    (found,) = predict_with(later.path, [file])
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


def test_a_run_with_added_classes_takes_over_the_resizing(padded, tmp_path):
    _, run = padded
    new = write_wide(tmp_path / "new", {"blue": 12, "cyan": 12}, seed=3)
    grown = tlkit.add_classes_run(run.path, new, out=tmp_path / "grown")
    assert grown.resize == "pad"
    file = next(new.rglob("*.jpg"))
    (expected,) = tlkit.predict(grown.load_model(), file, grown.class_names, resize="pad")
    (found,) = predict_with(grown.path, [file])
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


@pytest.mark.parametrize("resize", RESIZES)
def test_resize_is_left_to_the_earlier_run(resize):
    message = "`resize` must be left out when training starts from an earlier run"
    with pytest.raises(ArgumentError, match=message):
        RunConfig(photos="photos", from_run="run", resize=resize)


def test_resize_is_checked_before_any_work():
    with pytest.raises(ArgumentError, match="`resize` must be one of 'stretch', 'crop', 'pad'"):
        tlkit.train_run("nowhere", resize="square")
