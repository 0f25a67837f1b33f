"""What was found in a folder of images, and what was left out and why."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tlkit.errors import some_of
from tlkit.utils.text_repr import ShownAsText, html_paragraphs, html_table, in_line

SHOWN = 20  # of each kind of finding; all of them are in the report's attributes


@dataclass(frozen=True)
class SkippedFile:
    """A file or folder that is not used; `class_name` is empty outside of the class folders."""

    path: str
    class_name: str
    reason: str


@dataclass(frozen=True)
class Leak:
    """An image of the user's own split that an earlier split has too, or has its group."""

    kept: str
    left_out: str


@dataclass(frozen=True)
class DataReport(ShownAsText):
    """What was found in a set of images. Nothing is deleted or changed, whatever it says.

    Attributes:
        counts: Images in use, by class and split.
        num_files: Everything that was found, in use or not.
        formats: Readable images by format, which is that of the content.
        skipped: What is not used, with the reason.
        damaged: What is used although its decoder warns of damage, with what it says.
        duplicates: Paths with the same content, in one class. Training keeps copies; validation
            and test hold one of each.
        conflicts: Paths with the same content in several classes; none of them is used.
        leaks: Copies kept out of the user's own validation or test.
        group_leaks: Images kept out of these since an earlier split holds others of their group.
        empty_classes: Classes without a usable image, which are left out.
        imbalance: Images of the largest class for one of the smallest.
        num_groups: Groups of images in use, which go into one split each.
        notes: What else was decided.
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
        """The names of the splits that images were counted for."""
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
            lines.extend(f"  {item}" for item in _shown(items))
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
            + "".join(f"<li>{html.escape(item)}</li>" for item in _shown(items))
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
        """How many images there are, and a line on each finding that is worth a look."""
        totals = {
            split: sum(counts.get(split, 0) for counts in self.counts.values())
            for split in self.splits
        }
        parts = ", ".join(f"{total:,} for {split}" for split, total in totals.items() if total)
        lines = [f"{sum(totals.values()):,} images of {len(self.counts)} classes: {parts}"]
        for title, items in self._findings():
            more = f", and {len(items) - 1} more" if len(items) > 1 else ""
            lines.append(f"{title}: {items[0]}{more}")
        return "\n".join(lines)

    def _findings(self) -> list[tuple[str, list[str]]]:
        leaks = [f"{leak.left_out} is {leak.kept}" for leak in self.leaks]
        torn = [f"{leak.left_out} goes with {leak.kept}" for leak in self.group_leaks]
        findings = [
            ("Notes", list(self.notes)),
            ("LEAKS: copies of earlier images kept out of validation and test", leaks),
            ("LEAKS: images of earlier groups kept out of validation and test", torn),
            ("Conflicts: one image under several labels, left out", _joined(self.conflicts)),
            ("Copies: one image several times in a class", _joined(self.duplicates)),
            ("Classes without a usable image", list(self.empty_classes)),
            ("Damaged, and used as far as they are decoded", list(map(_said, self.damaged))),
            ("Skipped", list(map(_said, self.skipped))),
        ]
        return [(f"{title} ({len(items)})", items) for title, items in findings if items]


def _said(file: SkippedFile) -> str:
    return f"{file.class_name + ': ' if file.class_name else ''}{file.path}: {file.reason}"


def _joined(groups: Iterable[tuple[str, ...]]) -> list[str]:
    return [some_of(group, separator=" = ") for group in groups]


def _shown(items: list[str]) -> list[str]:
    hidden = len(items) - SHOWN
    more = [f"... and {hidden} more"] if hidden > 0 else []
    return [in_line(item) for item in items[:SHOWN]] + more
