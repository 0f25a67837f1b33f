"""Bodies of requests: images, and invalid content that looks like an image."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def image(form="jpeg", size=(40, 30), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form)
    return content.getvalue()


def bomb(width=60_000, height=60_000):
    """A PNG of a few bytes whose header has billions of pixels."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 100)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bad_bodies(count, max_bytes):
    """Yields `count` bodies that are no images, or damaged or too large ones."""
    generator = np.random.default_rng(0)
    whole = {form: image(form, (200, 150)) for form in ("jpeg", "png", "gif", "bmp", "webp")}
    fixed = [
        b"",
        b"\0",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"PK\x03\x04" + b"\0" * 100,
        b"II*\0" + b"\0" * 100,
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBPVP8 ",
        bomb(),
        b"\xff" * (max_bytes + 1),
        image("bmp", (1200, 1200)),
        *(content[: len(content) // 3] for content in whole.values()),
    ]
    yield from fixed[:count]
    forms = list(whole)
    for number in range(count - len(fixed)):
        if number % 2:
            yield generator.bytes(int(generator.integers(1, 5000)))
        else:
            content = whole[forms[number // 2 % len(forms)]]
            yield content[: int(generator.integers(1, len(content) // 4))]
