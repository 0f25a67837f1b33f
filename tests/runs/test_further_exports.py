"""Exports of runs that need images: from the run, from another folder, and during the run."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import tlkit
from tests.conftest import write_photos
from tlkit.errors import ArgumentError, DataError, ExportError
from tlkit.export import exporting
from tlkit.export.export_images import calibration_images
from tlkit.export.formats import EXPORT_FORMATS
from tlkit.export.saved_model import Serving
from tlkit.runs.config import RunConfig
from tlkit.runs.console_summary import summarize_run
from tlkit.runs.export_images import find_export_images
from tlkit.runs.further_exports import export_further
from tlkit.runs.inference import export_run
from tlkit.runs.page_summary import command_of
from tlkit.runs.settings_file import read_settings

FULL = "litert_full_int8"
FILE = EXPORT_FORMATS[FULL].path
GIVEN = {"backbone": "tiny_resnet", "weights": None, "mode": "head"}

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that was started in another folder, with relative paths."""
    folder = tmp_path_factory.mktemp("further")
    photos = write_photos(folder / "photos", {"green": 40, "red": 40})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tlkit.train_run("photos", out="run", formats=f"{FULL},litert", **GIVEN)
    return photos, tlkit.load_run(folder / "run")


@pytest.mark.slow
def test_a_run_holds_the_formats_that_it_was_asked_for(made):
    _, run = made
    assert (run.path / FILE).is_file()
    assert (run.path / "model.tflite").is_file()
    litert, full = run.metrics["exports"]
    assert [litert["name"], full["name"]] == ["litert", FULL]
    assert (litert["file"], full["file"]) == ("model.tflite", FILE)
    assert litert["comparison"] is None
    assert full["comparison"]["num_images"] == run.metrics["test"]["num_images"]
    assert full["comparison"]["accuracies"][0] == run.metrics["test"]["accuracy"]
    assert f"{run.run_record.data.num_images['train']} images" in full["report"]
    assert f"run/{FILE}" in full["report"]
    assert full["report"] in (run.path / "log.txt").read_text()
    assert "model_full_int8.tflite" in (run.path / "report.html").read_text()
    assert f"also exported: model.tflite, {FILE} (accuracy " in summarize_run(run)
    assert f"--format litert,{FULL}" in command_of(run.run_record, run.path)
    assert read_settings(run.path / "run.toml")["formats"] == ["litert", FULL]


@pytest.mark.slow
def test_the_images_of_a_run_are_recognised_by_their_content(made, tmp_path):
    photos, run = made
    images = find_export_images(run)
    numbers = run.run_record.data.num_images
    assert images.calibrate.num_images == numbers["train"]
    assert images.test.num_images == numbers["test"]
    assert not {*images.calibrate.digests} & {*images.test.digests}
    moved = tmp_path / "any" / "layout"
    moved.mkdir(parents=True)
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
        shutil.copy(path, moved / f"{number}.jpg")
    (moved / "notes.txt").write_text("no image")
    given = find_export_images(run, tmp_path)
    assert {*given.calibrate.digests} == {*images.calibrate.digests}
    assert {*given.test.digests} == {*images.test.digests}
    by_digest = dict(zip(images.test.digests, images.test.labels, strict=True))
    assert dict(zip(given.test.digests, given.test.labels, strict=True)) == by_digest
    other = write_photos(tmp_path / "other", {"blue": 3}, seed=9)
    assert find_export_images(run, other).calibrate.num_images == 3


@pytest.mark.slow
def test_export_calibrates_on_the_run_or_on_a_folder(made, tmp_path):
    _, run = made
    report = export_run(run.path, tmp_path / "own", FULL)
    (own,) = report.formats
    assert own.num_calibrated == run.run_record.data.num_images["train"]
    assert own.comparison.num_images == run.metrics["test"]["num_images"]
    assert "model in memory (first) and export (second): " in str(own)
    assert [*own.comparison.accuracies] == run.metrics["exports"][1]["comparison"]["accuracies"]
    other = write_photos(tmp_path / "other", {"blue": 3}, seed=9)
    lost = shutil.copytree(run.path, tmp_path / "lost")
    record = json.loads((lost / "run.json").read_text())
    record["arguments"]["photos"] = str(tmp_path / "gone")
    (lost / "run.json").write_text(json.dumps(record))
    (given,) = export_run(lost, tmp_path / "given", FULL, calibrate=other).formats
    assert (given.num_calibrated, given.comparison) == (3, None)
    match = r"`calibrate` must be given for a run whose .*gone' without them\. .*--calibrate FOLDER"
    with pytest.raises(DataError, match=match):
        export_run(lost, tmp_path / "none", FULL)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_invalid_folders_are_named(made, tmp_path):
    photos, run = made
    match = r"`calibrate` must be left out unless a format is calibrated\. Received: images for 'on"
    with pytest.raises(ArgumentError, match=match):
        export_run(run.path, tmp_path / "to", "onnx", calibrate=photos)
    with pytest.raises(DataError, match=r"`calibrate` must be a folder of images.*does not exist"):
        export_run(run.path, tmp_path / "to", FULL, calibrate=tmp_path / "gone")
    with pytest.raises(DataError, match="is a file"):
        export_run(run.path, tmp_path / "to", FULL, calibrate=run.path / "run.json")
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    for path in find_export_images(run).test.paths:
        shutil.copy(path, held_out)
    with pytest.raises(DataError, match="that the run did not use for validation or test"):
        export_run(run.path, tmp_path / "to", FULL, calibrate=held_out)
    assert not (tmp_path / "to").exists()


@pytest.mark.slow
def test_a_run_is_complete_without_a_format_that_cannot_be_written(made, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ExportError("LiteRT cannot compute this model: it has no operation Erfinv.")

    photos, run = made
    data = tlkit.load_folder(photos, image_size=run.image_size)
    measured, lines = SimpleNamespace(served=run.load_model(), data=data), []
    context = SimpleNamespace(out=tmp_path, log=lines.append)
    config = dataclasses.replace(run.run_record.config, formats=("litert",))
    monkeypatch.setattr(exporting, "write_litert", fail)
    (failed,) = export_further(measured, config, context)
    assert lines == [str(failed)]
    assert lines[0].startswith("litert was not written: LiteRT cannot compute this model")
    assert failed.as_dict()["file"] is None
    assert not (tmp_path / "model.tflite").exists()
    metrics = {**run.metrics, "exports": [failed.as_dict()]}
    assert lines[0] in summarize_run(dataclasses.replace(run, metrics=metrics))


def test_the_formats_of_a_config_are_checked_and_completed():
    config = RunConfig(photos="photos", backbone="resnet20", formats=f" {FULL}, keras,litert")
    assert config.formats == ("litert", FULL)
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    for given in ("keras", ["saved_model", "keras"], None):
        plain = RunConfig(photos="photos", backbone="resnet20", formats=given)
        assert plain == RunConfig(photos="photos", backbone="resnet20")
        assert "formats" not in plain.to_json()
    for given in ("litert_full_int", ["litert", 3]):
        with pytest.raises(ArgumentError, match="`formats` must be one of 'saved_model', "):
            RunConfig(photos="photos", backbone="resnet20", formats=given)


@pytest.mark.slow
def test_python_takes_splits_files_and_pixels_to_calibrate(tmp_path):
    photos = write_photos(tmp_path / "photos", {"green": 90, "red": 90})
    data = tlkit.load_folder(photos, image_size=32)
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, image_size=32)
    serving = Serving(data.class_names, "softmax", (32, 32), 0.5, 10**6)
    files = sorted(photos.rglob("*.jpg"))
    pixels = np.full((200, 9, 9, 3), np.arange(200, dtype=np.uint8)[:, None, None, None])
    found = [calibration_images(one, model, serving) for one in (data.train, files, pixels)]
    assert [one.shape for one in found] == [(128, 32, 32, 3)] * 3
    assert {one.dtype for one in found} == {np.dtype("uint8")}
    of_first_class = (found[1].mean(axis=(1, 2)).argmax(axis=1) == 0).sum()
    assert of_first_class == 64  # files are in the order of their classes
    values = found[2].max(axis=(1, 2, 3)).tolist()
    assert (values[0], values[-1], len({*values})) == (0, 199, 128)
    for arguments, match in [
        ({}, "`calibrate` must be images for 'litert_full_int8'.*data.train"),
        ({"calibrate": []}, "`calibrate` must contain at least one image"),
        ({"calibrate": data.at_size(8).train}, "`calibrate` must have the image size of the model"),
        ({"calibrate": pixels, "test": files}, "`test` must be an ImageSplit"),
    ]:
        with pytest.raises(ArgumentError, match=match):
            tlkit.export_model(
                model, tmp_path / "no", data.class_names, formats=[FULL], **arguments
            )
    assert not (tmp_path / "no").exists()
