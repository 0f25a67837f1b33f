"""Which image format a file's first bytes tell, and which of them can be used."""

from tlkit.data.foreign_formats import CONVERT, foreign_format

HEAD_BYTES = 512
"""What `recognise` looks at."""
NOT_AN_IMAGE = "not an image"
"""The reason where a file's format is not known."""
FORMATS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp"}
BMP_HEADER_SIZE = 40
"""Of the oldest header of a BMP file whose fields lie where all later ones have them."""
BMP_BITS = (8, 24, 32)
"""Bits a pixel, uncompressed, that are decoded."""
BMP_BITFIELDS = 3
"""A compression of BMP files that is none: with 32 bits, masks say which bits are which colour."""
BMP_MASKS_AT, BMP_MASKS = 54, bytes.fromhex("0000ff00 00ff0000 ff000000")
"""Where they stand, and those that are decoded, of red, green and blue."""
WEBP_FLAGS_AT, WEBP_IS_ANIMATED = 20, 2
"""Where a WebP file with an extended header has its flags, and one of them."""


def recognise(head: bytes, file_name: str = "") -> tuple[str, str]:
    """Returns the format that a file's first bytes tell, or the reason why it cannot be used.

    Args:
        head: The first `HEAD_BYTES`.
        file_name: Its name, which tells apart what begins alike; it makes nothing an image.

    Example:
        >>> from tlkit.data.formats import recognise
        >>> recognise(b"GIF89a"), recognise(b"Dear all,")
        (('gif', ''), ('', 'not an image: text'))
    """
    if not head:
        return "", "empty file"
    name = "webp" if head.startswith(b"RIFF") and head[8:12] == b"WEBP" else ""
    for magic, known in FORMATS.items():
        if head.startswith(magic):
            name = known
    if name == "bmp" and _is_text(head):  # which may begin with these two letters
        name = ""
    kind = _foreign_kind(name, head) if name else ""
    if name and not kind:
        return name, ""
    what, advice = (kind, CONVERT) if kind else foreign_format(head, file_name)
    if what:
        return "", f"{what} is not supported: {advice}"
    return "", f"{NOT_AN_IMAGE}: text" if _is_text(head) else NOT_AN_IMAGE


def _is_text(head: bytes) -> bool:
    """Whether it can be read as UTF-8 without control characters; a letter may be cut in two."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return all(letter.isprintable() or letter.isspace() or letter == "\ufeff" for letter in text)


def _foreign_kind(name: str, head: bytes) -> str:
    """Which kind of a format that is decoded it is, where that kind is not."""
    if name == "webp" and head[12:16] == b"VP8X" and len(head) > WEBP_FLAGS_AT:
        return "animated WebP" if head[WEBP_FLAGS_AT] & WEBP_IS_ANIMATED else ""
    if name == "png" and head[12:16] == b"CgBI":
        return "PNG as iOS programs hold it (CgBI)"
    if name != "bmp" or len(head) < BMP_MASKS_AT + len(BMP_MASKS):
        return ""
    return _foreign_bmp(head)


def _foreign_bmp(head: bytes) -> str:
    header_size, bits, compression = (
        int.from_bytes(head[at : at + size], "little") for at, size in ((14, 4), (28, 2), (30, 4))
    )
    if header_size < BMP_HEADER_SIZE:
        return "BMP of OS/2"
    if bits not in BMP_BITS:
        return f"BMP with a depth of {bits} bits"
    if compression == BMP_BITFIELDS and bits == BMP_BITS[-1]:
        is_usual = head[BMP_MASKS_AT : BMP_MASKS_AT + len(BMP_MASKS)] == BMP_MASKS
        return "" if is_usual else "BMP with an unusual order of colours"
    return "compressed BMP" if compression else ""
