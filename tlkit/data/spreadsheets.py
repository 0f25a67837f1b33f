"""Tables in CSV as spreadsheets write them: several separators and encodings."""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator

SEPARATORS = (",", ";", "\t")
"""Between cells; many languages need the comma in numbers, and their spreadsheets take another."""
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_UNSEEN = "\ufeff\u200b\u200e\u200f\u2060\u00a0"
_SAYS_SEPARATOR = re.compile(r'"?sep=(.)"?[,;\t]*', re.IGNORECASE)


def decode_table(content: bytes) -> str:
    """Returns the text of a table in UTF-8, or in UTF-16, which begins with a mark or holds zeros.

    Raises:
        UnicodeDecodeError: It is in neither.
    """
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding)
    if b"\0" in content[:2]:
        return content.decode("utf-16-be" if content[:1] == b"\0" else "utf-16-le")
    return content.decode("utf-8")


def read_table(text: str, required: Collection[str]) -> Iterator[tuple[int, list[str]]]:
    r"""Yields the rows of a table with the line that each ends in: first the names of its columns.

    Names are in small letters; cells are without spaces around them. Rows of empty cells are no
    rows; columns without a name at the end are none either, as long as nothing stands in them.
    What separates the cells is what a first line "sep=;" says, else that of `SEPARATORS` by which
    the required columns are found.

    Args:
        text: The table.
        required: Names of columns that it must have.

    Raises:
        csv.Error: It is no table; the message says in which line.

    Example:
        >>> from tlkit.data.spreadsheets import read_table
        >>> list(read_table("sep=;\r\nPath;Label;\r\na.png;cat;\r\n;;\r\n", ("path",)))
        [(2, ['path', 'label']), (3, ['a.png', 'cat'])]
    """
    separator, says_so = _separator_of(text, required)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )
    width = 0
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not "".join(cells).strip(",;\t") or (says_so and not width and _is_note(cells)):
                continue
            if not width:
                cells = [cell.strip(_UNSEEN + " ").lower() for cell in cells]
            while len(cells) > width and not cells[-1]:
                cells.pop()
            width = width or len(cells)
            yield reader.line_num, cells
    except csv.Error as error:
        raise csv.Error(f"line {reader.line_num} ({error})") from error


def _separator_of(text: str, required: Collection[str]) -> tuple[str, bool]:
    """Returns what separates the cells, and whether the first line says so."""
    first = next((line for line in text.splitlines() if line.strip(_UNSEEN + ",;\t ")), "")
    if said := _SAYS_SEPARATOR.fullmatch(first.strip(_UNSEEN + " ")):
        return said[1], True
    for separator in SEPARATORS:
        names = [name.strip(_UNSEEN + ' "').lower() for name in first.split(separator)]
        if set(required) <= set(names):
            return separator, False
    return SEPARATORS[0], False


def _is_note(cells: list[str]) -> bool:
    """Whether a row is the line that says what separates the cells, which may be torn by that."""
    return cells[0].strip(_UNSEEN + '"').lower().startswith("sep=")
