"""Going on from a run: anchored to it, and what was forgotten is said."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import tlkit
from tests.conftest import write_photos
from tlkit.continual import going_on
from tlkit.continual.warm_start import measure_old_task
from tlkit.runs.directory import REJECTION_FILE
from tlkit.runs.train import train_run


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    photos = write_photos(folder / "photos", {"green": 30, "red": 30})
    run = train_run(photos, out=folder / "run", backbone="resnet8", weights=None, mode="head")
    return photos, run


@pytest.fixture
def turned(tmp_path):
    """New images of the same classes, upside down in colour."""
    folder = write_photos(tmp_path / "new", {"green": 30, "red": 30}, seed=9)
    for path in folder.glob("*/*.jpg"):
        pixels = 255 - np.asarray(Image.open(path))
        Image.fromarray(pixels).save(path, quality=90)
    return folder


def test_an_anchor_is_told_of_and_holds(old, turned, tmp_path):
    _, run = old
    moved, said = {}, []
    (run.path / REJECTION_FILE).touch()  # as if it had been asked to tell unknown images
    for name, anchor in (("free", None), ("held", 100.0)):
        later = train_run(
            turned,
            out=tmp_path / name,
            from_run=run.path,
            unfreeze="stage3",
            epochs=3,
            learning_rate=1e-2,
            anchor=anchor,
            importance=anchor and "mas",
            log=said.append,
        )
        assert any("--reject-unknown lets it say so too" in line for line in said)
        moved[name] = later.metrics["stages"][-1]["weight_change"]["stage3"]
        figures = later.metrics["old_task"]
        assert figures["scenario"] == "domain-incremental"
        assert figures["before"] == 1.0
        assert figures["num_images"] > 0
        assert figures["strength"] == anchor
        page = (later.path / "report.html").read_text(encoding="utf-8")
        assert "Gain and forgetting" in page
        assert ("held near" in page) == (anchor is not None)
        assert (later.path / "model_card.md").is_file()
    (run.path / REJECTION_FILE).unlink()
    assert moved["held"] < moved["free"]


def test_a_strength_chosen_by_itself_stays_when_the_run_goes_on(old, turned, tmp_path, monkeypatch):
    photos, run = old
    arguments = {
        "out": tmp_path / "run",
        "from_run": run.path,
        "unfreeze": "stage3",
        "epochs": 2,
        "learning_rate": 1e-3,
        "anchor": "auto",
        "old_photos": photos,
    }

    decided_on, measured, settings = [], [], {}

    def stop(*_, **__):
        raise KeyboardInterrupt

    def choose(*given, old_data, **named):
        decided_on.extend(old_data.digests)
        settings.update({name: value for name, value in named.items() if name != "importance"})
        return tlkit.choose_anchor(*given, old_data=old_data, epochs=2, max_trials=2, **named)

    def measure(model, task):
        measured.extend(task.test.digests)
        return measure_old_task(model, task)

    with monkeypatch.context() as patched:
        patched.setattr("tlkit.runs.train.evaluate_splits", stop)
        patched.setattr(going_on, "choose_anchor", choose)
        patched.setattr(going_on, "measure_old_task", measure)
        with pytest.raises(KeyboardInterrupt):
            train_run(turned, **arguments)
    begun = json.loads((tmp_path / "run" / "run.json").read_text())
    chosen = begun["choices"]["anchor"]["arguments"]["anchor"]
    finished = train_run(turned, **arguments)
    assert finished.metrics["old_task"]["strength"] == chosen
    assert decided_on
    assert measured
    assert not set(decided_on) & set(measured)
    assert finished.record["choices"] == begun["choices"]
    assert finished.record["arguments"]["anchor"] == "auto"
    assert settings == {"unfreeze": "stage3", "learning_rate": 1e-3, "seed": 0}


def given_to_training(monkeypatch, photos, until="train_model", **arguments):
    """The old images and the new ones as a step of it gets them, which is not done; and words."""
    given, said = [], []

    def stop(model, data, *_, old, **__):
        given.extend((old, data))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"tlkit.runs.train.{until}", stop)
        with pytest.raises(KeyboardInterrupt):
            train_run(photos, log=said.append, **arguments)
    return (*given, said)


def test_nothing_is_measured_on_that_is_trained_on_now(old, tmp_path, monkeypatch):
    """Another seed splits the same images in another way."""
    photos, run = old
    arguments = {"out": tmp_path / "run", "from_run": run.path, "mode": "head", "seed": 11}
    task, data, _ = given_to_training(monkeypatch, photos, **arguments)
    assert task.test.num_images == 3  # of eight
    assert task.validation.num_images == 1
    assert not set(task.test.digests) & {*data.train.digests, *data.validation.digests}
    assert not set(task.validation.digests) & set(data.train.digests)


def test_where_all_old_images_are_trained_on_now_none_decides(old, tmp_path, monkeypatch):
    photos, run = old
    arguments = {"out": tmp_path / "run", "from_run": run.path, "anchor": "auto", "seed": 13}
    task, _, _ = given_to_training(monkeypatch, photos, until="plan_anchor", **arguments)
    assert task.validation is None


def test_old_images_that_are_others_now_are_said_and_passed_over(
    old, turned, tmp_path, monkeypatch
):
    photos, run = old
    write_photos(photos, {"third": 3}, seed=5)
    arguments = {"out": tmp_path / "run", "from_run": run.path, "mode": "head"}
    task, _, said = given_to_training(monkeypatch, turned, **arguments)
    assert task is None
    assert any("Forgetting is not measured" in line and "'third'" in line for line in said)
    with pytest.raises(
        tlkit.DataError, match="`old_photos` must contain images of exactly the classes"
    ):
        train_run(turned, old_photos=photos, **{**arguments, "out": tmp_path / "another"})
    shutil.rmtree(photos / "third")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"anchor": -1.0}, "`anchor` must be a number, 0 or more"),
        ({"importance": "fisher"}, "`importance` must come with an anchor"),
        ({"anchor": 1.0, "importance": "synaptic"}, "importance='synaptic'"),
        ({"anchor": 1.0, "mode": "head"}, "`anchor` must be left out with mode='head'"),
        ({"old_photos": "nowhere"}, "nowhere"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    old, turned, tmp_path, arguments, message
):
    _, run = old
    with pytest.raises(tlkit.TlkitError, match=message):
        train_run(turned, out=tmp_path / "run", from_run=run.path, **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["anchor", "old_photos"])
def test_without_a_run_to_go_on_from_there_is_nothing_to_hold(turned, tmp_path, name):
    with pytest.raises(tlkit.ArgumentError, match="Name that run"):
        train_run(
            turned,
            out=tmp_path / "run",
            backbone="resnet20",
            **{name: 1.0 if name == "anchor" else "x"},
        )
