"""TIFF, AVIF and HEIC files, which are converted before the graph decodes them."""

import io
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, features

import tlkit
from tests.conftest import noise
from tests.data.image_bytes import drawing, encoded
from tlkit.data import conversion
from tlkit.data.conversion import ConversionError, readable
from tlkit.data.decoding import decoder
from tlkit.data.file_checks import check_contents
from tlkit.data.file_decoding import file_decoder
from tlkit.data.formats import detect_format
from tlkit.evaluation.prediction import decoder_for
from tlkit.plots.thumbnails import thumbnail

SIZE, MANY = (20, 30), 10**6


def decoded(image_bytes):
    return file_decoder(SIZE, MANY)(tf.constant(image_bytes)).numpy()


def as_png(image):
    return decoder(SIZE, MANY)(tf.constant(encoded(image, "PNG"))).numpy()


def heic(image, **options):
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=-1, chroma=444, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}, {"big_tiff": True}]
)
def test_a_tiff_file_has_the_pixels_that_pillow_decodes(options):
    content = encoded(drawing(), "TIFF", **options)
    assert np.array_equal(decoded(content), as_png(Image.open(io.BytesIO(content))))
    checked = check_contents([("1.tif", content)], MANY)[0]
    assert (checked.format, checked.height, checked.width, checked.reason) == ("tiff", 60, 90, "")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_modes_become_the_same_pixels_as_in_png(mode):
    image = drawing().convert(mode) if mode != "I;16" else None
    if image is None:
        image = Image.fromarray(np.arange(5400, dtype=np.uint16).reshape(60, 90) * 12)
    assert np.array_equal(decoded(encoded(image, "TIFF")), as_png(image))


UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a stored image is made upright, by its EXIF orientation."""


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_orientation_of_every_format_is_applied(orientation):
    upright = as_png(drawing().transpose(UPRIGHT[orientation])).astype(int)
    content = encoded(drawing(), "TIFF", tiffinfo={0x0112: orientation})
    assert np.array_equal(decoded(content), upright)
    exif = exif_of(orientation)
    if features.check("avif"):
        content = encoded(drawing(), "AVIF", exif=exif, quality=100, subsampling="4:4:4")
        assert np.abs(decoded(content) - upright).max() <= 3
    assert np.abs(decoded(heic(drawing(), exif=exif)) - upright).max() <= 3


@pytest.mark.slow
def test_all_readers_convert_a_file(tmp_path):
    for number in range(8):
        image = Image.fromarray(noise(number % 2, number, 32))
        for folder, suffix in (("png", "png"), ("tiff", "tif")):
            path = tmp_path / folder / "ab"[number % 2] / f"{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    kept = [
        tlkit.load_folder(tmp_path / name, image_size=16, splits=(1, 0, 0)).train
        for name in ("png", "tiff")
    ]
    for options in ({}, {"keep": False}):
        png, tiff = (
            np.concatenate([batch for batch, _ in one.dataset(shuffle=False, **options)])
            for one in kept
        )
        assert np.array_equal(png, tiff)
    contents = [(tmp_path / kept[row].paths[0]).read_bytes() for row in (0, 1)]
    decode = decoder_for((16, 16, 3), MANY, "stretch", "images")
    png, tiff = (decode(tf.constant(content)).numpy() for content in contents)
    assert np.array_equal(png, tiff)
    assert np.array_equal(*map(thumbnail, contents))
    assert kept[1].dataset(shuffle=False).cardinality() == 1


def test_only_these_formats_are_touched():
    for form in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
        content = encoded(drawing(), form)
        assert readable(content) is content
        assert np.array_equal(decoded(content), decoder(SIZE, MANY)(tf.constant(content)))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("1.tif", encoded(drawing(), "TIFF")[:3000], "truncated or damaged TIFF: image file is"),
        ("1.tif", b"II*\0" + bytes(99), "truncated or damaged TIFF: "),
        ("1.tif", encoded(drawing().convert("F"), "TIFF"), "TIFF with values of 32 bits: convert"),
        ("1.tif", encoded(drawing(), "TIFF", tiffinfo={254: 1}), "TIFF that begins with a preview"),
        ("1.dng", encoded(drawing(), "TIFF"), "camera raw is not supported"),
        ("1.avif", b"\0\0\0\x18ftypavif" + bytes(99), "truncated or damaged AVIF: "),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow about damaged tags
def test_unusable_files_are_reported_with_the_reason(name, content, reason):
    if name.endswith("avif") and not features.check("avif"):
        pytest.skip("Pillow has no AVIF")
    assert check_contents([(name, content)], MANY)[0].reason.startswith(reason)


def test_the_bound_on_pixels_is_checked_before_decoding(monkeypatch):
    content = encoded(drawing(), "TIFF")
    reason = "has 5400 pixels, more than the bound of 5399 (raise `max_pixels`)"
    assert check_contents([("1.tif", content)], 5399)[0].reason == reason
    with pytest.raises(ConversionError) as raised:
        readable(content, 5399)
    assert raised.value.num_pixels == 5400
    claiming = content.replace(b"\x5a\0\0\0", b"\xff\xff\0\0").replace(
        b"\x3c\0\0\0", b"\xff\xff\0\0"
    )
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ConversionError, match="4294836225 pixels"):
        readable(claiming)


def test_files_that_an_extra_reads_are_counted_and_read_once_it_is_there(tmp_path, monkeypatch):
    for number in range(6):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number % 2, number, 16)).save(path)
    (tmp_path / "photos" / "a" / "7.heic").write_bytes(heic(drawing()))
    (tmp_path / "photos" / "b" / "8.heic").write_bytes(heic(drawing(50, 60)))
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_has_heif", lambda: False)
        report = tlkit.inspect_folder(tmp_path / "photos")
    assert len(report.skipped) == 2
    assert report.notes == (
        f"2 images left out that an extra reads, such as {tmp_path}/photos/a/7.heic: "
        "pip install 'tlkit[heif]' and run again.",
    )
    report = tlkit.inspect_folder(tmp_path / "photos")
    assert report.formats == {"png": 6, "heic": 2}
    assert report.notes == report.skipped == ()


def test_a_missing_extra_is_noticed(monkeypatch):
    conversion._has_heif.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    try:
        head = b"\0\0\0\x18ftypheic" + bytes(99)
        assert detect_format(head)[1].startswith("HEIC is not supported: pip install 'tlkit[heif]'")
        assert readable(head) is head
    finally:
        conversion._has_heif.cache_clear()
    monkeypatch.setattr(conversion, "_has_avif", lambda: False)
    reason = detect_format(b"\0\0\0\x18ftypavif" + bytes(99))[1]
    assert reason.startswith("AVIF is not supported: pip install --force-reinstall Pillow")
