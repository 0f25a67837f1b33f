"""Conversion of TIFF, AVIF and HEIC files, which the graph does not decode, in Python."""

from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING

from tlkit.data.foreign_formats import PILLOW_ERRORS, foreign_format
from tlkit.data.limits import MAX_PIXELS
from tlkit.errors import DataError
from tlkit.utils.formatting import reason_of

if TYPE_CHECKING:
    from PIL.Image import Image

TIFF, AVIF, HEIC = "tiff", "avif", "heic"
CONVERTED = {"TIFF": TIFF, "TIFF (BigTIFF)": TIFF, "AVIF": AVIF, "HEIC": HEIC, "HEIF": HEIC}
"""The converted formats, by their name in `foreign_format`."""

EXTRA_NEEDED = "pip install 'tlkit[heif]'"
"""Stands in the reason for leaving out a file that an extra would read."""
HEAD_PATTERN = rb"(?s)(?:II[*+]\x00|MM\x00[*+]|\C{4}ftyp)\C*"
"""Matches, in RE2, the first 12 bytes of all files of these formats, and of some others."""

_HEAD_BYTES = 512
_IS_REDUCED = 1
_NEW_SUBFILE_TYPE = 254
"""The tag of a TIFF page whose lowest bit says that it is a reduced version of another page; camera
raw files begin with such a preview. See TIFF 6.0, page 36."""
_DEEP_MODES = ("I", "F", "I;32", "I;32B")
_GREY_MODES = {"1": "L", "LA": "L", "La": "L"}
_16_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")


class ConversionError(DataError):
    """A file cannot be converted; the message is the reason for leaving it out.

    Args:
        reason: The reason, with "{}" for the name of the format.
        num_pixels: The number of pixels if there are too many, else 0.
    """

    def __init__(self, reason: str, num_pixels: int = 0) -> None:
        super().__init__(reason)
        self.num_pixels = num_pixels


def converted_format(head: bytes, file_name: str = "") -> str:
    r"""Returns the name of a file's format if files of it are converted, else "".

    Args:
        head: The file's first bytes, at most 512.
        file_name: The file's name, which distinguishes camera raw files from TIFF files.

    Example:
        >>> from tlkit.data.conversion import converted_format
        >>> converted_format(b"II*\0"), converted_format(b"II*\0", "a.dng")
        ('tiff', '')
    """
    return CONVERTED.get(foreign_format(head, file_name)[0], "")


def why_not_converted(name: str) -> str:
    """Returns why files of a format cannot be converted here, or "" if they can."""
    if name == HEIC and not _has_heif():
        return EXTRA_NEEDED
    if name == AVIF and not _has_avif():
        return "pip install --force-reinstall Pillow, which was built without AVIF here"
    return ""


def needs_extra(reason: str) -> bool:
    """Whether a file is left out for a reason that an extra would remove."""
    return EXTRA_NEEDED in reason


def readable(image_bytes: bytes, max_pixels: int = MAX_PIXELS) -> bytes:
    """Returns a file's bytes as they are, or as a BMP or PNG if they are TIFF, AVIF or HEIC.

    The conversion is lossless, up to what the graph drops as well: alpha, and 16 bits become 8. The
    image is upright: its EXIF orientation, or the rotation in the file, is applied. Of several
    pages or frames the first is taken, of a HEIC file the primary image. CMYK and other colours
    become RGB; colour profiles are ignored.

    Args:
        image_bytes: The whole file.
        max_pixels: Maximum number of pixels.

    Raises:
        ConversionError: The file is damaged, has too many pixels, or values of 32 bits.

    Example:
        >>> from io import BytesIO
        >>> from PIL import Image
        >>> from tlkit.data.conversion import readable
        >>> file = BytesIO()
        >>> Image.new("RGB", (6, 4)).save(file, "TIFF")
        >>> readable(file.getvalue())[:2], readable(b"GIF89a")
        (b'BM', b'GIF89a')
    """
    name = converted_format(image_bytes[:_HEAD_BYTES])
    if not name or why_not_converted(name):
        return image_bytes
    from PIL.Image import DecompressionBombError

    try:
        return _as_bitmap(_opened(name, image_bytes, max_pixels))
    except DecompressionBombError as error:
        raise ConversionError(f"{{}} with too many pixels: {reason_of(error)}") from error
    except ConversionError:
        raise
    except PILLOW_ERRORS as error:
        raise ConversionError(f"truncated or damaged {{}}: {reason_of(error)}") from error


def _opened(name: str, image_bytes: bytes, max_pixels: int) -> "Image":
    """Returns the upright image; its size is checked before it is decoded."""
    from PIL import ImageOps

    file = BytesIO(image_bytes)
    if name == HEIC:
        import pillow_heif

        heif = pillow_heif.open_heif(file, convert_hdr_to_8bit=True)
        _check_pixels(heif.size, max_pixels)
        upright: Image = heif.to_pillow()  # libheif applies the rotation
        return upright
    # not Image.open, which warns about images with many pixels
    if name == AVIF:
        from PIL.AvifImagePlugin import AvifImageFile

        image: Image = AvifImageFile(file)
    else:
        from PIL.TiffImagePlugin import TiffImageFile

        image = TiffImageFile(file)
        if image.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & _IS_REDUCED:
            raise ConversionError("{} that begins with a preview, as camera raw files do")
        if image.mode in _DEEP_MODES:
            raise ConversionError(
                "{} with values of 32 bits: convert it to JPEG or PNG with tones of your choice"
            )
    _check_pixels(image.size, max_pixels)
    image.load()
    return ImageOps.exif_transpose(image)


def _check_pixels(sides: tuple[int, int], max_pixels: int) -> None:
    num_pixels = sides[0] * sides[1]
    if num_pixels > max_pixels:
        raise ConversionError(
            f"has {num_pixels} pixels, more than the bound of {max_pixels} (raise `max_pixels`)",
            num_pixels,
        )


def _as_bitmap(image: "Image") -> bytes:
    """Returns the image as a file: BMP, which costs hardly any time, or PNG with 16 bits."""
    file = BytesIO()
    if image.mode in _16_BIT_MODES:
        image.save(file, "PNG", compress_level=1)
        return file.getvalue()
    if image.mode in _GREY_MODES:
        image = image.convert(_GREY_MODES[image.mode])
    if image.mode == "RGBa":
        image = image.convert("RGBA")
    image.convert("RGB").save(file, "BMP")
    return file.getvalue()


@cache
def _has_heif() -> bool:
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def _has_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))
