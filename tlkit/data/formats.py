"""Detection of an image file's format by its first bytes, and whether it can be decoded."""

from tlkit.data.conversion import converted_format, why_not_converted
from tlkit.data.foreign_formats import CONVERT, foreign_format

HEAD_BYTES = 512
"""Number of bytes that `detect_format` needs."""
NOT_AN_IMAGE = "not an image"
"""The reason given for a file of unknown format."""
FORMATS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp"}
BMP_HEADER_SIZE = 40
"""Size of BITMAPINFOHEADER, the oldest BMP header with the field offsets of all later ones."""
BMP_BITS = (8, 24, 32)
"""Supported bits per pixel of uncompressed BMP files."""
BMP_BITFIELDS = 3
"""BI_BITFIELDS, a "compression" of 32-bit BMP files that only sets masks for the colours."""
BMP_MASKS_AT, BMP_MASKS = 54, bytes.fromhex("0000ff00 00ff0000 ff000000")
"""Offset of the masks of red, green and blue, and the only values that are decoded."""
WEBP_FLAGS_AT, WEBP_IS_ANIMATED = 20, 2
"""Offset of the flags in a WebP file's extended header, and the flag for animations."""


def detect_format(head: bytes, file_name: str = "") -> tuple[str, str]:
    """Returns the format of a file with these first bytes, or the reason why it cannot be used.

    Args:
        head: The first `HEAD_BYTES`.
        file_name: The file's name, which distinguishes unsupported formats with the same first
            bytes; it never makes a file an image.

    Example:
        >>> from tlkit.data.formats import detect_format
        >>> detect_format(b"GIF89a"), detect_format(b"Dear all,")
        (('gif', ''), ('', 'not an image: text'))
    """
    if not head:
        return "", "empty file"
    name = "webp" if head.startswith(b"RIFF") and head[8:12] == b"WEBP" else ""
    for magic, known in FORMATS.items():
        if head.startswith(magic):
            name = known
    if name == "bmp" and _is_text(head):  # text may begin with the letters "BM"
        name = ""
    variant = _unsupported_variant(name, head) if name else ""
    if name and not variant:
        return name, ""
    converted = "" if variant else converted_format(head, file_name)
    if converted and not why_not_converted(converted):
        return converted, ""
    what, advice = (variant, CONVERT) if variant else foreign_format(head, file_name)
    if converted:
        advice = f"{why_not_converted(converted)}, or {advice}"
    if what:
        return "", f"{what} is not supported: {advice}"
    return "", f"{NOT_AN_IMAGE}: text" if _is_text(head) else NOT_AN_IMAGE


def _is_text(head: bytes) -> bool:
    """Whether the bytes are printable UTF-8; the last character may be cut."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return all(
        character.isprintable() or character.isspace() or character == "\ufeff"
        for character in text
    )


def _unsupported_variant(name: str, head: bytes) -> str:
    """Returns the variant's name if a supported format has it but it cannot be decoded, or ""."""
    if name == "webp" and head[12:16] == b"VP8X" and len(head) > WEBP_FLAGS_AT:
        return "animated WebP" if head[WEBP_FLAGS_AT] & WEBP_IS_ANIMATED else ""
    if name == "png" and head[12:16] == b"CgBI":
        return "PNG optimised for iOS (CgBI)"
    if name != "bmp" or len(head) < BMP_MASKS_AT + len(BMP_MASKS):
        return ""
    return _unsupported_bmp(head)


def _unsupported_bmp(head: bytes) -> str:
    header_size, bits, compression = (
        int.from_bytes(head[at : at + size], "little") for at, size in ((14, 4), (28, 2), (30, 4))
    )
    if header_size < BMP_HEADER_SIZE:
        return "OS/2 BMP"
    if bits not in BMP_BITS:
        return f"BMP with a depth of {bits} bits"
    if compression == BMP_BITFIELDS and bits == BMP_BITS[-1]:
        is_usual = head[BMP_MASKS_AT : BMP_MASKS_AT + len(BMP_MASKS)] == BMP_MASKS
        return "" if is_usual else "BMP with unusual colour masks"
    return "compressed BMP" if compression else ""
