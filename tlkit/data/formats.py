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
"""A compression of BMP files that is none: with 32 bits, it says which bits are which colour."""
WEBP_IS_ANIMATED = 2
"""A flag of a WebP file with an extended header."""


def recognise(head: bytes) -> tuple[str, str]:
    """Returns the format that a file's first bytes tell, or the reason why it cannot be used.

    Example:
        >>> from tlkit.data.formats import recognise
        >>> recognise(b"GIF89a"), recognise(b"%PDF-1.7")
        (('gif', ''), ('', 'PDF is not supported: convert it to JPEG or PNG'))
    """
    if not head:
        return "", "empty file"
    foreign = _foreign(head)
    if foreign:
        return "", f"{foreign} is not supported: convert it to JPEG or PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp", ""
    for magic, name in FORMATS.items():
        if head.startswith(magic):
            return name, ""
    return "", "not an image"


def _foreign(head: bytes) -> str:
    """What it is, where that is known and not supported."""
    for magic, name in FOREIGN_FORMATS.items():
        if head.startswith(magic):
            return name
    if head.startswith(b"BM") and len(head) >= BMP_HEADER_SIZE:
        return _foreign_bmp(head)
    if head.startswith(b"RIFF") and head[8:16] == b"WEBPVP8X" and len(head) > 20:
        return "animated WebP" if head[20] & WEBP_IS_ANIMATED else ""
    if head[4:8] == b"ftyp":
        return FOREIGN_BRANDS.get(head[8:12], "")
    return "SVG" if b"<svg" in head.lower() else ""


def _foreign_bmp(head: bytes) -> str:
    header_size, bits, compression = (
        int.from_bytes(head[at : at + size], "little") for at, size in ((14, 4), (28, 2), (30, 4))
    )
    if header_size < BMP_HEADER_SIZE:
        return "BMP of OS/2"
    if bits not in BMP_BITS:
        return f"BMP with a depth of {bits} bits"
    is_plain = compression == 0 or (compression == BMP_BITFIELDS and bits == BMP_BITS[-1])
    return "" if is_plain else "compressed BMP"
