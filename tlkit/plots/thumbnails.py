"""Images small enough for a page, as addresses that hold the image itself."""

import base64

import numpy as np
import tensorflow as tf

from tlkit.data.decoding import decode_image
from tlkit.data.exif import read_orientation, swaps_sides
from tlkit.data.headers import is_jpeg, jpeg_size, non_jpeg_size

THUMBNAIL_PIXELS = 192
_QUALITY = 82


def thumbnail(image_bytes: bytes) -> np.ndarray:
    """Returns an image file upright and in its proportions, uint8 `(height, width, 3)`.

    Args:
        image_bytes: The whole file; its larger side becomes 192 pixels at most.
    """
    content = tf.constant(image_bytes)
    measure = jpeg_size if is_jpeg(content) else non_jpeg_size
    height, width, num_pixels = (int(number) for number in measure(content))
    if is_jpeg(content) and swaps_sides(read_orientation(content)):
        height, width = width, height
    scale = min(1.0, THUMBNAIL_PIXELS / max(height, width))
    sides = (max(1, round(height * scale)), max(1, round(width * scale)))
    return decode_image(content, sides, max_pixels=num_pixels).numpy()


def jpeg_address(pixels: np.ndarray) -> str:
    """Returns pixels 0...255, uint8 `(height, width, 3)`, as the address of a JPEG in the page."""
    return inside("image/jpeg", tf.io.encode_jpeg(pixels, quality=_QUALITY).numpy())


def inside(kind: str, content: bytes) -> str:
    """Returns content as an address that holds all of it.

    Example:
        >>> from tlkit.plots.thumbnails import inside
        >>> inside("text/plain", b"Hi")
        'data:text/plain;base64,SGk='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
