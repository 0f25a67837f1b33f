"""Images are stretched, cropped or padded in the same way wherever they are used."""

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

import tlkit
from tests.data.image_bytes import drawing, encoded, photograph
from tlkit.data.decoding import MAX_PIXELS, decode_image, decoder
from tlkit.data.measuring import load_for_measuring
from tlkit.data.resizing import resize_image
from tlkit.data.settings import PAD_VALUE, RESIZES, check_settings
from tlkit.errors import ArgumentError

SIZE = (40, 60)
SHAPES = [(60, 90), (90, 60), (61, 200), (200, 61), (40, 60), (7, 5), (1, 1), (3, 500), (500, 3)]
KEPT = [name for name in RESIZES if name != "stretch"]


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def stretched(image, sides):
    return resize_image(tf.constant(image), sides).numpy()


def fitting(bounds, aspect):
    """The largest rectangle within bounds: by fractions, independently of the implementation."""
    scale = min(bounds[0] / aspect[0], bounds[1] / aspect[1])
    return tuple(
        max(1, min(int(side * scale + 0.5), end)) for side, end in zip(aspect, bounds, strict=True)
    )


def cropped(image, sides):
    height, width = fitting(image.shape[:2], sides)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return stretched(image[top : top + height, left : left + width], sides)


def padded(image, sides):
    inner = fitting(sides, image.shape[:2])
    top, left = (sides[0] - inner[0]) // 2, (sides[1] - inner[1]) // 2
    whole = np.full((*sides, 3), PAD_VALUE, np.uint8)
    whole[top : top + inner[0], left : left + inner[1]] = stretched(image, inner)
    return whole


REFERENCES = {"stretch": stretched, "crop": cropped, "pad": padded}


def decoded(image_bytes, resize, image_size=SIZE):
    return decoder(image_size, MAX_PIXELS, resize)(tf.constant(image_bytes)).numpy()


def upright(image_bytes):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(image_bytes)))
    return np.array(image.convert("RGB"))


def difference(first, second):
    return np.abs(first.astype(int) - second.astype(int)).mean()


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_resizing_equals_the_reference(shape, resize):
    image = noise(*shape)
    expected = REFERENCES[resize](image, SIZE)
    assert np.array_equal(resize_image(tf.constant(image), SIZE, resize), expected)
    assert np.array_equal(decoded(encoded(Image.fromarray(image), "PNG"), resize), expected)


def test_the_centre_square_is_kept_by_crop():
    image = noise(30, 50)
    assert np.array_equal(resize_image(tf.constant(image), (30, 30), "crop"), image[:, 10:40])
    assert np.array_equal(resize_image(tf.constant(image), (10, 50), "crop"), image[10:20])


def test_pad_keeps_the_aspect_ratio_on_a_grey_border():
    whole = resize_image(tf.constant(np.full((30, 60, 3), 9, np.uint8)), (60, 60), "pad").numpy()
    assert np.all(whole[15:45] == 9)
    assert np.all(whole[:15] == PAD_VALUE)
    assert np.all(whole[45:] == PAD_VALUE)


@pytest.mark.parametrize("resize", RESIZES)
def test_an_image_of_the_models_aspect_ratio_is_resized_alike(resize):
    image = noise(80, 120)
    assert np.array_equal(resize_image(tf.constant(image), SIZE, resize), stretched(image, SIZE))


@pytest.mark.parametrize("resize", KEPT)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(91, 40), (40, 95), (720, 301), (401, 900)], ids=str)
def test_oriented_jpeg_files_equal_the_upright_image(size, orientation, resize):
    image_bytes = photograph(drawing(*size), orientation)
    expected = REFERENCES[resize](upright(image_bytes), SIZE)
    found = decoded(image_bytes, resize)
    assert difference(found, expected) < 1.5
    assert difference(found, REFERENCES["stretch"](upright(image_bytes), SIZE)) > 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_odd_surplus_is_cut_off_at_the_same_end_in_every_orientation(orientation):
    """Blocks of 8 pixels, so that the file holds the stripes without loss at their centres."""
    stripes = np.repeat(np.arange(0, 256, 15, dtype=np.uint8), 8)
    shown = Image.fromarray(np.repeat(np.tile(stripes, (136, 1))[..., None], 3, 2))
    rotated = ImageOps.exif_transpose(_with_orientation(shown, orientation))
    file = encoded(rotated, "JPEG", quality=100, subsampling=0, exif=_exif(_inverse(orientation)))
    assert np.array_equal(upright(file).shape, (136, 144, 3))
    found = decoded(file, "crop", (136, 137))
    assert difference(found, upright(file)[:, 3:140]) < 0.1


def _inverse(orientation):
    return {6: 8, 8: 6}.get(orientation, orientation)


def _exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _with_orientation(image, orientation):
    copy = image.copy()
    copy.getexif()[0x0112] = orientation
    return copy


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(1000, 1), (1, 1000), (60_000, 2), (1, 1)], ids=str)
def test_extremely_elongated_images_never_become_large(size, resize):
    for file_format in ("JPEG", "PNG"):
        image_bytes = encoded(drawing(*size), file_format)
        sides = _largest_tensor(image_bytes, resize)
        assert sides <= max(size[0] * size[1], SIZE[0] * SIZE[1])


def _largest_tensor(image_bytes, resize):
    """The largest number of pixels that `tf.image.resize` was asked for."""
    asked = []
    original = tf.image.resize

    def resized(image, sides, **arguments):
        asked.append(int(np.prod(sides)))
        return original(image, sides, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.image, "resize", resized)
        assert decode_image(tf.constant(image_bytes), SIZE, MAX_PIXELS, resize).shape == (*SIZE, 3)
    return max(asked)


def pixels_of(split, **arguments):
    return np.concatenate([images for images, _ in split.dataset(shuffle=False, **arguments)])


@pytest.fixture
def folder(tmp_path):
    """Two classes of two wide images each."""
    for number in range(4):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(noise(20, 50), number, axis=1)).save(path)
    return tmp_path / "photos"


@pytest.mark.parametrize("resize", KEPT)
def test_every_way_of_reading_a_split_resizes_alike(folder, resize, monkeypatch):
    data = tlkit.load_folder(folder, image_size=(24, 16), resize=resize, splits=(1, 0, 0))
    split = data.train
    files = [Path(path).read_bytes() for path in split.paths]
    expected = [REFERENCES[resize](upright(content), (24, 16)) for content in files]
    assert np.array_equal(pixels_of(split), expected)
    assert np.array_equal(pixels_of(split, keep=False), expected)
    assert np.array_equal(split[0][0], expected)
    assert np.array_equal(pixels_of(split.subset(np.array([2]))), expected[2:3])
    same = tlkit.load_folder(folder, image_size=(24, 16), splits=(1, 0, 0)).train
    assert not np.array_equal(pixels_of(same), expected)
    assert f"24 × 16 pixels ({resize}), in" in str(split)
    larger = data.at_size(30)
    assert larger.resize == larger.train.resize == resize
    assert data.fingerprint == larger.fingerprint


@pytest.mark.parametrize("resize", KEPT)
def test_all_loaders_resize(folder, resize):
    manifest = folder.parent / "images.csv"
    rows = [f"{path},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]
    manifest.write_text("\n".join(["path,label", *rows]))
    given = {"image_size": 12, "resize": resize}
    expected = pixels_of(tlkit.load_folder(folder, splits=(1, 0, 0), **given).train)
    listed = tlkit.load_manifest(manifest, splits=(1, 0, 0), **given).train
    measured = load_for_measuring(folder, ["a", "b"], image_size=(12, 12), resize=resize)
    for split in (listed, measured):
        assert np.array_equal(pixels_of(split), expected)
    images = np.stack([np.array(Image.open(path)) for path in sorted(folder.rglob("*.png"))])
    arrays = tlkit.load_arrays(images, [0, 0, 1, 1], splits=(1, 0, 0), **given).train
    assert np.array_equal(pixels_of(arrays), expected)


def test_resize_must_be_a_known_name(folder):
    message = "`resize` must be one of 'stretch', 'crop', 'pad'. Received: resize='Crop'"
    calls = (
        lambda: tlkit.load_folder("nowhere", resize="Crop"),
        lambda: tlkit.load_manifest("nowhere", resize="Crop"),
        lambda: tlkit.load_tfds("nothing", resize="Crop"),
        lambda: tlkit.load_arrays(np.stack([noise(5, 5)] * 4), [0, 1] * 2, resize="Crop"),
        lambda: load_for_measuring(folder, ["a", "b"], image_size=(9, 9), resize="Crop"),
        lambda: check_settings(9, 9, (1, 0, 0), 0, resize="Crop"),
    )
    for call in calls:
        with pytest.raises(ArgumentError, match=message):
            call()


def test_near_duplicates_do_not_depend_on_resizing(folder):
    first, second = (
        tlkit.find_near_duplicates(tlkit.load_folder(folder, resize=resize, splits=(1, 0, 0)))
        for resize in ("stretch", "pad")
    )
    assert str(first) == str(second)
