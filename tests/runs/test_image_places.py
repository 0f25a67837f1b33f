"""Runs on archives and addresses give what runs on the folder give, and bad ones are one line."""

import csv
import shutil
import sys

import numpy as np
import pytest

import tlkit
from tests.conftest import write_photos
from tlkit import cli
from tlkit.runs.inference import evaluate_run

ARGUMENTS = {"backbone": "tiny_resnet", "weights": None, "batch_size": 16, "mode": "head"}


def rows_of(run):
    with (run.path / "split.csv").open(encoding="utf-8", newline="") as file:
        *rows, _ = csv.DictReader(file)
    return [
        (row["split"], row["class"], row["digest"], row["path"].rpartition("photos/")[2])
        for row in rows
    ]


@pytest.mark.slow
def test_a_run_on_an_archive_is_that_on_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos = write_photos(tmp_path / "photos", {"green": 30, "red": 30})
    shutil.make_archive("photos", "zip", tmp_path, "photos")
    expected = tlkit.train_run(photos, out="folder", **ARGUMENTS)
    found = tlkit.train_run("photos.zip", **ARGUMENTS)
    assert str(found.path) == "runs/photos-1"
    assert found.record["arguments"]["photos"] == str(tmp_path / "photos.zip")
    assert rows_of(found) == rows_of(expected)
    assert found.metrics["test"] == expected.metrics["test"]
    weights = zip(found.load_model().weights, expected.load_model().weights, strict=True)
    assert all(np.array_equal(one, other) for one, other in weights)
    assert tlkit.train_run("photos.zip", out=found.path, **ARGUMENTS).path == found.path

    pytest.importorskip("fsspec")
    more = write_photos(tmp_path / "more", {"green": 8, "red": 8}, seed=1)
    address = shutil.make_archive("more", "gztar", more)
    assert evaluate_run(found.path, address).num_images == 16
    assert evaluate_run(found.path, f"file://{address}").num_images == 16


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        ("bad.zip", "PHOTOS must name an intact archive. Received: 'bad.zip' (File is not a zip"),
        ("gone.tar", "PHOTOS must be a folder of images. Received: PHOTOS gone.tar, which"),
        ("foo://bucket/images", "PHOTOS must be an address with a protocol of fsspec"),
        ("memory://bucket/gone", "PHOTOS must be an address that can be read from here."),
    ],
)
@pytest.mark.parametrize("command", ["train", "inspect", "compare"])
def test_bad_places_are_one_line_and_status_2(
    tmp_path, monkeypatch, capsys, *, command, photos, message
):
    if "://" in photos:
        pytest.importorskip("fsspec")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.zip").write_bytes(b"PK no archive")
    monkeypatch.setattr(sys, "argv", ["tlkit", command, photos, "--quiet"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"tlkit: {message}")
    assert not (tmp_path / "runs").exists()
