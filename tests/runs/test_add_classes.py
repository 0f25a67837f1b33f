"""Adding classes to a finished run: old logits, exemplars, metrics, and refused input."""

import csv
import json
import shutil

import keras
import numpy as np
import pytest
from PIL import Image, ImageOps

import tlkit
from tests.conftest import write_photos
from tlkit.continual.exemplars import Exemplars
from tlkit.evaluation.metrics import evaluate
from tlkit.evaluation.rejection import Rejection
from tlkit.models.surgery import new_layers
from tlkit.runs.add_classes import add_classes_run
from tlkit.runs.directory import REJECTION_FILE
from tlkit.runs.inference import evaluate_run, export_run
from tlkit.runs.predicting import predict_with

# write_photos colours classes by their position in the alphabet: red, green, blue
COUNTS = {"a": 24, "b": 24, "c": 24}


def only(photos, to, *names):
    for name in names:
        shutil.copytree(photos / name, to / name)
    return to


def trained_on(run, class_name):
    """The files of a class that a run or an earlier one was trained on."""
    with (run.path / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["path"] for row in rows if (row["split"], row["class"]) == ("train", class_name)]


def fourth_class(folder):
    """Images of another colour than those of all classes in `COUNTS`."""
    photos = write_photos(folder, {"a": 0, "d": 24}, size=20, seed=3)
    (photos / "a").rmdir()
    for path in (photos / "d").iterdir():
        ImageOps.invert(Image.open(path)).save(path, quality=90)
    return photos


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder, a finished run on two classes, a run that adds the third, and its messages."""
    folder = tmp_path_factory.mktemp("growing")
    everything = write_photos(folder / "everything", COUNTS)
    old = only(everything, folder / "old", "a", "b")
    new = only(everything, folder / "new", "c")
    run = tlkit.train_run(
        old, out=folder / "run", mode="head", backbone="tiny_resnet", weights=None, batch_size=16
    )
    messages = []
    grown = add_classes_run(run.path, new, out=folder / "run2", exemplars=4, log=messages.append)
    return folder, run, grown, messages


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the folder, for changes; its runs still refer to the original images."""
    return shutil.copytree(made[0], tmp_path / "copied")


def test_the_run_has_the_files_of_a_run_and_exemplars(made):
    _, run, grown, _ = made
    names = {path.name for path in run.path.iterdir()}
    assert {path.name for path in grown.path.iterdir()} == names - {"run.toml"} | {"exemplars.npz"}
    assert grown.class_names == ("a", "b", "c")
    assert grown.record["finished"]
    assert grown.record["arguments"]["exemplars"] == 4
    assert grown.metrics["test"]["accuracy"] == 1.0
    assert grown.metrics["stages"][0]["name"] == "new classes"
    report = (grown.path / "report.html").read_text()
    assert "old classes: 100.0 % before, 100.0 % after" in report


def test_old_and_new_accuracy_are_logged_and_kept(made):
    _, run, grown, messages = made
    growth = grown.record["growth"]
    assert growth["old_names"] == ["a", "b"]
    assert growth["new_names"] == ["c"]
    assert growth["split"] == "test"
    assert growth["num_old"] == run.metrics["test"]["num_images"]
    assert growth["num_old"] + growth["num_new"] == grown.metrics["test"]["num_images"]
    assert growth["old_before"] == run.metrics["test"]["accuracy"]
    assert (growth["old_after"], growth["new_before"], growth["new_after"]) == (1.0, 0.0, 1.0)
    assert growth["num_replayed"] == 8
    assert grown.metrics["calibration"]["temperature"] == 1
    (note,) = grown.metrics["calibration"]["notes"]
    assert note in messages
    assert "would change the old logits" in note
    assert not any("unknown images" in text for text in messages)
    text = messages[-1]
    assert "new classes: 0.0 % before, 100.0 % after" in text
    assert "8 stored features of old images were replayed" in text


def test_old_logits_are_bit_identical_and_only_the_head_changes(made):
    _, run, grown, _ = made
    before, after = run.load_model(), grown.load_model()
    images = np.random.default_rng(0).uniform(0, 255, (5, 32, 32, 3)).astype("float32")
    assert np.array_equal(after(images)[:, :2], before(images))
    (layer,) = new_layers(after)
    assert layer.units == 1
    change = dict(grown.metrics["stages"][0]["weight_change"])
    assert change.pop("head") > 0
    assert set(change.values()) == {0.0}


@pytest.mark.slow
def test_the_measured_model_is_the_saved_and_the_exported_one(made, tmp_path):
    folder, _, grown, _ = made
    data = tlkit.load_folder(folder / "everything", image_size=32)
    model = keras.saving.load_model(grown.path / "model.keras")
    assert evaluate(model, data.test).accuracy == 1.0
    files = sorted((folder / "everything").glob("*/*.jpg"))[::12]
    export_run(grown.path, tmp_path / "copy", "saved_model")
    for where in (grown.path, tmp_path / "copy"):
        labels = [one.label for one in predict_with(where, files)]
        assert labels == [path.parent.name for path in files]


def test_images_that_were_trained_on_are_not_measured(made):
    folder, _, grown, _ = made
    rows = (grown.path / "split.csv").read_text().splitlines()[1:]
    splits = {}
    for row in rows:
        split, _, digest, _ = row.split(",", 3)
        splits.setdefault(digest, set()).add(split)
    assert all(len(names) == 1 for names in splits.values())
    report = evaluate_run(grown.path, folder / "everything")
    assert report.num_images == grown.metrics["test"]["num_images"]


def test_every_class_has_its_exemplars(made):
    _, _, grown, _ = made
    with np.load(grown.path / "exemplars.npz") as arrays:
        stored = Exemplars.load(grown.path / "exemplars.npz", str(arrays["signature"]))
    num_features = grown.load_model().get_layer("logits").kernel.shape[0]
    shapes = {name: rows.shape for name, rows in stored.features.items()}
    assert shapes == dict.fromkeys(COUNTS, (4, num_features))


def test_without_exemplars_nothing_is_replayed_and_the_loss_is_reported(made, tmp_path):
    folder, run, _, _ = made
    messages = []
    grown = add_classes_run(
        run.path, folder / "new", out=tmp_path / "none", exemplars=0, log=messages.append
    )
    growth = grown.record["growth"]
    assert growth["num_replayed"] == 0
    lost = 100 * (growth["old_before"] - growth["old_after"])
    assert f"no old image was replayed; cost: {lost:.1f} points of old accuracy" in messages[-1]
    assert not (grown.path / "exemplars.npz").exists()
    assert growth["new_after"] > 0


def test_old_images_in_the_new_folder_keep_their_split(made, tmp_path):
    folder, run, grown, _ = made
    both = add_classes_run(run.path, folder / "everything", out=tmp_path / "both", exemplars=4)
    assert both.class_names == grown.class_names
    assert both.metrics["test"]["num_images"] == grown.metrics["test"]["num_images"]
    before, after = run.record["data"]["num_images"], both.record["data"]["num_images"]
    new = grown.record["data"]["num_images"]["train"]
    assert after["train"] == before["train"] + new  # every old image, not exemplars alone


@pytest.mark.slow
def test_further_images_of_an_old_class_are_used_in_training_and_evaluation(made, tmp_path):
    folder, run, grown, _ = made
    photos = shutil.copytree(folder / "new", tmp_path / "photos")
    (photos / "b").mkdir()
    for path in (write_photos(tmp_path / "more", {"a": 1, "b": 12}, seed=5) / "b").iterdir():
        shutil.copy(path, photos / "b" / f"more-{path.name}")
    more = add_classes_run(run.path, photos, out=tmp_path / "more-run", exemplars=4)
    assert more.class_names == ("a", "b", "c")
    numbers = [sum(one.record["data"]["num_images"].values()) for one in (more, grown)]
    assert numbers[0] == numbers[1] + 12
    growth = more.record["growth"]
    assert growth["num_replayed"] == 8
    trained = [one.record["data"]["num_images"]["train"] for one in (more, grown)]
    assert growth["num_further"] == trained[0] - trained[1] > 0
    notes = more.metrics["stages"][0]["notes"]
    assert any("the old outputs are not trained on them" in note for note in notes)


@pytest.mark.slow
@pytest.mark.parametrize("num_left", [0, 2])
def test_a_second_addition_needs_no_old_images(made, copied, num_left):
    _, _, grown, _ = made
    for path in trained_on(grown, "a")[:num_left]:  # a folder with few of the images
        (copied / "thinned" / "a").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copied / "thinned" / "a")
    shutil.rmtree(copied / "everything")
    record = json.loads((copied / "run2" / "run.json").read_text())
    record["arguments"] |= {"from_run": str(copied / "gone"), "photos": str(copied / "thinned")}
    (copied / "run2" / "run.json").write_text(json.dumps(record))
    photos = fourth_class(copied / "third")
    third = add_classes_run(copied / "run2", photos, out=copied / "run3", exemplars=3)
    assert third.class_names == ("a", "b", "c", "d")
    growth = third.record["growth"]
    assert growth["num_replayed"] == 9
    assert growth["from_stored"] == {"a": 3 - num_left, "b": 3, "c": 3}
    assert growth["old_before"] is None  # there is no old image to measure on; a note says so
    notes = third.metrics["stages"][0]["notes"]
    assert "old classes: no images to measure on" in notes
    images = np.random.default_rng(0).uniform(0, 255, (5, 32, 32, 3)).astype("float32")
    assert np.array_equal(third.load_model()(images)[:, :3], grown.load_model()(images))
    labels = [one.label for one in predict_with(third.path, sorted((photos / "d").iterdir())[:6])]
    assert labels == ["d"] * 6


@pytest.mark.slow
def test_a_second_addition_finds_the_images_of_all_earlier_runs(made, copied):
    _, _, grown, _ = made
    photos = fourth_class(copied / "third")
    rejection = Rejection("", np.zeros((5, 3), "f4"), 5, 0.1, 0.95, 20, 0.0, (0.0, 0.1), {})
    rejection.save(copied / "run2" / REJECTION_FILE)
    messages = []
    third = add_classes_run(
        copied / "run2", photos, out=copied / "run3", exemplars=3, log=messages.append
    )
    assert third.record["growth"]["num_old"] == grown.metrics["test"]["num_images"]
    assert third.record["growth"]["old_before"] == grown.metrics["test"]["accuracy"]
    (note,) = (text for text in messages if "unknown images are no longer rejected" in text)
    assert "must have at least 19 images" in note
    assert note in third.metrics["stages"][0]["notes"]
    assert "unknown images are no longer rejected" in (third.path / "report.html").read_text()
    assert not (third.path / REJECTION_FILE).exists()


def test_old_classes_are_never_lost_silently(made, copied):
    record = json.loads((copied / "run" / "run.json").read_text())
    record["arguments"]["photos"] = str(copied / "gone")
    (copied / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(tlkit.DataError, match=r"exemplars=20, and none of 'a', 'b'.*exemplars=0"):
        add_classes_run(copied / "run", copied / "new", out=copied / "run3", method="replay")
    assert not (copied / "run3").exists()  # so that the message's advice works
    grown = add_classes_run(copied / "run", copied / "new", out=copied / "run3", exemplars=0)
    notes = grown.metrics["stages"][0]["notes"]
    assert any("cost: unknown" in note for note in notes)


def test_aligning_is_measured(made, tmp_path):
    folder, run, _, _ = made
    messages = []
    aligned = add_classes_run(
        run.path, folder / "new", out=tmp_path / "aligned", align=True, log=messages.append
    )
    assert aligned.record["growth"]["unaligned"] == [1.0, 1.0]
    assert "before weights were aligned: old 100.0 %, new 100.0 %" in messages[-1]
    model = aligned.load_model()
    norms = [
        np.linalg.norm(model.get_layer(name).kernel, axis=0).mean()
        for name in ("logits", "logits__grown1")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_a_finished_run_is_unchanged_and_other_arguments_are_refused(made):
    folder, run, grown, _ = made
    before = (grown.path / "run.json").stat().st_mtime_ns
    messages = []
    arguments = {"out": grown.path, "exemplars": 4}
    again = add_classes_run(run.path, folder / "new", **arguments, log=messages.append)
    assert "is already finished" in messages[0]
    assert again.metrics == grown.metrics
    assert (grown.path / "run.json").stat().st_mtime_ns == before
    with pytest.raises(tlkit.RunError, match="exemplars=4 instead of 20"):
        add_classes_run(run.path, folder / "new", out=grown.path)
    with pytest.raises(tlkit.RunError, match="--no-resume"):
        add_classes_run(run.path, folder / "new", **arguments, resume=False)
    with pytest.raises(tlkit.RunError, match="a run with command=None instead of 'add-classes'"):
        add_classes_run(grown.path, folder / "new", out=run.path)
    with pytest.raises(tlkit.ArgumentError, match="`out` must be another folder"):
        add_classes_run(run.path, folder / "new", out=run.path)


def test_an_interrupted_addition_is_repeated(made, tmp_path, monkeypatch):
    folder, run, grown, _ = made

    def interrupt(*arguments, **others):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tlkit.continual.adding_classes.solve_new_rows", interrupt)
        with pytest.raises(KeyboardInterrupt):
            add_classes_run(run.path, folder / "new", out=tmp_path / "run", exemplars=4)
    with pytest.raises(tlkit.RunError, match="unfinished"):
        tlkit.load_run(tmp_path / "run")
    again = add_classes_run(run.path, folder / "new", out=tmp_path / "run", exemplars=4)
    weights = [run.load_model().get_weights() for run in (again, grown)]
    # sums may be rounded in another way where the arrays lie elsewhere in memory
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert again.metrics["test"]["loss"] == pytest.approx(grown.metrics["test"]["loss"], rel=1e-5)
    assert again.metrics["test"]["accuracy"] == grown.metrics["test"]["accuracy"]


@pytest.mark.parametrize("number", [-1, 1.5, True])
def test_an_invalid_number_of_exemplars_is_refused(made, tmp_path, number):
    with pytest.raises(tlkit.ArgumentError, match="`exemplars` must be a whole number"):
        add_classes_run(made[1].path, made[0] / "new", out=tmp_path / "x", exemplars=number)


def test_a_folder_without_usable_new_classes_is_refused_before_anything_is_written(made, tmp_path):
    folder, run, _, _ = made
    out = tmp_path / "out"
    with pytest.raises(tlkit.DataError, match=r"a class that the run does not have.*'a', 'b'"):
        add_classes_run(run.path, folder / "old", out=out)
    photos = shutil.copytree(folder / "new", tmp_path / "photos")
    (photos / "empty").mkdir()
    with pytest.raises(tlkit.DataError, match=r"usable images of each new class.*'empty'"):
        add_classes_run(run.path, photos, out=out)
    shutil.copy(photos / "c" / "000.jpg", photos / "empty")
    (photos / "c" / "000.jpg").unlink()
    with pytest.raises(tlkit.DataError, match=r"at least two different images.*'empty'"):
        add_classes_run(run.path, photos, out=out)
    with pytest.raises(tlkit.DataError, match="`photos` must be a folder"):
        add_classes_run(run.path, tmp_path / "nowhere", out=out)
    with pytest.raises(tlkit.RunError, match="`run` must be the folder of a finished run"):
        add_classes_run(photos, photos, out=out)
    assert not out.exists()


def test_a_known_image_under_another_class_is_left_out(made, tmp_path):
    folder, run, grown, _ = made
    photos = shutil.copytree(folder / "new", tmp_path / "photos")
    shutil.copy(folder / "old" / "a" / "000.jpg", photos / "c" / "wrong.jpg")
    messages = []
    arguments = {"out": tmp_path / "run", "exemplars": 4}
    other = add_classes_run(run.path, photos, **arguments, log=messages.append)
    assert other.record["data"] == grown.record["data"]
    assert "Conflicts" in messages[0]
    assert "a, in the earlier run" in messages[0]


def test_old_and_new_images_are_counted_separately_and_the_card_names_their_sources(made):
    _, run, grown, messages = made
    text = "\n".join(messages)
    assert "24 files; readable images: 24 jpeg" in text
    assert "48 images of the earlier run are not in this" in text
    card = (grown.path / "model_card.md").read_text(encoding="utf-8")
    assert "Images from new and, to measure the old classes, from the evaluation of run" in card
    replayed = grown.record["growth"]["num_replayed"]
    assert "The old classes, a, b, were trained in the run run or an earlier one" in card
    assert f"{replayed} stored features of their images were replayed" in card
    assert "to measure the old classes" not in (run.path / "model_card.md").read_text()
