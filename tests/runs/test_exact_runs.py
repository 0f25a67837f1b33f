"""Runs whose head is solved from statistics: adding classes, more images, and forgetting."""

import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tlkit
from tests.conftest import noise, write_photos
from tlkit import cli
from tlkit.continual.adding_classes import signature_of_features
from tlkit.continual.head_statistics import DescribedImages
from tlkit.continual.statistics_file import load_statistics
from tlkit.data.reading import content_digest
from tlkit.evaluation.rejection import Rejection
from tlkit.export.formats import EXPORT_FORMATS
from tlkit.models.flattening import below
from tlkit.models.heads import feature_cut
from tlkit.runs.add_classes import add_classes_run
from tlkit.runs.directory import REJECTION_FILE, STATISTICS_FILE
from tlkit.runs.forget import forget_run
from tlkit.training.closed_form import DEFAULT_FACTOR

COUNTS = {"a": 24, "b": 24, "c": 24}
HEAD = {"mode": "head", "head": "closed-form", "backbone": "tiny_resnet", "weights": None}


def only(photos, to, *names):
    for name in names:
        shutil.copytree(photos / name, to / name)
    return to


def statistics_of(run):
    return load_statistics(run.path / STATISTICS_FILE, signature_of_features(run.load_model()))


def logits_of(run, names, images):
    """Returns the logits of a run's model, its classes in the order of `names`."""
    columns = [run.class_names.index(name) for name in names]
    return run.load_model().predict(images, verbose=0)[:, columns]


def trained_on(run, class_name):
    """Digest and path of each image of a class that the run was trained on."""
    lines = (run.path / "split.csv").read_text().splitlines()
    rows = [line.split(",", 3) for line in lines]
    return {row[2]: row[3] for row in rows if row[:2] == ["train", class_name]}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 255, (9, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder, a run on two classes, one that adds the third, and the latter's messages."""
    folder = tmp_path_factory.mktemp("exact")
    everything = write_photos(folder / "everything", COUNTS)
    only(everything, folder / "old", "a", "b")
    only(everything, folder / "new", "c")
    run = tlkit.train_run(folder / "old", out=folder / "run", **HEAD, batch_size=16)
    messages = []
    grown = add_classes_run(run.path, folder / "new", out=folder / "run2", log=messages.append)
    return folder, run, grown, messages


def test_a_run_with_a_head_in_closed_form_keeps_statistics(made):
    _, run, _, _ = made
    statistics = statistics_of(run)
    counted = [len(trained_on(run, name)) for name in ("a", "b")]
    assert statistics.counts.tolist() == counted
    assert len(statistics.kernel_map.landmarks) == 500


def test_classes_are_added_as_if_all_images_had_been_there(made, images, tmp_path):
    folder, run, grown, _ = made
    assert grown.class_names == ("a", "b", "c")
    before, after = statistics_of(run), statistics_of(grown)
    assert after.images.keys() == before.images.keys() | trained_on(grown, "c").keys()
    # the head of all images together, from statistics of its own with the same map
    shutil.move(run.path / STATISTICS_FILE, tmp_path / "kept")
    joint = add_classes_run(run.path, folder / "new", out=tmp_path / "joint", method="exact")
    shutil.move(tmp_path / "kept", run.path / STATISTICS_FILE)
    assert statistics_of(joint).images == after.images
    ours, theirs = (logits_of(one, grown.class_names, images) for one in (grown, joint))
    np.testing.assert_allclose(ours, theirs, atol=0.02 * np.abs(theirs).max())


def test_the_temperature_of_the_model_is_in_its_statistics(images, tmp_path):
    """A head that is solved from the statistics later has the same calibrated logits."""
    photos = write_photos(tmp_path / "photos", {"a": 100, "b": 100, "c": 100}, size=24)
    for number in range(0, 100, 3):  # wrong labels, so that a head is too certain
        image = Image.fromarray(noise(0, 1000 + number, 24))
        image.save(photos / "c" / f"{number:03d}.jpg", quality=90)
    old, new = only(photos, tmp_path / "old", "a", "b"), only(photos, tmp_path / "new", "c")
    run = tlkit.train_run(old, out=tmp_path / "run", **HEAD)
    grown = add_classes_run(run.path, new, out=tmp_path / "grown")
    assert grown.metrics["calibration"]["temperature"] != 1
    model, statistics = grown.load_model(), statistics_of(grown)
    features = below(model, feature_cut(model)).predict(images, verbose=0)
    head = statistics.solve(DescribedImages(features[:0], np.zeros(0, int), ()))
    expected = head.kernel_map.values(features) @ head.kernel + head.bias
    found = logits_of(grown, statistics.class_names, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(found).max())


def test_each_image_is_once_in_the_table_of_splits(made):
    _, _, grown, _ = made
    lines = (grown.path / "split.csv").read_text().splitlines()
    keys = [tuple(line.split(",")[index] for index in (0, 2)) for line in lines]
    assert len(keys) == len(set(keys))
    assert {line.split(",")[1] for line in lines if line.startswith("test,")} == {"a", "b", "c"}


def test_the_report_says_what_the_method_promises_and_costs(made):
    _, run, grown, messages = made
    growth = grown.record["growth"]
    assert growth["method"] == "exact"
    assert growth["num_counted"] == len(statistics_of(grown).images)
    assert growth["old_before"] == run.metrics["test"]["accuracy"]
    assert growth["new_after"] is not None
    assert len(growth["joint"]) == 2  # all old images are still there
    text = next(message for message in messages if "3 classes" in message)
    assert "the exact head of all images together: old " in text
    assert "method exact: the head of all images together" in text
    assert f"solved from sums over {growth['num_counted']} images" in text
    page = (grown.path / "report.html").read_text()
    assert "method exact" in page
    assert "add-classes" in page
    assert "--method exact" in page
    card = (grown.path / "model_card.md").read_text()
    assert f"sums over the features of {growth['num_counted']} images" in card
    assert json.loads((grown.path / "run.json").read_text())["arguments"]["method"] == "exact"


def test_without_old_images_and_statistics_exact_is_refused(made, tmp_path):
    folder, _, _, _ = made
    copied = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    (copied / STATISTICS_FILE).unlink()
    record = json.loads((copied / "run.json").read_text())
    record["arguments"]["photos"] = str(tmp_path / "gone")
    (copied / "run.json").write_text(json.dumps(record))
    with pytest.raises(tlkit.DataError, match=r"`method` must be 'replay' or 'isolated'.*missing"):
        add_classes_run(copied, folder / "new", out=tmp_path / "new", method="exact")
    assert not (tmp_path / "new").exists()


def test_replay_reports_the_joint_head_and_keeps_the_statistics(made, tmp_path):
    folder, run, grown, _ = made
    replayed = add_classes_run(run.path, folder / "new", out=tmp_path / "new", method="replay")
    old, new = replayed.record["growth"]["joint"]
    assert (old, new) == pytest.approx(
        (grown.record["growth"]["old_after"], grown.record["growth"]["new_after"]), abs=0.35
    )
    page = (replayed.path / "report.html").read_text()
    assert "the exact head of all images together" in page
    assert re.search(r"stored features of old images were replayed; cost: -?\d+\.\d points", page)
    assert statistics_of(replayed).images == statistics_of(grown).images


def test_more_images_of_the_same_classes_update_the_head_exactly(made, images, tmp_path):
    _, run, _, _ = made
    more = write_photos(tmp_path / "more", {"a": 16, "b": 16}, seed=5)
    updated = tlkit.train_run(more, out=tmp_path / "updated", from_run=run.path, mode="head")
    counted = statistics_of(updated)
    assert counted.counts.sum() > statistics_of(run).counts.sum()
    assert trained_on(run, "a").keys() <= counted.images.keys()
    assert "solved from sums over" in " ".join(updated.metrics["stages"][0]["notes"])
    # on request the head is trained on the new images alone
    alone = tlkit.train_run(
        more, out=tmp_path / "alone", from_run=run.path, mode="head", keep_statistics=False
    )
    assert not (alone.path / STATISTICS_FILE).exists()
    assert "solved from sums" not in " ".join(alone.metrics["stages"][0]["notes"])
    with pytest.raises(tlkit.ArgumentError, match="`augment` must be left out where statistics"):
        tlkit.train_run(
            more, out=tmp_path / "views", from_run=run.path, mode="head", augment="light"
        )


@pytest.mark.parametrize(("number", "others"), [(6, 0), (1, 0), (5, 1)])
def test_images_of_some_classes_update_the_head_too(made, tmp_path, number, others):
    _, run, _, _ = made
    more = write_photos(tmp_path / "more", {"a": number, "b": others}, seed=6)
    updated = tlkit.train_run(more, out=tmp_path / "updated", from_run=run.path, mode="head")
    before, after = statistics_of(run), statistics_of(updated)
    assert after.images.keys() == before.images.keys() | {
        digest for name in ("a", "b") for digest in trained_on(updated, name)
    }
    assert len(after.images) > len(before.images)
    if not others:  # images of one class tell nothing of the others
        assert after.factor == before.factor
    assert "the temperature is that of the statistics" in (updated.path / "log.txt").read_text()
    card = (updated.path / "model_card.md").read_text()
    assert f"were solved from sums over {len(after.images)} images" in card
    assert "`statistics.npz` holds sums" in card


def test_images_of_some_classes_are_refused_where_the_head_is_not_updated(made, tmp_path):
    _, run, _, _ = made
    more = write_photos(tmp_path / "more", {"a": 6}, seed=6)
    for options in ({"mode": "fine-tune"}, {"mode": "head", "keep_statistics": False}):
        with pytest.raises(tlkit.DataError, match="images of at least two classes"):
            tlkit.train_run(more, out=tmp_path / "new", from_run=run.path, **options)
    other = write_photos(tmp_path / "other", {"a": 6, "z": 6}, seed=6)
    with pytest.raises(tlkit.DataError, match="unexpected classes 'z'"):
        tlkit.train_run(other, out=tmp_path / "new", from_run=run.path, mode="head")
    assert not (tmp_path / "new").exists()


def test_an_image_that_is_counted_as_another_class_is_named(made, tmp_path):
    _, run, _, _ = made
    more = write_photos(tmp_path / "more", {"b": 1}, seed=6)
    path = Path(next(iter(trained_on(run, "a").values())))
    shutil.copy(path, more / "b" / "000.jpg")
    with pytest.raises(tlkit.DataError, match=r"000.jpg', an image of 'b' that is counted as 'a'"):
        tlkit.train_run(more, out=tmp_path / "new", from_run=run.path, mode="head")


def test_a_class_is_forgotten_as_if_it_had_never_been_there(made, images, tmp_path):
    _, run, grown, _ = made
    messages = []
    smaller = forget_run(
        grown.path, class_names=["c"], out=tmp_path / "smaller", log=messages.append
    )
    assert smaller.class_names == ("a", "b")
    assert statistics_of(smaller).images == statistics_of(run).images
    assert np.isfinite(logits_of(smaller, ("a", "b"), images)).all()
    statistics = statistics_of(smaller)
    for fold, other in zip(statistics.folds, statistics_of(run).folds, strict=True):
        scale = np.abs(other.gram).max()
        np.testing.assert_allclose(fold.gram, other.gram, atol=1e-9 * scale)
        np.testing.assert_allclose(fold.cross, other.cross, atol=1e-9 * scale)
    removal = smaller.record["removal"]
    assert removal["num_images"] == len(trained_on(grown, "c"))
    assert removal["num_seen"] == 0
    assert any("was never trained on these images" in message for message in messages)
    table = (smaller.path / "split.csv").read_text()
    assert not any(digest in table for digest in trained_on(grown, "c"))
    assert "forget" in (smaller.path / "report.html").read_text()
    model = keras.saving.load_model(smaller.path / "model.keras")
    assert model.output_shape[-1] == 2

    card = (smaller.path / "model_card.md").read_text()
    assert f"{removal['num_images']:,} training images were forgotten" in card


def test_the_head_that_forgets_is_the_one_that_never_saw_the_class(made, images, tmp_path):
    """Its logits are those of a head from the sums without the class, up to the temperature."""
    _, run, grown, _ = made
    smaller = forget_run(grown.path, class_names=["c"], out=tmp_path / "smaller")
    model = smaller.load_model()
    features = below(model, feature_cut(model)).predict(images, verbose=0)
    nothing = DescribedImages(features[:0], np.zeros(0, int), ())
    head = statistics_of(run).solve(nothing)
    expected = head.kernel_map.values(features) @ head.kernel + head.bias
    found = logits_of(smaller, ("a", "b"), images)
    factor = (found * expected).sum() / np.square(expected).sum()
    np.testing.assert_allclose(found, factor * expected, rtol=0, atol=1e-4 * np.abs(found).max())


def test_an_exact_head_is_exported_to_other_formats(made, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("ai_edge_litert")
    _, _, grown, _ = made
    formats = ("saved_model", "litert", "onnx")
    samples = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), "uint8")
    report = tlkit.export_model(
        grown.load_model(), tmp_path / "out", grown.class_names, formats=formats, samples=samples
    )
    assert [one.name for one in report.formats] == list(formats)
    for one in report.formats:
        assert one.difference <= EXPORT_FORMATS[one.name].largest_difference


def test_forgetting_that_failed_is_repeated_from_the_shell(made, tmp_path, monkeypatch):
    _, run, _, _ = made
    forgotten = list(trained_on(run, "a"))[:2]
    (tmp_path / "list.txt").write_text("\n".join(forgotten))
    words = ["forget", run.path, "--images", tmp_path / "list.txt", "--out", tmp_path / "smaller"]
    command = [str(word) for word in words]

    def stop(*arguments):
        raise ValueError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("tlkit.runs.forget.write_statistics", stop)
        assert isinstance(CliRunner().invoke(cli.app, command).exception, ValueError)
    with pytest.raises(tlkit.RunError):
        tlkit.load_run(tmp_path / "smaller")
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    assert "2 images forgotten" in result.output
    smaller = tlkit.load_run(tmp_path / "smaller")
    assert statistics_of(smaller).images.keys() == statistics_of(run).images.keys() - {*forgotten}


def test_images_are_forgotten_by_file_and_by_digest(made, tmp_path):
    _, run, _, _ = made
    (first, file), (second, _), *_ = trained_on(run, "a").items()
    smaller = forget_run(run.path, images=[file, second], out=tmp_path / "smaller")
    assert statistics_of(smaller).images.keys() == statistics_of(run).images.keys() - {
        first,
        second,
    }
    everything = "".join(
        path.read_text() for path in smaller.path.iterdir() if path.suffix in (".json", ".csv")
    )
    assert first not in everything
    assert second not in everything
    again = forget_run(run.path, images=[second, first], out=tmp_path / "smaller")
    assert again.record == smaller.record  # the same images, however they are named


def test_what_was_never_counted_is_named_and_nothing_is_written(made, tmp_path):
    folder, run, _, _ = made
    lines = (run.path / "split.csv").read_text().splitlines()
    tested = next(line.split(",")[2] for line in lines if line.startswith("test,"))
    other = sorted((folder / "new" / "c").iterdir())[0]
    out = tmp_path / "smaller"
    for images, message in (
        ([tested], "never counted"),
        ([str(other)], "never counted"),
        (["nothing.jpg"], "must be image files, or digests"),
        ([*trained_on(run, "a")], r"must leave an image of each class.*--class NAME"),
    ):
        with pytest.raises(tlkit.TlkitError, match=message):
            forget_run(run.path, images=images, out=out)
    with pytest.raises(tlkit.ArgumentError, match=r"must be classes of the run.*'x'"):
        forget_run(run.path, class_names=["x"], out=out)
    with pytest.raises(tlkit.ArgumentError, match="must leave two classes or more"):
        forget_run(run.path, class_names=["a"], out=out)
    with pytest.raises(tlkit.ArgumentError, match="Received: neither"):
        forget_run(run.path, out=out)
    with pytest.raises(tlkit.ArgumentError, match="another folder than that of the run"):
        forget_run(run.path, class_names=["a"], out=run.path)
    assert not out.exists()


def test_damaged_statistics_and_those_of_another_network_are_refused(made, tmp_path):
    folder, run, _, _ = made
    copied = Path(shutil.copytree(run.path, tmp_path / "run"))
    more = write_photos(tmp_path / "more", {"a": 16, "b": 16}, seed=5)
    path = copied / STATISTICS_FILE
    path.write_bytes(path.read_bytes()[:1000])
    calls = (
        lambda: forget_run(copied, images=[next(iter(trained_on(run, "a")))], out=tmp_path / "x"),
        lambda: add_classes_run(copied, folder / "new", out=tmp_path / "x"),
        lambda: tlkit.train_run(more, out=tmp_path / "x", from_run=copied, mode="head"),
    )
    for call in calls:
        with pytest.raises(tlkit.RunError, match="It is damaged"):
            call()
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    with pytest.raises(tlkit.RunError, match="It is damaged"):
        calls[1]()
    path.rmdir()
    path.write_bytes(content)
    other = tlkit.train_run(
        folder / "old", out=tmp_path / "other", **{**HEAD, "backbone": "resnet20"}
    )
    shutil.copy(other.path / STATISTICS_FILE, path)
    for call in calls:
        with pytest.raises(tlkit.RunError, match="of another network, or of another image size"):
            call()
    assert not (tmp_path / "x").exists()
    path.unlink()
    with pytest.raises(tlkit.RunError, match="must keep statistics of its head"):
        calls[0]()


def test_a_run_that_forgets_may_not_lie_among_its_images(made):
    folder, run, _, _ = made
    with pytest.raises(tlkit.RunError, match="`out` must lie outside"):
        forget_run(run.path, images=[*trained_on(run, "a")][:1], out=folder / "old" / "x")
    assert not (folder / "old" / "x").exists()


def test_kept_statistics_have_the_factor_that_fits_their_images(made):
    _, run, _, _ = made
    assert statistics_of(run).factor != DEFAULT_FACTOR


def test_statistics_of_a_fine_tuned_network_are_kept_on_request(made, images, tmp_path):
    folder, _, _, _ = made
    tuned = tlkit.train_run(
        folder / "old",
        out=tmp_path / "tuned",
        backbone="tiny_resnet",
        weights=None,
        mode="fine-tune",
        epochs=1,
        keep_statistics=True,
        statistics_width=60,
        batch_size=16,
    )
    assert len(statistics_of(tuned).kernel_map.landmarks) == 60
    grown = add_classes_run(tuned.path, folder / "new", out=tmp_path / "grown")
    assert grown.record["growth"]["method"] == "exact"
    digest = next(iter(trained_on(tuned, "a")))
    smaller = forget_run(grown.path, images=[digest], out=tmp_path / "smaller")
    is_tuned = tuned.metrics["shipped"]["model"] != "head"
    assert smaller.record["removal"]["num_seen"] == int(is_tuned)
    assert (digest in (smaller.path / "split.csv").read_text()) == is_tuned
    assert content_digest(Path(trained_on(tuned, "a")[digest]).read_bytes()) == digest


def test_unknown_images_stay_rejected_with_further_classes(tmp_path):
    """The neighbours are the training images of all steps; forgotten ones are none."""
    photos = write_photos(tmp_path / "photos", {"a": 110, "b": 110, "c": 110})
    old, new = only(photos, tmp_path / "old", "a", "b"), only(photos, tmp_path / "new", "c")
    run = tlkit.train_run(old, out=tmp_path / "run", reject_unknown=True, **HEAD)
    grown = add_classes_run(run.path, new, out=tmp_path / "grown")
    smaller = forget_run(grown.path, class_names=["a"], out=tmp_path / "smaller")
    for one in (run, grown, smaller):
        rejection = Rejection.load(one.path / REJECTION_FILE)
        counted = [len(trained_on(one, name)) for name in one.class_names]
        assert rejection.num_stored == sum(counted)
        assert set(rejection.by_class) == set(one.class_names)
        assert "OOD score threshold" in (one.path / "report.html").read_text()
    (grown.path / REJECTION_FILE).write_bytes(b"PK")
    with pytest.raises(tlkit.RunError, match="which is damaged"):
        forget_run(grown.path, class_names=["b"], out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_rare_classes_keep_their_weight(tmp_path):
    """With the run's class weights the rare class is predicted more often than without."""
    photos = write_photos(tmp_path / "photos", {"a": 60, "b": 12, "c": 12})
    old, new = only(photos, tmp_path / "old", "a", "b"), only(photos, tmp_path / "new", "c")
    noise = np.random.default_rng(1).uniform(0, 255, (300, 32, 32, 3)).astype("float32")
    shares = {}
    for class_weight in (None, "balanced"):
        run = tlkit.train_run(
            old, out=tmp_path / f"run {class_weight}", class_weight=class_weight, **HEAD
        )
        grown = add_classes_run(run.path, new, out=tmp_path / f"grown {class_weight}")
        smaller = forget_run(
            grown.path, class_names=["c"], out=tmp_path / f"smaller {class_weight}"
        )
        for name, one in (("grown", grown), ("smaller", smaller)):
            predicted = one.load_model().predict(noise, verbose=0)
            biases = predicted.mean(axis=0)
            shares[name, class_weight] = biases[1] - biases[0]
    assert shares["grown", "balanced"] > shares["grown", None]
    assert shares["smaller", "balanced"] > shares["smaller", None]
