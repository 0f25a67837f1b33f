"""Image files of every kind, as bytes."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def drawing(width=90, height=60):
    """A smooth image without symmetry."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((np.stack([x, y, x * y], axis=-1) * 255).astype(np.uint8))


def encoded(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def photograph(image, orientation, is_little_endian=True, **options):
    """A JPEG file with EXIF data as cameras write it, with further entries."""
    exif = Image.Exif()
    exif.endian = "<" if is_little_endian else ">"
    exif[0x010F] = "maker"
    exif[0x0112] = orientation
    exif[0x0131] = "software"
    return encoded(image, "JPEG", exif=exif, **{"quality": 95, **options})


def sixteen_bit_png(value=40_000, size=8):
    return encoded(Image.fromarray(np.full((size, size), value, np.uint16)), "PNG")


def png_claiming(width, height):
    """A PNG file of a few bytes whose header claims a size."""

    def chunk(name, content):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pieces = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 8)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*piece) for piece in pieces)


def gif_with_large_frame(width, height):
    """A GIF whose screen is one pixel, and whose frame is not."""
    return GIF_HEAD + gif_frame(width, height) + b"\x3b"


GIF_HEAD = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\xff\0\0\0\0\xff"
"""Header of a GIF with a screen of one pixel and two colours, red and blue."""


def gif_frame(width=1, height=1):
    """A GIF frame whose first pixel is red."""
    return b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\0"


def with_scans(count):
    """A progressive JPEG file with `count` scans, the last of which is repeated."""
    content = encoded(drawing(), "JPEG", quality=50, progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + (count - content.count(b"\xff\xda")) * last + b"\xff\xd9"
