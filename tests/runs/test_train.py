"""A training run: its files, how it is resumed, and input refused before anything is written."""

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.conftest import write_photos
from tlkit.runs.config import RunConfig
from tlkit.runs.directory import default_out, seen_digests
from tlkit.runs.inference import evaluate_run, export_run
from tlkit.runs.predicting import predict_with
from tlkit.utils.run_lock import locked

ARGUMENTS = {"backbone": "tiny_resnet", "weights": None, "batch_size": 16}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run for the tests that only read it."""
    folder = tmp_path_factory.mktemp("finished")
    photos = write_photos(folder / "photos", {"grün": 30, "rot": 30})
    run = tlkit.train_run(photos, out=folder / "run", mode="head", **ARGUMENTS)
    return photos, run


def test_a_run_writes_all_its_files(finished):
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
        "model_card.md",
        "log.txt",
        "run.toml",
    }
    record = json.loads((run.path / "run.json").read_text())
    assert record["finished"]
    assert record["arguments"]["photos"] == str(photos)
    assert set(record["seconds"]) >= {"data", "training", "evaluation", "export"}
    for split in ("validation", "test"):
        assert set(run.metrics[split]) >= {"accuracy", "loss", "num_images"}
    assert run.metrics["validation"]["accuracy"] == 1.0
    assert run.class_names == ("grün", "rot")


def test_the_model_loads_with_plain_keras_and_is_the_measured_one(finished):
    photos, run = finished
    model = keras.saving.load_model(run.path / "model.keras")
    data = tlkit.load_folder(photos, image_size=32)
    assert tlkit.evaluate(model, data.test).accuracy == run.metrics["test"]["accuracy"]


@pytest.mark.slow
def test_an_augmented_head_is_trained_on_several_views(tmp_path, photos):
    run = tlkit.train_run(photos, out=tmp_path / "run", mode="head", augment="light", **ARGUMENTS)
    images = run.record["data"]["num_images"]
    passes = run.metrics["stages"][0]["num_forward_passes"]
    assert passes == 4 * images["train"] + images["validation"]


def test_a_loaded_model_has_the_same_random_state_at_each_loading(finished):
    _, run = finished
    first, second = (run.load_model().get_layer("head_dropout") for _ in range(2))
    states = [layer.seed_generator.state.numpy().tolist() for layer in (first, second)]
    assert states[0] == states[1]


def test_a_finished_run_is_unchanged(finished):
    photos, run = finished
    before = (run.path / "run.json").stat().st_mtime_ns
    messages = []
    again = tlkit.train_run(photos, out=run.path, mode="head", **ARGUMENTS, log=messages.append)
    assert (run.path / "run.json").stat().st_mtime_ns == before
    assert again.metrics == run.metrics
    assert "is already finished; nothing was changed" in messages[0]


def test_other_arguments_are_refused_with_the_differences(finished):
    photos, run = finished
    with pytest.raises(tlkit.RunError, match="seed=0 instead of 1"):
        tlkit.train_run(photos, out=run.path, mode="head", **ARGUMENTS, seed=1)
    with pytest.raises(tlkit.RunError, match="--no-resume"):
        tlkit.train_run(photos, out=run.path, mode="head", **ARGUMENTS, resume=False)


def test_a_folder_without_a_run_is_refused_and_unchanged(tmp_path, photos):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(tlkit.RunError, match="holds no run"):
        tlkit.train_run(photos, out=out, **ARGUMENTS)
    assert (out / "thesis.txt").read_text() == "years of work"


def test_a_run_that_another_process_writes_is_refused_and_unchanged(tmp_path, photos):
    out = tmp_path / "run"
    out.mkdir()
    with locked(out), pytest.raises(tlkit.RunError, match="`out` must be written by one process"):
        tlkit.train_run(photos, out=out, mode="head", **ARGUMENTS)
    assert list(out.iterdir()) == []
    with locked(out):  # the lock works again
        pass


@pytest.mark.parametrize("out", [".", "run", "red/run"])
def test_a_run_directory_inside_the_folder_of_images_is_refused(photos, out):
    before = sorted(photos.rglob("*"))
    with pytest.raises(tlkit.RunError, match="`out` must lie outside `photos`"):
        tlkit.train_run(photos, out=photos / out, mode="head", **ARGUMENTS)
    assert sorted(photos.rglob("*")) == before


def test_an_interrupted_run_is_resumed_with_the_same_command(tmp_path, photos, monkeypatch):
    out = tmp_path / "run"

    def interrupt(*arguments, **others):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tlkit.runs.train.solve_head", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tlkit.train_run(photos, out=out, epochs=1, **ARGUMENTS)
    assert not json.loads((out / "run.json").read_text())["finished"]
    assert sorted(path.name for path in out.iterdir()) == ["log.txt", "run.json"]
    with pytest.raises(tlkit.RunError, match="unfinished"):
        tlkit.load_run(out)
    run = tlkit.train_run(photos, out=out, epochs=1, **ARGUMENTS)
    assert run.metrics["stages"][0]["num_forward_passes"] == 0
    assert run.record["finished"]


def test_an_interrupted_run_is_not_resumed_with_other_images(tmp_path, photos, monkeypatch):
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


@pytest.mark.slow
def test_a_warm_started_run_has_the_classes_and_model_of_the_earlier_run(finished, tmp_path):
    _, run = finished
    photos = write_photos(tmp_path / "more", {"rot": 20, "grün": 20}, seed=1)
    arguments = {"epochs": 1, "learning_rate": 1e-5}
    later = tlkit.train_run(photos, out=tmp_path / "later", from_run=run.path, **arguments)
    assert later.class_names == run.class_names
    assert [stage["name"] for stage in later.metrics["stages"]] == ["fine-tune"]
    assert later.metrics["validation"]["accuracy"] == 1.0
    others = write_photos(tmp_path / "others", {"rot": 5, "blau": 5})
    with pytest.raises(tlkit.DataError, match=r"`photos` must contain .*'grün', 'rot'.*'blau'"):
        tlkit.train_run(others, out=tmp_path / "no", from_run=run.path)
    with pytest.raises(tlkit.ArgumentError, match="`backbone` must be left out"):
        tlkit.train_run(photos, out=tmp_path / "no", from_run=run.path, backbone="resnet20")
    with pytest.raises(tlkit.RunError, match=r"`from_run` must be .* finished run"):
        tlkit.train_run(photos, out=tmp_path / "no", from_run=tmp_path / "nowhere")
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
        ({"mode": "head", "epochs": 3}, "`epochs` must be left out with mode='head'"),
        ({"mode": "head", "learning_rate": 0.1}, "`learning_rate` must be left out"),
        ({"seed": -1}, "`seed` must be a whole number of at least 0"),
        ({"seed": 2**32}, "`seed` must be .* below 4294967296. Received: seed=4294967296"),
        ({"seed": 10**20}, "`seed` must be"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(
    tmp_path, photos, arguments, message
):
    with pytest.raises(tlkit.TlkitError, match=message):
        tlkit.train_run(photos, out=tmp_path / "run", **{**ARGUMENTS, **arguments})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_largest_seed_is_accepted(tmp_path, photos):
    arguments = {"seed": 2**32 - 1, "epochs": 1, **ARGUMENTS}
    assert tlkit.train_run(photos, out=tmp_path / "run", **arguments).record["finished"]


def test_a_class_name_with_a_line_break_is_refused_before_anything_is_written(tmp_path, photos):
    (photos / "red").rename(photos / "red\nor pink")
    with pytest.raises(tlkit.DataError, match=r"single-line name.*'red\\nor pink'"):
        tlkit.train_run(photos, out=tmp_path / "run", **ARGUMENTS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("out", ["file.txt", "file.txt/run", "closed/run", "closed/new/run"])
def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path, out, monkeypatch):
    (tmp_path / "file.txt").touch()
    (tmp_path / "closed").mkdir()
    access = os.access  # root may write anywhere
    monkeypatch.setattr("os.access", lambda path, how: path.name != "closed" and access(path, how))
    with pytest.raises(tlkit.RunError, match=r"`out` must be .*(file\.txt|closed)"):
        tlkit.train_run(tmp_path / "no photos", out=tmp_path / out, **ARGUMENTS)


@pytest.mark.parametrize("to", ["mine", "mine/thesis.txt", "mine/thesis.txt/copy"])
def test_an_invalid_export_is_refused_before_the_model_is_loaded(
    finished, tmp_path, to, monkeypatch
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    monkeypatch.delattr("tlkit.runs.directory.Run.load_model")
    with pytest.raises(tlkit.TlkitError, match="`to` must be a"):
        export_run(finished[1].path, tmp_path / to, "keras")
    with pytest.raises(tlkit.ArgumentError, match=r"`format` must be one of .*'keras'"):
        export_run(finished[1].path, tmp_path / "new", "kears")


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of a finished run, to be damaged."""
    return shutil.copytree(finished[1].path, tmp_path / "copied")


REQUIRED_FILES = ["model.keras", "metrics.json", "class_names.json", "split.csv"]


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_the_error_names_a_missing_file_of_a_run(finished, copied, name):
    (copied / name).unlink()
    rule = "must be a complete run"
    with pytest.raises(tlkit.RunError, match=f"`run` {rule}.*{name} is missing. Train it"):
        tlkit.load_run(copied)
    arguments = {"mode": "head", **ARGUMENTS}
    with pytest.raises(tlkit.RunError, match=f"`out` {rule}.*{name} is missing"):
        tlkit.train_run(finished[0], out=copied, **arguments)


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff\xfe", b"[1]", b'{"stages": 3}'])
@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_the_error_names_a_damaged_file_of_a_run(finished, copied, name, content):
    (copied / name).write_bytes(content)
    with pytest.raises(tlkit.RunError, match=f"`run` must be a complete run.*{name} is damaged"):
        evaluate_run(copied, finished[0])


@pytest.mark.parametrize("cut", ["half", "row", "end", "changed", "header"])
def test_the_error_names_a_truncated_split_table(finished, copied, cut):
    table = copied / "split.csv"
    lines = table.read_text().splitlines(keepends=True)
    content = {
        "half": "".join(lines)[: len("".join(lines)) // 2],
        "row": "".join(lines[: len(lines) // 2]),
        "end": "".join(lines[:-1]),
        "changed": "".join(lines).replace("validation,", "test,", 1),
        "header": lines[0],
    }[cut]
    table.write_text(content)
    with pytest.raises(tlkit.RunError, match=r"split\.csv is damaged"):
        evaluate_run(copied, finished[0])


def test_a_split_table_of_an_earlier_version_without_last_row_is_read(finished, copied):
    photos, run = finished
    lines = (copied / "split.csv").read_text().splitlines(keepends=True)
    (copied / "split.csv").write_text("".join(lines[:-1]))
    record = json.loads((copied / "run.json").read_text())
    assert record.pop("split_table") == 2
    (copied / "run.json").write_text(json.dumps(record))
    assert seen_digests(tlkit.load_run(copied)) == seen_digests(run)
    assert (
        len(seen_digests(run))
        == sum(run.record["data"]["num_images"].values()) - (run.metrics["test"]["num_images"])
    )
    (copied / "split.csv").write_text("".join(lines[:-1])[:-10])
    with pytest.raises(tlkit.RunError, match=r"damaged \(truncated\)"):
        evaluate_run(copied, photos)


def test_the_error_names_a_record_that_is_nested_too_deep(finished, copied):
    for name in ("metrics.json", "run.json"):
        (copied / name).write_text("[" * 100_000 + "]" * 100_000)
        with pytest.raises(tlkit.RunError, match=f"{name} is damaged"):
            evaluate_run(copied, finished[0])


def test_the_error_names_a_truncated_model_file(copied):
    content = (copied / "model.keras").read_bytes()
    for damaged in (content[: len(content) // 2], content[:300] + b"junk" + content[304:]):
        (copied / "model.keras").write_bytes(damaged)
        with pytest.raises(tlkit.RunError, match=r"model\.keras is damaged"):
            tlkit.load_run(copied).load_model()
    run = tlkit.load_run(copied)
    (copied / "model.keras").unlink()
    with pytest.raises(tlkit.RunError, match=r"model\.keras is missing"):
        run.load_model()


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record.pop("data"),
        lambda record: record.pop("arguments"),
        lambda record: record.update(arguments=["photos"]),
        lambda record: record.update(finished="yes"),
        lambda record: record.update(image_size=32),
        lambda record: record["data"].clear(),
        lambda record: record.update(choices=["mode"]),
        lambda record: record.update(choices={"mode": {"arguments": {}}}),
        lambda record: record.update(choices={"mode": {"arguments": [], "reasons": []}}),
    ],
)
def test_the_error_names_a_record_that_no_run_has_written(copied, damage):
    record = json.loads((copied / "run.json").read_text())
    damage(record)
    (copied / "run.json").write_text(json.dumps(record))
    with pytest.raises(tlkit.RunError, match=r"run\.json is damaged"):
        tlkit.load_run(copied)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("saved_model.pb", "missing"), ("saved_model.pb", "damaged"), ("variables", "damaged")],
)
def test_the_error_names_an_incomplete_saved_model(finished, copied, name, problem):
    file = copied / "saved_model" / name
    if problem == "missing":
        file.unlink()
    elif file.is_dir():
        shutil.rmtree(file)
    else:
        file.write_bytes(b"junk")
    image = next(finished[0].glob("*/*.jpg"))
    with pytest.raises(tlkit.RunError, match=f"whose saved_model is {problem}"):
        predict_with(copied, [image])
    if problem == "damaged":
        with pytest.raises(tlkit.ExportError, match="Export it again"):
            predict_with(copied / "saved_model", [image])


@pytest.mark.usefixtures("timed_costs")  # which read images that are kept in memory
def test_the_error_names_an_image_that_is_removed_during_the_run(tmp_path, photos, monkeypatch):
    from tlkit.runs.train import record_of

    def removing(arguments, data):
        Path(data.train.paths[0]).unlink()
        return record_of(arguments, data)

    monkeypatch.setattr("tlkit.runs.train.record_of", removing)
    with pytest.raises(tlkit.DataError, match=r"must not change .*green.000\.jpg.*No such file"):
        tlkit.train_run(photos, out=tmp_path / "run", mode="head", **ARGUMENTS)


def test_evaluation_accepts_folders_that_are_too_small_for_training(finished, tmp_path):
    _, run = finished
    images = write_photos(tmp_path / "images", {"grün": 3, "rot": 3}, seed=1)
    few = tmp_path / "few"
    shutil.copytree(images / "rot", few / "test" / "rot")
    report = evaluate_run(run.path, few)
    assert report.num_images == 3
    assert report.accuracy == 1.0  # labels are those of the run: "rot" is its second class
    shutil.copytree(images / "grün", few / "test" / "grün")
    (few / "test" / "grün" / "000.jpg").unlink()
    (few / "test" / "grün" / "001.jpg").unlink()
    assert evaluate_run(run.path, few).num_images == 4
    assert evaluate_run(run.path, few, max_pixels=1600).num_images == 4
    with pytest.raises(tlkit.DataError, match="`photos` must contain images to evaluate"):
        evaluate_run(run.path, few, max_pixels=1599)
    (few / "test" / "rot").rename(few / "test" / "rott")
    with pytest.raises(tlkit.DataError, match=r"`photos` .*'grün', 'rot'.*'rott'.*mean 'rot'"):
        evaluate_run(run.path, few)
    with pytest.raises(tlkit.DataError, match="`photos` must be a folder"):
        evaluate_run(run.path, tmp_path / "nowhere")


@pytest.mark.slow
def test_a_run_is_evaluated_and_exported_with_its_own_bound_of_pixels(copied, tmp_path):
    record = json.loads((copied / "run.json").read_text())
    record["arguments"]["max_pixels"] = 300_000
    (copied / "run.json").write_text(json.dumps(record))
    photos = write_photos(tmp_path / "large", {"rot": 1}, size=600)
    with pytest.raises(tlkit.DataError, match="images to evaluate"):
        evaluate_run(copied, photos)
    assert evaluate_run(copied, photos, max_pixels=360_000).num_images == 1
    export_run(copied, tmp_path / "exported", "saved_model")
    with pytest.raises(tlkit.DataError, match="more than the bound of 300000"):
        predict_with(tmp_path / "exported", [photos / "rot" / "000.jpg"])


def test_evaluation_leaves_out_images_that_the_run_has_seen(finished, tmp_path):
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


def test_a_full_disk_is_not_reported_as_a_damaged_model(finished, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(keras.saving, "load_model", full)
    with pytest.raises(tlkit.StorageError, match=r"no space is left on its disk.*TMPDIR"):
        finished[1].load_model()


def test_a_disk_that_is_full_at_the_export_is_reported_and_no_partial_export_is_left(
    tmp_path, photos, monkeypatch
):
    def full(module, folder, **_):
        Path(folder).mkdir()
        raise tf.errors.UnknownError(
            None, None, f"{folder}/saved_model.pb; No space left on device"
        )

    monkeypatch.setattr(tf.saved_model, "save", full)
    out = tmp_path / "run"
    with pytest.raises(tlkit.StorageError, match=r"run' must be on a writable disk"):
        tlkit.train_run(photos, out=out, mode="head", **ARGUMENTS)
    assert sorted(path.name for path in out.iterdir()) == ["log.txt", "run.json"]


def test_the_default_folder_has_the_next_number_and_others_are_unchanged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()

    def config(seed=0, photos="photos"):
        return RunConfig(photos=photos, seed=seed)

    assert default_out(config()) == Path("runs/photos-1")
    assert default_out(config(photos="some/photos.csv")) == Path("runs/photos-1")
    for name, seed, finished in (
        ("photos-2", 0, False),
        ("photos-3", 0, True),
        ("photos-4", 1, False),
        ("photos-07", 0, False),
        ("photos-a", 0, False),
    ):
        (tmp_path / "runs" / name).mkdir(parents=True)
        record = {"data": {"fingerprint": ""}, "seed": 0, "image_size": [8, 8]}
        record |= {"arguments": config(seed).to_json(), "finished": finished}
        (tmp_path / "runs" / name / "run.json").write_text(json.dumps(record))
    (tmp_path / "runs" / "photos-10").mkdir()
    (tmp_path / "runs" / "photos-10" / "run.json").write_text("half of it")
    assert default_out(config()) == Path("runs/photos-2")
    assert default_out(config(), resume=False) == Path("runs/photos-11")
    assert default_out(config(seed=2)) == Path("runs/photos-11")
    skipping = dataclasses.replace(config(), damaged="skip")
    (tmp_path / "runs" / "photos-12").mkdir()
    record |= {"arguments": skipping.to_json(), "finished": False}
    (tmp_path / "runs" / "photos-12" / "run.json").write_text(json.dumps(record))
    assert default_out(config()) == Path("runs/photos-2")
    assert default_out(skipping) == Path("runs/photos-12")


def test_several_machines_must_be_given_a_folder(tmp_path, photos, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(tlkit.ArgumentError, match="`out` must be given when several machines"):
        tlkit.train_run(photos, distribute="multi-worker", **ARGUMENTS)
