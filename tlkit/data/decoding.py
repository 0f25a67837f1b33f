"""Image decoding in the graph, shared by training, prediction and export."""

from functools import cache, partial

import tensorflow as tf

from tlkit.data.exif import apply_orientation, read_orientation, reversed_sides, swaps_sides
from tlkit.data.headers import (
    bmp_palette,
    has_palette,
    is_jpeg,
    is_webp,
    jpeg_size,
    limit_scans,
    non_jpeg_size,
    without_trailing_bytes,
)
from tlkit.data.limits import DECODER_VERSION, MAX_PIXELS
from tlkit.data.resizing import (
    centre_box,
    cut_box,
    pad_image,
    resample,
    resize_image,
    scale_image,
    scaled_sides,
)
from tlkit.data.settings import BRIGHTNESS, CROP, GREY, PAD, RGB, STRETCH

__all__ = ["DECODER_VERSION", "MAX_PIXELS", "decode_image", "decoder"]

JPEG_RATIOS = (1, 2, 4, 8)
DCT_METHOD = "INTEGER_FAST"
DECODER_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.UnimplementedError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)
"""The errors of decoders about files that they cannot decode."""

_DEVICE = "CPU:0"
"""`tf.data` always decodes on the CPU; a GPU would resize with different rounding elsewhere."""
JFIF_HEADER, QUANTIZATION_TABLE = b"\xff\xe0\x00\x10JFIF\x00", b"\xff\xdb"
# The entry of an orientation other than 1 in an EXIF directory, in either byte order.
MAYBE_ROTATED = (
    r"(?s)\C*Exif\x00\x00\C*"
    r"(?:\x12\x01\x03\x00\C{4}[\x02-\x08]|\x01\x12\x00\x03\C{4}\x00[\x02-\x08])\C*"
)


def decode_image(
    image_bytes: tf.Tensor,
    image_size: tuple[int, int],
    max_pixels: int = MAX_PIXELS,
    resize: str = STRETCH,
    channels: int = RGB,
) -> tf.Tensor:
    """Decodes a JPEG, PNG, GIF, BMP or WebP file into an upright image of a given size.

    The format is detected from the bytes, not from the file's extension. Trailing bytes after the
    image are ignored. Of a GIF the first frame is decoded. Greyscale, palette and CMYK images
    become RGB, 16 bits become 8, and the alpha channel of PNG, BMP and WebP files is dropped
    (transparent pixels show their stored colours). The EXIF orientation of JPEG files is applied;
    that of other formats is ignored. The upright image is then brought to `image_size`, by default
    without keeping its aspect ratio.

    JPEG files are decoded at 1/2, 1/4 or 1/8 of their size if both sides then still are at least as
    long as after resizing; the remaining resizing is bilinear. It is antialiased if the remaining
    reduction factor (the geometric mean of both sides' factors) exceeds two.

    To bound memory and time, these are checked before anything is decoded: the number of pixels in
    the header, the segments and scans of a JPEG file, the blocks of a GIF and the compressed text
    chunks of a PNG file. The function works eagerly, in `tf.data`, and in the signature of a
    SavedModel.

    Args:
        image_bytes: The complete file, a scalar string.
        image_size: Height and width of the result in pixels.
        max_pixels: Maximum number of pixels of the file.
        resize: "stretch", "crop" or "pad", see `resize_image`.
        channels: 3, or 1 for the brightness alone: 0.299 red + 0.587 green + 0.114 blue (ITU-R
            BT.601), which leaves grey images as they are.

    Returns:
        The image, uint8 `(height, width, channels)`, 0...255, rounded.

    Raises:
        tf.errors.InvalidArgumentError: The bytes are not a file of these formats, are damaged or
        truncated, have more than `max_pixels` pixels, or would take too long to decode.

    Example:
        >>> import tensorflow as tf
        >>> from tlkit.data.decoding import decode_image
        >>> image_bytes = tf.io.encode_png(tf.fill((4, 6, 1), tf.constant(200, tf.uint8)))
        >>> decode_image(image_bytes, (2, 2))[0, 0].numpy().tolist()
        [200, 200, 200]
    """
    with tf.device(_DEVICE):
        image = tf.cond(
            _needs_only_resizing(image_bytes, image_size, max_pixels, resize),
            lambda: _decode_small_jpeg(image_bytes, image_size, resize),
            lambda: _decode_any(image_bytes, image_size, max_pixels, resize),
        )
        image = tf.ensure_shape(image, (*image_size, RGB))
        return _brightness(image) if channels == GREY else image


@cache
def decoder(
    image_size: tuple[int, int], max_pixels: int, resize: str = STRETCH, channels: int = RGB
) -> tf.types.experimental.ConcreteFunction:
    """Returns `decode_image` for one size as a concrete function, traced once per process.

    Tracing takes longer than decoding a hundred images.

    Args:
        image_size: Height and width of the decoded image.
        max_pixels: Maximum number of pixels of a file.
        resize: "stretch", "crop" or "pad", see `resize_image`.
        channels: 3, or 1 for grey images.
    """
    decode = partial(
        decode_image,
        image_size=image_size,
        max_pixels=max_pixels,
        resize=resize,
        channels=channels,
    )
    traced = tf.function(decode, autograph=False)
    return traced.get_concrete_function(tf.TensorSpec((), tf.string))


def _brightness(image: tf.Tensor) -> tf.Tensor:
    """Returns the uint8 image `(height, width, 1)`; equal colours stay exactly what they are."""
    weighted = tf.cast(image, tf.float32) * tf.constant(BRIGHTNESS)
    rounded = tf.round(tf.reduce_sum(weighted, axis=-1, keepdims=True))
    return tf.cast(tf.clip_by_value(rounded, 0.0, 255.0), tf.uint8)


def _decode_small_jpeg(
    image_bytes: tf.Tensor, image_size: tuple[int, int], resize: str
) -> tf.Tensor:
    image = tf.io.decode_jpeg(limit_scans(image_bytes), 3, dct_method=DCT_METHOD)
    if resize == STRETCH:
        return resample(image, image_size)
    return resize_image(image, image_size, resize)


def _needs_only_resizing(
    image_bytes: tf.Tensor, image_size: tuple[int, int], max_pixels: int, resize: str
) -> tf.Tensor:
    """Whether the file is a JPEG that can take the fast path: small, and without EXIF rotation.

    The control flow of the general path costs half as much as decoding a small image. A JPEG with
    so few pixels is neither decoded at a fraction of its size nor antialiased; if it is padded,
    both of its sides must be short for that.
    """
    height, width = image_size
    pixel_limit = (2 * height - 1) * (2 * width - 1)
    if pixel_limit > max_pixels:
        return tf.constant(False)

    def is_small_and_upright() -> tf.Tensor:
        sides = tf.cast(tf.io.extract_jpeg_shape(image_bytes)[:2], tf.float32)
        is_small = tf.reduce_prod(sides) < pixel_limit
        if resize == PAD:
            is_small = tf.reduce_all(sides < (2 * height - 1, 2 * width - 1))
        # searching the whole file takes a tenth of the time of decoding it
        num_searched = tf.where(_has_no_exif(image_bytes), 0, tf.int32.max)
        may_be_rotated = tf.strings.regex_full_match(
            tf.strings.substr(image_bytes, 0, num_searched), MAYBE_ROTATED
        )
        return is_small & ~may_be_rotated

    return tf.cond(is_jpeg(image_bytes), is_small_and_upright, lambda: tf.constant(False))


def _has_no_exif(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether a JPEG file's tables begin immediately, or directly after an 18-byte JFIF header."""
    end = 20 + len(QUANTIZATION_TABLE)
    # shorter files are padded with zeros: TensorFlow's error for an offset beyond the end contains
    # # the file's bytes, which Python cannot decode as text
    head = tf.strings.join([tf.strings.substr(image_bytes, 0, end), b"\0" * end])

    def has_bytes(expected: bytes, at: int) -> tf.Tensor:
        return tf.strings.substr(head, at, len(expected)) == expected

    has_jfif_only = has_bytes(JFIF_HEADER, 2) & has_bytes(QUANTIZATION_TABLE, 20)
    return has_bytes(QUANTIZATION_TABLE, 2) | has_jfif_only


def _decode_any(
    image_bytes: tf.Tensor, image_size: tuple[int, int], max_pixels: int, resize: str
) -> tf.Tensor:
    return tf.cond(
        is_jpeg(image_bytes),
        lambda: _decode_jpeg(image_bytes, image_size, max_pixels, resize),
        lambda: _decode_other(image_bytes, image_size, max_pixels, resize),
    )


def _decode_jpeg(
    image_bytes: tf.Tensor, image_size: tuple[int, int], max_pixels: int, resize: str
) -> tf.Tensor:
    height, width, num_pixels = jpeg_size(image_bytes)
    with tf.control_dependencies(_check_pixels(num_pixels, max_pixels)):
        image_bytes = limit_scans(image_bytes)
    orientation = read_orientation(image_bytes)
    # Rotating commutes with resizing, and is cheaper on the small image.
    target = tf.where(swaps_sides(orientation), image_size[::-1], image_size)
    sides = tf.cast(tf.stack([height, width]), tf.int32)
    scaled = scaled_sides(sides, target, resize)
    decoded_sides = -(-sides // tf.constant(JPEG_RATIOS)[:, tf.newaxis])
    num_fitting = tf.reduce_sum(tf.cast(tf.reduce_all(decoded_sides >= scaled, 1), tf.int32))
    decoders = [
        partial(tf.io.decode_jpeg, image_bytes, 3, ratio=ratio, dct_method=DCT_METHOD)
        for ratio in JPEG_RATIOS
    ]
    number = tf.maximum(num_fitting - 1, 0)
    image = tf.switch_case(number, decoders)
    if resize == CROP:
        box = centre_box(sides, target, reversed_sides(orientation))
        image = cut_box(image, box, tf.gather(JPEG_RATIOS, number))
    upright = apply_orientation(scale_image(image, scaled), orientation)
    return pad_image(upright, image_size) if resize == PAD else upright


def _decode_other(
    image_bytes: tf.Tensor, image_size: tuple[int, int], max_pixels: int, resize: str
) -> tf.Tensor:
    height, width, num_pixels = non_jpeg_size(image_bytes)
    with tf.control_dependencies(_check_pixels(num_pixels, max_pixels)):
        image_bytes = without_trailing_bytes(image_bytes, height, width)
    image = tf.cond(
        is_webp(image_bytes),
        lambda: _decode_webp(image_bytes),
        lambda: tf.io.decode_image(image_bytes, channels=3, expand_animations=False),
    )
    image = tf.cond(
        has_palette(image_bytes), lambda: _apply_palette(image, image_bytes), lambda: image
    )
    return resize_image(image, image_size, resize)


def _decode_webp(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes all channels and drops alpha: asking for three fails if the file has four."""
    image = tf.io.decode_image(image_bytes, expand_animations=False)
    return tf.ensure_shape(image, (None, None, None))[..., :3]


def _apply_palette(indices: tf.Tensor, image_bytes: tf.Tensor) -> tf.Tensor:
    """Replaces palette indices by colours: TensorFlow returns the indices, once per channel."""
    palette = bmp_palette(image_bytes)
    return tf.ensure_shape(tf.gather(palette, tf.cast(indices[..., 0], tf.int32)), (None, None, 3))


def _check_pixels(num_pixels: tf.Tensor, max_pixels: int) -> list[tf.Operation | None]:
    # A format whose header is not parsed here is rejected even if TensorFlow could decode it #
    # (JPEG XL since 2.21): its number of pixels cannot be bounded.
    known = tf.debugging.Assert(
        num_pixels > 0, ["The bytes are not a JPEG, PNG, GIF, BMP or WebP file with pixels."]
    )
    message = "The image has more pixels than `max_pixels` allows (pixels, bound):"
    allowed = num_pixels <= tf.cast(max_pixels, tf.int64)
    return [known, tf.debugging.Assert(allowed, [message, num_pixels, max_pixels])]
