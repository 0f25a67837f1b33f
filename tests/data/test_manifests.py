import csv
import os
import shutil

import numpy as np
import pytest

import tlkit
from tests.conftest import write_photos
from tests.data.image_bytes import drawing, encoded
from tlkit.data import file_checks as checks
from tlkit.data.manifests import list_images
from tlkit.errors import ArgumentError, DataError


def write_manifest(path, rows, header=("path", "label"), encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def rows_of(photos, *columns):
    """A row for each image: its path in the folder, its class, and the values of `columns`."""
    return [
        (str(file.relative_to(photos)), file.parent.name, *(column(file) for column in columns))
        for file in sorted(photos.rglob("*.jpg"))
    ]


def splits_of(data):
    return [split for split in (data.train, data.validation, data.test) if split is not None]


def test_a_manifest_gives_the_same_data_as_its_folder(photos):
    manifest = write_manifest(photos / "all.csv", rows_of(photos))
    listed = tlkit.load_manifest(manifest, image_size=16)
    (photos / "all.csv").rename(photos.parent / "moved.csv")
    found = tlkit.load_folder(photos, image_size=16)
    assert listed.fingerprint == found.fingerprint
    assert listed.class_names == ("green", "red")
    assert listed.report == found.report
    for one, other in zip(splits_of(listed), splits_of(found), strict=True):
        assert list(map(os.path.abspath, one.paths)) == list(map(os.path.abspath, other.paths))
        assert one.labels.tolist() == other.labels.tolist()
    (images, labels), *_ = listed.train.dataset(shuffle=False)
    assert images.shape == (32, 16, 16, 3)
    assert labels.dtype == "int64"


def test_paths_are_relative_to_the_manifest_or_absolute(photos, tmp_path, monkeypatch):
    rows = rows_of(photos)
    rows = [
        (os.path.join("..", "photos", path) if number % 2 else str(photos / path), label)
        for number, (path, label) in enumerate(rows)
    ]
    manifest = write_manifest(tmp_path / "lists" / "all.csv", rows)
    monkeypatch.chdir("/")
    data = tlkit.load_manifest(manifest, image_size=8, splits=(1, 0, 0))
    assert data.train.num_images == 60
    assert sum(len(batch) for batch, _ in data.train.dataset()) == 60


def test_adding_rows_moves_no_existing_image(tmp_path):
    photos = write_photos(tmp_path / "photos", {"a": 40, "b": 40}, size=12)
    before = tlkit.load_manifest(write_manifest(photos / "m.csv", rows_of(photos)), image_size=8)
    write_photos(photos, {"a": 55, "b": 45}, size=12)
    rows = rows_of(photos)[::-1]
    after = tlkit.load_manifest(write_manifest(photos / "m.csv", rows), image_size=8)
    for old, new in zip(splits_of(before), splits_of(after), strict=True):
        assert set(old.paths) < set(new.paths)


def test_damaged_copied_and_conflicting_images_are_reported(photos):
    (photos / "red" / "cut.jpg").write_bytes(encoded(drawing(), "JPEG")[:100])
    shutil.copy(photos / "red" / "001.jpg", photos / "red" / "copy.jpg")
    shutil.copy(photos / "red" / "002.jpg", photos / "green" / "wrong.jpg")
    manifest = write_manifest(photos / "m.csv", rows_of(photos))
    report = tlkit.load_manifest(manifest, image_size=8).report
    assert [(one.path, one.class_name, one.reason) for one in report.skipped] == [
        (
            str(photos / "red" / "cut.jpg"),
            "red",
            "truncated or damaged JPEG: Invalid JPEG data, size 100",
        )
    ]
    assert report.duplicates == ((str(photos / "red/001.jpg"), str(photos / "red/copy.jpg")),)
    assert report.conflicts == ((str(photos / "green/wrong.jpg"), str(photos / "red/002.jpg")),)
    assert report.num_files == 63


def test_file_checks_are_cached(photos, monkeypatch):
    tlkit.load_folder(photos, image_size=8)
    monkeypatch.setattr(checks, "check_file", lambda *_: pytest.fail("decoded again"))
    tlkit.load_manifest(write_manifest(photos.parent / "m.csv", absolute(photos)), image_size=8)


def absolute(photos):
    return [(str(photos / path), label) for path, label in rows_of(photos)]


def test_the_column_split_is_kept(photos):
    def split(file):
        return {0: "Test", 1: "val"}.get(int(file.stem) % 10, "train")

    header = ("path", "label", "split")
    manifest = write_manifest(photos / "m.csv", rows_of(photos, split), header)
    data = tlkit.load_manifest(manifest, image_size=8, seed=7)
    assert [one.num_images for one in splits_of(data)] == [48, 6, 6]
    assert all(path.endswith("0.jpg") for path in data.test.paths)
    rows = [row for row in rows_of(photos, split) if row[1:] != ("red", "val")]
    report = tlkit.load_manifest(write_manifest(manifest, rows, header), image_size=8).report
    assert report.counts["red"] == {"train": 24, "validation": 0, "test": 3}
    assert "The validation split has no usable images of 'red'." in report.notes


def test_columns_may_have_any_order_and_names_are_stripped(tmp_path):
    photos = write_photos(tmp_path / "photos", {"Ähre, reif": 3, "b": 3}, size=12)
    lines = ["\ufeffLabel, Path ,group", ""]
    for path, label in rows_of(photos):
        lines.append(f'"{label}", "{path}",')
    (photos / "m.csv").write_text("\r\n".join(lines), encoding="utf-8")
    data = tlkit.load_manifest(photos / "m.csv", image_size=8, splits=(1, 0, 0))
    assert data.class_names == ("b", "Ähre, reif")
    assert data.train.num_images == 6


def test_class_names_set_the_order_and_must_match_the_manifest(photos):
    manifest = write_manifest(photos / "m.csv", rows_of(photos))
    data = tlkit.load_manifest(manifest, image_size=8, class_names=["red", "green"])
    assert data.class_names == ("red", "green")
    assert all("red" in path for path in np.array(data.train.paths)[data.train.labels == 0])
    with pytest.raises(DataError, match="no images of 'blue' and unexpected classes 'red'"):
        tlkit.load_manifest(manifest, class_names=["green", "blue"])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path", "without 'label' in its first line"),
        ("path,labels", "without 'label' and with unknown 'labels'.*Did you mean 'label'"),
        ("path,label,age", "with unknown 'age' in its first line. Rename or remove columns"),
        ("path,label,path", "twice 'path'"),
        ("path|label", "Separate the columns by commas"),
        ("a/1.jpg,a", "without 'path', 'label' and with unknown 'a/1.jpg', 'a'"),
    ],
)
def test_missing_and_unknown_columns_raise(tmp_path, header, message):
    (tmp_path / "m.csv").write_text(f"{header}\n1.jpg,cat\n")
    with pytest.raises(DataError, match=message):
        tlkit.load_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "which is empty"),
        ("\n\n", "which is empty. Begin it with the line path,label"),
        ("path,label\n", "must list images.*which has no row"),
        ("path,label\na.jpg\n", "with 1 instead of 2 in line 2"),
        ("path,label\na.jpg,one, two\n", "with 3 instead of 2 in line 2.*double quotes"),
        ('path,label\n"a.jpg,cat\n', "which is malformed in line 2"),
        ("path,label\n,cat\na.jpg,\n,dog\n", "must have a path in every row.*lines 2, 4"),
        ("path,label\na.jpg,cat\nb.jpg, \n", "must have a label in every row.*line 3. Fill it in"),
        ("path,label\na.jpg,cat\n./a.jpg,cat\n", "each file once.*a.jpg' in lines 2, 3"),
        ("path,label,split\na.jpg,cat,trian\n", "with 'trian' in line 2. Did you mean 'train'"),
        ("path,label,split\na.jpg,x,val\nb.jpg,x,\n", "a split in every row or in none.*line 3"),
        ("path,label,split\na.jpg,x,val\n", "must have a training split.*with validation"),
        ("path,label\na.jpg,x\nb.jpg,y\n", "2 of whose 2 files are missing: 'a.jpg', 'b.jpg'"),
        ("path,label\nb\\a.jpg,x\n", r"are missing: 'b\\\\a.jpg'.*separate folders by /"),
    ],
)
def test_malformed_rows_raise(tmp_path, content, message):
    (tmp_path / "m.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        tlkit.load_manifest(tmp_path / "m.csv")


PLAIN = "path,label\na.png,cat\nb.png,dog\nc.png,cat\nd.png,dog\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode("utf-8-sig"),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        ("sep=;\r\n" + PLAIN.replace(",", ";")).encode("utf-8-sig"),
        ('"sep=,"\n' + PLAIN).encode(),
        ("sep=\t\n" + PLAIN.replace(",", "\t")).encode(),
        ("SEP=|\n" + PLAIN.replace(",", "|")).encode(),
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.replace(",", "\t").encode("utf-16-be"),
        PLAIN.encode("utf-16-le"),
        PLAIN.replace("path,label", '"Path "," LABEL"').encode(),
        PLAIN.replace("path,", "path\u00a0,").replace(",", ";").encode(),
        PLAIN.replace("path", "\ufeffpath").encode("utf-8-sig"),
        PLAIN.replace("a.png,cat", '"a.png","cat"').encode(),
        PLAIN.replace("\n", ",,\n").encode(),
        (PLAIN + ",\n,\n\n").encode(),
        (PLAIN.replace(",", ";").replace("\n", ";;;\r\n") + ";;;;\r\n" * 3).encode(),
        ("\n\n" + PLAIN).encode(),
    ],
)
def test_common_spreadsheet_dialects_are_read(tmp_path, content):
    for number, name in enumerate("abcd"):
        (tmp_path / f"{name}.png").write_bytes(encoded(drawing(20 + number, 20), "PNG"))
    (tmp_path / "m.csv").write_bytes(content)
    data = tlkit.load_manifest(tmp_path / "m.csv", image_size=8, splits=(1, 0, 0))
    assert data.class_names == ("cat", "dog")
    names = [os.path.basename(path) for path in data.train.paths]
    assert (names, data.train.labels.tolist()) == (
        ["a.png", "c.png", "b.png", "d.png"],
        [0, 0, 1, 1],
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path;label\na.jpg,cat\n", "with 1 instead of 2 in line 2"),
        ("path,label,\na.jpg,cat,small\n", "with 3 instead of 2 in line 2"),
        ("sep=;\npath;label\na.jpg\n", "with 1 instead of 2 in line 3"),
        ("sep=;\n", "which is empty"),
        (";;\n", "which is empty"),
    ],
)
def test_malformed_tables_raise_with_any_separator(tmp_path, content, message):
    (tmp_path / "m.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        tlkit.load_manifest(tmp_path / "m.csv")


def test_common_names_of_splits_are_read_in_a_table(photos):
    names = {"Training": "train", "valid": "validation", "TEST": "test"}
    rows = [(*row, list(names)[number % 3]) for number, row in enumerate(rows_of(photos))]
    manifest = write_manifest(photos / "m.csv", rows, header=("path", "label", "split"))
    assert set(tlkit.load_manifest(manifest, image_size=8).report.splits) == set(names.values())


def test_missing_files_raise_with_their_number_and_names(photos):
    rows = rows_of(photos) + [(f"gone/{number}.jpg", "red") for number in range(9)]
    with pytest.raises(DataError, match=r"9 of whose 69 files.*'gone/4.jpg' and 4 more. Correct"):
        tlkit.load_manifest(write_manifest(photos / "m.csv", rows))


def test_other_encodings_and_folders_raise(tmp_path):
    write_manifest(tmp_path / "m.csv", [("a.jpg", "Löwe")], encoding="latin-1")
    with pytest.raises(DataError, match=r"text in UTF-8.*with the byte 0xf6 in line 2. Save it"):
        tlkit.load_manifest(tmp_path / "m.csv")
    with pytest.raises(DataError, match="which is a folder"):
        tlkit.load_manifest(tmp_path)
    with pytest.raises(DataError, match="which does not exist"):
        tlkit.load_manifest(tmp_path / "gone.csv")


def test_untrainable_classes_raise_as_in_a_folder(photos):
    rows = rows_of(photos)
    with pytest.raises(DataError, match=r"at least two classes. Received: classes='green'"):
        tlkit.load_manifest(write_manifest(photos / "m.csv", rows[:30]))
    with pytest.raises(DataError, match="a single image of 'red'"):
        tlkit.load_manifest(write_manifest(photos / "m.csv", rows[:31]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "`image_size`"),
        ({"splits": (0.5, 0.5)}, "`splits`"),
        ({"max_pixels": 0}, "`max_pixels`"),
        ({"class_names": ["a", "a"]}, "Name each class once"),
        ({"separator": " "}, "`separator` must be a string"),
    ],
)
def test_invalid_arguments_raise_before_the_manifest_is_read(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        tlkit.load_manifest("there is no such file", **arguments)


def test_the_suffix_distinguishes_manifests_from_folders(photos):
    manifest = write_manifest(photos.parent / "M.CSV", absolute(photos))
    assert list_images(manifest).files == list_images(photos).files
    (photos.parent / "folder.csv").mkdir()
    write_photos(photos.parent / "folder.csv", {"a": 1})
    assert len(list_images(photos.parent / "folder.csv").files) == 1
    with pytest.raises(DataError, match=r"`photos` must be a CSV file.*does not exist"):
        list_images("nowhere.csv", argument="photos")
    with pytest.raises(DataError, match="`photos` must be a folder"):
        list_images("nowhere", argument="photos")
