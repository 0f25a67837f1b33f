"""Inspection of image folders: which files can be used as images, and which cannot."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tlkit.data.conversion import EXTRA_NEEDED, needs_extra
from tlkit.data.decisions import apply_decisions
from tlkit.data.file_checks import FILE_CHECKS_FOLDER, check_files
from tlkit.data.folder_names import similar_names
from tlkit.data.image_places import shown_path
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.listing import Listing, list_folder
from tlkit.data.reports import DataReport, Leak, SkippedFile
from tlkit.data.settings import DAMAGED, KEEP, SKIP
from tlkit.data.splits import Division, ImageRecord, complete_groups, divide
from tlkit.errors import check_choice, check_count, quoted, some_of
from tlkit.utils.cache import cache_note
from tlkit.utils.formatting import counted


def inspect_folder(
    path: str | os.PathLike[str],
    *,
    max_pixels: int = MAX_PIXELS,
    damaged: str = KEEP,
    decisions: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> DataReport:
    """Returns a report on a folder of images, checked as by `load_folder`.

    Every file is decoded once and the result is cached, so that a second inspection is fast. Images
    are not split, and whether there are enough to train on is not checked.

    Args:
        path: A folder as `load_folder` takes it.
        max_pixels: Maximum number of pixels of an image.
        damaged: "keep" or "skip", see `load_folder`.
        decisions: CSV file of decisions about labels, see `load_folder`.
        cache: The cache's folder, as `cache_folder` takes it.

    Returns:
        The report. Without a user's split, images are counted in one split "all".

    Raises:
        DataError: `path` is not a folder, or is empty; a decision is invalid, as for `load_folder`.
        ArgumentError: `max_pixels` is not a positive whole number, or `damaged` is neither "keep"
            nor "skip".

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import tlkit
        >>> with TemporaryDirectory() as folder:
        ...     Path(folder, "cats").mkdir()
        ...     _ = Path(folder, "cats", "1.jpg").write_bytes(b"")
        ...     report = tlkit.inspect_folder(folder)
        >>> report.skipped[0].reason
        'empty file'
    """
    check_choice("damaged", damaged, DAMAGED)
    listing = list_folder(path, cache=cache)
    if decisions is not None:
        apply_decisions(listing, decisions)
    return inspect_listing(listing, max_pixels=max_pixels, damaged=damaged, cache=cache)


def inspect_listing(
    listing: Listing,
    *,
    max_pixels: int = MAX_PIXELS,
    damaged: str = KEEP,
    cache: str | os.PathLike[str] | None = None,
) -> DataReport:
    """Returns the report of `inspect_folder` on files that are already listed."""
    return inspect_and_divide(listing, max_pixels=max_pixels, damaged=damaged, cache=cache)[0]


def inspect_and_divide(
    listing: Listing,
    *,
    max_pixels: int,
    cache: str | os.PathLike[str] | None,
    damaged: str = KEEP,
) -> tuple[DataReport, list[ImageRecord], Division]:
    """Returns the report on listed files, their usable images, and the splits of these.

    Without a user's split, all images are in one split "all".
    """
    check_count("max_pixels", max_pixels)
    images, formats = readable_images(listing, max_pixels=max_pixels, cache=cache, damaged=damaged)
    division = divide(images, (1.0, 0.0, 0.0), seed=0)
    if not any(image.split for image in images):
        division.splits = {"all": division.splits.get("train", [])}
    return build_report(images, division, listing, formats), images, division


def readable_images(
    listing: Listing,
    *,
    max_pixels: int,
    cache: str | os.PathLike[str] | None,
    damaged: str = KEEP,
) -> tuple[list[ImageRecord], dict[str, int]]:
    """Returns the usable images among listed files, and their number by format.

    The other files are added to `listing.skipped`, and so are damaged ones if `damaged` is "skip".
    Groups are completed, see `complete_groups`.
    """
    check_choice("damaged", damaged, DAMAGED)
    paths = [file.path for file in listing.files]
    checks = check_files(paths, max_pixels=max_pixels, root=cache, notes=listing.notes)
    if note := cache_note(FILE_CHECKS_FOLDER, cache):
        listing.notes.append(note)
    images = []
    for file, checked in zip(listing.files, checks, strict=True):
        labels = file.class_name or ", ".join(file.labels)
        is_skipped = bool(checked.reason or (checked.warning and damaged == SKIP))
        if is_skipped or checked.warning:
            target = listing.skipped if is_skipped else listing.damaged
            target.append(SkippedFile(file.path, labels, checked.reason or checked.warning))
        if not is_skipped:
            images.append(
                ImageRecord(
                    file.path,
                    file.class_name,
                    checked.digest,
                    file.split,
                    file.labels,
                    file.group,
                    checked.checksum,
                )
            )
    images, notes = complete_groups(images)
    listing.notes.extend(notes)
    if listing.damaged:
        listing.notes.append(
            f"{len(listing.damaged)} damaged images are used, see below (damaged='skip', or "
            "--damaged skip, leaves them out). Whenever they are read, the decoder repeats its "
            "warnings without naming the files."
        )
    if unread := [file for file in listing.skipped if needs_extra(file.reason)]:
        listing.notes.append(
            f"{counted(len(unread), 'image')} left out that an extra reads, such as "
            f"{shown_path(unread[0].path)}: {EXTRA_NEEDED} and run again."
        )
    used = {image.path for image in images}
    formats = Counter(
        checked.format
        for file, checked in zip(listing.files, checks, strict=True)
        if file.path in used
    )
    return images, dict(formats.most_common())


def build_report(
    images: Sequence[ImageRecord], division: Division, listing: Listing, formats: dict[str, int]
) -> DataReport:
    """Returns the report: counts of the images in use, and everything that was skipped."""
    used = [
        (images[position], name)
        for name, positions in division.splits.items()
        for position in positions
    ]
    cells = Counter(
        (label, name)
        for image, name in used
        for label in (image.labels if listing.is_multi_label else (image.class_name,))
    )
    class_names = sorted({class_name for class_name, _ in cells})
    counts = {
        class_name: {name: cells[class_name, name] for name in division.splits}
        for class_name in class_names
    }
    totals = [sum(row.values()) for row in counts.values()]
    found = {name for names in listing.classes.values() for name in names}
    return DataReport(
        counts=counts,
        num_files=len(images) + len(listing.skipped),
        formats=formats,
        skipped=_shown_files(listing.skipped),
        duplicates=_shown_groups(division.duplicates),
        conflicts=_shown_groups(division.conflicts),
        leaks=_shown_leaks(division.leaks),
        group_leaks=_shown_leaks(division.group_leaks),
        empty_classes=tuple(sorted(found - set(class_names))),
        imbalance=max(totals) / min(totals) if totals else 1.0,
        num_groups=len({image.group for image, _ in used} - {""}),
        damaged=_shown_files(listing.damaged),
        notes=(
            *listing.notes,
            *division.notes,
            *_notes_on_names(found | set(class_names)),
            *_notes_on_splits(images, counts, listing),
            *(_notes_on_labels(used, counts) if listing.is_multi_label else ()),
        ),
    )


def _shown_files(files: Sequence[SkippedFile]) -> tuple[SkippedFile, ...]:
    """Returns the files in order, with the names that they have outside the cache."""
    shown = (replace(file, path=shown_path(file.path)) for file in files)
    return tuple(sorted(shown, key=lambda file: (file.class_name, file.path)))


def _shown_groups(groups: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(map(shown_path, group)) for group in groups)


def _shown_leaks(leaks: Sequence[Leak]) -> tuple[Leak, ...]:
    return tuple(Leak(shown_path(leak.kept), shown_path(leak.left_out)) for leak in leaks)


def _notes_on_names(names: set[str]) -> list[str]:
    found = similar_names(names)
    return (
        [f"Class names that look alike but count as different classes: {found}."] if found else []
    )


def _notes_on_splits(
    images: Sequence[ImageRecord], counts: dict[str, dict[str, int]], listing: Listing
) -> list[str]:
    """Returns notes on splits and classes of the user's split without usable images."""
    notes = []
    for split in listing.classes:
        if not split or not any(image.split == split for image in images):
            if split:
                notes.append(f"The {split} split has no usable images and is left out.")
            continue
        missing = [name for name, row in counts.items() if row.get(split) == 0]
        if missing:
            names = quoted(missing)
            notes.append(f"The {split} split has no usable images of {names}.")
    return notes


def _notes_on_labels(
    used: Sequence[tuple[ImageRecord, str]], counts: dict[str, dict[str, int]]
) -> list[str]:
    """Returns notes on unlabelled images and unused labels of multi-label data."""
    notes = []
    if num_without := sum(not image.labels for image, _ in used):
        notes.append(f"{num_without} images have no label.")
    for split in dict.fromkeys(split for _, split in used):
        missing = [repr(label) for label, row in counts.items() if not row[split]]
        if missing:
            notes.append(f"Labels without images in {split}: {some_of(missing)}.")
    return notes
