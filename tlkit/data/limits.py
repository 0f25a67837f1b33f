"""What decoding is held to; known without loading TensorFlow."""

MAX_PIXELS = 128 * 2**20
"""The most pixels an image may have by default: 134 million, 400 MB once decoded.

Phones with 108 megapixels stay below it; decompression bombs do not.
"""

DECODER_VERSION = "2"
"""Changes whenever `decode_image` computes anything else from the same bytes."""
