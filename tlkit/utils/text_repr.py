"""Representations of records: as text, at a prompt, in a notebook, and as a dictionary."""

import dataclasses
import functools
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, ClassVar

_JOINERS = "\u200c\u200d"
"""Zero-width joiners, which some scripts and emoji need; they hide nothing."""

_NOT_PLAIN = re.compile(r"[^\n\t -~]")
"""What may be invisible; nearly all characters of a page are plain."""

MAX_LINES = 12
MAX_COLUMNS = 160


class Record:
    """A record that a prompt shows in a dozen lines, `print` in full, and JSON can hold.

    Subclasses define `__str__`. `_left_out` names fields that `as_dict` leaves out, `_optional`
    fields that it leaves out if they are `None` or "", and `_derived` properties that it adds.

    Example:
        >>> from dataclasses import dataclass
        >>> from tlkit.utils.text_repr import Record
        >>> @dataclass(frozen=True)
        ... class Answer(Record):
        ...     numbers: tuple[float, ...]
        ...     def __str__(self):
        ...         return "the answer"
        >>> Answer((6.0, float("nan")))
        the answer
        >>> Answer((6.0, float("nan"))).as_dict()
        {'numbers': [6.0, None]}
    """

    _left_out: ClassVar[tuple[str, ...]] = ()
    _optional: ClassVar[tuple[str, ...]] = ()
    _derived: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        # without this, a dataclass makes a `__repr__` with all fields on one line
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Record.__repr__  # type: ignore[method-assign]
        # names of files and classes are untrusted, wherever in a text they are
        for name in ("__str__", "_repr_html_"):
            if name in cls.__dict__:
                setattr(cls, name, _made_visible(cls.__dict__[name]))

    def __repr__(self) -> str:
        return short_text(self._brief())

    def _brief(self) -> str:
        """Returns the text whose first lines a prompt shows."""
        return str(self)

    def as_dict(self) -> dict[str, object]:
        """Returns the fields as JSON-serializable values.

        Arrays become lists, records dictionaries, and paths strings; infinite and missing (NaN)
        values become `None`, as JSON has no such numbers.
        """
        fields: tuple[dataclasses.Field[Any], ...] = (
            dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        )
        names = [
            field.name
            for field in fields
            if field.name not in self._left_out
            and not field.name.startswith("_")
            and not (field.name in self._optional and getattr(self, field.name) in (None, ""))
        ]
        return {name: in_json(getattr(self, name)) for name in (*names, *self._derived)}


def visible(text: str) -> str:
    r"""Returns text with codes in place of invisible characters and characters that move others.

    Names of files and classes may contain escape sequences, which a terminal executes, and marks
    that reverse the order of letters. Line breaks, tabs and all other characters are unchanged. The
    codes are those of JSON, so that JSON text keeps its meaning.

    Example:
        >>> from tlkit.utils.text_repr import visible
        >>> print(visible("\x1b[2Jcat\u202egpj"))
        \u001b[2Jcat\u202egpj
    """
    if text.isprintable():
        return text
    return _NOT_PLAIN.sub(
        lambda found: found[0] if _is_visible(found[0]) else _code(found[0]), text
    )


def in_line(name: str) -> str:
    r"""Returns a name on one line: as `visible`, but also with codes in place of line breaks.

    Example:
        >>> from tlkit.utils.text_repr import in_line
        >>> in_line("cat\n0 errors")
        'cat\\u000a0 errors'
    """
    return visible(name).replace("\n", _code("\n"))


def _is_visible(letter: str) -> bool:
    is_layout = letter in "\n\t" or letter in _JOINERS
    return is_layout or unicodedata.category(letter) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _code(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass")
    codes = (units[start : start + 2].hex() for start in range(0, len(units), 2))
    return "".join(f"\\u{code}" for code in codes)


def _made_visible(method: Callable[[Any], str]) -> Callable[[Any], str]:
    @functools.wraps(method)
    def shown(self: Any) -> str:
        return visible(method(self))

    return shown


class ShownAsText(Record):
    """A record that a notebook shows as `print` does, with all names escaped.

    Example:
        >>> from tlkit.utils.text_repr import ShownAsText
        >>> class Answer(ShownAsText):
        ...     def __str__(self):
        ...         return "<42>"
        >>> Answer()._repr_html_()
        '<pre>&lt;42&gt;</pre>'
    """

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


class ShownAsParagraphs(Record):
    """A record that a notebook shows with a paragraph for each line, and all names escaped.

    Example:
        >>> from tlkit.utils.text_repr import ShownAsParagraphs
        >>> class Answer(ShownAsParagraphs):
        ...     def __str__(self):
        ...         return "<42>"
        >>> Answer()._repr_html_()
        '<p>&lt;42&gt;</p>'
    """

    def _repr_html_(self) -> str:
        return html_paragraphs(str(self).splitlines())


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Returns lines with aligned columns: the first ones to the left, figures to the right.

    Args:
        rows: The cells of each row.
        left: Number of columns that are aligned to the left.

    Example:
        >>> from tlkit.utils.text_repr import aligned
        >>> for line in aligned([["class", "images"], ["cat", "3"]]):
        ...     print(line)
        class  images
        cat         3
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def html_paragraphs(lines: Iterable[str]) -> str:
    """Returns an HTML paragraph for each line, with all names escaped.

    Example:
        >>> from tlkit.utils.text_repr import html_paragraphs
        >>> html_paragraphs(["a < b", "c"])
        '<p>a &lt; b</p><p>c</p>'
    """
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def html_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns an HTML table with all names escaped.

    Args:
        headings: Headings of the columns.
        rows: Cells of each row; line breaks in them are kept.

    Example:
        >>> from tlkit.utils.text_repr import html_table
        >>> html_table(["class", "images"], [["<cat>", 3]])
        '<table><tr><th>class</th><th>images</th></tr><tr><td>&lt;cat&gt;</td><td>3</td></tr></table>'
    """
    cells = ["".join(f"<th>{escape(heading)}</th>" for heading in headings)]
    cells += [
        "".join(f"<td>{escape(str(cell)).replace(chr(10), '<br>')}</td>" for cell in row)
        for row in rows
    ]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def short_text(text: str) -> str:
    r"""Returns the first lines of a text, at most a dozen, each cut to the width of a screen.

    Example:
        >>> from tlkit.utils.text_repr import short_text
        >>> print(short_text("\n".join("abcdefghijklmnop")))
        a
        b
        c
        d
        e
        f
        g
        h
        i
        j
        k
        ... and 5 more lines, which print shows
    """
    lines = [
        line if len(line) <= MAX_COLUMNS else f"{line[: MAX_COLUMNS - 1]}…"
        for line in text.splitlines()
    ]
    if len(lines) > MAX_LINES:
        left = len(lines) - MAX_LINES + 1
        lines = [*lines[: MAX_LINES - 1], f"... and {left} more lines, which print shows"]
    return "\n".join(lines)


def in_json(value: Any) -> Any:
    """Returns a value of a record as a JSON-serializable value, see `Record.as_dict`.

    Raises:
        TypeError: The value has a type that records do not support.

    Example:
        >>> import numpy as np
        >>> from tlkit.utils.text_repr import in_json
        >>> in_json({"counts": np.array([1, 2]), "ends": (0.5, float("inf"))})
        {'counts': [1, 2], 'ends': [0.5, None]}
    """
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        value = value.tolist()
    if isinstance(value, Record):
        return value.as_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif callable(value):  # such as the builder of a backbone
        value = value.__name__
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): in_json(content) for name, content in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [in_json(content) for content in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(
        f"a record must contain JSON-serializable values. Received: {type(value).__name__}."
    )
