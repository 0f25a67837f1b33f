"""From the bytes of an image file to pixels: the one path of training, prediction and export."""

from functools import cache, partial

import tensorflow as tf

from tlkit.data.exif import apply_orientation, read_orientation, swaps_sides
from tlkit.data.headers import (
    bmp_palette,
    has_palette,
    is_jpeg,
    is_webp,
    jpeg_size,
    other_size,
    with_few_scans,
    without_trailing_bytes,
)
from tlkit.data.limits import DECODER_VERSION, MAX_PIXELS

__all__ = ["DECODER_VERSION", "MAX_PIXELS", "decode_image", "decoder", "resize_image"]

JPEG_RATIOS = (1, 2, 4, 8)
DCT_METHOD = "INTEGER_FAST"
ANTIALIASED_REDUCTION = 2.0
_PROCESSOR = "CPU:0"
"""Where `tf.data` decodes in any case; elsewhere a GPU would resize, and round in its own way."""
JFIF_HEADER, QUANTIZATION_TABLE = b"\xff\xe0\x00\x10JFIF\x00", b"\xff\xdb"
# Bytes of an orientation other than 1, as they stand in an EXIF directory of either byte order.
MAYBE_TURNED = (
    r"(?s)\C*Exif\x00\x00\C*"
    r"(?:\x12\x01\x03\x00\C{4}[\x02-\x08]|\x01\x12\x00\x03\C{4}\x00[\x02-\x08])\C*"
)


def decode_image(
    image_bytes: tf.Tensor, image_size: tuple[int, int], max_pixels: int = MAX_PIXELS
) -> tf.Tensor:
    """Decodes one JPEG, PNG, GIF, BMP or WebP file into upright pixels of the wanted size.

    The format is that of the bytes, whatever the file's name ends in. Bytes behind the image's
    end are ignored. Of a GIF it is the first frame; grey, palette and CMYK images become RGB,
    16 bits become 8, and an alpha channel is dropped, of PNG, BMP and WebP files alike (the
    colours stored behind transparent pixels appear). The EXIF orientation of JPEG files is
    applied, that of the other formats is not read. The image is then stretched to `image_size`;
    its proportions are not kept.

    JPEG files are decoded at a half, a quarter or an eighth of their size as long as both sides
    stay at least as long as wanted, and the rest is bilinear. It is antialiased where the
    remaining reduction (the geometric mean over the two sides) exceeds two.

    The number of pixels is checked in the header before anything is decoded, and so are the
    segments and scans of a JPEG file, the blocks of a GIF and the packed texts of a PNG file, which
    bound the time that decoding takes. It works eagerly, in `tf.data`, and in the signature of a
    SavedModel.

    Args:
        image_bytes: The whole file, a scalar string.
        image_size: Height and width of the result in pixels.
        max_pixels: The most pixels the file may hold.

    Returns:
        The image, uint8, `(height, width, 3)`, 0...255, rounded.

    Raises:
        tf.errors.InvalidArgumentError: The bytes are no such file, are damaged or truncated, hold
            more than `max_pixels` pixels, or would take too long.

    Example:
        >>> import tensorflow as tf
        >>> from tlkit.data.decoding import decode_image
        >>> image_bytes = tf.io.encode_png(tf.fill((4, 6, 1), tf.constant(200, tf.uint8)))
        >>> decode_image(image_bytes, (2, 2))[0, 0].numpy().tolist()
        [200, 200, 200]
    """
    with tf.device(_PROCESSOR):
        image = tf.cond(
            _needs_only_resizing(image_bytes, image_size, max_pixels),
            lambda: _decode_small_jpeg(image_bytes, image_size),
            lambda: _decode_any(image_bytes, image_size, max_pixels),
        )
        return tf.ensure_shape(image, (*image_size, 3))


@cache
def decoder(image_size: tuple[int, int], max_pixels: int) -> tf.types.experimental.ConcreteFunction:
    """Returns `decode_image` for one size, traced once for all who ask, whoever asks first.

    Tracing takes longer than decoding a hundred images.

    Args:
        image_size: Height and width of what it returns.
        max_pixels: The most pixels that a file may hold.
    """
    decode = partial(decode_image, image_size=image_size, max_pixels=max_pixels)
    traced = tf.function(decode, autograph=False)
    return traced.get_concrete_function(tf.TensorSpec((), tf.string))


def resize_image(image: tf.Tensor, image_size: tuple[int, int] | tf.Tensor) -> tf.Tensor:
    """Stretches the image `(height, width, channels)`, uint8, to `image_size`, uint8, rounded.

    Bilinear; antialiased where the image becomes smaller by more than a factor of two, taken
    as the geometric mean over its two sides.
    """
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    reduction = tf.sqrt(tf.reduce_prod(sides / tf.cast(image_size, tf.float32)))
    return tf.cond(
        reduction > ANTIALIASED_REDUCTION,
        lambda: _resize(image, image_size, antialias=True),
        lambda: _resize(image, image_size),
    )


def _resize(
    image: tf.Tensor, image_size: tuple[int, int] | tf.Tensor, antialias: bool = False
) -> tf.Tensor:
    resized = tf.image.resize(image, image_size, antialias=antialias)
    return tf.cast(tf.round(resized), tf.uint8)


def _decode_small_jpeg(image_bytes: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    image = tf.io.decode_jpeg(with_few_scans(image_bytes), 3, dct_method=DCT_METHOD)
    return _resize(image, image_size)


def _needs_only_resizing(
    image_bytes: tf.Tensor, image_size: tuple[int, int], max_pixels: int
) -> tf.Tensor:
    """Whether it is a JPEG file so plain and small that all the rest can be left out.

    Control flow costs as much as half of what it takes to decode a small image. With so few
    pixels it is neither decoded at a fraction of its size nor antialiased.
    """
    height, width = image_size
    too_many = (2 * height - 1) * (2 * width - 1)
    if too_many > max_pixels:
        return tf.constant(False)

    def is_small_and_upright() -> tf.Tensor:
        sides = tf.cast(tf.io.extract_jpeg_shape(image_bytes)[:2], tf.float32)
        # searching a whole file takes a tenth of the time that decoding it takes
        searched = tf.where(_has_no_exif(image_bytes), 0, tf.int32.max)
        may_be_turned = tf.strings.regex_full_match(
            tf.strings.substr(image_bytes, 0, searched), MAYBE_TURNED
        )
        return (tf.reduce_prod(sides) < too_many) & ~may_be_turned

    return tf.cond(is_jpeg(image_bytes), is_small_and_upright, lambda: tf.constant(False))


def _has_no_exif(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether a JPEG file's tables begin at once, or right behind a JFIF header of 18 bytes."""
    end = 20 + len(QUANTIZATION_TABLE)
    # where a file is shorter, the rest is zeros: what TensorFlow says of a position behind the end
    # holds the file's bytes, which Python cannot read as text
    head = tf.strings.join([tf.strings.substr(image_bytes, 0, end), b"\0" * end])

    def stands(what: bytes, at: int) -> tf.Tensor:
        return tf.strings.substr(head, at, len(what)) == what

    behind_jfif = stands(JFIF_HEADER, 2) & stands(QUANTIZATION_TABLE, 20)
    return stands(QUANTIZATION_TABLE, 2) | behind_jfif


def _decode_any(image_bytes: tf.Tensor, image_size: tuple[int, int], max_pixels: int) -> tf.Tensor:
    return tf.cond(
        is_jpeg(image_bytes),
        lambda: _decode_jpeg(image_bytes, image_size, max_pixels),
        lambda: _decode_other(image_bytes, image_size, max_pixels),
    )


def _decode_jpeg(image_bytes: tf.Tensor, image_size: tuple[int, int], max_pixels: int) -> tf.Tensor:
    height, width, num_pixels = jpeg_size(image_bytes)
    with tf.control_dependencies(_check_pixels(num_pixels, max_pixels)):
        image_bytes = with_few_scans(image_bytes)
    orientation = read_orientation(image_bytes)
    # Turning commutes with stretching, and is cheaper on the small image.
    target = tf.where(swaps_sides(orientation), image_size[::-1], image_size)
    sides = tf.cast(tf.stack([height, width]), tf.int32)
    decoded_sides = -(-sides // tf.constant(JPEG_RATIOS)[:, tf.newaxis])
    num_fitting = tf.reduce_sum(tf.cast(tf.reduce_all(decoded_sides >= target, 1), tf.int32))
    decoders = [
        partial(tf.io.decode_jpeg, image_bytes, 3, ratio=ratio, dct_method=DCT_METHOD)
        for ratio in JPEG_RATIOS
    ]
    image = tf.switch_case(tf.maximum(num_fitting - 1, 0), decoders)
    return apply_orientation(resize_image(image, target), orientation)


def _decode_other(
    image_bytes: tf.Tensor, image_size: tuple[int, int], max_pixels: int
) -> tf.Tensor:
    height, width, num_pixels = other_size(image_bytes)
    with tf.control_dependencies(_check_pixels(num_pixels, max_pixels)):
        image_bytes = without_trailing_bytes(image_bytes, height, width)
    image = tf.cond(
        is_webp(image_bytes),
        lambda: _decode_webp(image_bytes),
        lambda: tf.io.decode_image(image_bytes, channels=3, expand_animations=False),
    )
    image = tf.cond(has_palette(image_bytes), lambda: _in_colour(image, image_bytes), lambda: image)
    return resize_image(image, image_size)


def _decode_webp(image_bytes: tf.Tensor) -> tf.Tensor:
    """Asks for the channels that the file has: where alpha is one, three are refused."""
    image = tf.io.decode_image(image_bytes, expand_animations=False)
    return tf.ensure_shape(image, (None, None, None))[..., :3]


def _in_colour(indices: tf.Tensor, image_bytes: tf.Tensor) -> tf.Tensor:
    """Looks up what TensorFlow gives for a BMP file with a palette: places in it, three times."""
    palette = bmp_palette(image_bytes)
    return tf.ensure_shape(tf.gather(palette, tf.cast(indices[..., 0], tf.int32)), (None, None, 3))


def _check_pixels(num_pixels: tf.Tensor, max_pixels: int) -> list[tf.Operation | None]:
    # A format without a header that is understood is refused here, also where TensorFlow could
    # decode it (JPEG XL since 2.21): its pixels cannot be bounded.
    known = tf.debugging.Assert(
        num_pixels > 0, ["The bytes are not a JPEG, PNG, GIF, BMP or WebP file with pixels."]
    )
    message = "The image has more pixels than `max_pixels` allows (pixels, bound):"
    allowed = num_pixels <= tf.cast(max_pixels, tf.int64)
    return [known, tf.debugging.Assert(allowed, [message, num_pixels, max_pixels])]
