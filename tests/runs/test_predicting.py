"""Predictions for folders: the table, sorted images, and files that cannot be used."""

import csv
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

import tlkit
from tests.conftest import write_photos
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation import prediction_stream
from tlkit.evaluation.rejection import Rejection
from tlkit.export.saved_model import Serving, write_saved_model
from tlkit.runs.predicting import open_classifier

NAMES = ("red", "green/lime", "=blue")


def colour_model(num_pixels=16, activation=None):
    """A model whose most probable class is the colour with the largest mean."""
    inputs = keras.Input((num_pixels, num_pixels, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    x = keras.layers.Dense(3, activation=activation, name="logits")(x)
    model = keras.Model(inputs, x)
    offset = -8.0 if activation else 0.0
    model.get_layer("logits").set_weights([0.1 * np.eye(3), np.full(3, offset)])
    return model


def write_export(folder, kind="softmax", rejection=None):
    model = colour_model(activation="sigmoid" if kind == "multi_label" else None)
    folder.mkdir()
    serving = Serving(NAMES, kind, (16, 16), 0.5, 10**6, rejection)
    write_saved_model(model, folder / "saved_model", serving)
    return folder


@pytest.fixture
def export(tmp_path):
    return write_export(tmp_path / "export")


@pytest.fixture
def images(tmp_path):
    """Four images of each colour, and files that cannot be used."""
    folder = write_photos(tmp_path / "new", {"a_red": 4, "b_green": 4, "c_blue": 4})
    jpeg = (folder / "a_red" / "000.jpg").read_bytes()
    (folder / "a_red" / "cut.jpg").write_bytes(jpeg[:200])
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    (folder / "=1+1.jpg").write_bytes(jpeg)
    return folder


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def colour_of(path):
    return "red" if path.endswith("1.jpg") and "=1" in path else path.split("/")[-2][2:]


def test_a_table_has_a_row_for_each_file(export, images, tmp_path):
    seen = []
    report = tlkit.predict_run(
        export, images, csv=tmp_path / "out" / "table.csv", batch_size=4, at_prediction=seen.append
    )
    rows = rows_of(tmp_path / "out" / "table.csv")
    assert [row["file"] for row in rows] == [one.path for one in seen]
    assert [one.index for one in seen] == list(range(15))
    assert list(rows[0]) == [
        *("file", "label", "probability", "label_2", "probability_2", "label_3", "probability_3"),
        *("known", "warning", "error"),
    ]
    for row, one in zip(rows, seen, strict=True):
        if one.reason:
            assert row["error"] == one.reason
            assert row["label"] == row["probability"] == row["label_3"] == ""
            continue
        expected = {"red": "red", "green": "green/lime", "blue": "'=blue"}[colour_of(one.path)]
        assert row["label"] == expected
        shown = [float(row[f"probability{rank}"]) for rank in ("", "_2", "_3")]
        assert shown == sorted(shown, reverse=True)
        assert sum(shown) == pytest.approx(1, abs=1e-5)
    assert report.counts == {"red": 5, "green/lime": 4, "=blue": 4}
    assert report.num_files == 15
    (cut, cut_reason), (text, text_reason) = report.unusable
    assert (cut, text) == (str(images / "a_red" / "cut.jpg"), str(images / "notes.txt"))
    assert "damaged JPEG" in cut_reason
    assert text_reason == "not an image: text"
    assert "13 images predicted" in str(report)
    assert "2 files cannot be used" in str(report)
    assert report.num_unknown is None
    again = list(tlkit.predict_files(export, images, batch_size=4))
    assert [one.as_dict() for one in again] == [one.as_dict() for one in seen]


def test_top_limits_the_classes_of_the_table(export, images, tmp_path):
    tlkit.predict_run(export, images, csv=tmp_path / "table.csv", top=1)
    columns = ["file", "label", "probability", "known", "warning", "error"]
    assert list(rows_of(tmp_path / "table.csv")[0]) == columns


def test_a_file_is_decoded_on_its_own_only_where_its_batch_fails(export, images, monkeypatch):
    checked = []
    check = prediction_stream.check_contents

    def counted(contents, max_pixels):
        checked.extend(name for name, _ in contents)
        return check(contents, max_pixels)

    monkeypatch.setattr(prediction_stream, "check_contents", counted)
    found = list(tlkit.predict_files(export, images / "b_green", batch_size=2))
    assert not checked
    assert len(found) == 4
    found = list(tlkit.predict_files(export, images / "a_red", batch_size=2))
    assert [name.rsplit("/", 1)[-1] for name in checked] == ["cut.jpg"]
    assert [one.label for one in found] == ["red"] * 4 + [""]


def test_damaged_images_that_can_be_used_have_a_warning(export, images, tmp_path, capfd):
    path = images / "b_green" / "001.jpg"
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes(9) + content[-2:])
    found = list(tlkit.predict_files(export, images / "b_green"))
    assert [bool(one.warning) for one in found] == [False, True, False, False]
    assert "Corrupt JPEG data" in found[1].warning
    assert {one.label for one in found} == {"green/lime"}
    tlkit.predict_run(export, images / "b_green", csv=tmp_path / "table.csv")
    assert rows_of(tmp_path / "table.csv")[1]["warning"] == found[1].warning
    assert "JPEG data" not in capfd.readouterr().err  # it is in the prediction


@pytest.mark.parametrize("copy", [False, True])
def test_images_are_sorted_into_folders(export, images, tmp_path, copy):
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(images / "a_red" / "000.jpg", "000.jpg")
    target = tmp_path / "sorted"
    report = tlkit.predict_run(export, [images, tmp_path / "more.zip"], sort_into=target, copy=copy)
    found = {path.relative_to(target).as_posix(): path for path in target.rglob("*.jpg")}
    own = [f"00{number}.jpg" for number in range(4)]
    expected = [f"{name}/{file}" for name in ("red", "green_lime", "=blue") for file in own]
    assert sorted(found) == sorted([*expected, "red/=1+1.jpg", "red/000_2.jpg"])
    assert found["red/000_2.jpg"].read_bytes() == (images / "a_red" / "000.jpg").read_bytes()
    assert not found["red/000_2.jpg"].is_symlink()
    assert found["red/001.jpg"].is_symlink() != copy
    assert found["=blue/001.jpg"].read_bytes() == (images / "c_blue" / "001.jpg").read_bytes()
    assert report.sorted_into == str(target)


def test_several_labels_are_joined_and_none_is_said(tmp_path):
    export = write_export(tmp_path / "export", "multi_label")
    folder = tmp_path / "new"
    folder.mkdir()
    for name, colour in (("both", (200, 200, 0)), ("none", (0, 0, 0)), ("one", (0, 0, 200))):
        Image.new("RGB", (16, 16), colour).save(folder / f"{name}.png")
    report = tlkit.predict_run(
        export, folder, csv=tmp_path / "table.csv", sort_into=tmp_path / "sorted"
    )
    assert [row["label"] for row in rows_of(tmp_path / "table.csv")] == [
        "red|green/lime",
        "",
        "'=blue",
    ]
    paths = {
        path.relative_to(tmp_path / "sorted").as_posix()
        for path in tmp_path.rglob("*.png")
        if path.is_relative_to(tmp_path / "sorted")
    }
    assert paths == {"red/both.png", "green_lime/both.png", "no_label/none.png", "=blue/one.png"}
    assert report.counts == {"red": 1, "green/lime": 1, "": 1, "=blue": 1}
    assert "no label" in str(report)


def test_images_of_no_class_are_marked_and_sorted_apart(tmp_path):
    stored = np.array([[200, 0, 0], [198, 0, 0]], "float32")
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    rejection = Rejection("", stored, 1, 0.2, 0.9, 10, 0.1, (0.0, 0.3), {})
    export = write_export(tmp_path / "export", rejection=rejection)
    folder = tmp_path / "new"
    folder.mkdir()
    for name, colour in (("known", (200, 0, 0)), ("unknown", (0, 200, 0))):
        Image.new("RGB", (16, 16), colour).save(folder / f"{name}.png")
    report = tlkit.predict_run(
        export, folder, csv=tmp_path / "table.csv", sort_into=tmp_path / "sorted"
    )
    assert [row["known"] for row in rows_of(tmp_path / "table.csv")] == ["yes", "no"]
    assert (tmp_path / "sorted" / "none_of_these" / "unknown.png").exists()
    assert report.num_unknown == 1
    assert "none of these: 1 (50.0 %)" in str(report)


def test_nothing_is_written_where_no_file_can_be_used(export, images, tmp_path):
    table, target = tmp_path / "table.csv", tmp_path / "sorted"
    with pytest.raises(DataError, match=r"notes\.txt' \(not an image: text\). Leave it out"):
        tlkit.predict_run(export, images / "notes.txt", csv=table, sort_into=target)
    assert not table.exists()
    assert not target.exists()


def test_an_interruption_leaves_the_earlier_table(export, images, tmp_path):
    (tmp_path / "table.csv").write_text("earlier", encoding="utf-8")

    def interrupt(prediction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tlkit.predict_run(export, images, csv=tmp_path / "table.csv", at_prediction=interrupt)
    assert (tmp_path / "table.csv").read_text(encoding="utf-8") == "earlier"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tlkit")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top": 0}, "`top` must be"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"copy": True}, "`copy` must be left out without `sort_into`"),
        ({"csv": "."}, "`csv` must be a file"),
        ({"csv": "new/notes.txt/table.csv"}, "`csv` must be a folder that can be made"),
        ({"sort_into": "new"}, "`sort_into` must be a folder that does not exist"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_read(
    given, message, images, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(tlkit.TlkitError, match=message):
        tlkit.predict_run("no_run", images, **given)


def test_classes_whose_folders_would_be_one_are_not_sorted(tmp_path, images):
    folder = tmp_path / "export"
    folder.mkdir()
    serving = Serving(("a/b", "a:b", "c"), "softmax", (16, 16), 0.5, 10**6)
    write_saved_model(colour_model(), folder / "saved_model", serving)
    with pytest.raises(ArgumentError, match=r"the same name\. Received: 'a/b', 'a:b'"):
        tlkit.predict_run(folder, images, sort_into=tmp_path / "sorted")
    assert not (tmp_path / "sorted").exists()
    assert open_classifier(folder).class_names == ("a/b", "a:b", "c")
