"""Runs on grey images: training, inference, warm starts, added classes, and exports."""

import json

import numpy as np
import pytest
from PIL import Image

import tlkit
from tests.conftest import write_photos
from tlkit.errors import ArgumentError
from tlkit.evaluation.explanation import explain
from tlkit.evaluation.prediction_stream import predict_exported
from tlkit.runs.config import RunConfig
from tlkit.runs.inference import evaluate_run, export_run
from tlkit.runs.page_summary import command_of

GIVEN = {"backbone": "tiny_resnet", "weights": None, "image_size": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("grey")
    write_photos(root / "photos", {"green": 20, "red": 20})
    write_photos(root / "more", {"green": 12, "red": 12}, seed=1)
    return root


@pytest.fixture(scope="module")
def run(folders):
    return tlkit.train_run(
        folders / "photos", out=folders / "run", channels=1, mode="head", **GIVEN
    )


def test_the_model_and_the_record_are_of_grey_images(run):
    assert run.channels == 1
    assert run.load_model().input_shape == (None, 32, 32, 1)
    record = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    assert record["channels"] == record["arguments"]["channels"] == 1
    assert " --channels 1" in command_of(run.run_record, run.path)
    assert "(batch, 32, 32, 1)" in (run.path / "model_card.md").read_text(encoding="utf-8")


def test_whatever_uses_the_run_makes_images_grey(run, folders):
    files = sorted(map(str, (folders / "more").glob("*/*.jpg")))
    by_run = tlkit.predict(run.load_model(), files, run.class_names)
    by_export = predict_exported(run.path / "saved_model", files)
    for one, other in zip(by_run, by_export, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-5)
    report = evaluate_run(run.path, folders / "more")
    found = np.mean([one.label == one.path.split("/")[-2] for one in by_run])
    assert report.accuracy == pytest.approx(found)
    shown = explain(run.load_model(), files[0], run.class_names)
    assert shown.image.shape == shown.overlay().shape == (32, 32, 3)


def test_a_further_run_takes_the_channels_of_the_first(run, folders, tmp_path):
    given = {"out": tmp_path / "second", "from_run": run.path, "mode": "head"}
    second = tlkit.train_run(folders / "more", **given)
    assert second.channels == 1
    with pytest.raises(ArgumentError, match="`channels` must be left out when training starts"):
        tlkit.train_run(folders / "more", channels=1, **given)


def test_classes_are_added_to_a_run_of_grey_images(run, tmp_path):
    write_photos(tmp_path / "new", {"blue": 12, "dark": 12}, seed=2)
    grown = tlkit.add_classes_run(run.path, tmp_path / "new", out=tmp_path / "grown")
    assert grown.channels == 1
    assert grown.load_model().input_shape == (None, 32, 32, 1)


def test_every_candidate_is_built_for_grey_images(folders, tmp_path):
    chosen = tlkit.train_run(
        folders / "photos",
        out=tmp_path / "run",
        channels=1,
        mode="head",
        image_size=32,
        backbone="auto",
        backbones=["resnet20", "tiny_resnet=none"],
    )
    assert chosen.load_model().input_shape == (None, 32, 32, 1)


def test_formats_without_image_files_take_grey_pixels(run, tmp_path):
    report = export_run(run.path, tmp_path / "keras", file_format="keras")
    assert report.formats[0].difference <= 1e-5


def test_three_channels_are_the_same_run_as_none_given(folders):
    without = RunConfig(photos=str(folders / "photos"), **GIVEN)
    assert RunConfig(photos=str(folders / "photos"), channels=3, **GIVEN) == without
    assert "channels" not in without.to_json()


@pytest.mark.parametrize("channels", [0, 2, 4, "grey", 1.0])
def test_other_channels_are_refused_before_anything(folders, channels):
    with pytest.raises(ArgumentError, match="`channels` must be 3, or 1"):
        tlkit.train_run(folders / "photos", out=folders / "no", channels=channels, **GIVEN)
    assert not (folders / "no").exists()


def four_channel_model():
    return tlkit.build_classifier("tiny_resnet", ["a", "b"], weights=None, channels=4)


def test_a_model_of_four_channels_takes_arrays(folders):
    model, names = four_channel_model(), ["a", "b"]
    images = np.random.default_rng(0).integers(0, 255, (3, 40, 40, 4), "uint8")
    assert len(tlkit.predict(model, images, names)) == 3
    assert explain(model, images[0], names).image.shape == (32, 32, 3)
    with pytest.raises(ArgumentError, match=r"pixels of the shape .*width, 4\)"):
        tlkit.predict(model, images[..., :3], names)
    with pytest.raises(ArgumentError, match="`images` must be arrays for a model of images with 4"):
        tlkit.predict(model, str(folders / "photos/red/000.jpg"), names)


def test_a_model_of_four_channels_is_exported_without_image_files(tmp_path):
    model, names = four_channel_model(), ["a", "b"]
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 4), "uint8")
    with pytest.raises(ArgumentError, match="`formats` must not have 'saved_model'"):
        tlkit.export_model(model, tmp_path / "saved", names, samples=images)
    given = {"formats": ("keras",), "samples": images}
    report = tlkit.export_model(model, tmp_path / "out", names, **given)
    assert report.num_samples == 3
    with pytest.raises(ArgumentError, match="`samples` must be arrays"):
        tlkit.export_model(model, tmp_path / "no", names, formats=("keras",))


def test_a_grey_file_is_predicted_as_its_pixels(tmp_path):
    model = tlkit.build_classifier("tiny_resnet", ["a", "b"], weights=None, channels=1)
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32), "uint8")
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    (by_file,) = tlkit.predict(model, str(tmp_path / "grey.png"), ["a", "b"])
    (by_array,) = tlkit.predict(model, pixels[..., np.newaxis], ["a", "b"])
    assert by_file.probabilities == by_array.probabilities
