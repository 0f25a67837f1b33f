"""Reports on pairs of near-duplicate images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tlkit.data.image_places import shown_path
from tlkit.data.perceptual import NUM_BITS
from tlkit.data.reports import SHOWN
from tlkit.utils.formatting import counted
from tlkit.utils.text_repr import ShownAsText, html_paragraphs, html_table

_REMEDY = (
    "In Python, tlkit.load_folder(..., groups=tlkit.find_near_duplicates(data).group_of), or "
    "load_manifest likewise, puts near-duplicates into one split."
)
_REMEDY_IN_MEMORY = "For images in memory, remove one of each pair before tlkit.load_arrays."


@dataclass(frozen=True)
class NearDuplicate(ShownAsText):
    """Two images that look alike.

    Attributes:
        paths: Their paths; for images in memory, names such as "images[17]".
        num_differing: Number of differing bits, of 255.
        splits: The splits that contain them.
        classes: Their classes, or all their labels.
    """

    paths: tuple[str, str]
    num_differing: int
    splits: tuple[str, str]
    classes: tuple[str, str]

    @property
    def is_across_splits(self) -> bool:
        """Whether the images are in different splits, so that an evaluation is biased."""
        return self.splits[0] != self.splits[1]

    @property
    def is_across_classes(self) -> bool:
        """Whether the labels differ, so that one may be wrong."""
        return self.classes[0] != self.classes[1]

    def __str__(self) -> str:
        first, second = (
            f"{shown_path(path)} ({split}, {label or 'no label'})"
            for path, split, label in zip(self.paths, self.splits, self.classes, strict=True)
        )
        return f"{self.num_differing} bits: {first} ~ {second}"


@dataclass(frozen=True)
class NearDuplicateReport(ShownAsText):
    """Pairs of images that look alike.

    Attributes:
        pairs: The pairs; those across splits first, then those with different labels, then the
            others, each sorted by the number of differing bits.
        num_pairs: Number of pairs found; at most 10,000 are listed.
        num_images: Number of different images that were compared with each other.
        max_differing: Maximum number of differing bits of a pair, of 255.
        groups: The group key of each image in a pair, by path; images connected by pairs share a
            key.
        notes: Further notes.
        is_in_memory: Whether the images are arrays instead of files.
    """

    pairs: tuple[NearDuplicate, ...]
    num_pairs: int
    num_images: int
    max_differing: int
    groups: Mapping[str, str] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    is_in_memory: bool = False

    @property
    def across_splits(self) -> tuple[NearDuplicate, ...]:
        """The pairs of images in different splits."""
        return tuple(pair for pair in self.pairs if pair.is_across_splits)

    @property
    def across_classes(self) -> tuple[NearDuplicate, ...]:
        """The pairs of images with different labels."""
        return tuple(pair for pair in self.pairs if pair.is_across_classes)

    def group_of(self, path: str | os.PathLike[str]) -> str | None:
        """Returns the group key of an image's near-duplicates, `None` if it has none.

        `load_folder(..., groups=report.group_of)` puts near-duplicates into one split, and so does
        `load_manifest`.

        Args:
            path: The image's path, as in `pairs`, or another spelling of the same path.
        """
        return self.groups.get(os.fspath(path)) or self._key_by_absolute_path.get(
            os.path.abspath(path)
        )

    @cached_property
    def _key_by_absolute_path(self) -> dict[str, str]:
        return {os.path.abspath(path): key for path, key in self.groups.items()}

    def __str__(self) -> str:
        lines = [self._summary()]
        for title, pairs in self._kinds():
            lines.append(f"{title} ({len(pairs)}):")
            lines.extend(f"  {pair}" for pair in pairs[:SHOWN])
            if len(pairs) > SHOWN:
                lines.append(f"  ... and {len(pairs) - SHOWN} more")
        return "\n".join([*lines, *self._remarks()])

    def _repr_html_(self) -> str:
        """The report as HTML, every name escaped."""
        parts = [html_paragraphs([self._summary()])]
        for title, pairs in self._kinds():
            rows: list[Sequence[object]] = [_row(pair) for pair in pairs[:SHOWN]]
            if len(pairs) > SHOWN:
                rows.append(("", f"... and {len(pairs) - SHOWN} more"))
            parts.append(html_paragraphs([f"{title} ({len(pairs)})"]))
            parts.append(html_table(("bits", "image", "looks like"), rows))
        return "".join([*parts, html_paragraphs(self._remarks())])

    def _summary(self) -> str:
        found = f"{counted(self.num_pairs, 'near-duplicate pair')}"
        return (
            f"{self.num_images:,} different images compared: {found} "
            f"(at most {self.max_differing} of {NUM_BITS} bits differ)"
        )

    def _kinds(self) -> list[tuple[str, Sequence[NearDuplicate]]]:
        inside = [pair for pair in self.pairs if not pair.is_across_splits]
        kinds: list[tuple[str, Sequence[NearDuplicate]]] = [
            ("LEAKS: across splits", self.across_splits),
            ("With different labels", [pair for pair in inside if pair.is_across_classes]),
            (
                "In the same split and class",
                [pair for pair in inside if not pair.is_across_classes],
            ),
        ]
        return [(title, pairs) for title, pairs in kinds if pairs]

    def _remarks(self) -> list[str]:
        if not self.pairs:
            return list(self.notes)
        return [*self.notes, _REMEDY_IN_MEMORY if self.is_in_memory else _REMEDY]


def _row(pair: NearDuplicate) -> tuple[object, ...]:
    places = (
        f"{shown_path(path)}\n{split}" + (f", {label}" if label else "")
        for path, split, label in zip(pair.paths, pair.splits, pair.classes, strict=True)
    )
    return (pair.num_differing, *places)
