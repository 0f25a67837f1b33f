"""Small splits are decoded once; cached pixels equal those of the files."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.conftest import write_photos
from tlkit.data import kept_pixels
from tlkit.errors import DataError


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch):
    monkeypatch.setattr(kept_pixels, "_CACHE", kept_pixels._PixelCache())


@pytest.fixture
def split(photos):
    return tlkit.load_folder(photos, image_size=(12, 20), splits=(1, 0, 0)).train


@pytest.fixture
def reads(monkeypatch):
    """A list of the files read to fill the cache."""
    names = []
    original = kept_pixels.read_image

    def read_image(path, digest):
        names.append(path)
        return original(path, digest)

    monkeypatch.setattr(kept_pixels, "read_image", read_image)
    return names


def pixels_of(dataset):
    images, labels = zip(*dataset, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def test_cached_pixels_are_bit_identical_to_those_read(split, monkeypatch):
    given = {"shuffle": True, "augment": "light", "epochs": range(2), "batch_size": 7}
    some = {"indices": np.array([5, 1, 1, 0])}
    kept = [pixels_of(split.dataset(**one)) for one in (given, some, {})]
    monkeypatch.setattr(kept_pixels, "MAX_IMAGES", 0)
    read = [pixels_of(split.dataset(**one)) for one in (given, some, {})]
    for one, other in zip(kept, read, strict=True):
        assert all(map(np.array_equal, one, other))


def test_later_passes_read_no_file(split, reads):
    pixels_of(split.dataset(indices=np.arange(4)))
    assert len(reads) == 4
    pixels_of(split.dataset())
    pixels_of(replace(split, batch_size=3).dataset(shuffle=True))
    assert sorted(reads) == sorted(split.paths)


def test_nothing_is_cached_with_keep_false(split, reads):
    kept = pixels_of(split.dataset())
    number = len(reads)
    read = pixels_of(split.dataset(keep=False))
    assert len(reads) == number == split.num_images
    assert all(map(np.array_equal, kept, read))
    assert len(kept_pixels._CACHE._pixels) == number


def test_each_image_size_is_decoded_separately(split, reads):
    pixels_of(split.dataset())
    (images, _) = pixels_of(replace(split, image_size=(8, 8)).dataset())
    assert images.shape[1:3] == (8, 8)
    assert len(reads) == 2 * split.num_images


@pytest.mark.parametrize("bound", [{"MAX_IMAGES": 3}, {"MAX_BYTES": 3 * 12 * 20 * 3}])
def test_larger_splits_are_read_when_needed(split, reads, monkeypatch, bound):
    for name, value in bound.items():
        monkeypatch.setattr(kept_pixels, name, value)
    assert split.num_images > 4
    pixels_of(split.dataset())
    pixels_of(split.dataset(indices=np.arange(4)))
    assert not reads
    pixels_of(split.dataset(indices=np.arange(3)))
    assert len(reads) == 3


def test_the_least_recently_used_pixels_are_dropped(split, reads, monkeypatch):
    monkeypatch.setattr(kept_pixels, "MAX_CACHE_BYTES", 2 * 12 * 20 * 3)
    for row in (0, 1, 0, 2, 0, 1):  # row 2 evicts row 1
        pixels_of(split.dataset(indices=np.array([row])))
    assert reads == [split.paths[row] for row in (0, 1, 2, 1)]
    assert len(kept_pixels._CACHE._pixels) == 2


def test_a_changed_image_is_neither_returned_nor_cached(split):
    with open(split.paths[1], "rb") as other, open(split.paths[0], "wb") as file:
        file.write(other.read())
    with pytest.raises(DataError, match=r"must not change.*holds other bytes than when"):
        pixels_of(split.dataset(indices=np.array([0])))
    with pytest.raises(tf.errors.InvalidArgumentError, match="holds other bytes than when"):
        pixels_of(split.dataset(indices=np.array([0]), keep=False))
    pixels_of(split.dataset(indices=np.array([1]), keep=False))
    assert not kept_pixels._CACHE._pixels


def test_an_image_that_has_gone_is_named(tmp_path):
    write_photos(tmp_path / "photos", {"a": 5, "b": 5})
    data = tlkit.load_folder(tmp_path / "photos", image_size=16, splits=(0.4, 0.6, 0))
    model = tlkit.build_classifier("resnet20", data.class_names, image_size=16, weights=None)
    for path in data.validation.paths:
        (tmp_path / path).unlink()
    with pytest.raises(DataError, match="must not change"):
        tlkit.evaluate(model, data.validation)
