"""Data sets of Hugging Face's datasets, made in memory."""

import sys

import numpy as np
import pytest
from PIL import Image

import tlkit
from tests.conftest import noise
from tests.data.image_bytes import encoded
from tlkit.data import hugging_face
from tlkit.data.image_places import shown_path
from tlkit.errors import ArgumentError, DataError, StorageError

NAMES = ["red", "green"]


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ArgumentError, match=r"not installed.*pip install 'tlkit\[hf\]'"):
        tlkit.load_dataset(object())


datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")


def images(number=12):
    return [Image.fromarray(noise(row % 2, row, 16)) for row in range(number)]


def labelled(pictures, labels, feature=None, **others):
    columns = {"image": datasets.Image(), "label": feature or datasets.ClassLabel(names=NAMES)}
    columns |= {name: datasets.Value("string") for name in others}
    return datasets.Dataset.from_dict(
        {"image": pictures, "label": labels, **others}, features=datasets.Features(columns)
    )


@pytest.fixture
def folder(tmp_path):
    """The images as files in folders of their classes."""
    for row, image in enumerate(images()):
        path = tmp_path / "photos" / NAMES[row % 2] / f"{row:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return tmp_path / "photos"


def test_a_dataset_has_the_splits_of_a_folder_with_its_files(folder):
    files = sorted(folder.rglob("*.png"), key=lambda path: path.name)
    contents = [{"bytes": path.read_bytes(), "path": None} for path in files]
    expected = tlkit.load_folder(folder, image_size=16, class_names=NAMES)
    found = tlkit.load_dataset(labelled(contents, [0, 1] * 6), image_size=16)
    assert found.class_names == ("red", "green")  # in the order of the class labels
    assert found.fingerprint == expected.fingerprint
    assert shown_path(found.train.paths[0]).startswith("dataset/red/00000")
    in_files = tlkit.load_dataset(labelled(list(map(str, files)), [0, 1] * 6), image_size=16)
    assert in_files.fingerprint == expected.fingerprint
    assert in_files.train.paths == expected.train.paths  # not copied


def test_images_and_labels_may_be_of_any_type():
    contents = [encoded(image, "PNG") for image in images()]
    expected = tlkit.load_dataset(labelled(images(), [0, 1] * 6), image_size=16)
    plain = {"file": contents, "y": ["green", "red"] * 6}
    found = tlkit.load_dataset(
        datasets.Dataset.from_dict(plain), image_column="file", label_column="y", image_size=16
    )
    assert found.class_names == ("green", "red")
    assert sorted(found.merged().train.digests) == sorted(expected.merged().train.digests)
    numbers = labelled(images(22), [*range(11)] * 2, datasets.Value("int32"))
    found = tlkit.load_dataset(numbers, image_size=16, splits=(1, 0, 0))
    assert found.class_names == tuple(map(str, range(11)))  # 2 before 10


def test_the_splits_of_a_dataset_dict_are_kept():
    parts = {"train": images(12), "dev": images(20)[12:16], "test": images(24)[16:20]}
    parts["unsupervised"] = images(30)[24:]
    whole = datasets.DatasetDict(
        {name: labelled(part, [0, 1] * (len(part) // 2)) for name, part in parts.items()}
    )
    data = tlkit.load_dataset(whole, image_size=16)
    assert [one.num_images for one in (data.train, data.validation, data.test)] == [12, 4, 4]
    assert shown_path(data.validation.paths[0]) == "validation/red/0000000"
    assert "The data set's split 'unsupervised' is left out." in data.report.notes


def test_unlabelled_and_missing_images_are_reported():
    pictures = [*images(8), None, images(10)[9], images(11)[10]]
    data = tlkit.load_dataset(labelled(pictures, [0, 1] * 4 + [0, -1, None]), image_size=16)
    assert "2 images without a label: left out." in data.report.notes
    (skipped,) = data.report.skipped
    assert (skipped.path, skipped.class_name, skipped.reason) == ("dataset[8]", "red", "no image")


def test_a_list_of_labels_is_multi_label():
    feature = datasets.List(datasets.ClassLabel(names=NAMES))
    labels = [[0], [0, 1], [1], []] * 3
    data = tlkit.load_dataset(labelled(images(), labels, feature), image_size=16, splits=(1, 0, 0))
    assert data.is_multi_label
    assert data.train.labels.sum(axis=0).tolist() == [6, 6]


def test_a_dataset_is_written_once(monkeypatch):
    dataset = labelled(images(), [0, 1] * 6)
    first = tlkit.load_dataset(dataset, image_size=16)
    with monkeypatch.context() as patch:
        patch.setattr(hugging_face, "publish", lambda *_: pytest.fail("written again"))
        again = tlkit.load_dataset(dataset.select(range(12)), image_size=16)
    assert again.train.paths == first.train.paths
    changed = tlkit.load_dataset(labelled(images(), [1, 0] * 6), image_size=16)
    assert changed.train.paths != first.train.paths


def test_names_that_are_no_folders_are_replaced():
    names = ["a/b", "../c"]
    feature = datasets.ClassLabel(names=names)
    data = tlkit.load_dataset(labelled(images(), [0, 1] * 6, feature), image_size=16)
    assert data.class_names == tuple(names)
    assert all("dataset/class-" in path for path in data.train.paths)


def test_the_free_space_is_checked_first(monkeypatch):
    def check_space(num_bytes, *_):
        raise StorageError(f"{num_bytes} bytes")

    monkeypatch.setattr(hugging_face, "check_space", check_space)
    size = sum(len(encoded(image, "PNG")) for image in images())
    with pytest.raises(StorageError, match=f"{size} bytes"):
        tlkit.load_dataset(labelled(images(), [0, 1] * 6))


def test_unusable_arguments_are_rejected():
    dataset = labelled(images(), [0, 1] * 6, text=["x"] * 12)
    pixels = datasets.Dataset.from_dict({"image": [np.zeros((2, 2)).tolist()], "label": [0.5]})
    for given, options, message in (
        ("cifar10", {}, "must be a Dataset or a DatasetDict.*Received: a str.*load_dataset"),
        (dataset.to_iterable_dataset(), {}, "a IterableDataset.*without streaming=True"),
        (dataset, {"image_column": "imge"}, "`image_column`.*Did you mean 'image'"),
        (dataset, {"image_column": "label"}, "`image_column` must be a column of images"),
        (dataset, {"label_column": "image"}, "`label_column` must be a column of class labels"),
        (dataset.remove_columns("label"), {}, "`label_column`.*none of this type"),
        (pixels, {}, "`image_column` must be a column of images"),
        (dataset, {"image_size": 0}, "`image_size`"),
    ):
        with pytest.raises(ArgumentError, match=message):
            tlkit.load_dataset(given, **options)
    with pytest.raises(DataError, match=r"must have a split 'train'.*'test'"):
        tlkit.load_dataset(datasets.DatasetDict(test=dataset))
    bad = labelled([{"bytes": b"text", "path": None}] * 4, [0, 1] * 2)
    with pytest.raises(DataError, match=r"`dataset` must contain images.*not an image: text"):
        tlkit.load_dataset(bad)
