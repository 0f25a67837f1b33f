"""Loading images for evaluation, with the model's classes given."""

import shutil

import pytest

from tests.conftest import write_photos
from tlkit.data.measuring import load_for_measuring
from tlkit.errors import ArgumentError, DataError

CLASSES = ("red", "blue", "green")


def load(folder, **arguments):
    return load_for_measuring(folder, CLASSES, image_size=(8, 8), **arguments)


def test_labels_are_positions_in_the_models_classes(tmp_path):
    photos = write_photos(tmp_path / "photos", {"green": 1, "red": 2}, size=12)
    split = load(photos)
    assert split.labels.tolist() == [0, 0, 2]
    assert [path.split("/")[-2] for path in split.paths] == ["red", "red", "green"]
    assert split.name == "test"
    shutil.rmtree(photos / "red")
    assert load(photos).labels.tolist() == [2]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["test"], "test"),
        (["val"], "val"),
        (["train"], "train"),
        (["val", "test"], "test"),
        (["train", "validation"], "validation"),
        (["train", "val", "test"], "test"),
    ],
)
def test_only_test_or_validation_of_a_split_is_used(tmp_path, folders, expected):
    for seed, name in enumerate(folders):
        write_photos(tmp_path / "photos" / name, {"blue": 2}, size=12, seed=seed)
    split = load(tmp_path / "photos")
    assert split.num_images == 2
    assert all(f"/{expected}/" in path for path in split.paths)


def test_copies_count_once(tmp_path):
    photos = write_photos(tmp_path / "photos", {"green": 3, "red": 3}, size=12)
    shutil.copy(photos / "red" / "000.jpg", photos / "red" / "copy.jpg")
    shutil.copy(photos / "red" / "001.jpg", photos / "green" / "conflict.jpg")
    assert load(photos).num_images == 5
    assert not any("001.jpg" in path and "red" in path for path in load(photos).paths)


def test_an_unknown_class_raises(tmp_path):
    photos = write_photos(tmp_path / "photos", {"gren": 2, "red": 2}, size=12)
    with pytest.raises(DataError, match=r"`photos` .*'red', 'blue', 'green'.*'gren'.*'green'\?"):
        load(photos, argument="photos")


def test_a_folder_without_usable_images_raises(tmp_path):
    photos = write_photos(tmp_path / "photos", {"red": 2}, size=12)
    with pytest.raises(DataError, match=r"images to evaluate.*2 files that cannot be used"):
        load(photos, max_pixels=100)
    with pytest.raises(ArgumentError, match="`max_pixels`"):
        load(photos, max_pixels=0)
    for name in ("val", "validation"):
        write_photos(tmp_path / "both" / name, {"red": 2}, size=12)
    with pytest.raises(DataError, match="at most one folder for `train`, and one folder each"):
        load(tmp_path / "both")
