"""Runs with a backbone from a `.keras` file."""

import json

import keras
import numpy as np
import pytest

import tlkit
from tests.conftest import write_photos
from tests.models.test_own_backbones import network, with_random_weights
from tlkit.errors import ArgumentError
from tlkit.runs.config import RunConfig


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images, and a model without preprocessing of its own."""
    folder = tmp_path_factory.mktemp("own")
    photos = write_photos(folder / "photos", {"green": 20, "red": 20})
    with_random_weights(network(top="classes", scaled=False)).save(folder / "own.keras")
    return photos, folder / "own.keras"


def test_a_run_says_what_it_takes_and_works_without_the_file(files, tmp_path, monkeypatch):
    photos, path = files
    monkeypatch.chdir(path.parent)
    run = tlkit.train_run(
        photos, out=tmp_path / "run", backbone="own.keras", preprocessing="127,128", mode="head"
    )
    line = (
        "own: features of block2_conv (4 × 4 × 6); cut off: pool, drop, predictions; "
        "preprocessing: (pixels - 127) / 128"
    )
    assert line in (run.path / "log.txt").read_text()
    arguments = json.loads((run.path / "run.json").read_text())["arguments"]
    assert arguments["backbone"] == str(path)  # valid in any working directory
    assert arguments["preprocessing"] == "127,128"
    card = (run.path / "model_card.md").read_text()
    assert "own.keras" in card
    assert str(path.parent) not in card
    model = keras.saving.load_model(run.path / "model.keras")
    assert model.get_layer("preprocessing").offset == pytest.approx([-127 / 128])
    image = sorted(photos.rglob("*.jpg"))[0]
    (found,) = tlkit.predict(run.load_model(), [image], run.class_names)
    assert set(found.probabilities) == {"green", "red"}


def test_candidates_may_be_files(files, tmp_path):
    photos, path = files
    data = tlkit.load_folder(photos, image_size=32)
    comparison = tlkit.compare_backbones(data, ["resnet20", f"{path}:tf", f"{path}:127:128@24"])
    assert sorted(score.label for score in comparison.scores) == [
        "own.keras:127:128@24",
        "own.keras:tf",
        "resnet20",
    ]
    run = tlkit.train_run(
        photos,
        out=tmp_path / "run",
        backbone="auto",
        backbones=[f"{path}:tf@32", f"{path}:tf@16=none"],
        mode="head",
    )
    chosen = run.run_record.resolved
    assert chosen.backbone == f"{path}:tf"
    assert run.load_model().input_shape[1:3] == (chosen.image_size,) * 2


def test_the_same_image_sizes_can_be_compared_for_a_file(files, tmp_path):
    photos, path = files
    run = tlkit.train_run(
        photos,
        out=tmp_path / "run",
        backbone=path,
        preprocessing="tf",
        image_size="auto",
        mode="head",
    )
    labels = run.run_record.choices["image_size"].comparison["scores"]
    assert {one["name"] for one in labels} == {f"{path}:tf"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "nowhere.keras"}, "`backbone` must be a name of .* existing .keras file"),
        ({"preprocessing": "127"}, "`preprocessing` must be one of"),
        ({"backbone": "auto", "preprocessing": "tf"}, "must be left out with backbone='auto'"),
        (
            {"backbone": "resnet20:tf", "preprocessing": "tf"},
            "must be left out if the name of the backbone has one",
        ),
    ],
)
def test_bad_arguments_are_named_before_any_work(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        RunConfig(photos="photos", **{"backbone": "resnet20", **arguments})


def test_missing_preprocessing_is_named_before_training(files, tmp_path):
    photos, path = files
    with pytest.raises(ArgumentError, match="`preprocessing` must be given"):
        tlkit.train_run(photos, out=tmp_path / "run", backbone=str(path), mode="head")
    values = np.unique([one.suffix for one in (tmp_path / "run").rglob("*") if one.is_file()])
    assert ".keras" not in values
