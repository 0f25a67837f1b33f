"""Grey images, and images with more than three channels, from files and arrays."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tlkit
from tests.conftest import write_photos
from tlkit.data.decoding import decode_image
from tlkit.data.near_duplicates import find_near_duplicates
from tlkit.errors import ArgumentError
from tlkit.utils.rgb import as_rgb

SIZE = (8, 8)


def random_images(*shape):
    return np.random.default_rng(0).integers(0, 255, (20, *SIZE, *shape), "uint8")


def load(images, **given):
    return tlkit.load_arrays(images, np.arange(len(images)) % 2, **given)


def first_batch(data, **given):
    return next(iter(data.train.dataset(shuffle=False, **given)))[0].numpy()


@pytest.mark.parametrize("encode", [tf.io.encode_png, tf.io.encode_jpeg])
def test_a_grey_file_stays_what_it_is(encode):
    content = encode(random_images(1)[0])
    rgb = decode_image(content, SIZE).numpy()
    grey = decode_image(content, SIZE, channels=1).numpy()
    assert grey.shape == (*SIZE, 1)
    np.testing.assert_array_equal(np.repeat(grey, 3, axis=-1), rgb)


def test_colours_become_brightness():
    image = random_images(3)[0]
    grey = decode_image(tf.io.encode_png(image), SIZE, channels=1).numpy()[..., 0]
    expected = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - expected).max() <= 0.5 + 1e-4


def test_files_are_loaded_grey(tmp_path):
    write_photos(tmp_path, {"ant": 10, "bee": 10})
    rgb = tlkit.load_folder(tmp_path, image_size=SIZE)
    grey = tlkit.load_folder(tmp_path, image_size=SIZE, channels=1)
    assert grey.channels == grey.train.channels == 1
    assert "8 × 8 pixels × 1 channels" in str(grey)
    assert grey.train.digests == rgb.train.digests
    for given in ({}, {"keep": False}, {"augment": "strong"}):
        assert first_batch(grey, **given).shape[1:] == (*SIZE, 1)
    images, _ = grey.train[0]  # as Keras reads it
    assert images.shape[1:] == (*SIZE, 1)
    assert first_batch(rgb).shape[1:] == (*SIZE, 3)  # not those kept in memory for the other


def test_a_manifest_is_loaded_grey(tmp_path):
    write_photos(tmp_path, {"ant": 5, "bee": 5})
    rows = [f"{name}/{i:03d}.jpg,{name}" for name in ("ant", "bee") for i in range(5)]
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    data = tlkit.load_manifest(tmp_path / "images.csv", image_size=SIZE, channels=1)
    assert first_batch(data).shape[1:] == (*SIZE, 1)


@pytest.mark.parametrize("channels", [0, 2, 4, 1.0, True, "1", None])
def test_files_have_three_channels_or_one(tmp_path, channels):
    with pytest.raises(ArgumentError, match="`channels` must be 3, or 1 to make images grey"):
        tlkit.load_folder(tmp_path, channels=channels)


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [((), {}, 3), ((1,), {}, 3), ((), {"channels": 1}, 1), ((1,), {"channels": 1}, 1)]
    + [((n,), {}, n) for n in (2, 3, 4, 13)]
    + [((4,), {"channels": 4}, 4)],
)
def test_arrays_keep_their_channels(shape, given, expected):
    images = random_images(*shape)
    data = load(images, splits=(1, 0, 0), **given)
    assert data.channels == data.train.channels == expected
    batch = first_batch(data, augment="light", epochs=range(1))
    assert batch.shape[1:] == (*SIZE, expected)
    values = images if shape else images[..., np.newaxis]
    kept = first_batch(data)
    assert {tuple(one) for one in kept.reshape(-1, expected)} == {
        tuple(one)
        for one in np.broadcast_to(values, (*values.shape[:3], expected)).reshape(-1, expected)
    }


@pytest.mark.parametrize(
    ("shape", "channels"), [((3,), 1), ((4,), 3), ((), 4), ((3,), 4), ((3,), "3"), ((1,), True)]
)
def test_other_channels_than_those_of_the_arrays_are_refused(shape, channels):
    with pytest.raises(ArgumentError, match="`channels` must be the number of channels of the im"):
        load(random_images(*shape), channels=channels)


def test_channels_must_be_the_same_in_every_split():
    given = {"validation": (random_images(4), np.arange(20) % 2)}
    with pytest.raises(ArgumentError, match="images with 3, validation with 4"):
        load(random_images(3), **given)


def test_images_with_the_channels_first_are_refused():
    images = np.zeros((4, 3, 80, 80), "uint8")
    with pytest.raises(ArgumentError, match="at most 64 channels"):
        load(images)


def test_other_sizes_merging_and_subsets_keep_the_channels():
    data = load(random_images(4))
    assert first_batch(data.at_size((4, 6))).shape[1:] == (4, 6, 4)
    assert data.merged().train.channels == 4
    assert data.train.subset(np.arange(3)).channels == 4


@pytest.mark.parametrize("shape", [(), (4,)])
def test_near_duplicates_are_found(shape):
    images = random_images(*shape).repeat(4, axis=1).repeat(4, axis=2)
    images[1] = np.clip(images[0].astype(int) + 2, 0, 255)
    data = load(images, splits=(1, 0, 0), **({"channels": 1} if not shape else {}))
    (pair,) = find_near_duplicates(data).pairs
    assert set(pair.paths) == {"images[0]", "images[1]"}


def test_images_are_shown_in_three_channels():
    grey = random_images(1)
    np.testing.assert_array_equal(as_rgb(grey), np.repeat(grey, 3, axis=-1))
    four = random_images(4)
    np.testing.assert_array_equal(as_rgb(four), four[..., :3])
    assert tlkit.plot_batch(four[:2], np.array([0, 1]), ["a", "b"]) is not None


def test_image_files_of_a_greyscale_folder_are_read(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(4):
            pixels = np.random.default_rng((number, ord(name[0]))).integers(0, 255, SIZE, "uint8")
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    data = tlkit.load_folder(tmp_path, image_size=SIZE, channels=1, splits=(1, 0, 0))
    expected = np.asarray(Image.open(data.train.paths[0]))
    np.testing.assert_array_equal(first_batch(data)[0, ..., 0], expected)
