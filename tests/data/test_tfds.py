import sys

import numpy as np
import pytest

import tlkit
from tlkit.errors import ArgumentError, DataError

CLASSES = ["Zebra", "Ähre", "a/b"]


@pytest.fixture
def prepare(tmp_path):
    """Returns a function that prepares a set with TFDS's writers in a temporary folder."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")

    def prepared(name, label, **counts):
        generator = np.random.default_rng(0)
        splits = {
            split: [
                (
                    number,
                    {"image": generator.integers(0, 256, (9, 9, 3), np.uint8), "label": number % 3},
                )
                for number in range(count)
            ]
            for split, count in counts.items()
        }
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            data_dir=tmp_path / "sets",
            split_datasets=splits,
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(None, None, 3)), "label": label(tfds)}
            ),
        )
        return tmp_path / "sets"

    return prepared


def class_label(tfds):
    return tfds.features.ClassLabel(names=CLASSES)


def test_a_set_with_splits_keeps_them(prepare, cache):
    folder = prepare("tiny", class_label, train=12, validation=6, test=3, extra=2)
    data = tlkit.load_tfds("tiny", data_dir=folder, image_size=8, download=False)
    assert data.class_names == ("Zebra", "Ähre", "a/b")
    assert [split.num_images for split in (data.train, data.validation, data.test)] == [12, 6, 3]
    assert "The data set's split 'extra' is left out." in data.report.notes
    again = tlkit.load_tfds("tiny", data_dir=folder, image_size=8)
    assert again.fingerprint == data.fingerprint
    assert len(list((cache / "tfds").glob("tiny-*"))) == 1
    images, labels = next(iter(data.train.dataset(shuffle=False)))
    assert images.shape == (12, 8, 8, 3)
    assert labels.numpy().tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_a_set_without_splits_is_split(prepare):
    folder = prepare("whole", class_label, train=90)
    data = tlkit.load_tfds("whole", data_dir=folder, image_size=8)
    assert data.train.num_images + data.validation.num_images + data.test.num_images == 90
    assert data.validation.num_images > 0


def test_sets_without_image_labels_raise(prepare):
    folder = prepare("numbers", lambda tfds: np.int64, train=6)
    with pytest.raises(ArgumentError, match="a data set of images with one label each"):
        tlkit.load_tfds("numbers", data_dir=folder)


def test_sets_without_training_raise(prepare):
    folder = prepare("untrained", class_label, test=6)
    with pytest.raises(DataError, match="with a split 'train'"):
        tlkit.load_tfds("untrained", data_dir=folder)


def test_unknown_sets_raise(tmp_path):
    pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
    with pytest.raises(ArgumentError, match="`name` must be a data set that TensorFlow Datasets"):
        tlkit.load_tfds("no_such_set", data_dir=tmp_path)


def test_a_missing_package_raises(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ArgumentError, match=r'pip install "tlkit\[tfds\]"'):
        tlkit.load_tfds("tf_flowers")
