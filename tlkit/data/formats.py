"""Which picture format a file's first bytes tell, and which of them can be used."""

HEAD_BYTES = 512
"""What `recognise` looks at."""
FORMATS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp"}
FOREIGN_FORMATS = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"8BPS": "Photoshop",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\0\0\x01\0": "ICO",
    b"%PDF": "PDF",
}
FOREIGN_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC"}
FOREIGN_BRANDS |= {b"mif1": "HEIF", b"msf1": "HEIF"}

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


def recognise(head: bytes) -> tuple[str, str]:
    """Returns the format that a file's first bytes tell, or the reason why it cannot be used.

    Example:
        >>> from tlkit.data.formats import recognise
        >>> recognise(b"GIF89a"), recognise(b"%PDF-1.7")
        (('gif', ''), ('', 'PDF is not supported: convert it to JPEG or PNG'))
    """
    if not head:
        return "", "empty file"
    name = "webp" if head.startswith(b"RIFF") and head[8:12] == b"WEBP" else ""
    for magic, known in FORMATS.items():
        if head.startswith(magic):
            name = known
    foreign = _foreign_kind(name, head) if name else _foreign_format(head)
    if foreign:
        return "", f"{foreign} is not supported: convert it to JPEG or PNG"
    return (name, "") if name else ("", "not an image")


def _foreign_format(head: bytes) -> str:
    """What it is, where that is known."""
    for magic, name in FOREIGN_FORMATS.items():
        if head.startswith(magic):
            return name
    if head[4:8] == b"ftyp":
        return FOREIGN_BRANDS.get(head[8:12], "")
    return "SVG" if b"<svg" in head.lower() else ""


def _foreign_kind(name: str, head: bytes) -> str:
    """Which kind of a format that is decoded it is, where that kind is not."""
    if name == "webp" and head[12:16] == b"VP8X" and len(head) > WEBP_FLAGS_AT:
        return "animated WebP" if head[WEBP_FLAGS_AT] & WEBP_IS_ANIMATED else ""
    if name != "bmp" or len(head) < BMP_MASKS_AT + len(BMP_MASKS):
        return ""
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
