"""Folders that are splits, classes, or neither: ambiguous layouts raise, nothing is guessed."""

import shutil
import unicodedata

import pytest

import tlkit
from tests.conftest import write_photos
from tlkit.data.folder_names import is_system_name, similar_names, split_in_name, split_of_name
from tlkit.data.listing import list_folder
from tlkit.data.measuring import load_for_measuring
from tlkit.errors import DataError


@pytest.fixture
def classes(tmp_path):
    """Two classes of four images, which tests copy into layouts."""
    return write_photos(tmp_path / "classes", {"ants": 4, "bees": 4}, size=12)


def counts(root):
    return tlkit.inspect_folder(root).counts


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "valid"), ("train", "validation")),
        (("train", "valid", "test"), ("train", "validation", "test")),
        (("training_set", "test_set"), ("train", "test")),
        (("training", "testing"), ("train", "test")),
        (("train", "dev"), ("train", "validation")),
        (("Train", "VALID", "Test"), ("train", "validation", "test")),
        (("Training Set", "Validation-Set", "TestSet"), ("train", "validation", "test")),
        (("train_images", "val_images"), ("train", "validation")),
        (("train2017", "val2017"), ("train", "validation")),
        (("train", "eval"), ("train", "validation")),
        (("TRAINING", "Validation"), ("train", "validation")),
        (("train", "test"), ("train", "test")),
    ],
)
def test_common_split_names_are_recognised(tmp_path, folders, splits):
    for number, name in enumerate(folders):
        sizes = {"ants": 4, "bees": 4}
        write_photos(tmp_path / "photos" / name, sizes, size=12, seed=number)
    found = counts(tmp_path / "photos")
    assert found == {name: dict.fromkeys(splits, 4) for name in ("ants", "bees")}


def test_two_folders_for_one_split_raise(classes, tmp_path):
    for name in ("train", "val", "valid"):
        shutil.copytree(classes, tmp_path / "photos" / name)
    with pytest.raises(DataError, match=r"at most one folder each.*train, val, valid"):
        tlkit.inspect_folder(tmp_path / "photos")


@pytest.mark.parametrize(
    "folders",
    [("fold1", "fold2", "fold3"), ("train", "night"), ("seg_train", "seg_test"), ("A", "B")],
)
def test_folders_with_only_the_same_subfolders_raise(classes, tmp_path, folders):
    root = tmp_path / "photos"
    for name in folders:
        shutil.copytree(classes, root / name)
    (root / folders[0] / "labels.csv").write_text("a,b")
    (root / "__MACOSX" / "ants").mkdir(parents=True)
    pattern = r"nothing but the same folders \('ants', 'bees'\).*rename them, or pass one of them"
    with pytest.raises(DataError, match=pattern):
        tlkit.load_folder(root)
    with pytest.raises(DataError, match=pattern):
        tlkit.inspect_folder(root)


def test_folders_listed_as_class_names_are_classes(classes, tmp_path):
    for number, name in enumerate(("fold1", "fold2")):
        write_photos(tmp_path / "photos" / name, {"left": 3, "right": 3}, size=12, seed=number)
    names = ("fold1", "fold2")
    data = tlkit.load_folder(tmp_path / "photos", class_names=names, splits=(1, 0, 0))
    assert data.report.counts == {name: {"train": 6} for name in names}


def test_an_unrecognised_split_without_a_class_raises(classes, tmp_path):
    shutil.copytree(classes, tmp_path / "photos" / "fold2")
    shutil.copytree(classes / "ants", classes / "wasps")
    shutil.copytree(classes, tmp_path / "photos" / "fold1")
    with pytest.raises(DataError, match="nothing but the same folders"):
        tlkit.inspect_folder(tmp_path / "photos")


def test_names_that_mention_splits_raise(classes, tmp_path):
    """Each folder is nested in one of the same name, as some archives unpack."""
    for name in ("seg_train", "seg_test"):
        shutil.copytree(classes, tmp_path / "photos" / name / name)
    with pytest.raises(
        DataError, match=r"'seg_test', 'seg_train', which contain nothing but folders"
    ):
        tlkit.inspect_folder(tmp_path / "photos")


@pytest.mark.parametrize(
    ("nested", "flat", "suspects"),
    [
        (("seg_train/seg_train", "seg_test/seg_test"), "seg_pred/seg_pred", "'seg_test', 'seg_tr"),
        (("seg_train", "seg_test"), "seg_pred", "'seg_test', 'seg_train'"),
        (("fold1", "fold2"), "unlabelled", "'fold1', 'fold2'"),
        (("train",), "test1", "'train'"),
        (("my_train",), "test_images", "'my_train'"),
        (("train",), "unlabelled", "'train'"),
    ],
)
def test_splits_beside_a_class_folder_raise(classes, tmp_path, nested, flat, suspects):
    root = tmp_path / "photos"
    for name in nested:
        shutil.copytree(classes, root / name)
    shutil.copytree(classes / "ants", root / flat)
    top = flat.split("/")[0]
    with pytest.raises(
        DataError, match=rf"with {suspects}.*\(beside '{top}'\), which contains? nothing"
    ):
        tlkit.inspect_folder(root)


def test_a_folder_that_repeats_the_classes_raises(classes):
    shutil.copytree(classes, classes.parent / "more")
    shutil.move(classes.parent / "more", classes / "augmented")
    with pytest.raises(
        DataError, match=r"'augmented' \(beside 'ants', 'bees'\).*names of their neighbours"
    ):
        tlkit.inspect_folder(classes)


def test_a_folder_beside_splits_with_their_classes_raises(classes, tmp_path):
    for name in ("train", "test", "night"):
        shutil.copytree(classes, tmp_path / "photos" / name)
    with pytest.raises(DataError, match=r"'night' beside 'test', 'train', with the same classes"):
        tlkit.inspect_folder(tmp_path / "photos")


@pytest.mark.parametrize("inner", [(), ("train", "valid")])
@pytest.mark.parametrize("wrapper", ["dataset", "a/b/c"])
def test_an_enclosing_folder_raises_and_the_inner_one_is_named(classes, tmp_path, wrapper, inner):
    root = tmp_path / "photos"
    for name in inner or (".",):
        shutil.copytree(classes, root / wrapper / name, dirs_exist_ok=True)
    (root / "__MACOSX").mkdir()
    (root / ".DS_Store").write_bytes(b"")
    with pytest.raises(DataError, match=rf"Pass '{root / wrapper}'; or"):
        tlkit.inspect_folder(root)
    with pytest.raises(DataError, match=rf"Pass '{root / wrapper}'; or"):
        tlkit.load_folder(root)
    assert set(counts(root / wrapper)) == {"ants", "bees"}


@pytest.mark.parametrize("wrapper", ["images", "a/b"])
def test_a_folder_that_encloses_a_splits_classes_raises(classes, tmp_path, wrapper):
    for name in ("train", "val"):
        shutil.copytree(classes, tmp_path / "photos" / name / wrapper)
    with pytest.raises(DataError, match=rf"lie deeper, in '.*{wrapper}'. Move them up into"):
        tlkit.inspect_folder(tmp_path / "photos")


def test_splits_nested_in_folders_of_their_name_raise(classes, tmp_path):
    for name in ("training_set", "test_set"):
        shutil.copytree(classes, tmp_path / "photos" / name / name)
    with pytest.raises(DataError, match=r"lie deeper, in '.*test_set.test_set'\. Move"):
        tlkit.inspect_folder(tmp_path / "photos")


@pytest.mark.parametrize(
    "names", [("train", "valid"), ("my_test", "my_train"), ("extra", "test", "train")]
)
def test_splits_without_class_folders_raise(classes, tmp_path, names):
    """Images with separate label files, as in competitions."""
    for number, name in enumerate(names):
        write_photos(tmp_path / "photos", {name: 4}, size=12, seed=number)
    listed = ", ".join(map(repr, names))
    with pytest.raises(DataError, match=rf"{listed}, which contain no class folders"):
        tlkit.inspect_folder(tmp_path / "photos")
    data = tlkit.load_folder(tmp_path / "photos", class_names=names, splits=(1, 0, 0))
    assert data.class_names == names


def test_a_single_class_with_subfolders_can_be_evaluated(classes, tmp_path):
    """In evaluation, classes are recognised by name."""
    shutil.copytree(classes, tmp_path / "photos" / "insects")
    split = load_for_measuring(tmp_path / "photos", ["birds", "insects"], image_size=(8, 8))
    assert split.num_images == 8


def test_subfolders_of_classes_are_not_splits(classes, tmp_path):
    for name in ("ants", "bees"):
        shutil.copytree(classes / name, tmp_path / "photos" / name / "images")
    assert counts(tmp_path / "photos") == {"ants": {"all": 4}, "bees": {"all": 4}}
    for name in ("left", "right"):
        (tmp_path / "photos" / "ants" / name).mkdir()
    assert set(counts(tmp_path / "photos")) == {"ants", "bees"}


LEFT_BEHIND = (
    *("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__MACOSX"),
    *("Thumbs.db", "desktop.ini", "FOUND.000", "#snapshot", "@Recycle", "Icon\r"),
    *("RECYCLER", "RECYCLED"),
)
HIDDEN = (".DS_Store", ".ipynb_checkpoints", ".Trash-1000", ".AppleDouble", ".snapshot", "._x.jpg")


@pytest.mark.parametrize("name", [*LEFT_BEHIND, *HIDDEN])
def test_system_folders_are_skipped_and_reported(classes, name):
    shutil.copytree(classes / "ants", classes / name)
    shutil.copytree(classes / "ants", classes / "ants" / name)
    report = tlkit.inspect_folder(classes)
    assert report.counts == {"ants": {"all": 4}, "bees": {"all": 4}}
    reason = "hidden" if name in HIDDEN else "made by an operating system"
    assert [(one.class_name, one.reason) for one in report.skipped] == [
        ("", reason),
        ("ants", reason),
    ]
    assert reason in str(report)


@pytest.mark.parametrize("name", ["icon", "recycled", "snapshot", "temp", "trash", "dev"])
def test_class_names_with_similar_words_are_classes(classes, name):
    shutil.copytree(classes / "ants", classes / name)
    assert not is_system_name(name)
    assert name in tlkit.inspect_folder(classes).empty_classes or name in {
        file.class_name for file in list_folder(classes).files
    }


@pytest.mark.parametrize(
    "twin",
    [
        "Ants",
        "an ts",
        "ants ",
        "ants.",
        "an\u200bts",
        "\ufeffants",
        "a\u00adnts",
        "ants\u00a0",
        "ＡＮＴＳ",
    ],
)
def test_class_names_that_look_alike_raise(classes, twin):
    shutil.move(classes / "ants", classes / "moved")
    (classes / "ants").mkdir()
    (classes / twin).mkdir()
    for number, file in enumerate(sorted((classes / "moved").iterdir())):
        shutil.move(file, classes / ("ants" if number % 2 else twin) / file.name)
    (classes / "moved").rmdir()
    with pytest.raises(DataError, match=r"more than case, spaces and invisible characters.*'ants'"):
        tlkit.load_folder(classes)
    (note,) = tlkit.inspect_folder(classes).notes
    assert note.startswith("Class names that look alike")
    names = unicodedata.normalize("NFC", twin), "ants", "bees"
    assert tlkit.load_folder(classes, class_names=names, splits=(1, 0, 0)).class_names == names


def test_messages_escape_invisible_characters():
    assert similar_names(["cat", "cat\u200b", "dog"]) == r"'cat' and 'cat\u200b'"
    assert similar_names(["cat", "bat"]) == ""
    assert similar_names(["Ähre", "ahre"]) == ""


def test_notes_and_errors_are_short_with_many_classes(tmp_path):
    root = tmp_path / "photos"
    write_photos(root / "train", {f"class{number:03}": 1 for number in range(60)}, size=8)
    write_photos(root / "val", {"class000": 1}, size=8, seed=1)
    report = tlkit.inspect_folder(root)
    (note,) = report.notes
    assert note.startswith("The validation split has no usable images of 'class001', ")
    assert note.endswith(" and 54 more.")
    with pytest.raises(DataError, match=r"single image of 'class001'.* and 54 more\."):
        tlkit.load_folder(root)


def test_copies_are_counted_and_some_are_listed(classes):
    for number in range(30):
        shutil.copy(classes / "ants" / "000.jpg", classes / "ants" / f"copy{number:02}.jpg")
    report = tlkit.inspect_folder(classes)
    assert len(report.duplicates[0]) == 31
    (line,) = [line for line in str(report).splitlines() if "copy00" in line]
    assert line.endswith("copy03.jpg and 26 more")


@pytest.mark.parametrize("name", ["bees", "trains", "valley", "testudo", "devices", "station", ""])
def test_other_words_are_not_splits(name):
    assert (split_of_name(name), split_in_name(name)) == ("", "")
