"""Runs on manifests train, evaluate, warm-start and add classes as runs on folders do."""

import csv

import pytest

import tlkit
from tests.conftest import write_photos
from tests.data.test_manifests import rows_of, splits_of, write_manifest
from tlkit.data.manifests import load_images
from tlkit.errors import DataError
from tlkit.runs.directory import exclude_images, seen_digests
from tlkit.runs.inference import evaluate_run

ARGUMENTS = {"backbone": "tiny_resnet", "weights": None, "batch_size": 16, "mode": "head"}
HEADER = ("path", "label", "group")


def manifest_of(photos, name="m.csv"):
    """A manifest beside a folder, five images in a group."""
    rows = rows_of(photos, lambda file: f"{file.parent.name} {int(file.stem) // 5}")
    rows = [(f"{photos.name}/{path}", *more) for path, *more in rows]
    return write_manifest(photos.parent / name, rows, HEADER)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifest")
    photos = write_photos(folder / "photos", {"green": 50, "red": 50})
    return photos, tlkit.train_run(manifest_of(photos), out=folder / "run", **ARGUMENTS)


@pytest.mark.slow
def test_a_run_writes_the_same_files_as_one_on_a_folder(finished):
    photos, run = finished
    assert run.class_names == ("green", "red")
    assert run.record["arguments"]["photos"] == str(photos.parent / "m.csv")
    assert (run.path / "saved_model" / "saved_model.pb").is_file()
    data = tlkit.load_manifest(photos.parent / "m.csv", image_size=32)
    assert run.record["data"]["fingerprint"] == data.fingerprint
    with (run.path / "split.csv").open(encoding="utf-8", newline="") as file:
        *rows, end = csv.DictReader(file)
    assert (end["split"], end["path"]) == ("end", "100 rows")
    assert len(rows) == 100
    splits = {}
    for row in rows:
        number = int(row["path"][-7:-4]) // 5
        splits.setdefault((row["class"], number), set()).add(row["split"])
    assert len(splits) == 20
    assert all(len(found) == 1 for found in splits.values())


def test_the_whole_group_of_a_seen_image_is_excluded(finished):
    photos, run = finished
    data = tlkit.load_manifest(photos.parent / "m.csv", image_size=32)
    one = data.train.digests[0]
    left = exclude_images(data.train, frozenset([one]))
    assert set(data.train.groups) - set(left.groups) == {data.train.groups[0]}
    plain = tlkit.load_folder(photos, image_size=32).train
    assert exclude_images(plain, frozenset([one])).num_images >= plain.num_images - 1
    assert exclude_images(data.train, seen_digests(run)).num_images == 0


def test_a_run_is_evaluated_on_a_manifest(finished, tmp_path):
    _, run = finished
    more = write_photos(tmp_path / "more", {"green": 6, "red": 6}, seed=1)
    report = evaluate_run(run.path, manifest_of(more))
    assert report.num_images == 12
    write_manifest(tmp_path / "other.csv", [("more/red/000.jpg", "rde")])
    with pytest.raises(DataError, match=r"`photos` must contain only images of the model's.*'red'"):
        evaluate_run(run.path, tmp_path / "other.csv")


@pytest.mark.slow
def test_a_run_is_warm_started_with_a_manifest_and_measures_forgetting(finished, tmp_path):
    _, run = finished
    more = write_photos(tmp_path / "more", {"green": 30, "red": 30}, seed=1)
    messages = []
    arguments = {"out": tmp_path / "run", "from_run": run.path, "mode": "head"}
    again = tlkit.train_run(manifest_of(more), **arguments, log=messages.append)
    assert again.class_names == run.class_names
    assert "old_task" in again.metrics
    assert not any("not measured" in text for text in messages)


@pytest.mark.slow
def test_classes_are_added_from_a_manifest_with_old_images_in_another(finished, tmp_path):
    photos, run = finished
    new = write_photos(tmp_path / "new", {"green": 0, "blue": 30}, seed=2)
    gone = next((photos / "red").iterdir())
    content = gone.read_bytes()
    gone.unlink()  # a missing old image is no error
    try:
        grown = tlkit.add_classes_run(run.path, manifest_of(new), out=tmp_path / "grown")
    finally:
        gone.write_bytes(content)
    assert grown.class_names == ("green", "red", "blue")
    assert grown.record["growth"]["num_old"] > 0


def test_a_folder_or_a_manifest_is_loaded_by_its_name(finished):
    photos, _ = finished
    listed, found = load_images(photos.parent / "m.csv"), load_images(photos)
    assert listed.report.num_groups == 20
    assert found.report.num_groups == 0
    assert listed.class_names == found.class_names == ("green", "red")
    assert listed.report.counts.keys() == found.report.counts.keys()
    contents = [
        sorted(digest for split in splits_of(data) for digest in split.digests)
        for data in (listed, found)
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 100
    with pytest.raises(DataError, match=r"`photos` must.*nowhere"):
        load_images("nowhere", argument="photos")


def test_a_vertical_bar_in_a_label_is_noted(finished, tmp_path):
    photos, _ = finished
    rows = [(str(photos / path), f"{label}|x") for path, label in rows_of(photos)]
    data = tlkit.load_manifest(write_manifest(tmp_path / "m.csv", rows), image_size=8)
    assert data.class_names == ("green|x", "red|x")
    (note,) = (note for note in data.report.notes if "multi_label=True" in note)
    assert note.startswith("Labels with '|' are read as the name of one class: 'green|x', 'red|x'")
    assert note in str(data.report)  # which every run logs before it trains
