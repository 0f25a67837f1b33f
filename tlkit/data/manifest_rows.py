"""The rows of a manifest: a table in CSV that names images with their labels."""

import csv
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tlkit.data.folder_names import split_of_name
from tlkit.data.listing import FoundFile, Listing
from tlkit.data.spreadsheets import decode_table, read_table
from tlkit.errors import DataError, check_path, did_you_mean, some_of

REQUIRED = ("path", "label")
COLUMNS = (*REQUIRED, "group", "split")

SEPARATOR = "|"
"""Stands between the labels of one image, if nothing else is said."""

_SPLITS = ("train", "val", "validation", "test")
_FORM = "a CSV file with the columns path and label, and group and split if wanted"


@dataclass(frozen=True)
class _Row:
    """A row's cells, and the line that it ends in."""

    line: int
    path: str
    label: str
    group: str
    split: str


def list_manifest(
    path: str | os.PathLike[str],
    *,
    separator: str | None = None,
    argument: str = "path",
    needs_train: bool = True,
    needs_files: bool = True,
) -> Listing:
    """Lists the images that a CSV file names: `path,label[,group][,split]`, one in a row.

    The first row names the columns, in any order. Paths are those from the CSV file's own folder,
    or absolute. Names are in Unicode's composed form (NFC), without spaces around them. Tables
    that spreadsheets wrote are read as they are, see `tlkit.data.spreadsheets`.

    Args:
        path: The CSV file, in UTF-8 or UTF-16.
        separator: What stands between the labels of one image, where it may have several.
        argument: What errors call the file.
        needs_train: Whether splits must have one to train on.
        needs_files: Whether all files must be there.

    Raises:
        DataError: There is no such file, or it is no table of that form; a row has no path or no
            label; a file stands in two rows, or is missing; `split` is not one of train, val,
            validation and test, or is given for some rows only, or never train, where that is
            needed.
    """
    check_path(argument, path)
    source = Path(path)
    refuse = _Refusal(argument, str(source))
    rows = list(_rows(source, refuse))
    if not rows:
        raise refuse("list images", "which has no row", "Write one row for each image.")
    _check_cells(rows, refuse, needs_label=separator is None)
    _check_splits(rows, refuse, needs_train)
    files = [str(source.parent / row.path) for row in rows]
    _check_repeated(rows, files, refuse)
    if needs_files:
        _check_missing(rows, files, refuse)
    listing = Listing(str(source), argument, is_multi_label=separator is not None)
    classes: dict[str, dict[str, None]] = defaultdict(dict)
    for row, file in zip(rows, files, strict=True):
        labels = _labels(row, separator, refuse)
        split = split_of_name(row.split)
        class_name = row.label if separator is None else ""
        listing.files.append(FoundFile(file, class_name, split, labels, row.group))
        classes[split].update(dict.fromkeys(labels or filter(None, (row.label,))))
    listing.classes = {split: list(names) for split, names in classes.items()}
    barred = sorted({row.label for row in rows if separator is None and SEPARATOR in row.label})
    if barred:
        listing.notes.append(
            f"Labels with {SEPARATOR!r} count as the name of one class each: "
            f"{some_of(list(map(repr, barred)))}. Several labels of one image are for Python "
            "alone: tlkit.load_manifest(..., multi_label=True), then train_head or fine_tune."
        )
    listing.files.sort(key=lambda file: (file.split, file.class_name, file.path))
    return listing


@dataclass(frozen=True)
class _Refusal:
    """Makes errors that name the manifest."""

    argument: str
    path: str

    def __call__(self, rule: str, found: str, remedy: str) -> DataError:
        received = f"{self.argument}={self.path!r}"
        return DataError(f"`{self.argument}` must {rule}. Received: {received}, {found}. {remedy}")


def _rows(source: Path, refuse: _Refusal) -> Iterator[_Row]:
    """Yields the rows below the header; lines without anything on them are no rows."""
    header: list[str] | None = None
    try:
        for line, cells in read_table(_text(source, refuse), REQUIRED):
            if header is None:
                header = cells
                _check_header(header, refuse)
            elif len(cells) != len(header):
                raise refuse(
                    "have as many cells in each row as it has columns",
                    f"with {len(cells)} instead of {len(header)} in line {line}",
                    "Put cells that hold a comma between double quotes.",
                )
            else:
                yield _row(line, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise refuse(
            f"be {_FORM}",
            f"which is none in {error}",
            "Put cells that hold a comma between double quotes, which come in pairs.",
        ) from error
    if header is None:
        raise refuse(f"be {_FORM}", "which is empty", "Begin it with the line path,label.")


def _text(source: Path, refuse: _Refusal) -> str:
    if not source.is_file():
        problem = "which is a folder" if source.is_dir() else "which does not exist"
        raise refuse(f"be {_FORM}", problem, "Give the file that lists the images.")
    content = source.read_bytes()
    try:
        return decode_table(content)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise refuse(
            "be text in UTF-8",
            f"with the byte 0x{content[error.start]:02x} in line {line}",
            'Save it as CSV in UTF-8 ("CSV UTF-8" in a spreadsheet).',
        ) from error


def _row(line: int, cells: dict[str, str]) -> _Row:
    """Names may be composed differently from system to system; paths are what they are."""
    names = {name: unicodedata.normalize("NFC", cells.get(name, "")) for name in COLUMNS[1:]}
    return _Row(line, cells["path"], **names)


def _check_header(header: list[str], refuse: _Refusal) -> None:
    unknown = [name for name in header if name not in COLUMNS]
    missing = [name for name in REQUIRED if name not in header]
    repeated = sorted({name for name in header if header.count(name) > 1})
    problems = [
        f"{what} {', '.join(map(repr, names))}"
        for what, names in (("without", missing), ("with unknown", unknown), ("twice", repeated))
        if names
    ]
    if not problems:
        return
    remedy = "Rename or remove columns."
    if len(header) == 1 and any(mark in header[0] for mark in "|:"):
        remedy = "Separate the columns by commas."
    elif unknown:
        remedy = did_you_mean(unknown[0], COLUMNS).strip() + f" {remedy}"
    raise refuse(f"be {_FORM}", f"{' and '.join(problems)} in its first line", remedy.strip())


def _check_cells(rows: list[_Row], refuse: _Refusal, *, needs_label: bool) -> None:
    for column, is_needed in (("path", True), ("label", needs_label)):
        lines = [row.line for row in rows if is_needed and not getattr(row, column)]
        if lines:
            raise refuse(
                f"have a {column} in every row",
                f"with none in {_lines(lines)}",
                f"Fill {'it' if len(lines) == 1 else 'them'} in, or remove the rows.",
            )


def _check_splits(rows: list[_Row], refuse: _Refusal, needs_train: bool) -> None:
    unknown = [row for row in rows if row.split and not split_of_name(row.split)]
    if unknown:
        raise refuse(
            f"have one of {', '.join(_SPLITS)} in the column split, or nothing",
            f"with {unknown[0].split!r} in {_lines([row.line for row in unknown])}",
            (did_you_mean(unknown[0].split.lower(), _SPLITS) + " Rename it.").strip(),
        )
    given = {split_of_name(row.split) for row in rows}
    if "" in given and len(given) > 1:
        lines = [row.line for row in rows if not row.split]
        raise refuse(
            "have a split in every row or in none",
            f"with none in {_lines(lines)}",
            "Fill them in, or leave the column out.",
        )
    if needs_train and given != {""} and "train" not in given:
        raise refuse(
            "have a split to train on",
            f"with {', '.join(sorted(given))}",
            "Write train into rows of the column split, or leave it out.",
        )


def _check_repeated(rows: list[_Row], files: list[str], refuse: _Refusal) -> None:
    lines: dict[str, list[int]] = defaultdict(list)
    for row, file in zip(rows, files, strict=True):
        lines[os.path.normpath(file)].append(row.line)
    repeated = {file: found for file, found in lines.items() if len(found) > 1}
    if repeated:
        raise refuse(
            "name each file once",
            f"with {some_of([f'{name!r} in {_lines(found)}' for name, found in repeated.items()])}",
            "Keep one row; several labels go into one cell, for multi_label=True.",
        )


def _check_missing(rows: list[_Row], files: list[str], refuse: _Refusal) -> None:
    missing = [row.path for row, file in zip(rows, files, strict=True) if not os.path.isfile(file)]
    if missing:
        named = some_of(list(map(repr, missing)))
        remedy = "Correct the paths, which start from the CSV file's own folder, or remove the rows"
        slash = " (folders are separated by /)" if any("\\" in name for name in missing) else ""
        raise refuse(
            "name files that exist",
            f"{len(missing)} of whose {len(rows)} files are missing: {named}",
            f"{remedy}{slash}.",
        )


def _labels(row: _Row, separator: str | None, refuse: _Refusal) -> tuple[str, ...]:
    """Returns the labels of an image that may have several; none where it may have one."""
    if separator is None or not row.label:
        return ()
    labels = [label.strip() for label in row.label.split(separator)]
    if "" in labels:
        raise refuse(
            f"have a label on both sides of each {separator!r}",
            f"with {row.label!r} in line {row.line}",
            "Remove the separator, or name what is missing.",
        )
    return tuple(sorted(set(labels)))


def _lines(lines: list[int]) -> str:
    return f"{'line' if len(lines) == 1 else 'lines'} {some_of(list(map(str, lines)))}"
