"""Cached file checks, and when they become invalid."""

import io
import struct
import zlib

import pytest
from PIL import Image

from tests.data.image_bytes import with_scans
from tlkit.data import file_checks as checks
from tlkit.data.file_checks import FileCheck, check_files
from tlkit.data.headers import MAX_JPEG_SCANS, MAX_PNG_TEXTS


def png_with_texts(number):
    plain = io.BytesIO()
    Image.new("RGB", (8, 8)).save(plain, "PNG")
    packed = b"a\0\0" + zlib.compress(b"text")
    text = struct.pack(">I", len(packed)) + b"zTXt" + packed
    text += struct.pack(">I", zlib.crc32(b"zTXt" + packed))
    return plain.getvalue()[:33] + number * text + plain.getvalue()[33:]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "texts.png",
            lambda: png_with_texts(MAX_PNG_TEXTS + 1),
            f"more than {MAX_PNG_TEXTS} compressed",
        ),
        ("scans.jpg", lambda: with_scans(MAX_JPEG_SCANS + 1), f"more than {MAX_JPEG_SCANS} scans"),
    ],
)
def test_a_file_accepted_by_an_older_version_is_checked_again(
    name, content, reason, tmp_path, monkeypatch
):
    path = tmp_path / name
    path.write_bytes(content())
    given = {"max_pixels": 2**20, "root": tmp_path / "cache"}
    sound = FileCheck("0" * 64, path.suffix[1:].upper(), 8, 8)
    with monkeypatch.context() as before:
        before.setattr(checks, "INDEX_NAME", "verdicts-3.sqlite")
        before.setattr(checks, "_check_all", lambda paths, _: iter([sound] * len(paths)))
        assert check_files([str(path)], **given) == [sound]
        before.setattr(checks, "_check_all", lambda paths, _: iter(paths[:0]))
        assert check_files([str(path)], **given) == [sound]  # now it is cached
    (checked,) = check_files([str(path)], **given)
    assert reason in checked.reason
