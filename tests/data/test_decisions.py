"""Decisions about labels: read, checked before any work, and applied by every loader."""

import csv
import shutil

import pytest

import tlkit
from tests.conftest import write_photos
from tlkit.data import file_checks
from tlkit.data.decisions import COLUMNS, REASON, apply_decisions, file_key, read_decisions
from tlkit.data.listing import list_folder
from tlkit.data.reading import content_digest
from tlkit.errors import ArgumentError, DataError
from tlkit.utils.files import as_cell


def digest_of(path):
    return content_digest(path.read_bytes())


def write_decisions(path, *rows):
    """Writes rows of cells as the page does."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, *([*map(as_cell, row)] for row in rows)])
    return path


def row(photos, file, decision, new_label=""):
    return (file, digest_of(photos / file), file.split("/")[0], decision, new_label)


@pytest.fixture
def table(tmp_path):
    def written(*rows):
        return write_decisions(tmp_path / "decisions.csv", *rows)

    return written


def labels_of(data):
    splits = [one for one in (data.train, data.validation, data.test) if one is not None]
    return {
        path.rsplit("photos/")[-1]: data.class_names[label]
        for split in splits
        for path, label in zip(split.paths, split.labels, strict=True)
    }


def test_images_are_moved_and_set_aside_and_files_are_unchanged(photos, table):
    before = {path: path.read_bytes() for path in photos.rglob("*.jpg")}
    file = table(
        row(photos, "green/000.jpg", "move", "red"),
        row(photos, "green/001.jpg", "keep"),
        row(photos, "red/002.jpg", "set-aside"),
    )
    plain, decided = (
        tlkit.load_folder(photos, image_size=8, decisions=one) for one in (None, file)
    )
    expected = labels_of(plain) | {"green/000.jpg": "red"}
    del expected["red/002.jpg"]
    assert labels_of(decided) == expected
    assert [(one.path, one.reason) for one in decided.report.skipped] == [
        (str(photos / "red/002.jpg"), REASON)
    ]
    note = f"Decisions in {file}: 1 image moved to another class, 1 set aside, 1 kept."
    assert note in decided.report.notes
    assert before == {path: path.read_bytes() for path in photos.rglob("*.jpg")}
    assert decided.fingerprint != plain.fingerprint


def test_files_of_an_archive_have_their_names_there(photos, table, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "images"), "zip", photos)
    cache = tmp_path / "cache"
    listing = list_folder(archive, cache=cache)
    keys = {file_key(file.path, archive) for file in listing.files}
    assert "images.zip/green/000.jpg" in keys
    digest = digest_of(photos / "green/000.jpg")
    file = table(("images.zip/green/000.jpg", digest, "green", "move", "red"))
    data = tlkit.load_folder(archive, image_size=8, decisions=file, cache=cache)
    plain = tlkit.load_folder(archive, image_size=8, cache=cache)
    moved = [path for path, label in labels_of(data).items() if label != labels_of(plain).get(path)]
    assert [path.rsplit("/images.zip/")[-1] for path in moved] == ["green/000.jpg"]


def test_a_users_split_is_kept(tmp_path, table):
    photos = tmp_path / "photos"
    for split, seed in (("train", 0), ("val", 1)):
        write_photos(photos / split, {"green": 4, "red": 4}, seed=seed)
    digest = digest_of(photos / "val/red/000.jpg")
    file = table(("val/red/000.jpg", digest, "red", "move", "green"))
    data = tlkit.load_folder(photos, image_size=8, decisions=file)
    names = [data.class_names[label] for label in data.validation.labels]
    assert names == ["green"] * 5 + ["red"] * 3
    assert data.train.num_images == 8


def test_a_manifest_and_an_inspection_take_decisions(photos, tmp_path, table):
    manifest = tmp_path / "photos" / "list.csv"
    files = sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.jpg"))
    lines = [f"{file},{file.split('/')[0]}" for file in files]
    manifest.write_text("\n".join(["path,label", *lines]), encoding="utf-8")
    file = table(row(photos, "green/000.jpg", "move", "red"))
    data = tlkit.load_manifest(manifest, image_size=8, decisions=file)
    assert labels_of(data)["green/000.jpg"] == "red"
    report = tlkit.inspect_folder(photos, decisions=file)
    assert {name: counts["all"] for name, counts in report.counts.items()} == {
        "green": 29,
        "red": 31,
    }
    with pytest.raises(ArgumentError, match="`decisions` must be left out for images with several"):
        tlkit.load_manifest(manifest, image_size=8, decisions=file, multi_label=True)


def test_an_unlabelled_image_with_a_label_is_added(photos, tmp_path, table):
    new = write_photos(tmp_path / "new", {"any": 3}, seed=9) / "any"
    rows = [
        (str(new / "000.jpg"), digest_of(new / "000.jpg"), "", "move", "red"),
        (str(new / "001.jpg"), digest_of(new / "001.jpg"), "", "set-aside", ""),
    ]
    data = tlkit.load_folder(photos, image_size=8, decisions=table(*rows))
    labels = labels_of(data)
    assert len(labels) == 61
    assert labels[str(new / "000.jpg")] == "red"
    assert any("1 labelled and added" in note for note in data.report.notes)


def test_copies_under_two_labels_count_once_their_label_is_decided(photos, table):
    shutil.copy(photos / "green/000.jpg", photos / "red/copy.jpg")
    conflicting = tlkit.load_folder(photos, image_size=8)
    assert len(conflicting.report.conflicts) == 1
    file = table(row(photos, "red/copy.jpg", "move", "green"))
    data = tlkit.load_folder(photos, image_size=8, decisions=file)
    assert data.report.conflicts == ()
    assert labels_of(data)["green/000.jpg"] == "green"


@pytest.mark.parametrize("name", ["=1+1.jpg", "a,b.jpg", 'say "a".jpg', "naïve ü.jpg", "'a.jpg"])
def test_any_file_name_can_be_decided(photos, table, name):
    (photos / "green/000.jpg").rename(photos / "green" / name)
    file = table(row(photos, f"green/{name}", "set-aside"))
    assert read_decisions(file)[0].file == f"green/{name}"
    assert f"green/{name}" not in labels_of(tlkit.load_folder(photos, image_size=8, decisions=file))


def test_files_are_named_relative_to_the_images(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert file_key("photos/red/1.jpg", "photos") == "red/1.jpg"
    assert file_key(str(tmp_path / "photos/red/1.jpg"), "photos") == "red/1.jpg"
    (tmp_path / "list.csv").touch()
    assert file_key("photos/red/1.jpg", "list.csv") == "photos/red/1.jpg"
    assert file_key("/elsewhere/1.jpg", photos) == "/elsewhere/1.jpg"


def cells(photos, **changes):
    """The cells of a valid row, with some of them changed."""
    named = dict(zip(COLUMNS, row(photos, "green/000.jpg", "move", "red"), strict=True))
    return tuple((named | changes).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "green/999.jpg"}, r"1 are not there: 'green/999.jpg'"),
        ({"file": "/elsewhere.jpg", "label": ""}, r"1 are not there: '/elsewhere.jpg'"),
        ({"new_label": "rde"}, r"unknown class 'rde' in line 2. Did you mean 'red'"),
        ({"digest": "0a"}, r"1 that have another digest: 'green/000.jpg'"),
        ({"label": "red"}, r"'green/000.jpg', now 'green' instead of 'red'"),
        ({"label": ""}, r"'green/000.jpg', which had none"),
        ({"decision": "moved"}, r"'moved' in line 2. Did you mean 'move'"),
        ({"new_label": ""}, r"new_label in rows that move an image only"),
        ({"decision": "keep"}, r"new_label in rows that move an image only"),
        ({"file": ""}, r"a file in every row"),
        ({"digest": ""}, r"a digest in every row"),
        ({"decision": "keep", "new_label": "", "label": ""}, r"keep images with a label only"),
    ],
)
def test_decisions_that_do_not_fit_are_named_before_any_image_is_decoded(
    photos, table, monkeypatch, changes, message
):
    monkeypatch.setattr(file_checks, "check_file", None)
    file = table(cells(photos, **changes))
    with pytest.raises(DataError, match=rf"^`decisions` must .*{message}"):
        tlkit.load_folder(photos, image_size=8, decisions=file)


def test_tables_of_another_form_are_rejected(photos, tmp_path, table):
    twice = table(cells(photos), cells(photos))
    with pytest.raises(DataError, match=r"decide on each file once.*in lines 2, 3"):
        read_decisions(twice)
    file = tmp_path / "other.csv"
    for content, message in (
        (b"", "is empty"),
        (b"path,label\na,b\n", "with the columns 'path', 'label'"),
        (b"file,digest,label,decision,new_label\na,b\n", "2 instead of 5 in line 2"),
        (b'file,digest,label,decision,new_label\n"a', "malformed"),
        (b"file,digest,label,decision,new_label\n\xff,a,b,keep\n", "in UTF-8"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_decisions(file)
    for missing, message in ((tmp_path / "no.csv", "does not exist"), (photos, "is a folder")):
        with pytest.raises(DataError, match=message):
            read_decisions(missing)
    with pytest.raises(ArgumentError, match="`decisions` must be a path"):
        read_decisions(3)


def test_classes_of_the_caller_may_be_moved_to(photos, table):
    file = table(row(photos, "green/000.jpg", "move", "blue"))
    with pytest.raises(DataError, match="unknown class 'blue'"):
        apply_decisions(list_folder(photos), file)
    listing = list_folder(photos)
    apply_decisions(listing, file, class_names=["blue"])
    assert listing.classes[""] == ["green", "red", "blue"]
