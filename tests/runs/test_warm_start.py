"""Runs that are warm-started from another run: the anchor, and how forgetting is measured."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import tlkit
from tests.conftest import write_photos
from tlkit.continual import warm_start
from tlkit.continual.warm_start import measure_old_task
from tlkit.runs.directory import REJECTION_FILE
from tlkit.runs.train import train_run


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    photos = write_photos(folder / "photos", {"green": 30, "red": 30})
    run = train_run(photos, out=folder / "run", backbone="tiny_resnet", weights=None, mode="head")
    return photos, run


@pytest.fixture
def inverted(tmp_path):
    """New images of the same classes with inverted colours."""
    folder = write_photos(tmp_path / "new", {"green": 30, "red": 30}, seed=9)
    for path in folder.glob("*/*.jpg"):
        pixels = 255 - np.asarray(Image.open(path))
        Image.fromarray(pixels).save(path, quality=90)
    return folder


@pytest.mark.slow
def test_an_anchor_is_reported_and_reduces_the_weight_change(old, inverted, tmp_path):
    _, run = old
    change, messages = {}, []
    (run.path / REJECTION_FILE).touch()  # as if it rejected unknown images
    for name, anchor in (("free", None), ("anchored", 100.0)):
        later = train_run(
            inverted,
            out=tmp_path / name,
            from_run=run.path,
            unfreeze="stage3",
            epochs=3,
            learning_rate=1e-2,
            anchor=anchor,
            importance=anchor and "mas",
            log=messages.append,
        )
        assert any("Add --reject-unknown" in line for line in messages)
        change[name] = later.metrics["stages"][-1]["weight_change"]["stage3"]
        old_task = later.metrics["old_task"]
        assert old_task["scenario"] == "domain-incremental"
        assert old_task["before"] == 1.0
        assert old_task["num_images"] > 0
        assert old_task["strength"] == anchor
        page = (later.path / "report.html").read_text(encoding="utf-8")
        assert ">Forgetting</h2>" in page
        assert ("Training had an anchor" in page) == (anchor is not None)
        assert (later.path / "model_card.md").is_file()
    (run.path / REJECTION_FILE).unlink()
    assert change["anchored"] < change["free"]


@pytest.mark.slow
def test_a_strength_chosen_by_the_run_is_kept_when_resumed(old, inverted, tmp_path, monkeypatch):
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

    selection, measured, settings = [], [], {}

    def stop(*_, **__):
        raise KeyboardInterrupt

    def choose(*positional, old_data, **named):
        selection.extend(old_data.digests)
        settings.update({name: value for name, value in named.items() if name != "importance"})
        return tlkit.choose_anchor(*positional, old_data=old_data, epochs=2, max_trials=2, **named)

    def measure(model, task):
        measured.extend(task.test.digests)
        return measure_old_task(model, task)

    with monkeypatch.context() as patched:
        patched.setattr("tlkit.runs.train.measure", stop)
        patched.setattr(warm_start, "choose_anchor", choose)
        patched.setattr(warm_start, "measure_old_task", measure)
        with pytest.raises(KeyboardInterrupt):
            train_run(inverted, **arguments)
    unfinished = json.loads((tmp_path / "run" / "run.json").read_text())
    chosen = unfinished["choices"]["anchor"]["arguments"]["anchor"]
    finished = train_run(inverted, **arguments)
    assert finished.metrics["old_task"]["strength"] == chosen
    assert selection
    assert measured
    assert not set(selection) & set(measured)
    assert finished.record["choices"] == unfinished["choices"]
    assert finished.record["arguments"]["anchor"] == "auto"
    assert settings == {"unfreeze": "stage3", "learning_rate": 1e-3, "seed": 0}


def arguments_of_step(monkeypatch, photos, step="train_model", **arguments):
    """The old task and the data that a step of a run gets, and the messages up to that step."""
    received, messages = [], []

    def stop(model, data, *_, old, **__):
        received.extend((old, data))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"tlkit.runs.train.{step}", stop)
        with pytest.raises(KeyboardInterrupt):
            train_run(photos, log=messages.append, **arguments)
    return (*received, messages)


def test_images_that_are_trained_on_are_not_measured(old, tmp_path, monkeypatch):
    """With another seed the same images are split differently."""
    photos, run = old
    arguments = {"out": tmp_path / "run", "from_run": run.path, "mode": "head", "seed": 11}
    task, data, _ = arguments_of_step(monkeypatch, photos, **arguments)
    assert task.test.num_images == 3  # of eight
    assert task.validation.num_images == 1
    assert not set(task.test.digests) & {*data.train.digests, *data.validation.digests}
    assert not set(task.validation.digests) & set(data.train.digests)


def test_old_images_that_are_all_trained_on_are_not_used_for_selection(old, tmp_path, monkeypatch):
    photos, run = old
    arguments = {"out": tmp_path / "run", "from_run": run.path, "anchor": "auto", "seed": 13}
    task, _, _ = arguments_of_step(monkeypatch, photos, step="plan_anchor", **arguments)
    assert task.validation is None


def test_forgetting_is_not_measured_if_the_folder_of_old_images_has_changed(
    old, inverted, tmp_path, monkeypatch
):
    photos, run = old
    write_photos(photos, {"third": 3}, seed=5)
    arguments = {"out": tmp_path / "run", "from_run": run.path, "mode": "head"}
    task, _, messages = arguments_of_step(monkeypatch, inverted, **arguments)
    assert task is None
    assert any("Forgetting is not measured" in line and "'third'" in line for line in messages)
    with pytest.raises(
        tlkit.DataError, match="`old_photos` must contain images of exactly the classes"
    ):
        train_run(inverted, old_photos=photos, **{**arguments, "out": tmp_path / "another"})
    shutil.rmtree(photos / "third")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"anchor": -1.0}, "`anchor` must be a number, 0 or more"),
        ({"importance": "fisher"}, "`importance` must be given together with `anchor`"),
        ({"anchor": 1.0, "importance": "synaptic"}, "importance='synaptic'"),
        ({"anchor": 1.0, "mode": "head"}, "`anchor` must be left out with mode='head'"),
        ({"old_photos": "nowhere"}, "nowhere"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(
    old, inverted, tmp_path, arguments, message
):
    _, run = old
    with pytest.raises(tlkit.TlkitError, match=message):
        train_run(inverted, out=tmp_path / "run", from_run=run.path, **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["anchor", "old_photos"])
def test_without_an_earlier_run_there_is_no_anchor(inverted, tmp_path, name):
    with pytest.raises(tlkit.ArgumentError, match="Name that run"):
        train_run(
            inverted,
            out=tmp_path / "run",
            backbone="resnet20",
            **{name: 1.0 if name == "anchor" else "x"},
        )
