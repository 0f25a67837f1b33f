"""Files that change while they are read: nothing computed from changed bytes is cached."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.conftest import write_photos
from tests.data.image_bytes import drawing, encoded
from tlkit.data import file_checks as checks
from tlkit.data import kept_pixels, missing_files
from tlkit.data.reading import content_digest, read_image
from tlkit.errors import DataError
from tlkit.training import store as stores


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Images that are not cached, so that they are read in the graph."""
    monkeypatch.setattr(kept_pixels, "MAX_IMAGES", 0)
    root = write_photos(tmp_path / "photos", {"a": 8, "b": 8}, size=20)
    return tlkit.load_folder(root, image_size=16, splits=(0.5, 0.5, 0))


@pytest.fixture
def model(data):
    return tlkit.build_classifier("resnet20", data.class_names, image_size=16, weights=None)


@pytest.fixture
def stored_keys(monkeypatch):
    """Records the keys that are put into feature stores."""
    keys = []
    append = stores.FeatureStore.append

    def noting(self, some, rows):
        keys.extend(some)
        append(self, some, rows)

    monkeypatch.setattr(stores.FeatureStore, "append", noting)
    return keys


def test_a_replaced_image_raises_and_its_features_are_not_stored(data, model, stored_keys):
    path, digest = data.train.paths[0], data.train.digests[0]
    shutil.copy(data.train.paths[-1], path)
    with pytest.raises(DataError, match=rf"{path}' \(holds other bytes than when it was checked"):
        tlkit.train_head(model, data)
    assert not any(key.startswith(digest) for key in stored_keys)


def test_a_replaced_and_restored_image_is_detected(data, model, monkeypatch):
    """The file is valid again by the time that files are checked for the cause."""
    path = data.train.paths[0]
    original = read_image(path)
    shutil.copy(data.train.paths[-1], path)
    check = checks.check_files

    def put_back(paths, **options):
        with open(path, "wb") as file:
            file.write(original)
        return check(paths, **options)

    monkeypatch.setattr(missing_files, "check_files", put_back)
    with pytest.raises(DataError, match=r"must not change.*has been restored since"):
        tlkit.train_head(model, data)


def test_the_next_run_equals_an_undisturbed_one(data, model, stored_keys):
    """Otherwise features of the replaced image would be stored under the original's digest."""
    path, digest = data.train.paths[0], data.train.digests[0]
    original = read_image(path)
    shutil.copy(data.train.paths[-1], path)
    with pytest.raises(DataError, match="holds other bytes"):
        tlkit.train_head(model, data)
    with open(path, "wb") as file:
        file.write(original)
    tlkit.train_head(model, data)
    assert sum(key.startswith(digest) for key in stored_keys) == 1


def test_a_pipe_that_replaces_an_image_raises(data, model, monkeypatch):
    monkeypatch.setattr(missing_files, "WATCH_SECONDS", 0.01)
    path = data.train.paths[0]
    os.unlink(path)
    os.mkfifo(path)
    with pytest.raises(DataError, match=rf"{path}' \(neither a file nor a folder\)"):
        tlkit.train_head(model, data)


def test_reading_a_pipe_in_python_raises(tmp_path):
    pipe = tmp_path / "x.jpg"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match=r"must be a regular file.*neither a file nor a folder"):
        read_image(pipe)
    checked = checks.check_file(str(pipe), lambda content: pytest.fail("decoded"))
    assert checked == checks.FileCheck(reason="neither a file nor a folder", is_lasting=False)


def test_reading_verifies_the_digest(tmp_path):
    file = tmp_path / "x.png"
    content = encoded(drawing(), "PNG")
    file.write_bytes(content)
    assert read_image(file, content_digest(content)) == content
    with pytest.raises(DataError, match=r"must not change.*holds other bytes"):
        read_image(file, content_digest(b""))


def test_subsets_and_resized_splits_verify_checksums(data):
    some = data.at_size(8).train.subset(np.array([3, 1]))
    assert len(list(some.dataset())) == 1
    shutil.copy(data.train.paths[0], some.paths[0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="holds other bytes"):
        list(some.dataset())
