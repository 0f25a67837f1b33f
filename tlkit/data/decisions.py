"""Decisions about labels: a CSV file, made on the page of `review_labels`, that loaders apply.

Image files and manifests are never changed.
"""

import csv
import dataclasses
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlkit.data.image_places import shown_path
from tlkit.data.listing import FoundFile, Listing
from tlkit.data.reading import content_digest, read_image
from tlkit.data.reports import SkippedFile
from tlkit.data.spreadsheets import decode_table, read_table
from tlkit.errors import ArgumentError, DataError, check_path, did_you_mean, quoted, some_of
from tlkit.utils.files import from_cell
from tlkit.utils.formatting import counted

COLUMNS = ("file", "digest", "label", "decision", "new_label")
KEEP, MOVE, SET_ASIDE = "keep", "move", "set-aside"
DECISIONS = (KEEP, MOVE, SET_ASIDE)

REASON = "set aside by a decision"
"""Why an image that was set aside is not used, in reports."""

_FORM = f"a CSV file with the columns {', '.join(COLUMNS)}"
_HOW = "Download it from the page of tlkit review."


@dataclass(frozen=True)
class Decision:
    """What is done with one image.

    Attributes:
        file: Its path, relative to the folder of images (or that of the CSV file that lists them),
            with slashes; absolute outside that folder; `ARCHIVE/PATH` in an archive.
        digest: The digest of its content.
        label: Its label when it was decided; empty for an image without one.
        decision: "keep" (the label is correct), "move" (to `new_label`), or "set-aside" (the image
            is not used).
        new_label: The class that it is moved to, else empty.
    """

    file: str
    digest: str
    label: str
    decision: str
    new_label: str = ""


@dataclass(frozen=True)
class _Row:
    """A decision, and the number of its line."""

    line: int
    decision: Decision


@dataclass(frozen=True)
class _Table:
    """Creates errors that name the file of decisions."""

    argument: str
    path: str

    def error(self, rule: str, found: str, remedy: str) -> DataError:
        received = f"{self.argument}={self.path!r}"
        return DataError(f"`{self.argument}` must {rule}. Received: {received}, {found}. {remedy}")


def file_key(path: str, photos: str | os.PathLike[str]) -> str:
    """Returns how a decision names a file: relative to the images, if it lies in their folder.

    A file of an archive, a data set or an address has its name there, not that in the cache.

    Args:
        path: The file.
        photos: The folder of images, or the CSV file that lists them.

    Example:
        >>> from tlkit.data.decisions import file_key
        >>> file_key("/data/photos/cat/1.jpg", "/data/photos")
        'cat/1.jpg'
    """
    if (shown := shown_path(path)) != path:
        return Path(shown).as_posix()
    root = _root(photos)
    absolute = Path(os.path.abspath(path))
    return (absolute.relative_to(root) if absolute.is_relative_to(root) else absolute).as_posix()


def read_decisions(
    path: str | os.PathLike[str], *, argument: str = "decisions"
) -> tuple[Decision, ...]:
    """Returns the decisions in a CSV file, checked by themselves.

    Args:
        path: The file, with the columns `file`, `digest`, `label`, `decision` and `new_label`.
        argument: The argument's name in errors.

    Raises:
        DataError: The file does not exist, or is not such a table; a row has no file, no digest or
            an unknown decision, moves an image nowhere, or contradicts another row.
    """
    check_path(argument, path)
    return tuple(row.decision for row in _read(path, _Table(argument, os.fspath(path))))


def apply_decisions(
    listing: Listing,
    path: str | os.PathLike[str],
    *,
    class_names: Collection[str] = (),
    argument: str = "decisions",
) -> tuple[Decision, ...]:
    """Applies the decisions in a CSV file to listed files, before any of them is decoded.

    Images that are moved get their new label, images that are set aside are skipped, and images
    without a label that got one are added. Only the named files are read, for their digests.

    Args:
        listing: The listed files; changed in place.
        path: The CSV file.
        class_names: Classes that images may be moved to, beside those of the listing.
        argument: The argument's name in errors.

    Returns:
        The decisions.

    Raises:
        ArgumentError: The images have several labels each.
        DataError: What `read_decisions` raises; or a decision names a file that is not there, whose
            content or label is another one than when it was decided, or an unknown class.
    """
    check_path(argument, path)
    if listing.is_multi_label:
        raise ArgumentError(
            f"`{argument}` must be left out for images with several labels. Received: "
            f"{argument}={os.fspath(path)!r}. Change the labels in the CSV file that lists them."
        )
    table = _Table(argument, os.fspath(path))
    rows = _read(path, table)
    known = {name for names in listing.classes.values() for name in names} | {*class_names}
    _check_classes(rows, known, listing, table)
    places = {os.path.abspath(file.path): number for number, file in enumerate(listing.files)}
    cached = {file_key(file.path, listing.path): file.path for file in listing.files}
    files = [
        os.path.abspath(cached.get(row.decision.file, _absolute(row.decision.file, listing.path)))
        for row in rows
    ]
    _check_files(rows, files, places, listing, table)
    _check_digests(rows, files, table)
    _change(listing, [row.decision for row in rows], files, places)
    counts = Counter(row.decision.decision for row in rows)
    added = sum(not row.decision.label and row.decision.decision == MOVE for row in rows)
    listing.notes.append(
        f"Decisions in {os.fspath(path)}: {counted(counts[MOVE] - added, 'image')} moved to "
        f"another class, {counts[SET_ASIDE]:,} set aside, {counts[KEEP]:,} kept"
        + (f", {added:,} labelled and added." if added else ".")
    )
    return tuple(row.decision for row in rows)


def _read(path: str | os.PathLike[str], table: _Table) -> list[_Row]:
    rows: list[_Row] = []
    header: list[str] | None = None
    try:
        for line, cells in read_table(_text(Path(path), table), COLUMNS):
            if header is None:
                header = cells
                _check_header(header, table)
            elif len(cells) != len(header):
                raise table.error(
                    "have as many cells in each row as columns",
                    f"with {len(cells)} instead of {len(header)} in line {line}",
                    _HOW,
                )
            else:
                named = dict(zip(header, map(from_cell, cells), strict=True))
                labels = {
                    name: unicodedata.normalize("NFC", named[name])
                    for name in ("label", "new_label")
                }
                rows.append(_Row(line, Decision(**{**named, **labels})))
    except csv.Error as error:
        raise table.error(f"be {_FORM}", f"which is malformed in {error}", _HOW) from error
    if header is None:
        raise table.error(f"be {_FORM}", "which is empty", _HOW)
    _check_rows(rows, table)
    return rows


def _text(source: Path, table: _Table) -> str:
    if not source.is_file():
        problem = "which is a folder" if source.is_dir() else "which does not exist"
        raise table.error(f"be {_FORM}", problem, _HOW)
    try:
        return decode_table(source.read_bytes())
    except UnicodeDecodeError as error:
        raise table.error(f"be {_FORM}, in UTF-8", f"which is not ({error})", _HOW) from error


def _check_header(header: Sequence[str], table: _Table) -> None:
    if sorted(header) != sorted(COLUMNS):
        raise table.error(
            f"be {_FORM}",
            f"with the columns {', '.join(map(repr, header))} in its first line",
            _HOW,
        )


def _check_rows(rows: Sequence[_Row], table: _Table) -> None:
    for row in rows:
        one = row.decision
        if one.decision not in DECISIONS:
            raise table.error(
                f"have one of {', '.join(DECISIONS)} in the column decision",
                f"with {one.decision!r} in line {row.line}",
                (did_you_mean(one.decision, DECISIONS) + " Correct it.").strip(),
            )
        for name in ("file", "digest"):
            if not getattr(one, name):
                raise table.error(
                    f"have a {name} in every row", f"with none in line {row.line}", _HOW
                )
        if (one.decision == MOVE) != bool(one.new_label):
            found = f"with {one.decision!r} and new_label={one.new_label!r} in line {row.line}"
            raise table.error("have a new_label in rows that move an image only", found, _HOW)
        if one.decision == KEEP and not one.label:
            raise table.error(
                "keep images with a label only", f"with none in line {row.line}", "Move it instead."
            )
    lines: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        lines[os.path.normpath(row.decision.file)].append(row.line)
    repeated = [
        f"{name!r} in lines {', '.join(map(str, found))}"
        for name, found in lines.items()
        if len(found) > 1
    ]
    if repeated:
        raise table.error("decide on each file once", f"with {some_of(repeated)}", "Keep one row.")


def _check_classes(
    rows: Sequence[_Row], known: Collection[str], listing: Listing, table: _Table
) -> None:
    unknown = {
        row.decision.new_label: row.line
        for row in reversed(rows)
        if row.decision.new_label and row.decision.new_label not in known
    }
    if unknown:
        named = some_of([f"{name!r} in line {line}" for name, line in unknown.items()])
        raise table.error(
            f"move images to classes of {listing.argument}={listing.path!r} only",
            f"with the unknown class {named}",
            did_you_mean(next(iter(unknown)), known).strip() + " Correct it, or make a folder for "
            "the class.",
        )


def _check_files(
    rows: Sequence[_Row],
    files: Sequence[str],
    places: Mapping[str, int],
    listing: Listing,
    table: _Table,
) -> None:
    missing, relabelled = [], []
    for row, file in zip(rows, files, strict=True):
        one = row.decision
        if one.label and file in places:
            label = listing.files[places[file]].class_name
            if label != one.label:
                relabelled.append(f"{one.file!r}, now {label!r} instead of {one.label!r}")
        elif one.label or not os.path.isfile(file):
            missing.append(one.file)
        elif file in places:
            relabelled.append(f"{one.file!r}, which had none")
    if missing:
        raise table.error(
            f"name images of {listing.argument}={listing.path!r}",
            f"of whose {len(rows)} files {len(missing)} are not there: {quoted(missing)}",
            "Restore the files, remove the rows, or give the images that were reviewed.",
        )
    if relabelled:
        raise table.error(
            "name images with the labels that they had",
            f"with {len(relabelled)} others: {some_of(relabelled)}",
            "Remove the rows, or restore the labels.",
        )


def _check_digests(rows: Sequence[_Row], files: Sequence[str], table: _Table) -> None:
    changed = []
    for row, file in zip(rows, files, strict=True):
        try:
            digest = content_digest(read_image(file))
        except OSError as error:
            raise table.error(
                "name files that can be read",
                f"with {row.decision.file!r} ({error.strerror})",
                "Make it readable, or remove the row.",
            ) from error
        if digest != row.decision.digest:
            changed.append(row.decision.file)
    if changed:
        raise table.error(
            "name images with the content that was reviewed",
            f"with {len(changed)} that have another digest: {quoted(changed)}",
            "Restore the files, or remove the rows and review them again.",
        )


def _change(
    listing: Listing,
    decisions: Iterable[Decision],
    files: Sequence[str],
    places: Mapping[str, int],
) -> None:
    """Applies checked decisions to the listing."""
    kept: dict[int, FoundFile] = dict(enumerate(listing.files))
    added = []
    has_splits = any(file.split for file in listing.files)
    for one, path in zip(decisions, files, strict=True):
        if not one.label:
            if one.decision == MOVE:
                added.append(FoundFile(path, one.new_label, "train" if has_splits else ""))
            continue
        number = places[path]
        if one.decision == SET_ASIDE:
            listing.skipped.append(SkippedFile(kept.pop(number).path, one.label, REASON))
        elif one.decision == MOVE:
            kept[number] = dataclasses.replace(kept[number], class_name=one.new_label)
    listing.files = [*kept.values(), *added]
    for file in listing.files:
        names = listing.classes.setdefault(file.split, [])
        if file.class_name not in names:
            names.append(file.class_name)
    listing.files.sort(key=lambda file: (file.split, file.class_name, file.path))
    listing.skipped.sort(key=lambda file: (file.class_name, file.path))


def _root(photos: str | os.PathLike[str]) -> Path:
    """Returns the absolute folder that files are named relative to."""
    absolute = Path(os.path.abspath(photos))
    return absolute.parent if absolute.is_file() else absolute


def _absolute(file: str, photos: str) -> str:
    return os.path.normpath(os.path.join(_root(photos), file))
