"""Runs with several labels per image: from a table to thresholds that are used everywhere."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

import tlkit
from tests.data.test_manifests import write_manifest
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.prediction_stream import predict_exported
from tlkit.evaluation.thresholds import is_label
from tlkit.runs.inference import evaluate_run, export_run
from tlkit.serving.model import ServedModel

COLOURS = ("blue", "green", "red")
SMALL = {"backbone": "resnet20", "weights": None, "multi_label": True, "mode": "head"}


def rows_of(folder, number=100):
    """Writes images, each brighter in the colours of its labels; returns their rows."""
    rows = []
    for index in range(number):
        generator = np.random.default_rng(index)
        has = (generator.random(3) < [0.5, 0.5, 0.25]).astype(int)
        pixels = generator.uniform(0, 150, (32, 32, 3)) + 60 * has[::-1]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:03d}.png")
        split = "val" if index % 4 == 0 else "test" if index % 4 == 1 else "train"
        labels = "|".join(name for name, one in zip(COLOURS, has, strict=True) if one) or "|"
        rows.append((f"{index:03d}.png", labels, split))
    return rows


@pytest.fixture(scope="module")
def paintings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paintings")
    return write_manifest(folder / "paintings.csv", rows_of(folder), ("path", "label", "split"))


@pytest.fixture(scope="module")
def run(paintings, tmp_path_factory):
    return tlkit.train_run(
        paintings, out=tmp_path_factory.mktemp("runs") / "run", class_weight="balanced", **SMALL
    )


def test_thresholds_are_chosen_and_kept(run, paintings):
    thresholds = run.run_record.thresholds
    assert run.is_multi_label
    assert thresholds.class_names == run.class_names == COLOURS
    assert thresholds.num_images == 25
    assert len(set(thresholds.values)) > 1
    assert json.loads((run.path / "run.json").read_text())["thresholds"]["values"].keys() == {
        *COLOURS
    }
    model = run.load_model()
    data = tlkit.load_manifest(paintings, multi_label=True, image_size=32)
    probabilities = 1 / (1 + np.exp(-model.predict(data.validation.dataset(), verbose=0)))
    assigned = is_label(probabilities, thresholds.values)
    f1 = 2 * (assigned * data.validation.labels).sum(axis=0)
    f1 = f1 / (assigned.sum(axis=0) + data.validation.labels.sum(axis=0))
    np.testing.assert_allclose(f1, thresholds.f1, atol=1e-6)
    assert run.metrics["validation"]["labels"]["f1_macro"] == pytest.approx(f1.mean())


def test_predictions_exports_and_the_server_use_the_thresholds(run, paintings, tmp_path):
    files = sorted(paintings.parent.glob("*.png"))[:12]
    predictions = tlkit.predict(
        run.load_served_model(), files, run.class_names, threshold=run.threshold
    )
    expected = [one.labels for one in predictions]
    at_others = tlkit.predict(
        run.load_served_model(), files, run.class_names, threshold=(0.01, 0.5, 0.99)
    )
    assert expected != [one.labels for one in at_others]
    assert [one.labels for one in predict_exported(run.path, files)] == expected
    with (tmp_path / "table.csv").open("w") as file:
        tlkit.predict_run(run.path, files, csv=file.name, safe=True)
    with (tmp_path / "table.csv").open() as file:
        assert [tuple(filter(None, row["label"].split("|"))) for row in csv.DictReader(file)] == (
            expected
        )
    for safe in (False, True):
        served = ServedModel(run.path, 10**6, safe=safe)
        answers = [served.answer(file.read_bytes()) for file in files[:4]]
        assert [tuple(answer["labels"]) for answer in answers] == expected[:4]
    export_run(run.path, tmp_path / "export", "saved_model")
    assert [one.labels for one in predict_exported(tmp_path / "export", files)] == expected
    settings = json.loads((tmp_path / "export/assets/serving.json").read_text())
    assert settings["threshold"] == list(run.threshold)


def test_figures_of_labels_are_reported(run, paintings):
    report = evaluate_run(run.path, paintings)
    assert report.num_images == 25
    assert report.labels.thresholds == run.threshold
    assert report.labels.f1_macro == run.metrics["test"]["labels"]["f1_macro"]
    page = (run.path / "report.html").read_text()
    card = (run.path / "model_card.md").read_text()
    assert '<section id="labels">' in page
    assert "Assigns any number of 3 labels to an image." in card
    assert re.search(r"\| test \| mAP \| [\d.]+ % \|", card)
    assert "| label | threshold | precision |" in card
    assert "How classes count in training: balanced weights." in card
    assert "how classes count" in page
    split = (run.path / "split.csv").read_text()
    assert "blue|green" in split


@pytest.mark.slow
def test_a_run_from_another_one_takes_one_column_for_each_label(run, paintings, tmp_path):
    _, *rows = csv.reader(paintings.read_text().splitlines())
    splits = {"train": "train", "test": "validation"}  # the run has not seen its test images
    flags = [
        (path, *(str(int(name in labels.split("|"))) for name in COLOURS), splits[split])
        for path, labels, split in rows
        if split in splits
    ]
    header = ("Path", *map(str.title, COLOURS), "split")
    table = write_manifest(paintings.parent / "columns.csv", flags, header)
    given = {"from_run": run.path, "mode": "head", "head": "linear", "threshold": 0.4}
    with pytest.raises(DataError, match="exactly the classes"):  # "Blue" is another label
        tlkit.train_run(table, out=tmp_path / "other", **given)
    write_manifest(table, flags, ("path", *COLOURS, "split"))
    with pytest.raises(ArgumentError, match="`multi_label` must be left out"):
        tlkit.train_run(table, out=tmp_path / "other", multi_label=True, **given)
    further = tlkit.train_run(table, out=tmp_path / "further", **given)
    assert further.threshold == (0.4,) * 3
    assert further.run_record.thresholds.num_images == 0
    with pytest.raises(ArgumentError, match="`run` must have one class per image"):
        tlkit.add_classes_run(further.path, table, out=tmp_path / "grown")


@pytest.mark.parametrize(
    ("changed", "given", "message"),
    [
        ({5: "blue|rare", 9: "rare"}, {}, "Every label must have training images.*none of 'rare'"),
        ({3: "blue|rare"}, {}, "Every label must have validation images.*none of 'rare' among"),
        ({7: ""}, {}, "must have a label in every row.*in line 9. Fill it in; . alone"),
        ({}, {"class_weight": "pink=2"}, "`class_weight` must name classes of the images.*'pink'"),
        ({}, {"sampling": "balanced"}, "`sampling` must be left out with several labels"),
        ({}, {"folds": 3}, "`folds` must be left out with several labels"),
        ({}, {"keep_statistics": True}, "`keep_statistics` must be left out with several labels"),
        ({}, {"threshold": 1.5}, "`threshold` must be between 0 and 1"),
        (
            {},
            {"head": "closed-form", "class_weight": "balanced"},
            "`head` must be left out with several labels per image, as a head in closed form has",
        ),
        ({}, {"multi_label": False, "threshold": 0.4}, "`threshold` must be left out without"),
        ({}, {"multi_label": 1}, "`multi_label` must be True or False"),
    ],
)
def test_what_several_labels_do_not_have_is_refused(paintings, tmp_path, changed, given, message):
    rows = list(csv.reader(paintings.read_text().splitlines()))[1:]
    for index, labels in changed.items():
        rows[index][1] = labels
    table = write_manifest(paintings.parent / "bad.csv", rows, ("path", "label", "split"))
    with pytest.raises((ArgumentError, DataError), match=message):
        tlkit.train_run(table, out=tmp_path / "run", **SMALL | given)
    assert not (tmp_path / "run").exists()


def test_a_folder_has_one_class_per_image(tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    with pytest.raises(ArgumentError, match="`photos` must be a CSV file with several labels"):
        tlkit.train_run(tmp_path / "photos", out=tmp_path / "run", **SMALL)


@pytest.mark.parametrize(
    ("header", "cells", "message"),
    [
        (("path", "sea", "sun"), [("000.png", "1", "2")], "0 or 1 in each cell.*'2' in the colu"),
        (("path", "sea", "sun"), [("000.png", "1", "")], "0 or 1 in each cell of a label.*line 2"),
        (
            ("path", "sea", "sun"),
            [("000.png", "1", "0")],
            "0 in every row of the column 'sun'",
        ),
        (("path", "label", "sun"), [("000.png", "a", "0")], "one column of 0 and 1 for each"),
        (("path", "sun"), [("000.png", "1")], "one column of 0 and 1 for each"),
    ],
)
def test_columns_of_labels_hold_zeros_and_ones(paintings, header, cells, message):
    table = write_manifest(paintings.parent / "flags.csv", cells, header)
    with pytest.raises(DataError, match=message):
        tlkit.load_manifest(table, multi_label=True)
