"""The EXIF orientation of a JPEG file, read and applied in the graph."""

import tensorflow as tf

SEGMENT_BYTES = 65_535
MAX_STEPS = 4096
"""Maximum number of segments and padding bytes that are skipped; a million took 30 s."""

ORIENTATION_TAG = 0x0112
SHORT = 3  # the type of the orientation entry: a two-byte integer
ENTRY_BYTES = 12
TIFF_MAGIC = 42

# Indexed by orientation, index 0 for none: the axes to flip (rows, columns), then their order.
FLIPPED_AXES = [
    [bool(rows), bool(columns), False]
    for rows, columns in zip((0, 0, 0, 1, 1, 0, 1, 1, 0), (0, 0, 1, 1, 0, 0, 0, 1, 1), strict=True)
]
AXES = [[0, 1, 2]] * 5 + [[1, 0, 2]] * 4


def read_orientation(jpeg_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of a JPEG file, 1 (upright) to 8.

    The segments before the image data are scanned up to the first one with EXIF data, and the
    entries of its first directory are searched. If anything is missing or malformed, the result is
    1.

    Args:
        jpeg_bytes: The complete file, a scalar string.

    Returns:
        A scalar, int32.

    Raises:
        tf.errors.InvalidArgumentError: There are more than `MAX_STEPS` segments and padding bytes
        before the image data and before EXIF data.

    Example:
        >>> import tensorflow as tf
        >>> from tlkit.data.exif import read_orientation
        >>> int(read_orientation(tf.io.encode_jpeg(tf.zeros((2, 2, 3), tf.uint8))))
        1

    Reference:
        Exif 2.32, sections 4.5 and 4.6.4: https://www.cipa.jp/std/documents/e/DC-008-Translation-2019-E.pdf
    """
    start = _exif_start(jpeg_bytes)
    return tf.cond(
        start >= 0,
        lambda: _orientation_entry(tf.strings.substr(jpeg_bytes, start, SEGMENT_BYTES)),
        lambda: tf.constant(1, tf.int32),
    )


def swaps_sides(orientation: tf.Tensor) -> tf.Tensor:
    """Whether this orientation exchanges height and width."""
    return orientation > 4


def reversed_sides(orientation: tf.Tensor) -> tf.Tensor:
    """Whether the stored rows and columns run against those of the upright image, bool `(2,)`."""
    return tf.gather(FLIPPED_AXES, orientation)[:2]


def apply_orientation(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Returns the image `(height, width, channels)` rotated upright by `orientation`, 1 to 8."""

    def rotated() -> tf.Tensor:
        flipped = tf.raw_ops.Reverse(tensor=image, dims=tf.gather(FLIPPED_AXES, orientation))
        return tf.transpose(flipped, tf.gather(AXES, orientation))

    return tf.cond(orientation > 1, rotated, lambda: image)


def _exif_start(jpeg_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the offset of the TIFF header in the first EXIF segment, or -1."""
    length = tf.strings.length(jpeg_bytes)

    def read(position: tf.Tensor) -> tf.Tensor:
        piece = tf.strings.substr(jpeg_bytes, position, 10)
        return tf.cast(tf.io.decode_raw(piece, tf.uint8, fixed_length=10), tf.int32)

    def is_exif(head: tf.Tensor) -> tf.Tensor:
        return (head[1] == 0xE1) & tf.reduce_all(head[4:] == tf.constant(list(b"Exif\0\0")))

    def is_before_image(_: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
        is_skipped = (head[1] // 16 == 0xE) | (head[1] == 0xFE) | (head[1] == 0xFF)
        return (head[0] == 0xFF) & is_skipped & ~is_exif(head)

    # A second 0xFF before the marker code is padding.
    def step(position: tf.Tensor, head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        num_skipped = tf.where(head[1] == 0xFF, 1, 2 + head[2] * 256 + head[3])
        position = tf.minimum(position + num_skipped, length)
        return position, read(position)

    first = tf.minimum(2, length)
    position, head = tf.while_loop(
        is_before_image, step, (first, read(first)), maximum_iterations=MAX_STEPS
    )
    message = f"The file has more than {MAX_STEPS} segments and padding bytes before its image."
    is_complete = ~is_before_image(position, head)
    with tf.control_dependencies([tf.debugging.Assert(is_complete, [message])]):
        is_found = (head[0] == 0xFF) & is_exif(head)
        return tf.where(is_found, tf.minimum(position + 10, length), -1)


def _orientation_entry(tiff_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the value of the orientation entry in a TIFF header's first directory, or 1."""
    data = tf.cast(tf.io.decode_raw(tiff_bytes, tf.uint8), tf.int64)
    length = tf.size(data, out_type=tf.int64)
    # Padded with zeros, so that reads of integers near the end stay within bounds.
    data = tf.concat([data, tf.zeros(16, tf.int64)], axis=0)
    is_little = data[0] == ord("I")
    weights = tf.cast(tf.where(is_little, [1, 256], [256, 1]), tf.int64)

    def short(at: int | tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(data[at : at + 2] * weights)

    first, second = short(4), short(6)
    directory = tf.where(is_little, first + second * 65536, first * 65536 + second)
    directory = tf.minimum(directory, length)
    room = tf.maximum(length - directory - 2, 0) // ENTRY_BYTES
    num_bytes = tf.minimum(short(directory), room) * ENTRY_BYTES
    entries = tf.reshape(data[directory + 2 : directory + 2 + num_bytes], (-1, ENTRY_BYTES // 2, 2))
    # Two-byte integers: the tag, its type, two that are unused, and the value of a SHORT.
    numbers = tf.reduce_sum(entries * weights, axis=2)
    tags, types, values = numbers[:, 0], numbers[:, 1], numbers[:, 4]
    is_wanted = (tags == ORIENTATION_TAG) & (types == SHORT) & (short(2) == TIFF_MAGIC)
    value = tf.reduce_max(tf.concat([[1], tf.where(is_wanted, values, 1)], axis=0))
    return tf.cast(tf.where(value <= 8, value, 1), tf.int32)
