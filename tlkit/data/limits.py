"""Limits and version of the decoder, importable without TensorFlow."""

MAX_PIXELS = 128 * 2**20
"""Default maximum number of pixels of an image: 134 million, 400 MB once decoded.

Photos of phones with 108 megapixels stay below it; decompression bombs do not.
"""

DECODER_VERSION = "2"
"""Changed whenever `decode_image` computes different pixels from the same bytes."""
