"""The rows of a manifest: a CSV table of image paths and labels."""

import csv
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tlkit.data.folder_names import split_of_name
from tlkit.data.listing import FoundFile, Listing
from tlkit.data.spreadsheets import decode_table, read_table
from tlkit.errors import DataError, check_path, did_you_mean, quoted, some_of

REQUIRED = ("path", "label")
COLUMNS = (*REQUIRED, "group", "split")

SEPARATOR = "|"
"""Default separator between the labels of one image."""

_SPLITS = ("train", "val", "validation", "test")
_FORM = "a CSV file with the columns path and label, and group and split if wanted"
_FORM_OF_LABELS = f"{_FORM}; or with several labels, one column of 0 and 1 for each, and no label"
_FLAGS = {"0": False, "1": True}


@dataclass(frozen=True)
class _Row:
    """A row's cells, and the number of its last line.

    `flags` has the cells of columns that are labels, by name; empty with a column of labels.
    """

    line: int
    path: str
    label: str
    group: str
    split: str
    flags: Mapping[str, str] = field(default_factory=dict)


def list_manifest(
    path: str | os.PathLike[str],
    *,
    separator: str | None = None,
    argument: str = "path",
    needs_train: bool = True,
    needs_files: bool = True,
    needs_labels: bool = False,
) -> Listing:
    """Lists the images of a CSV file with columns `path,label[,group][,split]`, one per row.

    With several labels per image, a file without the column `label` has one column for each label,
    with 1 in the rows of its images and 0 in all others. The first row names the columns, in any
    order. Paths are absolute or relative to the CSV file's folder. Names are normalised to Unicode
    NFC and stripped. The dialects of common spreadsheets are accepted, see
    `tlkit.data.spreadsheets`.

    Args:
        path: The CSV file, in UTF-8 or UTF-16.
        separator: The separator between the labels of a multi-label image; `None` for one label per
            image.
        argument: The argument's name in errors.
        needs_train: Whether a user's split must include training.
        needs_files: Whether all files must exist.
        needs_labels: Whether a cell of several labels must not be empty; the separator alone stands
            for an image without any.

    Raises:
        DataError: The file does not exist, or is not such a table; a row has no path or no label;
            an image is listed in two rows, or is missing; `split` is not one of train, val,
            validation and test, is given for some rows only, or is never train although that is
            needed.
    """
    check_path(argument, path)
    source = Path(path)
    make_error = _ManifestErrors(argument, str(source))
    rows = list(_rows(source, make_error, is_multi_label=separator is not None))
    if not rows:
        raise make_error("list images", "which has no rows", "Write one row for each image.")
    _check_cells(rows, make_error, separator, needs_labels=needs_labels)
    _check_splits(rows, make_error, needs_train)
    files = [str(source.parent / row.path) for row in rows]
    _check_repeated(rows, files, make_error)
    if needs_files:
        _check_missing(rows, files, make_error)
    listing = Listing(str(source), argument, is_multi_label=separator is not None)
    classes: dict[str, dict[str, None]] = defaultdict(dict)
    for row, file in zip(rows, files, strict=True):
        labels = _labels(row, separator, make_error)
        split = split_of_name(row.split)
        class_name = row.label if separator is None else ""
        listing.files.append(FoundFile(file, class_name, split, labels, row.group))
        named = labels if separator is not None else (row.label,)
        classes[split].update(dict.fromkeys([*row.flags, *named]))
    listing.classes = {split: list(names) for split, names in classes.items()}
    ambiguous = sorted({row.label for row in rows if separator is None and SEPARATOR in row.label})
    if ambiguous:
        listing.notes.append(
            f"Labels with {SEPARATOR!r} are read as the name of one class: "
            f"{quoted(ambiguous)}. For several labels per image: tlkit train --multi-label, or "
            "tlkit.load_manifest(..., multi_label=True)."
        )
    listing.files.sort(key=lambda file: (file.split, file.class_name, file.path))
    return listing


@dataclass(frozen=True)
class _ManifestErrors:
    """Creates errors that name the manifest."""

    argument: str
    path: str

    def __call__(self, rule: str, found: str, remedy: str) -> DataError:
        received = f"{self.argument}={self.path!r}"
        return DataError(f"`{self.argument}` must {rule}. Received: {received}, {found}. {remedy}")


def _rows(source: Path, make_error: _ManifestErrors, *, is_multi_label: bool) -> Iterator[_Row]:
    """Yields the rows below the header; empty lines are skipped."""
    header: list[str] | None = None
    try:
        required = REQUIRED[:1] if is_multi_label else REQUIRED
        for line, cells in read_table(_text(source, make_error), required, COLUMNS):
            if header is None:
                header = cells
                _check_header(header, make_error, is_multi_label=is_multi_label)
            elif len(cells) != len(header):
                raise make_error(
                    "have as many cells in each row as columns",
                    f"with {len(cells)} instead of {len(header)} in line {line}",
                    "Put cells that contain a comma in double quotes.",
                )
            else:
                yield _row(line, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise make_error(
            f"be {_FORM}",
            f"which is malformed in {error}",
            "Put cells that contain a comma in double quotes, and close all quotes.",
        ) from error
    if header is None:
        raise make_error(f"be {_FORM}", "which is empty", "Begin it with the line path,label.")


def _text(source: Path, make_error: _ManifestErrors) -> str:
    if not source.is_file():
        problem = "which is a folder" if source.is_dir() else "which does not exist"
        raise make_error(f"be {_FORM}", problem, "Give the file that lists the images.")
    content = source.read_bytes()
    try:
        return decode_table(content)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise make_error(
            "be text in UTF-8",
            f"with the byte 0x{content[error.start]:02x} in line {line}",
            'Save it as CSV in UTF-8 ("CSV UTF-8" in a spreadsheet).',
        ) from error


def _row(line: int, cells: dict[str, str]) -> _Row:
    """Returns a row with names normalised to Unicode NFC; paths stay unchanged."""
    names = {name: unicodedata.normalize("NFC", cells.get(name, "")) for name in COLUMNS[1:]}
    flags = {
        unicodedata.normalize("NFC", name): cell
        for name, cell in cells.items()
        if name not in COLUMNS
    }
    return _Row(line, cells["path"], **names, flags=flags)


def _check_header(header: list[str], make_error: _ManifestErrors, *, is_multi_label: bool) -> None:
    unknown = [name for name in header if name not in COLUMNS]
    missing = [name for name in REQUIRED if name not in header]
    if is_multi_label and missing == ["label"] and "" not in header and len(unknown) > 1:
        unknown, missing = [], []  # they are labels
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
    form = _FORM_OF_LABELS if is_multi_label else _FORM
    raise make_error(f"be {form}", f"{' and '.join(problems)} in its first line", remedy.strip())


def _check_cells(
    rows: list[_Row], make_error: _ManifestErrors, separator: str | None, *, needs_labels: bool
) -> None:
    has_flags = bool(rows[0].flags)
    needs_label = (separator is None or needs_labels) and not has_flags
    remedy = ", or remove the rows."
    if separator is not None:
        remedy = f"; {separator} alone stands for an image without labels."
    for column, is_needed, rest in (
        ("path", True, ", or remove the rows."),
        ("label", needs_label, remedy),
    ):
        lines = [row.line for row in rows if is_needed and not getattr(row, column)]
        if lines:
            raise make_error(
                f"have a {column} in every row",
                f"with none in {_lines(lines)}",
                f"Fill {'it' if len(lines) == 1 else 'them'} in{rest}",
            )
    for name in rows[0].flags:
        wrong = [row for row in rows if row.flags[name] not in _FLAGS]
        if wrong:
            raise make_error(
                "have 0 or 1 in each cell of a label",
                f"with {wrong[0].flags[name]!r} in the column {name!r} of "
                f"{_lines([row.line for row in wrong])}",
                "Write 1 if the image has the label, else 0.",
            )
        if not any(_FLAGS[row.flags[name]] for row in rows):
            raise make_error(
                "have an image with each label",
                f"with 0 in every row of the column {name!r}",
                "Add images that have the label, or remove the column.",
            )


def _check_splits(rows: list[_Row], make_error: _ManifestErrors, needs_train: bool) -> None:
    unknown = [row for row in rows if row.split and not split_of_name(row.split)]
    if unknown:
        raise make_error(
            f"have one of {', '.join(_SPLITS)}, or nothing, in the column split",
            f"with {unknown[0].split!r} in {_lines([row.line for row in unknown])}",
            (did_you_mean(unknown[0].split.lower(), _SPLITS) + " Rename it.").strip(),
        )
    splits = {split_of_name(row.split) for row in rows}
    if "" in splits and len(splits) > 1:
        lines = [row.line for row in rows if not row.split]
        raise make_error(
            "have a split in every row or in none",
            f"with none in {_lines(lines)}",
            "Fill them in, or remove the column.",
        )
    if needs_train and splits != {""} and "train" not in splits:
        raise make_error(
            "have a training split",
            f"with {', '.join(sorted(splits))}",
            "Write train into rows of the column split, or remove the column.",
        )


def _check_repeated(rows: list[_Row], files: list[str], make_error: _ManifestErrors) -> None:
    lines: dict[str, list[int]] = defaultdict(list)
    for row, file in zip(rows, files, strict=True):
        lines[os.path.normpath(file)].append(row.line)
    repeated = {file: found for file, found in lines.items() if len(found) > 1}
    if repeated:
        raise make_error(
            "list each file once",
            f"with {some_of([f'{name!r} in {_lines(found)}' for name, found in repeated.items()])}",
            "Keep one row; with multi_label=True put several labels into one cell.",
        )


def _check_missing(rows: list[_Row], files: list[str], make_error: _ManifestErrors) -> None:
    missing = [row.path for row, file in zip(rows, files, strict=True) if not os.path.isfile(file)]
    if missing:
        named = quoted(missing)
        remedy = (
            "Correct the paths, which are relative to the CSV file's folder, or remove the rows"
        )
        slash = " (separate folders by /)" if any("\\" in name for name in missing) else ""
        raise make_error(
            "list files that exist",
            f"{len(missing)} of whose {len(rows)} files are missing: {named}",
            f"{remedy}{slash}.",
        )


def _labels(row: _Row, separator: str | None, make_error: _ManifestErrors) -> tuple[str, ...]:
    """Returns the labels of a multi-label image; none for other images."""
    if row.flags:
        return tuple(sorted(name for name, cell in row.flags.items() if _FLAGS[cell]))
    if separator is None or row.label in ("", separator):
        return ()
    labels = [label.strip() for label in row.label.split(separator)]
    if "" in labels:
        raise make_error(
            f"have a label on both sides of each {separator!r}",
            f"with {row.label!r} in line {row.line}",
            "Remove the separator, or name what is missing.",
        )
    return tuple(sorted(set(labels)))


def _lines(lines: list[int]) -> str:
    return f"{'line' if len(lines) == 1 else 'lines'} {some_of(list(map(str, lines)))}"
