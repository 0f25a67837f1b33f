"""Reads CSV tables with the separators and encodings of common spreadsheets."""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator

SEPARATORS = (",", ";", "\t")
"""Cell separators; spreadsheets in languages with a decimal comma do not use the comma."""
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060\u00a0"
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[,;\t]*', re.IGNORECASE)


def decode_table(content: bytes) -> str:
    """Returns the text of a table in UTF-8 or UTF-16 (detected by a byte order mark or zeros).

    Raises:
        UnicodeDecodeError: The table has another encoding.
    """
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding)
    if b"\0" in content[:2]:
        return content.decode("utf-16-be" if content[:1] == b"\0" else "utf-16-le")
    return content.decode("utf-8")


def read_table(
    text: str, required: Collection[str], known: Collection[str] = ()
) -> Iterator[tuple[int, list[str]]]:
    r"""Yields the rows of a table with their last line numbers, the column names first.

    Names of known columns are in lower case; cells are stripped. Empty rows are skipped, and so are
    trailing empty columns without a name. The separator is that of a first line "sep=;", or else
    the one of `SEPARATORS` with which the required columns are found.

    Args:
        text: The table.
        required: Names of the required columns.
        known: Names of all columns that are known in upper and lower case; by default the required
            ones.

    Raises:
        csv.Error: The table is malformed; the message names the line.

    Example:
        >>> from tlkit.data.spreadsheets import read_table
        >>> list(read_table("sep=;\r\nPath;Label;\r\na.png;cat;\r\n;;\r\n", ("path",)))
        [(2, ['path', 'Label']), (3, ['a.png', 'cat'])]
    """
    known = known or required
    separator, is_declared = _separator_of(text, required)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )
    width = 0
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not "".join(cells).strip(",;\t") or (
                is_declared and not width and _is_separator_line(cells)
            ):
                continue
            if not width:
                names = [cell.strip(_INVISIBLE + " ") for cell in cells]
                cells = [name.lower() if name.lower() in known else name for name in names]
            while len(cells) > width and not cells[-1]:
                cells.pop()
            width = width or len(cells)
            yield reader.line_num, cells
    except csv.Error as error:
        raise csv.Error(f"line {reader.line_num} ({error})") from error


def _separator_of(text: str, required: Collection[str]) -> tuple[str, bool]:
    """Returns the cell separator, and whether the first line declares it."""
    first = next((line for line in text.splitlines() if line.strip(_INVISIBLE + ",;\t ")), "")
    if declared := _SEPARATOR_LINE.fullmatch(first.strip(_INVISIBLE + " ")):
        return declared[1], True
    for separator in SEPARATORS:
        names = [name.strip(_INVISIBLE + ' "').lower() for name in first.split(separator)]
        if set(required) <= set(names):
            return separator, False
    return SEPARATORS[0], False


def _is_separator_line(cells: list[str]) -> bool:
    """Whether a row is the line that declares the separator, possibly split by it."""
    return cells[0].strip(_INVISIBLE + '"').lower().startswith("sep=")
