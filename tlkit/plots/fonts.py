"""Names in figures: in any script with an installed font, as code points otherwise.

A figure never shows an empty box for a missing character, and matplotlib never warns about one.
"""

import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache

from matplotlib import font_manager
from matplotlib.text import Text

BASE_FAMILY = "DejaVu Sans"
"""Included in matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew, Armenian, Georgian, symbols."""

# a font with a box for every character, and mathematical fonts with their own encodings
_NOT_FOR_TEXT = ("last resort", "stix", "cmb", "cmex", "cmmi", "cmr", "cmss", "cmsy", "cmt")


def printable(name: str, limit: int = 28) -> str:
    """Returns `name` on one line in characters that figures can show.

    A character without an installed font becomes its code point, such as "U+4E2D". The middle of a
    text longer than `limit` is replaced by "…", as long names often differ at their end.

    Args:
        name: Any text.
        limit: Largest number of columns of the result; a Chinese character takes two.

    Example:
        >>> from tlkit.plots.fonts import printable
        >>> printable("a very long name of a class of birds", limit=16)
        'a very lon…birds'
    """
    pieces: list[str] = []
    for character in " ".join(name.split()):
        piece = _printable_character(character)
        is_code = len(piece) > 1
        if pieces and piece and (is_code or len(pieces[-1]) > 1) and " " not in {piece, pieces[-1]}:
            pieces.append(" ")
        if piece:
            pieces.append(piece)
    if sum(map(_num_columns, pieces)) <= limit:
        return "".join(pieces)
    tail = _pieces_within(pieces[::-1], (limit - 1) // 3)[::-1]
    head = _pieces_within(pieces, limit - 1 - sum(map(_num_columns, tail)))
    return "".join([*head, "…", *tail])


def dress(*texts: Text) -> None:
    """Sets the fonts that the characters of matplotlib texts need, and makes "$" literal."""
    for text in texts:
        text.set_fontfamily(_families(text.get_text()))
        text.set_parse_math(False)


def _pieces_within(pieces: Iterable[str], limit: int) -> list[str]:
    kept, width = [], 0
    for piece in pieces:
        width += _num_columns(piece)
        if width > limit:
            break
        kept.append(piece)
    return kept


def _num_columns(piece: str) -> int:
    if len(piece) == 1 and unicodedata.east_asian_width(piece) in "WF":
        return 2
    return sum(not unicodedata.combining(character) for character in piece)


def _printable_character(character: str) -> str:
    if _family_of(character) is not None:
        return character
    # characters that only affect their neighbours, such as joiners, are invisible themselves
    is_invisible = unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"
    return "" if is_invisible else f"U+{ord(character):04X}"


def _families(text: str) -> list[str]:
    families = (_family_of(character) for character in text)
    return list(dict.fromkeys([BASE_FAMILY, *filter(None, families)]))


@lru_cache(maxsize=65536)
def _family_of(character: str) -> str | None:
    """Returns the first font family with this character; the base family comes first."""
    if unicodedata.category(character) in {"Cc", "Cs", "Co", "Cn"}:
        return None
    code_point = ord(character)
    return next((name for name in _candidates() if code_point in _characters(name)), None)


@lru_cache(maxsize=1)
def _candidates() -> tuple[str, ...]:
    """Returns the installed families with an upright regular face, sans-serif ones first."""
    names = {
        font.name
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and font.weight in {400, "normal", "regular"}
    }
    for_text = {
        name
        for name in names
        if not name.lower().startswith(_NOT_FOR_TEXT) and "color" not in name.lower()
    }
    ordered = sorted(for_text, key=lambda name: ("sans" not in name.lower(), name))
    return (BASE_FAMILY, *(name for name in ordered if name != BASE_FAMILY))


@cache
def _characters(family: str) -> frozenset[int]:
    """Returns the code points that the family has outlines for; none if its file is unusable."""
    try:
        properties = font_manager.FontProperties(family=[family])
        path = font_manager.findfont(properties, fallback_to_default=False)
        font = font_manager.get_font(path)
    except (OSError, RuntimeError, ValueError):
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()
