"""Detection of unsupported file formats, with advice on how to convert them."""

import re
import struct
import zlib
from pathlib import PurePath
from typing import BinaryIO

CONVERT = "convert it to JPEG or PNG"
_WITH_PILLOW = f"{CONVERT}, with Pillow for example"
_WITH_HEIF = f"{CONVERT}, with ImageMagick or pillow-heif for example"
_WITH_MAGICK = f"{CONVERT}, with ImageMagick for example"
_WITH_PYDICOM = f"{CONVERT}, with pydicom for example, where the window can be chosen"
_DEVELOP = f"{CONVERT}, with your camera's program or rawpy for example"
_RENDER = f"{CONVERT}, with Inkscape or rsvg-convert for example"
_PAGES = f"{CONVERT} page by page, with pdftoppm or ImageMagick for example"
_TONES = f"{CONVERT} with tones of your choice, with ImageMagick or OpenCV for example"
_FRAMES = "take images from it, with ffmpeg for example"
_UNPACK = "unpack it"

_RAW = "camera raw"
_RAW_SUFFIXES = (  # noqa: SIM905 - a list of quoted strings is no easier to read
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef "
    ".raf .raw .rw2 .rwl .sr2 .srf .srw .x3f"
).split()

_BY_MAGIC: dict[bytes, tuple[str, str]] = {
    b"II\xbc\x01": ("JPEG XR", _WITH_MAGICK),
    b"II*\0\x10\0\0\0CR": (_RAW, _DEVELOP),
    b"II*\0": ("TIFF", _WITH_PILLOW),
    b"MM\0*": ("TIFF", _WITH_PILLOW),
    b"II+\0": ("TIFF (BigTIFF)", _WITH_PILLOW),
    b"MM\0+": ("TIFF (BigTIFF)", _WITH_PILLOW),
    b"IIU\0": (_RAW, _DEVELOP),
    b"IIRO": (_RAW, _DEVELOP),
    b"IIRS": (_RAW, _DEVELOP),
    b"MMOR": (_RAW, _DEVELOP),
    b"FUJIFILMCCD-RAW": (_RAW, _DEVELOP),
    b"FOVb": (_RAW, _DEVELOP),
    b"\0MRM": (_RAW, _DEVELOP),
    b"8BPS": ("Photoshop (PSD)", _WITH_PILLOW),
    b"\xff\x0a": ("JPEG XL", _WITH_MAGICK),
    b"\0\0\0\x0cJXL ": ("JPEG XL", _WITH_MAGICK),
    b"\0\0\0\x0cjP  ": ("JPEG 2000", _WITH_PILLOW),
    b"\xff\x4f\xff\x51": ("JPEG 2000 (codestream)", _WITH_PILLOW),
    b"\0\0\x01\0": ("ICO", _WITH_PILLOW),
    b"\0\0\x02\0\1": ("Windows cursor (CUR)", _WITH_PILLOW),
    b"icns": ("ICNS", _WITH_PILLOW),
    b"qoif": ("QOI", _WITH_PILLOW),
    b"DDS ": ("DDS", _WITH_PILLOW),
    b"\x01\xda": ("SGI", _WITH_PILLOW),
    b"\x59\xa6\x6a\x95": ("Sun raster", _WITH_PILLOW),
    b"/* XPM */": ("XPM", _WITH_PILLOW),
    b"gimp xcf": ("GIMP (XCF)", f"{CONVERT}, with GIMP for example"),
    b"FLIF": ("FLIF", _WITH_MAGICK),
    b"SDPX": ("DPX", _WITH_MAGICK),
    b"XPDS": ("DPX", _WITH_MAGICK),
    b"\x80\x2a\x5f\xd7": ("Cineon", _WITH_MAGICK),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("OLE file (FlashPix, MIC)", _WITH_PILLOW),
    b"BPG\xfb": ("BPG", _WITH_MAGICK),
    b"\x8bJNG": ("JNG", _WITH_MAGICK),
    b"\x8aMNG": ("MNG", _WITH_MAGICK),
    b"AT&TFORM": ("DjVu", _PAGES),
    b"%PDF": ("PDF", _PAGES),
    b"%!PS": ("EPS (PostScript)", _PAGES),
    b"\xc5\xd0\xd3\xc6": ("EPS (PostScript)", _PAGES),
    b"\xd7\xcd\xc6\x9a": ("WMF", _RENDER),
    b"\x76\x2f\x31\x01": ("OpenEXR", _TONES),
    b"#?RADIANCE": ("Radiance HDR", _TONES),
    b"#?RGBE": ("Radiance HDR", _TONES),
    b"SIMPLE  =": ("FITS", f"{CONVERT} with tones of your choice, with astropy for example"),
    b"\x1a\x45\xdf\xa3": ("video (Matroska, WebM)", _FRAMES),
    b"\0\0\x01\xba": ("video (MPEG)", _FRAMES),
    b"\0\0\x01\xb3": ("video (MPEG)", _FRAMES),
    b"\x30\x26\xb2\x75": ("video (WMV)", _FRAMES),
    b"FLV": ("video (FLV)", _FRAMES),
    b"OggS": ("Ogg", _FRAMES),
    b"\x93NUMPY": ("NumPy array", "load it and give it to load_arrays"),
    b"MATLAB 5.0 MAT-file": ("MATLAB file", "load it and give it to load_arrays"),
    b"\x89HDF": ("HDF5", "load it and give it to load_arrays"),
    b"PK\x03\x04": ("ZIP archive", _UNPACK),
    b"\x1f\x8b": ("gzip archive", _UNPACK),
    b"7z\xbc\xaf": ("7z archive", _UNPACK),
    b"Rar!": ("RAR archive", _UNPACK),
    b"BZh": ("bzip2 archive", _UNPACK),
    b"\xfd7zXZ": ("xz archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("Zstandard archive", _UNPACK),
    b"\0\x05\x16\x07": ("AppleDouble file of macOS", "leave it out"),
    b"version https://git-lfs": ("Git LFS pointer", "fetch the file with git lfs pull"),
}
"""Format and advice by a file's first bytes; longer signatures stand before their prefixes."""

_BY_OFFSET: dict[tuple[int, bytes], tuple[str, str]] = {
    (128, b"DICM"): ("DICOM", _WITH_PYDICOM),
    (40, b" EMF"): ("EMF", _RENDER),
    (257, b"ustar"): ("tar archive", _UNPACK),
    (8, b"AVI "): ("video (AVI)", _FRAMES),
    (8, b"WAVE"): ("WAV sound", "leave it out"),
    (8, b"ACON"): ("animated Windows cursor (ANI)", _WITH_MAGICK),
    (344, b"n+1\0"): ("NIfTI", f"{CONVERT} slice by slice, with nibabel for example"),
    (4, b"moov"): ("video (QuickTime)", _FRAMES),
    (4, b"mdat"): ("video (QuickTime)", _FRAMES),
}

_HEIC = ("HEIC", _WITH_HEIF)
_BY_BRAND: dict[bytes, tuple[str, str]] = {
    b"avif": ("AVIF", _WITH_PILLOW),
    b"avis": ("AVIF", _WITH_PILLOW),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), _HEIC
    ),
    **dict.fromkeys((b"mif1", b"mif2", b"msf1", b"miaf", b"avci", b"avcs"), ("HEIF", _WITH_HEIF)),
    **dict.fromkeys((b"jpeg", b"jpgs", b"j2ki", b"j2is"), ("HEIF", _WITH_HEIF)),
    b"crx ": (_RAW, _DEVELOP),
    b"qt  ": ("video (QuickTime)", _FRAMES),
    **dict.fromkeys((b"isom", b"iso2", b"mp41", b"mp42", b"avc1"), ("video (MP4)", _FRAMES)),
    **dict.fromkeys((b"M4V ", b"3gp4", b"3gp5", b"dash", b"M4A "), ("video (MP4)", _FRAMES)),
}
"""Format and advice by the brand of ISO/IEC 14496-12 media files; specific brands stand first."""

_DICOM = re.compile(
    rb"[\x02\x08]\0[\0-\x7f]\0"
    rb"([A-Z]{2}|\x04\0{3}..\0\0|[\x02-\x40]\0{3}(ISO_IR|ORIGINAL|DERIVED|1\.2\.840\.10008))",
    re.DOTALL,
)
"""The first data element of a DICOM file without a preamble, with explicit or implicit VR."""
_NETPBM = {b"1": "PBM", b"2": "PGM", b"3": "PPM", b"4": "PBM", b"5": "PGM", b"6": "PPM"}
_NETPBM |= {b"7": "PAM", b"F": "PFM", b"f": "PFM"}
PILLOW_ERRORS = (
    SyntaxError,
    LookupError,
    TypeError,
    ValueError,
    OSError,
    EOFError,
    ArithmeticError,
    AttributeError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
"""Exceptions of Pillow's readers for bytes of other formats and for damaged files."""


def foreign_format(head: bytes, file_name: str = "") -> tuple[str, str]:
    r"""Returns the name of a file's format and advice for the user; two empty strings if unknown.

    Args:
        head: The file's first bytes.
        file_name: The file's name, which distinguishes camera raw files from TIFF files.

    Example:
        >>> from tlkit.data.foreign_formats import foreign_format
        >>> foreign_format(b"8BPS\0\1")
        ('Photoshop (PSD)', 'convert it to JPEG or PNG, with Pillow for example')
    """
    suffix = PurePath(file_name).suffix.lower()
    for magic, known in _BY_MAGIC.items():
        if head.startswith(magic):
            is_raw = known[0].startswith("TIFF") and suffix in _RAW_SUFFIXES
            return (_RAW, _DEVELOP) if is_raw else known
    for (at, magic), known in _BY_OFFSET.items():
        if head[at : at + len(magic)] == magic:
            return known
    if head[4:8] == b"ftyp":
        return _media_format(head)
    return _format_without_signature(head)


def _format_without_signature(head: bytes) -> tuple[str, str]:
    """Returns format and advice for files without a unique signature."""
    if re.match(rb"P[1-7Ff]\s+([#\d]|WIDTH)", head):
        return _NETPBM[head[1:2]], _WITH_PILLOW
    if _DICOM.match(head):
        return "DICOM", _WITH_PYDICOM
    if (
        head[:1] == b"\x0a"
        and head[1:2] in b"\0\2\3\4\5"
        and head[2:4] in {b"\1" + bits for bits in (b"\1", b"\2", b"\4", b"\x08")}
    ):
        return "PCX", _WITH_PILLOW
    return ("TGA", _WITH_PILLOW) if _is_targa(head) else _text_format(head)


def known_to_pillow(file: BinaryIO) -> str:
    """Returns the name of the format as which Pillow can open a file, or "".

    Only headers are read. The readers are called one by one because `PIL.Image.open` warns about
    images with many pixels.

    Args:
        file: A file opened for reading, at any position.
    """
    from PIL import Image

    Image.init()
    file.seek(0)
    prefix = file.read(16)
    for name in Image.ID:
        factory, accepts = Image.OPEN[name]
        file.seek(0)
        try:
            if accepts is not None and accepts(prefix) is not True:
                continue
            factory(file, "")
        except PILLOW_ERRORS:
            continue
        return name
    return ""


def pillow_advice(name: str) -> str:
    """Returns the advice for a format with this name in Pillow."""
    return f"{name} is not supported: {_WITH_PILLOW}"


def _is_targa(head: bytes) -> bool:
    """Whether the bytes are a plausible TGA header; the format has no signature."""
    if len(head) < 18:
        return False
    has_colour_map, kind, map_fields = head[1], head[2], head[3:8]
    is_mapped = kind in {1, 9}
    return (
        kind in {1, 2, 3, 9, 10, 11}
        and has_colour_map == is_mapped
        and (is_mapped or not any(map_fields))
        and any(head[12:14])
        and any(head[14:16])
        and head[16] in {8, 15, 16, 24, 32}
        and head[17] < 64
    )


def _media_format(head: bytes) -> tuple[str, str]:
    """Returns format and advice by a file's major brand, else by its compatible brands."""
    size = min(max(int.from_bytes(head[:4], "big"), 16), len(head))
    major = head[8:12]
    compatible = {head[at : at + 4] for at in range(16, size - 3, 4)}
    if major in (b"mif1", b"mif2", b"msf1", b"miaf") or major not in _BY_BRAND:
        for brand, known in _BY_BRAND.items():
            if brand in compatible:
                return known
    brand_text = ascii(major.decode("latin-1"))
    return _BY_BRAND.get(major, (f"ISO media file of the brand {brand_text}", _WITH_HEIF))


def _text_format(head: bytes) -> tuple[str, str]:
    """Returns format and advice for text formats, in UTF-8 or UTF-16."""
    text = head.lstrip(b"\xef\xbb\xbf").lower()
    if b"\0" in text[:64:2] or b"\0" in text[1:64:2]:  # UTF-16
        text = text.replace(b"\0", b"")
    if b"<svg" in text:
        return "SVG", _RENDER
    if re.match(rb"\s*(/\*.*?\*/\s*)?#define\s+\w+_width\s", text, re.DOTALL):
        return "XBM", _WITH_PILLOW
    if re.search(rb"<!doctype html|<html[\s>]", text):
        return "HTML page", "it may come from a failed download: download the image again"
    return "", ""
