"""Reports on image data: counts, and what was left out and why."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tlkit.errors import some_of
from tlkit.utils.formatting import counted
from tlkit.utils.text_repr import ShownAsText, html_paragraphs, html_table, in_line

SHOWN = 20  # of each kind of finding; all of them are in the report's attributes


@dataclass(frozen=True)
class SkippedFile:
    """A file or folder that is not used; `class_name` is empty outside class folders."""

    path: str
    class_name: str
    reason: str


@dataclass(frozen=True)
class Leak:
    """An image of the user's split of which an earlier split has a copy, or the group."""

    kept: str
    left_out: str


@dataclass(frozen=True)
class DataReport(ShownAsText):
    """The findings on a set of images; no file is deleted or changed.

    Attributes:
        counts: Number of images in use, by class and split.
        num_files: Number of all files, in use or not.
        formats: Number of readable images by format, detected from the content.
        skipped: Files that are not used, with the reason.
        damaged: Files that are used although the decoder warns of damage, with its message.
        duplicates: Paths with the same content in one class. Training keeps copies; validation and
            test have one of each.
        conflicts: Paths with the same content in several classes; none of them is used.
        leaks: Copies that were left out of the user's validation or test split.
        group_leaks: Images left out of these splits because an earlier split has others of their
            group.
        empty_classes: Classes without usable images, which are left out.
        imbalance: Number of images of the largest class divided by that of the smallest.
        num_groups: Number of groups of images in use; each is in one split.
        notes: Further notes.
    """

    counts: Mapping[str, Mapping[str, int]]
    num_files: int
    formats: Mapping[str, int]
    skipped: tuple[SkippedFile, ...] = ()
    duplicates: tuple[tuple[str, ...], ...] = ()
    conflicts: tuple[tuple[str, ...], ...] = ()
    leaks: tuple[Leak, ...] = ()
    group_leaks: tuple[Leak, ...] = ()
    empty_classes: tuple[str, ...] = ()
    imbalance: float = 1.0
    num_groups: int = 0
    notes: tuple[str, ...] = ()
    damaged: tuple[SkippedFile, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits in `counts`."""
        return tuple(dict.fromkeys(name for counts in self.counts.values() for name in counts))

    def __str__(self) -> str:
        width = max([len(name) for name in (*self.counts, "class")])
        lines = [f"{'class':{width}}" + "".join(f"  {name:>10}" for name in self.splits)]
        for name, counts in self.counts.items():
            cells = "".join(f"  {counts.get(split, 0):>10}" for split in self.splits)
            lines.append(f"{in_line(name):{width}}{cells}")
        lines.append(self._summary())
        for title, items in self._findings():
            lines.append(f"{title}:")
            lines.extend(f"  {item}" for item in _shorten(items))
        return "\n".join(lines)

    def _brief(self) -> str:
        found = [title for title, _ in self._findings()]
        return "\n".join([self._summary(), *found, *str(self).splitlines()[: 1 + len(self.counts)]])

    def _repr_html_(self) -> str:
        """The report as HTML, every name escaped."""
        table = html_table(
            ("class", *self.splits),
            (
                (name, *(counts.get(split, 0) for split in self.splits))
                for name, counts in self.counts.items()
            ),
        )
        findings = "".join(
            f"{html_paragraphs([title])}<ul>"
            + "".join(f"<li>{html.escape(item)}</li>" for item in _shorten(items))
            + "</ul>"
            for title, items in self._findings()
        )
        return table + html_paragraphs([self._summary()]) + findings

    def _summary(self) -> str:
        formats = ", ".join(f"{count} {name}" for name, count in self.formats.items()) or "none"
        return (
            f"{self.num_files} files; readable images: {formats}; "
            f"largest class / smallest class: {self.imbalance:.1f}"
            + (f"; groups: {self.num_groups}" if self.num_groups else "")
        )

    @property
    def headlines(self) -> str:
        """The number of images, and one line for each kind of finding."""
        totals = {
            split: sum(counts.get(split, 0) for counts in self.counts.values())
            for split in self.splits
        }
        parts = ", ".join(f"{total:,} for {split}" for split, total in totals.items() if total)
        images = counted(sum(totals.values()), "image")
        classes = f"{len(self.counts)} class{'' if len(self.counts) == 1 else 'es'}"
        lines = [f"{images} of {classes}: {parts}"]
        for title, items in self._findings():
            more = f", and {len(items) - 1} more" if len(items) > 1 else ""
            lines.append(f"{title}: {items[0]}{more}")
        return "\n".join(lines)

    def _findings(self) -> list[tuple[str, list[str]]]:
        leaks = [f"{leak.left_out} = {leak.kept}" for leak in self.leaks]
        group_leaks = [
            f"{leak.left_out} is in one group with {leak.kept}" for leak in self.group_leaks
        ]
        findings = [
            ("Notes", list(self.notes)),
            ("LEAKS: copies of images of earlier splits, left out of validation and test", leaks),
            (
                "LEAKS: images of groups of earlier splits, left out of validation and test",
                group_leaks,
            ),
            (
                "Conflicts: the same image with several labels, left out",
                _equal_paths(self.conflicts),
            ),
            ("Copies: the same image several times in a class", _equal_paths(self.duplicates)),
            ("Classes without usable images", list(self.empty_classes)),
            ("Damaged, used as far as they can be decoded", list(map(_file_text, self.damaged))),
            ("Skipped", list(map(_file_text, self.skipped))),
        ]
        return [(f"{title} ({len(items)})", items) for title, items in findings if items]


def _file_text(file: SkippedFile) -> str:
    return f"{file.class_name + ': ' if file.class_name else ''}{file.path}: {file.reason}"


def _equal_paths(groups: Iterable[tuple[str, ...]]) -> list[str]:
    return [some_of(group, separator=" = ") for group in groups]


def _shorten(items: list[str]) -> list[str]:
    hidden = len(items) - SHOWN
    more = [f"... and {hidden} more"] if hidden > 0 else []
    return [in_line(item) for item in items[:SHOWN]] + more
