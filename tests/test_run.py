"""A run: what it leaves, what it continues, what it refuses before anything is written."""

import json
import shutil

import keras
import numpy as np
import pytest

import tlkit
from tests.conftest import write_photos
from tlkit.finished_run import evaluate_run, export_run, predict_with

ARGUMENTS = {"backbone": "resnet20", "weights": None, "batch_size": 16}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run for the tests that only look at it."""
    folder = tmp_path_factory.mktemp("finished")
    photos = write_photos(folder / "photos", {"grün": 30, "rot": 30})
    run = tlkit.train_run(photos, out=folder / "run", mode="head", **ARGUMENTS)
    return photos, run


def test_a_run_leaves_what_it_promises(finished):
    photos, run = finished
    names = {path.name for path in run.path.iterdir()}
    assert names == {
        "run.json",
        "metrics.json",
        "class_names.json",
        "model.keras",
        "saved_model",
        "history.csv",
        "report.html",
        "split.csv",
    }
    record = json.loads((run.path / "run.json").read_text())
    assert record["finished"]
    assert record["arguments"]["photos"] == str(photos)
    assert set(record["seconds"]) >= {"data", "training", "evaluation", "export"}
    for split in ("validation", "test"):
        assert set(run.metrics[split]) >= {"accuracy", "loss", "num_images"}
    assert run.metrics["validation"]["accuracy"] == 1.0
    assert run.class_names == ("grün", "rot")


def test_the_model_loads_with_plain_keras_and_is_what_was_measured(finished):
    photos, run = finished
    model = keras.saving.load_model(run.path / "model.keras")
    data = tlkit.load_folder(photos, image_size=32)
    assert tlkit.evaluate(model, data.test).accuracy == run.metrics["test"]["accuracy"]


def test_an_augmented_head_trains_on_several_views(tmp_path, photos):
    run = tlkit.train_run(photos, out=tmp_path / "run", mode="head", augment="light", **ARGUMENTS)
    images = run.record["data"]["num_images"]
    passes = run.metrics["stages"][0]["num_forward_passes"]
    assert passes == 4 * images["train"] + images["validation"]


def test_a_finished_run_is_left_as_it_is(finished):
    photos, run = finished
    before = (run.path / "run.json").stat().st_mtime_ns
    said = []
    again = tlkit.train_run(photos, out=run.path, mode="head", **ARGUMENTS, say=said.append)
    assert (run.path / "run.json").stat().st_mtime_ns == before
    assert again.metrics == run.metrics
    assert "finished already" in said[0]


def test_other_arguments_are_refused_and_named(finished):
    photos, run = finished
    with pytest.raises(tlkit.RunError, match="seed=0 instead of 1"):
        tlkit.train_run(photos, out=run.path, mode="head", **ARGUMENTS, seed=1)
    with pytest.raises(tlkit.RunError, match="--no-resume"):
        tlkit.train_run(photos, out=run.path, mode="head", **ARGUMENTS, resume=False)


def test_a_folder_that_is_no_run_is_refused_and_kept(tmp_path, photos):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(tlkit.RunError, match="holds no run"):
        tlkit.train_run(photos, out=out, **ARGUMENTS)
    assert (out / "thesis.txt").read_text() == "years of work"


def test_an_interrupted_run_continues_with_the_same_command(tmp_path, photos, monkeypatch):
    out = tmp_path / "run"

    def interrupt(*arguments, **others):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tlkit.training.tuner.fit_model", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tlkit.train_run(photos, out=out, epochs=1, **ARGUMENTS)
    assert not json.loads((out / "run.json").read_text())["finished"]
    assert [path.name for path in out.iterdir()] == ["run.json"]
    with pytest.raises(tlkit.RunError, match="unfinished"):
        tlkit.load_run(out)
    run = tlkit.train_run(photos, out=out, epochs=1, **ARGUMENTS)
    assert run.metrics["stages"][0]["num_forward_passes"] == 0
    assert run.record["finished"]


def test_an_interrupted_run_is_not_continued_with_other_pictures(tmp_path, photos, monkeypatch):
    out = tmp_path / "run"

    def interrupt(*arguments, **others):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tlkit.training.head.extract_features", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tlkit.train_run(photos, out=out, mode="head", **ARGUMENTS)
    write_photos(photos, {"green": 32, "red": 30})
    with pytest.raises(tlkit.RunError, match="have changed since"):
        tlkit.train_run(photos, out=out, mode="head", **ARGUMENTS)


def test_going_on_from_a_run_keeps_its_classes_and_its_model(finished, tmp_path):
    _, run = finished
    photos = write_photos(tmp_path / "more", {"rot": 20, "grün": 20}, seed=1)
    arguments = {"epochs": 1, "learning_rate": 1e-5}
    later = tlkit.train_run(photos, out=tmp_path / "later", from_run=run.path, **arguments)
    assert later.class_names == run.class_names
    assert [stage["name"] for stage in later.metrics["stages"]] == ["fine-tune"]
    assert later.metrics["validation"]["accuracy"] == 1.0
    others = write_photos(tmp_path / "others", {"rot": 5, "blau": 5})
    with pytest.raises(tlkit.DataError, match="blau"):
        tlkit.train_run(others, out=tmp_path / "no", from_run=run.path)
    with pytest.raises(tlkit.ArgumentError, match="`backbone` must be left out"):
        tlkit.train_run(photos, out=tmp_path / "no", from_run=run.path, backbone="resnet20")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet05"}, "resnet50"),
        ({"mode": "heads"}, "'head'"),
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"image_size": 0}, "image_size=0"),
        ({"batch_size": -3}, "batch_size=-3"),
        ({"weights": "no/such.h5"}, "no/such.h5"),
        ({"unfreeze": "stage9"}, "stage3"),
        ({"augment": "heavy"}, "strong"),
        ({"mode": "head", "unfreeze": "all"}, "mode='fine-tune'"),
        ({"class_weight": "even"}, "balanced"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, photos, arguments, message):
    with pytest.raises(tlkit.TlkitError, match=message):
        tlkit.train_run(photos, out=tmp_path / "run", **{**ARGUMENTS, **arguments})
    assert not (tmp_path / "run").exists()


def test_evaluating_leaves_out_what_the_run_has_seen(finished, tmp_path):
    photos, run = finished
    seen = run.record["data"]["num_images"]
    report = evaluate_run(run.path, photos)
    assert report.num_images == seen["test"]
    more = shutil.copytree(photos, tmp_path / "more")
    write_photos(more / "new", {"x": 1}, seed=9)
    shutil.move(more / "new" / "x" / "000.jpg", more / "rot" / "new.jpg")
    shutil.rmtree(more / "new")
    assert evaluate_run(run.path, more).num_images == seen["test"] + 1


def test_a_run_and_its_export_predict_the_same(finished, tmp_path):
    photos, run = finished
    files = sorted(photos.glob("*/*.jpg"))[::20]
    export_run(run.path, tmp_path / "copy", "saved_model")
    from_run = predict_with(run.path, files)
    from_copy = predict_with(tmp_path / "copy", files)
    assert [one.label for one in from_run] == [path.parent.name for path in files]
    np.testing.assert_allclose(
        [one.probability for one in from_run], [one.probability for one in from_copy], atol=1e-6
    )
