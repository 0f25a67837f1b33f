"""`split.csv`: the split of each image of a run and of the runs that it builds on."""

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tlkit.data.images import ImageData
from tlkit.data.manifest_rows import SEPARATOR
from tlkit.utils.files import as_cell, from_cell

FORMAT = 2
"""The format number in `run.json` of a table that ends with a digest; earlier runs have none."""

_COLUMNS = ("split", "class", "digest", "path")
_END = "end"
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class SplitRow:
    """One image.

    Attributes:
        split: "train", "validation" or "test".
        class_name: Its class; several labels are joined by "|".
        digest: Digest of its content.
        path: Its path at the time of the run.
    """

    split: str
    class_name: str
    digest: str
    path: str


def split_rows(data: ImageData) -> list[SplitRow]:
    """Returns a row for each image of a run's data."""
    return [
        SplitRow(split.name, _name_of(label, data.class_names), digest, path)
        for split in filter(None, (data.train, data.validation, data.test))
        for path, label, digest in zip(split.paths, split.labels, split.digests, strict=True)
    ]


def _name_of(label: np.ndarray, class_names: Sequence[str]) -> str:
    """Returns the name of a class, or of all labels of an image as a manifest lists them."""
    if label.ndim == 0:
        return class_names[int(label)]
    return SEPARATOR.join(class_names[int(one)] for one in np.flatnonzero(label))


def split_table(rows: Iterable[SplitRow]) -> str:
    """Returns the table as text; its last row holds the number of rows and their digest.

    Names that a spreadsheet would take for formulas are escaped by `as_cell`.

    Example:
        >>> from tlkit.runs.split_table import SplitRow, split_table
        >>> print(split_table([SplitRow("train", "cat", "0a", "cat/1.jpg")]), end="")
        split,class,digest,path
        train,cat,0a,cat/1.jpg
        end,,8100a7b9dcc20a26258bba293009b742,1 rows
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    number = 0
    for row in rows:
        writer.writerow((row.split, as_cell(row.class_name), row.digest, as_cell(row.path)))
        number += 1
    writer.writerow((_END, "", _digest_of(text.getvalue()), f"{number} rows"))
    return text.getvalue()


def read_split_table(text: str, number: int | None) -> list[SplitRow]:
    """Returns the rows of a table.

    Args:
        text: Content of the file.
        number: The format number in `run.json`; `None` for runs of earlier versions, whose
            tables have no last row that shows whether they are complete.

    Raises:
        ValueError: The text is not such a table, or it is incomplete or was changed.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    if rows and not {"split", "digest"} <= rows[0].keys():
        raise ValueError("columns split and digest are missing")
    if not text.startswith("split,") or not text.endswith("\n"):
        raise ValueError("truncated" if text else "empty")
    end = rows.pop() if rows and rows[-1]["split"] == _END else None
    if number == FORMAT:
        body = text[: text.rstrip("\n").rfind("\n") + 1]
        if end is None:
            raise ValueError("its last row is missing")
        if end["digest"] != _digest_of(body) or end["path"] != f"{len(rows)} rows":
            raise ValueError("it was changed after the run")
    text_of = from_cell if number == FORMAT else str  # earlier versions did not escape names
    parsed = [
        SplitRow(
            row["split"],
            text_of(row.get("class") or ""),
            row["digest"],
            text_of(row.get("path") or ""),
        )
        for row in rows
    ]
    if any(not row.digest or not row.split for row in parsed):
        raise ValueError("a row has no split or digest")
    return parsed


def _digest_of(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()
