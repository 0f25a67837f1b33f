"""Small images for a page, as data URLs."""

import base64

import numpy as np
import tensorflow as tf

from tlkit.data.conversion import readable
from tlkit.data.decoding import decode_image
from tlkit.data.exif import read_orientation, swaps_sides
from tlkit.data.headers import is_jpeg, jpeg_size, non_jpeg_size

THUMBNAIL_PIXELS = 192
_QUALITY = 82


def thumbnail(image_bytes: bytes, max_side: int = THUMBNAIL_PIXELS) -> np.ndarray:
    """Returns a small upright version of an image, uint8 `(height, width, 3)`.

    Args:
        image_bytes: Content of the image file.
        max_side: Pixels that its larger side is reduced to, if it has more.
    """
    content = tf.constant(readable(image_bytes))
    measure = jpeg_size if is_jpeg(content) else non_jpeg_size
    height, width, num_pixels = (int(number) for number in measure(content))
    if is_jpeg(content) and swaps_sides(read_orientation(content)):
        height, width = width, height
    scale = min(1.0, max_side / max(height, width))
    sides = (max(1, round(height * scale)), max(1, round(width * scale)))
    return decode_image(content, sides, max_pixels=num_pixels).numpy()


def jpeg_url(pixels: np.ndarray) -> str:
    """Returns pixels 0...255, uint8 `(height, width, 3)`, as the data URL of a JPEG."""
    return data_url("image/jpeg", tf.io.encode_jpeg(pixels, quality=_QUALITY).numpy())


def data_url(media_type: str, content: bytes) -> str:
    """Returns content as a data URL.

    Example:
        >>> from tlkit.plots.thumbnails import data_url
        >>> data_url("text/plain", b"Hi")
        'data:text/plain;base64,SGk='
    """
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
