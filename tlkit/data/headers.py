"""The size of an image, read in the graph from its first bytes, before anything is decoded."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tlkit.data.formats import (
    BMP_BITFIELDS,
    BMP_BITS,
    BMP_HEADER_SIZE,
    BMP_MASKS,
    BMP_MASKS_AT,
    WEBP_FLAGS_AT,
    WEBP_IS_ANIMATED,
)

HEADER_BYTES = BMP_MASKS_AT + len(BMP_MASKS)
FRAME, EXTENSION, GIF_END = 0x2C, 0x21, b";"  # what blocks of a GIF begin with
SCAN = b"\xff\xda"  # what scans of a JPEG file begin with, and nothing else in its pixels
HOPS = 16  # sub-blocks of a GIF that one turn of the loop steps over
GIF_TURNS = 2**14
"""Turns up to the end of a GIF's first frame: enough for 67 MB of it, and one or two seconds."""

JPEG_SCANS = 100
"""libjpeg's own progressive files have ten; each scan goes over all pixels once more."""

PNG_TEXTS = 64
"""Compressed texts of a PNG file, of each of two kinds: libpng unpacks up to 8 MB of each."""

Size = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


@dataclass(frozen=True)
class _Header:
    """Where a format's first bytes hold its size.

    A side is the number in `num_bytes` bytes from `at`, divided by `divisor`, of which the
    remainder modulo `modulus` counts, plus `offset`.
    """

    magic: dict[int, bytes]
    height_at: int
    width_at: int
    num_bytes: int
    is_big_endian: bool = False
    height_divisor: int = 1
    modulus: int = 2**32
    offset: int = 0


_HEADERS = (
    _Header({0: b"\x89PNG"}, 20, 16, 4, is_big_endian=True),
    _Header({0: b"GIF8"}, 8, 6, 2),
    _Header({0: b"BM"}, 22, 18, 4),
    _Header({0: b"RIFF", 8: b"WEBPVP8 "}, 28, 26, 2, modulus=2**14),
    _Header({0: b"RIFF", 8: b"WEBPVP8L"}, 21, 21, 4, height_divisor=2**14, modulus=2**14, offset=1),
    _Header({0: b"RIFF", 8: b"WEBPVP8X"}, 27, 24, 3, offset=1),
)


def is_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether the scalar string begins as a JPEG file does."""
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=4)
    return tf.reduce_all(head[:3] == list(b"\xff\xd8\xff"))


def jpeg_size(image_bytes: tf.Tensor) -> Size:
    """Returns the height, the width and the number of pixels of a JPEG file, int64.

    Sides are those before any EXIF orientation is applied.

    Raises:
        tf.errors.InvalidArgumentError: It is none, or ends before it says its size.
    """
    sides = tf.cast(tf.io.extract_jpeg_shape(image_bytes), tf.int64)
    return sides[0], sides[1], sides[0] * sides[1]


def other_size(image_bytes: tf.Tensor) -> Size:
    """Returns the height, the width and the number of pixels of a file that is no JPEG, int64.

    They are what the header claims, which is what a decoder allocates. The pixels of a GIF are
    those of its screen or of its first frame, whichever are more. Other formats than PNG, GIF, BMP
    and WebP give zeros, and so do kinds of these that cannot be decoded (`tlkit.data.formats`).

    Args:
        image_bytes: The whole file, a scalar string.

    Example:
        >>> import tensorflow as tf
        >>> from tlkit.data.headers import other_size
        >>> png = tf.io.encode_png(tf.zeros((2, 5, 3), tf.uint8))
        >>> [int(number) for number in other_size(png)]
        [2, 5, 10]

    Reference:
        PNG: https://www.w3.org/TR/png-3/; GIF: https://www.w3.org/Graphics/GIF/spec-gif89a.txt;
        BMP: https://learn.microsoft.com/en-us/windows/win32/gdi/bitmap-storage;
        WebP: https://developers.google.com/speed/webp/docs/riff_container
    """
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=HEADER_BYTES)
    is_format = tf.reduce_all((head == _MAGIC) | ~_IS_MAGIC, axis=1) & _is_decoded(head)
    numbers = tf.reduce_sum(tf.cast(head, tf.int64) * _WEIGHTS, axis=2)
    sides = numbers // _DIVISORS % _MODULI + _OFFSETS
    # A BMP whose rows run from the top has a negative height, in two's complement.
    sides = tf.minimum(sides, 2**32 - sides)
    height, width = tf.unstack(tf.reduce_sum(sides * tf.cast(is_format, tf.int64), axis=1))
    num_pixels = tf.cond(
        is_format[1],
        lambda: tf.maximum(height * width, _first_gif_frame(image_bytes)[0]),
        lambda: height * width,
    )
    return height, width, num_pixels


def has_palette(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether the scalar string begins as a BMP file of 8 bits a pixel does."""
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=HEADER_BYTES)
    return tf.reduce_all(head[:2] == list(b"BM")) & (head[28] == BMP_BITS[0])


def bmp_palette(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the colours of such a file, `(256, 3)`, RGB, uint8; what it does not say is black."""
    num_bytes = 256 * 4  # blue, green, red, and one that says nothing
    length = tf.cast(tf.strings.length(image_bytes), tf.int64)
    head = tf.cast(tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=HEADER_BYTES), tf.int64)
    start, end = (
        tf.minimum(tf.reduce_sum(head[at : at + 4] * 256 ** np.arange(4)) + offset, length)
        for at, offset in ((14, 14), (10, 0))
    )
    stored = tf.strings.substr(image_bytes, start, tf.maximum(end - start, 0))
    colours = tf.io.decode_raw(stored, tf.uint8, fixed_length=num_bytes)
    return tf.reshape(colours, (256, 4))[:, 2::-1]


def is_webp(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether the scalar string begins as a WebP file does."""
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=HEADER_BYTES)
    return tf.reduce_all(head[:4] == list(b"RIFF")) & tf.reduce_all(head[8:12] == list(b"WEBP"))


def with_few_scans(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the bytes of a JPEG file, if it has at most `JPEG_SCANS` scans.

    A scan takes twelve bytes of a file, and the decoder over all its pixels: 125 kB with 1,000
    scans of 16 megapixels took 12 seconds.

    Raises:
        tf.errors.InvalidArgumentError: It has more.
    """
    message = f"The file has more than {JPEG_SCANS} scans, each of which takes as long as one."
    with tf.control_dependencies([_check_few(image_bytes, SCAN, JPEG_SCANS, message)]):
        return tf.identity(image_bytes)


def _with_few_texts(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the bytes of a file, if it is no PNG with more than `PNG_TEXTS` compressed texts.

    Nobody asks for these texts, but the decoder unpacks them: 3 MB of them took 7 seconds.
    """
    message = f"The file has more than {PNG_TEXTS} compressed texts."
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=HEADER_BYTES)
    is_png = tf.reduce_all(head[:4] == list(b"\x89PNG"))
    checks = [
        _check_few(image_bytes, kind, PNG_TEXTS, message, applies=is_png)
        for kind in (b"zTXt", b"iTXt")
    ]
    with tf.control_dependencies(checks):
        return tf.identity(image_bytes)


def _check_few(
    image_bytes: tf.Tensor, what: bytes, most: int, message: str, applies: tf.Tensor | bool = True
) -> tf.Operation | None:
    """Fails where some bytes stand in a file more than so many times."""
    pieces = tf.raw_ops.StringSplitV2(
        input=image_bytes[tf.newaxis], sep=what, maxsplit=most + 1
    ).values
    is_few = tf.size(pieces) <= most + 1
    return tf.debugging.Assert(is_few | tf.logical_not(applies), [message])


def without_trailing_bytes(
    image_bytes: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Returns a file that is no JPEG up to the end of its pixels, as far as a decoder minds.

    That of BMP files refuses what stands behind their pixels (padding, a colour profile, what
    another program left there), which all viewers ignore. That of GIF files unpacks all frames to
    give the first, and there may be a million. The other formats' decoders stop at the end by
    themselves; that of PNG files unpacks texts before it, of which there may be few.

    Args:
        image_bytes: The whole file, a scalar string.
        height: Of the image, as `other_size` returns it.
        width: Likewise.

    Raises:
        tf.errors.InvalidArgumentError: A GIF's first frame has more blocks than are read, or a PNG
            file more compressed texts.
    """
    return tf.cond(
        _is_gif(image_bytes),
        lambda: _up_to_first_frame(image_bytes),
        lambda: _up_to_bmp_pixels(_with_few_texts(image_bytes), height, width),
    )


def _is_gif(image_bytes: tf.Tensor) -> tf.Tensor:
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=HEADER_BYTES)
    return tf.reduce_all(head[:4] == list(b"GIF8"))


def _up_to_first_frame(image_bytes: tf.Tensor) -> tf.Tensor:
    _, end, is_bounded = _first_gif_frame(image_bytes)
    message = "Its first frame stands behind, or is in, more blocks than are read."
    with tf.control_dependencies([tf.debugging.Assert(is_bounded, [message])]):
        frame = tf.strings.substr(image_bytes, 0, end)
    is_all = end >= tf.strings.length(image_bytes)  # the decoder says what is missing
    return tf.cond(is_all, lambda: image_bytes, lambda: tf.strings.join([frame, GIF_END]))


def _up_to_bmp_pixels(image_bytes: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    head = tf.cast(tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=HEADER_BYTES), tf.int64)
    pixels_at = tf.reduce_sum(head[10:14] * 256 ** np.arange(4))
    row_bytes = (width * (head[28] + 256 * head[29]) + 31) // 32 * 4
    length = tf.strings.length(image_bytes)
    end = tf.minimum(pixels_at + row_bytes * height, tf.cast(length, tf.int64))
    is_bmp = tf.reduce_all(head[:2] == list(b"BM"))
    return tf.strings.substr(image_bytes, 0, tf.where(is_bmp, tf.cast(end, tf.int32), length))


def _is_decoded(head: tf.Tensor) -> tf.Tensor:
    """Whether a file, if it has one of the formats, is a kind of it that can be decoded."""
    head = tf.cast(head, tf.int32)
    bits, compression = head[28] + 256 * head[29], head[30]
    is_masked = (compression == BMP_BITFIELDS) & (bits == BMP_BITS[-1])
    is_plain = (compression == 0) | (
        is_masked & tf.reduce_all(head[BMP_MASKS_AT:] == list(BMP_MASKS))
    )
    is_usual_bmp = (head[14] >= BMP_HEADER_SIZE) & tf.reduce_any(bits == BMP_BITS) & is_plain
    is_still = tf.bitwise.bitwise_and(head[WEBP_FLAGS_AT], WEBP_IS_ANIMATED) == 0
    no_matter = tf.constant(True)
    return tf.stack([no_matter, no_matter, is_usual_bmp, no_matter, no_matter, is_still])


def _weights(at: int, num_bytes: int, is_big_endian: bool) -> np.ndarray:
    """Factors of all header bytes whose sum is the number of `num_bytes` at `at`."""
    weights = np.zeros(HEADER_BYTES, np.int64)
    weights[at : at + num_bytes] = 256 ** np.arange(num_bytes)[:: -1 if is_big_endian else 1]
    return weights


def _magic_bytes(magic: dict[int, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The bytes that a header must have, and where it must have them."""
    values, is_fixed = np.zeros(HEADER_BYTES, np.uint8), np.zeros(HEADER_BYTES, bool)
    for at, piece in magic.items():
        values[at : at + len(piece)] = list(piece)
        is_fixed[at : at + len(piece)] = True
    return values, is_fixed


# One row for each format; the first axis of the others is height and width.
_MAGIC, _IS_MAGIC = (
    np.stack(part) for part in zip(*(_magic_bytes(h.magic) for h in _HEADERS), strict=True)
)
_WEIGHTS = np.stack(
    [
        [_weights(h.height_at, h.num_bytes, h.is_big_endian) for h in _HEADERS],
        [_weights(h.width_at, h.num_bytes, h.is_big_endian) for h in _HEADERS],
    ]
)
_DIVISORS = np.array([[h.height_divisor for h in _HEADERS], [1] * len(_HEADERS)], np.int64)
_MODULI = np.array([h.modulus for h in _HEADERS], np.int64)
_OFFSETS = np.array([h.offset for h in _HEADERS], np.int64)


# A function that stays one node is set up when the first GIF comes, not with every pipeline.
@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def _first_gif_frame(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Walks the blocks of a GIF up to the end of its first frame.

    The zeros behind the end are a block of no known kind and a sub-block of no length: both end
    the walk, so that a damaged file cannot prolong it. No single step is longer than they are.

    Returns:
        The frame's pixels, int64, 0 where there is none; the position behind it, int32; and
        whether it was found within `GIF_TURNS`.
    """
    data = tf.cast(tf.io.decode_raw(image_bytes, tf.uint8), tf.int32)
    length = tf.size(data)
    data = tf.concat([data, tf.zeros(1024, tf.int32)], axis=0)
    hops = tf.where(data > 0, data + 1, 0)  # from one sub-block to the next

    def colours(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def hop(position: tf.Tensor, turns: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        for _ in range(HOPS):
            position += tf.gather(hops, position)
        return position, turns + 1

    def behind(position: tf.Tensor, turns: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Steps over the sub-blocks from `position` on, and the empty one that ends them."""
        end, turns = tf.while_loop(
            lambda position, turns: (data[position] > 0) & (turns < GIF_TURNS),
            hop,
            (tf.minimum(position, length), turns),
        )
        return tf.minimum(end + 1, length), turns

    position, turns = tf.while_loop(
        lambda position, turns: (data[position] == EXTENSION) & (turns < GIF_TURNS),
        lambda position, turns: behind(position + 2, turns + 1),
        (tf.minimum(13 + colours(data[10]), length), tf.constant(0)),
    )
    block = data[position : position + 10]
    is_frame = block[0] == FRAME
    sides = tf.cast(block[5:9:2] + 256 * block[6:9:2], tf.int64)
    end, turns = behind(position + 11 + colours(block[9]), turns)
    pixels = tf.where(is_frame, sides[0] * sides[1], 0)
    return pixels, tf.where(is_frame, end, length), turns < GIF_TURNS
