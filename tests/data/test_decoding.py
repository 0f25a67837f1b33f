import io
import re
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

import tlkit
from tests.data.image_bytes import (
    GIF_HEAD,
    drawing,
    encoded,
    gif_frame,
    gif_with_large_frame,
    photograph,
    png_claiming,
    sixteen_bit_png,
    with_scans,
)
from tlkit.data import decoding
from tlkit.data.decoding import decode_image
from tlkit.data.exif import MAX_STEPS, read_orientation
from tlkit.data.foreign_formats import foreign_format, known_to_pillow
from tlkit.data.formats import detect_format
from tlkit.data.headers import (
    MAX_JPEG_SCANS,
    MAX_PNG_TEXTS,
    jpeg_size,
    non_jpeg_size,
    without_trailing_bytes,
)
from tlkit.data.resizing import resize_image
from tlkit.data.settings import RESIZES

SIZE = (40, 60)
PROGRAMS = {}


def decoded(image_bytes, image_size=SIZE, max_pixels=decoding.MAX_PIXELS, resize="stretch"):
    """Decodes in a graph, which is cached for further files."""
    key = (image_size, max_pixels, resize)
    if key not in PROGRAMS:
        PROGRAMS[key] = tf.function(
            lambda content: decode_image(content, image_size, max_pixels, resize),
            input_signature=[tf.TensorSpec((), tf.string)],
        )
    return PROGRAMS[key](image_bytes).numpy()


def bmp_with_masks(masks):
    """A 32-bit BMP file with these masks for red, green and blue."""
    plain = encoded(drawing().convert("RGBA"), "BMP")
    start = struct.pack("<I", 54 + 12)
    head = plain[:10] + start + plain[14:30] + b"\3" + plain[31:54]
    return head + bytes.fromhex(masks) + plain[54:]


def half_clear():
    """The drawing with an alpha channel and a transparent left half."""
    clear = np.array(drawing().convert("RGBA"))
    clear[:, :45, 3] = 0
    return Image.fromarray(clear)


def upright(image_bytes, image_size=SIZE):
    """The upright image as decoded by Pillow and resized by the same bilinear rule."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(image_bytes))).convert("RGB")
    return resize_image(tf.constant(np.array(image)), image_size).numpy()


def difference(first, second):
    return np.abs(first.astype(int) - second.astype(int)).mean()


@pytest.mark.parametrize("is_little_endian", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(90, 60), (720, 480)], ids=["small", "scaled"])
def test_every_orientation_is_applied_as_pillow_applies_it(size, orientation, is_little_endian):
    image_bytes = photograph(drawing(*size), orientation, is_little_endian)
    assert int(read_orientation(image_bytes)) == orientation
    assert difference(decoded(image_bytes), upright(image_bytes)) < 1.5


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0",
        b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 9, 0),
        b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 2, 1, 6, 0),
        b"XX*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0),
        b"MM\0+\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0),
    ],
)
def test_malformed_exif_data_is_ignored(exif):
    plain = encoded(drawing(), "JPEG", quality=95)
    segment = b"Exif\0\0" + exif
    image_bytes = (
        plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    )
    assert int(read_orientation(image_bytes)) == 1
    assert np.array_equal(decoded(image_bytes), decoded(plain))


def test_exif_data_is_found_after_a_jfif_header():
    plain = encoded(drawing(90, 60), "JPEG", quality=95)
    assert plain[2:11] == decoding.JFIF_HEADER
    assert plain[20:22] == decoding.QUANTIZATION_TABLE
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + bytes(6)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    turned = plain[:20] + segment + plain[20:]
    assert difference(decoded(turned), upright(turned)) < 1.5
    assert difference(decoded(turned), decoded(plain)) > 5


def test_exif_data_is_found_after_large_segments_and_padding():
    plain = photograph(drawing(), 6)
    filler = b"\xff\xe2" + struct.pack(">H", 65_535) + bytes(65_533)
    image_bytes = plain[:2] + filler + filler + b"\xff\xff" + plain[2:]
    assert int(read_orientation(image_bytes)) == 6


@pytest.mark.parametrize("filler", [b"\xff", b"\xff\xfe\0\2"])
def test_a_jpeg_with_too_many_segments_raises(filler):
    plain = photograph(drawing(), 6)
    counts = MAX_STEPS - 1, MAX_STEPS + 1  # one more segment may precede EXIF data
    most, more = (plain[:2] + count * filler + plain[2:] for count in counts)
    assert np.array_equal(decoded(most), decoded(plain))
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"more than {MAX_STEPS} segments"):
        decoded(more)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe1\0\1", b"\xff\xd8\xff\xe1\0\x08Exif\0\0"]
)
def test_reading_the_orientation_never_fails(content):
    assert int(read_orientation(content)) == 1


FORMATS = {
    "png": encoded(drawing(), "PNG"),
    "gif": encoded(drawing(), "GIF"),
    "bmp": encoded(drawing(), "BMP"),
    "bmp of 32 bits": encoded(drawing().convert("RGBA"), "BMP"),
    "bmp with a palette": encoded(drawing().quantize(255), "BMP"),
    "webp": encoded(drawing(), "WEBP", quality=95),
    "lossless webp": encoded(drawing(), "WEBP", lossless=True),
    "extended webp": encoded(drawing(), "WEBP", lossless=True, exif=Image.Exif().tobytes() + b" "),
    "jpeg": encoded(drawing(), "JPEG", quality=95),
    "progressive jpeg": encoded(drawing(), "JPEG", quality=95, progressive=True),
    "palette": encoded(drawing().quantize(255), "PNG"),
    "opaque alpha": encoded(drawing().convert("RGBA"), "PNG"),
    "webp with alpha": encoded(half_clear(), "WEBP", quality=95, exact=True),
    "lossless webp with alpha": encoded(half_clear(), "WEBP", lossless=True, exact=True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_decoded_by_its_content(name):
    expected = resize_image(tf.constant(np.array(drawing())), SIZE).numpy()
    assert difference(decoded(FORMATS[name]), expected) < 5


@pytest.mark.parametrize("name", [name for name in FORMATS if "jpeg" not in name])
def test_headers_give_the_size(name):
    assert [int(number) for number in non_jpeg_size(FORMATS[name])] == [60, 90, 5400]


def test_a_jpeg_header_gives_the_size():
    assert [int(number) for number in jpeg_size(FORMATS["jpeg"])] == [60, 90, 5400]


@pytest.mark.parametrize("tail", [b"\0", bytes(7), b"left by another program" * 99])
@pytest.mark.parametrize("name", FORMATS)
def test_trailing_bytes_are_ignored(name, tail):
    assert detect_format(FORMATS[name] + tail)[1] == ""
    assert np.array_equal(decoded(FORMATS[name] + tail), decoded(FORMATS[name]))


def test_a_truncated_bmp_raises():
    for name in ("bmp", "bmp of 32 bits", "bmp with a palette"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Input size should match"):
            decoded(FORMATS[name][:-1])


def test_the_alpha_channel_of_webp_and_png_is_dropped():
    """Transparent pixels show their stored colours, also in a batch with other files."""
    in_png = decoded(encoded(half_clear(), "PNG"))
    assert np.array_equal(in_png, decoded(FORMATS["png"]))
    assert np.array_equal(decoded(FORMATS["lossless webp with alpha"]), in_png)
    lossy = FORMATS["webp with alpha"]
    assert difference(decoded(lossy), upright(lossy)) < 0.5
    contents = tf.constant([FORMATS["webp"], lossy, FORMATS["png"]])
    batch = tf.map_fn(lambda one: decode_image(one, SIZE), contents, fn_output_signature=tf.uint8)
    assert np.array_equal(batch, [decoded(content) for content in contents.numpy()])


def test_a_bmp_has_the_colours_of_its_palette():
    for drawn in (drawing().quantize(256), drawing().quantize(3), drawing().convert("L")):
        stored = np.array(drawn.convert("RGB"))
        image = decoding.decode_image(tf.constant(encoded(drawn, "BMP")), stored.shape[:2])
        assert np.array_equal(image, stored)


def test_a_bmp_with_a_damaged_header_is_decoded_or_raises():
    content = encoded(drawing(9, 7).quantize(16), "BMP")
    for at in range(10, 54):
        for value in (0, 1, 127, 255):
            spoilt = content[:at] + bytes([value]) + content[at + 1 :]
            with suppress(tf.errors.InvalidArgumentError):
                assert decoded(spoilt, max_pixels=10**5).shape == (*SIZE, 3)


def test_a_bmp_may_state_the_usual_masks():
    plain = encoded(drawing().convert("RGBA"), "BMP")
    masked = bmp_with_masks("0000ff00 00ff0000 ff000000")
    assert detect_format(masked) == ("bmp", "")
    assert np.array_equal(decoded(masked), decoded(plain))


UNSUPPORTED = {
    "BMP with a depth of 1 bits": encoded(drawing().convert("1"), "BMP"),
    "compressed BMP": FORMATS["bmp"][:30] + b"\1" + FORMATS["bmp"][31:],
    "OS/2 BMP": FORMATS["bmp"][:14] + b"\x0c" + FORMATS["bmp"][15:],
    "BMP with unusual colour masks": bmp_with_masks("ff000000 00ff0000 0000ff00"),
    "animated WebP": encoded(
        drawing(), "WEBP", save_all=True, append_images=[drawing().rotate(90)]
    ),
}


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_unsupported_variants_are_named_and_raise(what):
    reason = f"{what} is not supported: convert it to JPEG or PNG"
    assert detect_format(UNSUPPORTED[what]) == ("", reason)
    with pytest.raises(tf.errors.InvalidArgumentError, match="The bytes are not a JPEG"):
        decoded(UNSUPPORTED[what])


OTHERS = {
    "PPM": encoded(drawing(), "PPM"),
    "PGM": encoded(drawing().convert("L"), "PPM"),
    "PBM": b"P4\n# a comment\n8 1\n\xff",
    "TGA": encoded(drawing(), "TGA"),
    "TGA of a palette": encoded(drawing().quantize(16), "TGA"),
    "JPEG 2000": encoded(drawing(), "JPEG2000"),
    "JPEG 2000 (codestream)": encoded(drawing(), "JPEG2000", no_jp2=True),
    "QOI": b"qoif\0\0\0\x01\0\0\0\x01\3\0" + bytes(9),
    "PCX": encoded(drawing(), "PCX"),
    "SGI": encoded(drawing(), "SGI"),
    "EPS (PostScript)": encoded(drawing(), "EPS"),
    "ICO": encoded(drawing(), "ICO"),
    "DDS": encoded(drawing(), "DDS"),
    "Photoshop (PSD)": b"8BPS\0\1",
    "JPEG XL": b"\xff\x0a\xfa\x1f",
    "GIMP (XCF)": b"gimp xcf v011\0",
    "OpenEXR": b"v/1\1\2\0\0\0",
    "Radiance HDR": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n",
    "DICOM": bytes(128) + b"DICM\2\0",
    "DICOM without a preamble": b"\2\0\0\0UL\4\0\xc0\0\0\0",
    "DICOM without a header": b"\x08\0\x16\0UI\x1a\x001.2.840.10008.5.1.4.1.1.2",
    "DICOM without types": b"\x08\0\0\0\4\0\0\0\x5e\1\0\0\x08\0\1\0",
    "DICOM without types or lengths": b"\x08\0\x08\0\x16\0\0\0ORIGINAL\\PRIMARY",
    "DPX": b"SDPX\0\0\x20\0",
    "MATLAB file": b"MATLAB 5.0 MAT-file, Platform: GLNXA64",
    "OLE file (FlashPix, MIC)": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504),
    "PDF": b"%PDF-1.7\n",
    "SVG": b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
    "camera raw": b"FUJIFILMCCD-RAW 0201FF",
    "video (Matroska, WebM)": b"\x1a\x45\xdf\xa3\1",
    "video (AVI)": b"RIFF\0\0\0\0AVI LIST",
    "HTML page": b"<!DOCTYPE html>\n<html><head>",
    "ZIP archive": b"PK\3\4\x14\0",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "PNG optimised for iOS (CgBI)": b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI" + bytes(60),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_formats_are_named_with_advice(what):
    name, reason = detect_format(OTHERS[what][:512])
    assert name == ""
    named = re.sub(" of a .*| without .*", "", what)
    assert re.match(rf"{re.escape(named)} is not supported: \w+", reason)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoded(OTHERS[what])


@pytest.mark.parametrize(
    ("major", "compatible", "what"),
    [
        *((brand, b"", "HEIC") for brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"hevs")),
        (b"mif1", b"mif1heic", "HEIC"),
        (b"msf1", b"hevc", "HEIC"),
        (b"mif1", b"mif1avif", "AVIF"),
        (b"avif", b"mif1miaf", "AVIF"),
        (b"avis", b"", "AVIF"),
        (b"mif1", b"", "HEIF"),
        (b"crx ", b"isom", "camera raw"),
        (b"isom", b"mp42", "video (MP4)"),
        (b"qt  ", b"", "video (QuickTime)"),
        (b"new1", b"heic", "HEIC"),
        (b"new1", b"new2", "ISO media file of the brand 'new1'"),
    ],
)
def test_media_files_are_named_by_any_of_their_brands(major, compatible, what):
    box = b"ftyp" + major + bytes(4) + compatible
    head = struct.pack(">I", len(box) + 4) + box + b"\0\0\1\0meta"
    assert foreign_format(head)[0] == what


def test_a_raw_file_with_a_tiff_signature_is_recognised_by_its_name():
    head = encoded(drawing(), "TIFF")[:512]
    assert detect_format(head, "a/IMG_1.NEF")[1].startswith("camera raw is not supported: ")
    assert detect_format(head, "a/IMG_1.tif") == ("tiff", "")


def test_further_formats_are_named_by_pillow(tmp_path):
    content = encoded(drawing().convert("1"), "MSP")
    assert detect_format(content[:512]) == ("", "not an image")
    assert known_to_pillow(io.BytesIO(content)) == "MSP"
    assert known_to_pillow(io.BytesIO(bytes(600))) == ""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.msp").write_bytes(content)
    (tmp_path / "a" / "bytes.jpg").write_bytes(bytes(range(256)) * 3)
    assert [one.reason for one in tlkit.inspect_folder(tmp_path).skipped] == [
        "not an image",
        "MSP is not supported: convert it to JPEG or PNG, with Pillow for example",
    ]


@pytest.mark.parametrize(
    "text", [b"BMW and other cars\n" * 9, "Käse".encode() * 9, "猫".encode() * 400]
)
def test_text_is_distinguished_from_images(text):
    assert detect_format(text[:512]) == ("", "not an image: text")


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_comment_does_not_make_an_image_an_svg(form):
    comment = PngInfo()
    comment.add_text("Source", "<svg width='3'/>")
    options = {"comment": b"<svg/>"} if form == "JPEG" else {"pnginfo": comment}
    content = encoded(drawing(), form, **options)
    assert b"<svg" in content[:512]
    assert detect_format(content) == (form.lower(), "")


def test_a_bmp_may_have_rows_from_the_top():
    image_bytes = bytearray(FORMATS["bmp"])
    image_bytes[22:26] = struct.pack("<i", -60)
    assert [int(number) for number in non_jpeg_size(bytes(image_bytes))] == [60, 90, 5400]
    assert difference(decoded(bytes(image_bytes)), decoded(FORMATS["bmp"])[::-1]) < 1


def test_grey_cmyk_deep_and_transparent_images_become_rgb():
    grey = decoded(encoded(drawing().convert("L"), "JPEG", quality=95))
    assert np.array_equal(grey[..., 0], grey[..., 1])
    cmyk = decoded(encoded(drawing().convert("CMYK"), "JPEG", quality=95))
    assert difference(cmyk, decoded(FORMATS["jpeg"])) < 12
    assert decoded(sixteen_bit_png(40_000)).ravel()[0] == 40_000 // 256  # the upper byte
    clear = drawing().convert("RGBA")
    clear.putalpha(0)
    assert difference(decoded(encoded(clear, "PNG")), decoded(FORMATS["png"])) == 0


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (3000, 20)])
def test_extreme_sizes_work(file_format, size):
    image = Image.new("RGB", size, (200, 100, 50))
    assert difference(decoded(encoded(image, file_format)), np.array([[(200, 100, 50)]])) < 4


def test_the_first_frame_of_a_gif_is_decoded():
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    image_bytes = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decoded(image_bytes)[0, 0].tolist() == [255, 0, 0]
    assert [int(number) for number in non_jpeg_size(image_bytes)] == [9, 9, 81]


def test_frames_after_the_first_are_never_unpacked():
    """A million one-pixel frames took a decoder minutes, and one huge frame exhausts memory."""
    animated = GIF_HEAD + gif_frame() + 10_000 * gif_frame() + gif_frame(60_000, 60_000) + b";"
    first = without_trailing_bytes(tf.constant(animated), tf.constant(1), tf.constant(1))
    assert first.numpy() == GIF_HEAD + gif_frame() + b";"
    assert (decoded(animated) == [255, 0, 0]).all()
    assert [int(number) for number in non_jpeg_size(animated)] == [1, 1, 1]


COMMENT = b"\x21\xfe" + 300_000 * b"\x01x" + b"\0"


@pytest.mark.parametrize(
    "blocks", [COMMENT, 20_000 * b"\x21\xfe\0", b"\x2c" + bytes(9) + b"\x02" + COMMENT[2:]]
)
def test_a_gif_with_too_many_blocks_raises(blocks):
    with pytest.raises(tf.errors.InvalidArgumentError, match="more blocks than are read"):
        decoded(GIF_HEAD + blocks + gif_frame() + b";")


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_png_with_too_many_compressed_texts_raises(kind):
    plain = encoded(drawing(), "PNG")
    packed = (b"a\0\0" if kind == b"zTXt" else b"a\0\1\0\0\0") + zlib.compress(b"text")
    text = struct.pack(">I", len(packed)) + kind + packed
    text += struct.pack(">I", zlib.crc32(kind + packed))
    most, more = (
        plain[:33] + count * text + plain[33:] for count in (MAX_PNG_TEXTS, MAX_PNG_TEXTS + 1)
    )
    assert np.array_equal(decoded(most), decoded(plain))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"more than {MAX_PNG_TEXTS} compressed"
    ):
        decoded(more)


def test_a_jpeg_with_too_many_scans_raises():
    most = with_scans(MAX_JPEG_SCANS)
    assert most.count(b"\xff\xda") == MAX_JPEG_SCANS
    assert decoded(most).shape == (*SIZE, 3)
    for size in (SIZE, (300, 300)):  # by the general and the fast path
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=f"more than {MAX_JPEG_SCANS} scans"
        ):
            decode_image(tf.constant(with_scans(MAX_JPEG_SCANS + 1)), size)


@pytest.mark.parametrize("resize", RESIZES)
def test_the_fast_path_gives_the_same_pixels(resize):
    for size in ((60, 40), (119, 79), (119, 158), (60, 157), (30, 300)):
        image_bytes = encoded(drawing(*size), "JPEG")
        long_way = decoding._decode_any(tf.constant(image_bytes), SIZE, decoding.MAX_PIXELS, resize)
        assert np.array_equal(decoded(image_bytes, resize=resize), long_way.numpy())


def test_strong_reductions_are_antialiased_and_slight_ones_are_not():
    stripes = np.zeros((160, 240, 3), np.uint8)
    stripes[:, ::2] = 255
    strong = resize_image(tf.constant(stripes), (40, 60)).numpy()
    assert abs(strong.astype(int) - 128).max() < 20
    slight = resize_image(tf.constant(stripes), (90, 130)).numpy()
    assert np.array_equal(slight, np.round(tf.image.resize(stripes, (90, 130))).astype(np.uint8))


def test_large_jpeg_files_are_decoded_at_a_fraction(monkeypatch):
    ratios = []
    real = tf.io.decode_jpeg

    def spy(contents, *arguments, **options):
        ratios.append(options.get("ratio", 1))
        return real(contents, *arguments, **options)

    monkeypatch.setattr(tf.io, "decode_jpeg", spy)
    for size, orientation, image_size, ratio in [
        ((120, 80), 1, SIZE, 2),
        ((118, 80), 1, SIZE, 1),
        ((481, 321), 1, SIZE, 8),
        ((3000, 40), 1, SIZE, 1),
        # stored wide and shown tall: the stored sides must be large enough
        ((960, 480), 6, (480, 120), 2),
        ((960, 480), 6, (120, 480), 1),
    ]:
        ratios.clear()
        decode_image(tf.constant(photograph(drawing(*size), orientation)), image_size)
        assert ratios == [ratio]


BOMBS = {
    "jpeg": encoded(drawing(), "JPEG"),
    **{name: FORMATS[name] for name in ("gif", "bmp", "webp", "lossless webp", "extended webp")},
    "png": png_claiming(60_000, 60_000),
    "gif frames": gif_with_large_frame(60_000, 60_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_images_above_max_pixels_raise_before_decoding(name):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="more pixels than `max_pixels` allows"
    ):
        decoded(BOMBS[name], max_pixels=5399)


@pytest.mark.parametrize(
    "name", [name for name in BOMBS if "png" not in name and "frames" not in name]
)
def test_images_of_exactly_max_pixels_are_decoded(name):
    assert decoded(BOMBS[name], max_pixels=5400).shape == (*SIZE, 3)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff\x0a" + bytes(40), FORMATS["jpeg"][:300], FORMATS["png"][:99]]
)
def test_other_bytes_raise(content):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoded(content)


@pytest.mark.parametrize("length", [3, 4, 19, 21, 30])
def test_a_truncated_jpeg_raises_wherever_it_ends(length):
    with pytest.raises(tf.errors.InvalidArgumentError):  # whose message must be decodable
        decoded(FORMATS["jpeg"][:length])


def test_nothing_is_resized_on_a_gpu():
    traced = tf.function(lambda image_bytes: decode_image(image_bytes, (8, 8)), autograph=False)
    graph = traced.get_concrete_function(tf.TensorSpec((), tf.string)).graph.as_graph_def()
    resizing = r'op: "(?:ResizeBilinear|ScaleAndTranslate)"'
    devices = re.findall(rf'{resizing}(?:\s+input: "[^"]*")*\s+device: "([^"]*)"', str(graph))
    assert len(devices) == len(re.findall(resizing, str(graph))) > 1
    assert set(devices) == {"/device:CPU:0"}


def test_it_works_eagerly_in_a_dataset_and_in_a_saved_model(tmp_path):
    files = [photograph(drawing(), 6), FORMATS["png"], FORMATS["gif"], FORMATS["webp"]]
    expected = np.stack([decoded(content) for content in files])
    for content, image in zip(files, expected, strict=True):
        assert np.array_equal(decode_image(tf.constant(content), SIZE), image)
    dataset = tf.data.Dataset.from_tensor_slices(files).map(
        lambda content: decode_image(content, SIZE)
    )
    assert dataset.element_spec.shape == (*SIZE, 3)
    assert np.array_equal(np.stack(list(dataset.as_numpy_iterator())), expected)

    class Decoder(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
        def __call__(self, files):
            return tf.map_fn(
                lambda content: decode_image(content, SIZE), files, fn_output_signature=tf.uint8
            )

    tf.saved_model.save(Decoder(), str(tmp_path / "decoder"))
    loaded = tf.saved_model.load(str(tmp_path / "decoder"))
    assert np.array_equal(loaded(tf.constant(files)), expected)
