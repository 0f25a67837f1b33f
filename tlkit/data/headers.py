"""Image sizes read from file headers in the graph, and checks before anything is decoded."""

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
FRAME, EXTENSION, GIF_END = 0x2C, 0x21, b";"  # first bytes of GIF blocks
SCAN = b"\xff\xda"  # marker of a JPEG scan; it cannot occur in entropy-coded data
HOPS = 16  # GIF sub-blocks skipped per loop iteration
MAX_GIF_STEPS = 2**14
"""Maximum number of loop iterations to the end of a GIF's first frame: 67 MB, 1 to 2 seconds."""

MAX_JPEG_SCANS = 100
"""Maximum number of scans; libjpeg's progressive files have ten, and each covers all pixels."""

MAX_PNG_TEXTS = 64
"""Maximum number of compressed text chunks of each of two kinds; libpng unpacks up to 8 MB each."""

Size = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


@dataclass(frozen=True)
class _Header:
    """Where a format's header stores height and width.

    A side is `number // divisor % modulus + offset`, with the number stored in `num_bytes` bytes
    from `height_at` or `width_at`.
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
    """Whether the scalar string begins with the signature of a JPEG file."""
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=4)
    return tf.reduce_all(head[:3] == list(b"\xff\xd8\xff"))


def jpeg_size(image_bytes: tf.Tensor) -> Size:
    """Returns the height, the width and the number of pixels of a JPEG file, int64.

    Height and width are the stored ones, before any EXIF orientation is applied.

    Raises:
        tf.errors.InvalidArgumentError: The file is not a JPEG, or ends before its size is stored.
    """
    sides = tf.cast(tf.io.extract_jpeg_shape(image_bytes), tf.int64)
    return sides[0], sides[1], sides[0] * sides[1]


def non_jpeg_size(image_bytes: tf.Tensor) -> Size:
    """Returns height, width and number of pixels of a PNG, GIF, BMP or WebP file, int64.

    They are those in the header, which is what a decoder allocates. The number of pixels of a GIF
    is that of its screen or of its first frame, whichever is larger. All are 0 for other formats
    and for variants that cannot be decoded (`tlkit.data.formats`).

    Args:
        image_bytes: The whole file, a scalar string.

    Example:
        >>> import tensorflow as tf
        >>> from tlkit.data.headers import non_jpeg_size
        >>> png = tf.io.encode_png(tf.zeros((2, 5, 3), tf.uint8))
        >>> [int(number) for number in non_jpeg_size(png)]
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
    # A BMP with rows from top to bottom has a negative height, in two's complement.
    sides = tf.minimum(sides, 2**32 - sides)
    height, width = tf.unstack(tf.reduce_sum(sides * tf.cast(is_format, tf.int64), axis=1))
    num_pixels = tf.cond(
        is_format[1],
        lambda: tf.maximum(height * width, _first_gif_frame(image_bytes)[0]),
        lambda: height * width,
    )
    return height, width, num_pixels


def has_palette(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether the scalar string begins with the header of a BMP file with 8 bits per pixel."""
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=HEADER_BYTES)
    return tf.reduce_all(head[:2] == list(b"BM")) & (head[28] == BMP_BITS[0])


def bmp_palette(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the palette of such a file, RGB, uint8 `(256, 3)`; missing colours are black."""
    num_bytes = 256 * 4  # blue, green, red, and an unused byte
    length = tf.cast(tf.strings.length(image_bytes), tf.int64)
    head = tf.cast(tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=HEADER_BYTES), tf.int64)
    start, end = (
        tf.minimum(tf.reduce_sum(head[at : at + 4] * 256 ** np.arange(4)) + offset, length)
        for at, offset in ((14, 14), (10, 0))
    )
    stored = tf.strings.substr(image_bytes, start, tf.maximum(end - start, 0))
    palette = tf.io.decode_raw(stored, tf.uint8, fixed_length=num_bytes)
    return tf.reshape(palette, (256, 4))[:, 2::-1]


def is_webp(image_bytes: tf.Tensor) -> tf.Tensor:
    """Whether the scalar string begins with the signature of a WebP file."""
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=HEADER_BYTES)
    return tf.reduce_all(head[:4] == list(b"RIFF")) & tf.reduce_all(head[8:12] == list(b"WEBP"))


def limit_scans(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the bytes of a JPEG file after checking that it has at most `MAX_JPEG_SCANS` scans.

    A scan needs only twelve bytes, but the decoder processes all pixels for it: a file of 125 kB
    with 1,000 scans of 16 megapixels took 12 seconds.

    Raises:
        tf.errors.InvalidArgumentError: The file has more scans.
    """
    message = f"The file has more than {MAX_JPEG_SCANS} scans, each of which covers all pixels."
    with tf.control_dependencies([_check_count(image_bytes, SCAN, MAX_JPEG_SCANS, message)]):
        return tf.identity(image_bytes)


def _limit_texts(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns a file's bytes after checking that a PNG has at most `MAX_PNG_TEXTS` texts.

    The compressed texts are not used, but the decoder unpacks them: 3 MB of them took 7 seconds.
    """
    message = f"The file has more than {MAX_PNG_TEXTS} compressed text chunks."
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=HEADER_BYTES)
    is_png = tf.reduce_all(head[:4] == list(b"\x89PNG"))
    checks = [
        _check_count(image_bytes, kind, MAX_PNG_TEXTS, message, applies=is_png)
        for kind in (b"zTXt", b"iTXt")
    ]
    with tf.control_dependencies(checks):
        return tf.identity(image_bytes)


def _check_count(
    image_bytes: tf.Tensor,
    sequence: bytes,
    max_count: int,
    message: str,
    applies: tf.Tensor | bool = True,
) -> tf.Operation | None:
    """Fails if a byte sequence occurs more than `max_count` times in a file."""
    pieces = tf.raw_ops.StringSplitV2(
        input=image_bytes[tf.newaxis], sep=sequence, maxsplit=max_count + 1
    ).values
    is_within = tf.size(pieces) <= max_count + 1
    return tf.debugging.Assert(is_within | tf.logical_not(applies), [message])


def without_trailing_bytes(
    image_bytes: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Returns a PNG, GIF, BMP or WebP file without bytes that would disturb its decoder.

    The BMP decoder rejects bytes after the pixels (padding, a colour profile, other programs'
    data), which all viewers ignore. The GIF decoder unpacks all frames, possibly a million, to
    return the first. The PNG decoder unpacks compressed texts, whose number is checked here. The
    other decoders stop at the end of the image by themselves.

    Args:
        image_bytes: The whole file, a scalar string.
        height: The image's height, as `non_jpeg_size` returns it.
        width: The image's width, likewise.

    Raises:
        tf.errors.InvalidArgumentError: A GIF has too many blocks up to the end of its first frame,
        or a PNG file has too many compressed texts.
    """
    return tf.cond(
        _is_gif(image_bytes),
        lambda: _up_to_first_frame(image_bytes),
        lambda: _up_to_bmp_pixels(_limit_texts(image_bytes), height, width),
    )


def _is_gif(image_bytes: tf.Tensor) -> tf.Tensor:
    head = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=HEADER_BYTES)
    return tf.reduce_all(head[:4] == list(b"GIF8"))


def _up_to_first_frame(image_bytes: tf.Tensor) -> tf.Tensor:
    _, end, is_bounded = _first_gif_frame(image_bytes)
    message = "The GIF has more blocks than are read up to the end of its first frame."
    with tf.control_dependencies([tf.debugging.Assert(is_bounded, [message])]):
        frame = tf.strings.substr(image_bytes, 0, end)
    is_truncated = end >= tf.strings.length(image_bytes)  # the decoder reports what is missing
    return tf.cond(is_truncated, lambda: image_bytes, lambda: tf.strings.join([frame, GIF_END]))


def _up_to_bmp_pixels(image_bytes: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    head = tf.cast(tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=HEADER_BYTES), tf.int64)
    pixels_at = tf.reduce_sum(head[10:14] * 256 ** np.arange(4))
    row_bytes = (width * (head[28] + 256 * head[29]) + 31) // 32 * 4
    length = tf.strings.length(image_bytes)
    end = tf.minimum(pixels_at + row_bytes * height, tf.cast(length, tf.int64))
    is_bmp = tf.reduce_all(head[:2] == list(b"BM"))
    return tf.strings.substr(image_bytes, 0, tf.where(is_bmp, tf.cast(end, tf.int32), length))


def _is_decoded(head: tf.Tensor) -> tf.Tensor:
    """Whether a file's variant can be decoded, for each format in `_HEADERS`, bool `(6,)`."""
    head = tf.cast(head, tf.int32)
    bits, compression = head[28] + 256 * head[29], head[30]
    is_masked = (compression == BMP_BITFIELDS) & (bits == BMP_BITS[-1])
    is_plain = (compression == 0) | (
        is_masked & tf.reduce_all(head[BMP_MASKS_AT:] == list(BMP_MASKS))
    )
    is_usual_bmp = (head[14] >= BMP_HEADER_SIZE) & tf.reduce_any(bits == BMP_BITS) & is_plain
    is_still = tf.bitwise.bitwise_and(head[WEBP_FLAGS_AT], WEBP_IS_ANIMATED) == 0
    always = tf.constant(True)
    return tf.stack([always, always, is_usual_bmp, always, always, is_still])


def _weights(at: int, num_bytes: int, is_big_endian: bool) -> np.ndarray:
    """Returns weights with which the sum over header bytes is the integer stored at `at`."""
    weights = np.zeros(HEADER_BYTES, np.int64)
    weights[at : at + num_bytes] = 256 ** np.arange(num_bytes)[:: -1 if is_big_endian else 1]
    return weights


def _magic_bytes(magic: dict[int, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the signature bytes at their offsets, and a mask of these offsets."""
    values, is_fixed = np.zeros(HEADER_BYTES, np.uint8), np.zeros(HEADER_BYTES, bool)
    for at, piece in magic.items():
        values[at : at + len(piece)] = list(piece)
        is_fixed[at : at + len(piece)] = True
    return values, is_fixed


# `_MAGIC` has one row per format; the first axis of the other arrays is height and width.
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


# Not inlined: the function's graph is then set up for the first GIF, not in every pipeline.
@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def _first_gif_frame(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Scans the blocks of a GIF up to the end of its first frame.

    The file is padded with zeros, which read as an unknown block and an empty sub-block: both end
    the scan, so that a damaged file cannot prolong it. No single step is longer than the padding.

    Returns:
        The frame's number of pixels, int64, 0 if there is no frame; the position after it, int32;
        and whether its end was found within `MAX_GIF_STEPS`.
    """
    data = tf.cast(tf.io.decode_raw(image_bytes, tf.uint8), tf.int32)
    length = tf.size(data)
    data = tf.concat([data, tf.zeros(1024, tf.int32)], axis=0)
    hops = tf.where(data > 0, data + 1, 0)  # distance to the next sub-block

    def colour_table_bytes(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def hop(position: tf.Tensor, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        for _ in range(HOPS):
            position += tf.gather(hops, position)
        return position, steps + 1

    def skip_sub_blocks(position: tf.Tensor, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Skips the sub-blocks from `position` on, and the empty one that terminates them."""
        end, steps = tf.while_loop(
            lambda position, steps: (data[position] > 0) & (steps < MAX_GIF_STEPS),
            hop,
            (tf.minimum(position, length), steps),
        )
        return tf.minimum(end + 1, length), steps

    position, steps = tf.while_loop(
        lambda position, steps: (data[position] == EXTENSION) & (steps < MAX_GIF_STEPS),
        lambda position, steps: skip_sub_blocks(position + 2, steps + 1),
        (tf.minimum(13 + colour_table_bytes(data[10]), length), tf.constant(0)),
    )
    block = data[position : position + 10]
    is_frame = block[0] == FRAME
    sides = tf.cast(block[5:9:2] + 256 * block[6:9:2], tf.int64)
    end, steps = skip_sub_blocks(position + 11 + colour_table_bytes(block[9]), steps)
    pixels = tf.where(is_frame, sides[0] * sides[1], 0)
    return pixels, tf.where(is_frame, end, length), steps < MAX_GIF_STEPS
