"""Decoding of all image files that tlkit reads, in this process; exports decode with the graph."""

from functools import cache

import tensorflow as tf

from tlkit.data.conversion import HEAD_PATTERN, readable
from tlkit.data.decoding import decoder
from tlkit.data.settings import RGB, STRETCH

_HEAD_BYTES = 12


@cache
def file_decoder(
    image_size: tuple[int, int], max_pixels: int, resize: str = STRETCH, channels: int = RGB
) -> tf.types.experimental.ConcreteFunction:
    """Returns `decoder` for all files, including those that are converted in Python first.

    Args:
        image_size: Height and width of the decoded image.
        max_pixels: Maximum number of pixels of a file.
        resize: "stretch", "crop" or "pad", see `resize_image`.
        channels: 3, or 1 for grey images.
    """
    decode = decoder(image_size, max_pixels, resize, channels)

    def convert(image_bytes: bytes) -> bytes:
        return readable(image_bytes, max_pixels)

    def decode_file(image_bytes: tf.Tensor) -> tf.Tensor:
        head = tf.strings.substr(image_bytes, 0, _HEAD_BYTES)
        content = tf.cond(
            tf.strings.regex_full_match(head, HEAD_PATTERN),
            # not stateful: the same bytes give the same image
            lambda: tf.ensure_shape(
                tf.numpy_function(convert, [image_bytes], tf.string, stateful=False), ()
            ),
            lambda: image_bytes,
        )
        return decode(content)

    traced = tf.function(decode_file, autograph=False)
    return traced.get_concrete_function(tf.TensorSpec((), tf.string))
