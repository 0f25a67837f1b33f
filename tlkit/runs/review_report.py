"""The report of a review of labels: doubtful images, and unlabelled ones to label next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tlkit.data.decisions import Decision
from tlkit.data.image_places import shown_path
from tlkit.data.reports import SHOWN
from tlkit.errors import some_of
from tlkit.evaluation.intervals import Interval
from tlkit.utils.formatting import counted, fraction_text, percent
from tlkit.utils.text_repr import ShownAsText, in_line

COPY, WRONG_LABEL, NEAR_DUPLICATE, OUTLIER = "copy", "label", "near-duplicate", "outlier"
KINDS = {
    COPY: "copies of one image under two labels",
    WRONG_LABEL: "likely wrong labels",
    NEAR_DUPLICATE: "near-duplicates under two labels",
    OUTLIER: "outliers",
}
"""The kinds of doubts with their names in the plural, the most certain first."""


@dataclass(frozen=True)
class Doubt(ShownAsText):
    """An image whose label or content is doubtful.

    Attributes:
        path: Its path.
        file: Its name in decisions, see `Decision`.
        digest: The digest of its content.
        label: Its label.
        kinds: What is doubtful: some of "copy", "label", "near-duplicate" and "outlier".
        suggested: The most probable class by heads that were not solved on this image; empty if
            that is its label.
        quality: Probability of its label by such heads, 0...1.
        probabilities: The highest probabilities, highest first, by class.
        ood_score: Its distance from the other images, see `fit_rejection`.
        others: Paths of its copies and near-duplicates under other labels, with these labels.
        split: Its split, if the user made one, else empty.
    """

    path: str
    file: str
    digest: str
    label: str
    kinds: tuple[str, ...]
    suggested: str
    quality: float
    probabilities: Mapping[str, float]
    ood_score: float
    others: Mapping[str, str]
    split: str = ""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the image is doubtful, in words."""
        labels = some_of(sorted({*self.others.values()}))
        reasons = {
            COPY: f"the same image is also labelled {labels}",
            WRONG_LABEL: f"its label has a probability of {percent(self.quality)}",
            NEAR_DUPLICATE: f"an image that looks like it is labelled {labels}",
            OUTLIER: f"it is unlike the other images (OOD score {self.ood_score:.3f})",
        }
        return tuple(reasons[kind] for kind in reasons if kind in self.kinds)

    def __str__(self) -> str:
        suggested = f", rather {self.suggested}" if self.suggested else ""
        others = f" (see {some_of(list(self.others))})" if self.others else ""
        return in_line(
            f"{shown_path(self.path)}: {self.label}{suggested}; {'; '.join(self.reasons)}{others}"
        )


@dataclass(frozen=True)
class ToLabel(ShownAsText):
    """An image without a label.

    Attributes:
        path: Its path.
        file: Its name in decisions, see `Decision`.
        digest: The digest of its content.
        margin: Difference of the two highest probabilities, 0...1.
        probabilities: The highest probabilities, highest first, by class.
        ood_score: Its distance from the labelled images, see `fit_rejection`.
        is_outlier: Whether that is unusual.
    """

    path: str
    file: str
    digest: str
    margin: float
    probabilities: Mapping[str, float]
    ood_score: float
    is_outlier: bool = False

    def __str__(self) -> str:
        likely = ", ".join(
            f"{name} {percent(value)}" for name, value in list(self.probabilities.items())[:2]
        )
        unlike = "; unlike the labelled images" if self.is_outlier else ""
        return in_line(f"{shown_path(self.path)}: {likely}{unlike}")


@dataclass(frozen=True)
class ReviewReport(ShownAsText):
    """Doubtful labels in the order in which they should be looked at.

    Attributes:
        doubts: Copies under two labels first, then likely wrong labels, the least probable label
            first, then near-duplicates under two labels, then outliers.
        to_label: Images without a label, those to label first first.
        class_names: The classes.
        num_images: Number of labelled images.
        num_decided: Number of them that were decided before; they are not among the doubts.
        num_errors: Estimated number of wrong labels.
        estimated: Estimated number of images by label, and by the class that they are of.
        accuracy: Fraction of the images whose label is the most probable class by heads that were
            not solved on them.
        interval: 95 % confidence interval of the accuracy, `None` with fewer than 20 images.
        decisions: The decisions that were given.
        page: Path of the page that was written; `None` if none was.
        num_shown: Number of images on the page.
        notes: Further notes.
    """

    doubts: tuple[Doubt, ...]
    to_label: tuple[ToLabel, ...]
    class_names: tuple[str, ...]
    num_images: int
    num_decided: int
    num_errors: float
    estimated: Mapping[str, Mapping[str, float]]
    accuracy: float
    interval: Interval | None
    decisions: tuple[Decision, ...] = ()
    page: str | None = None
    num_shown: int = 0
    notes: tuple[str, ...] = ()

    @property
    def num_by_kind(self) -> dict[str, int]:
        """Number of doubts of each kind; an image may have several."""
        counts = Counter(kind for doubt in self.doubts for kind in doubt.kinds)
        return {kind: counts[kind] for kind in KINDS if counts[kind]}

    def __str__(self) -> str:
        lines = [*self._summary(), *self.notes]
        for title, items in (("Doubts", self.doubts), ("To label next", self.to_label)):
            if not items:
                continue
            lines.append(f"{title} ({len(items):,}):")
            lines += [f"  {item}" for item in items[:SHOWN]]
            if len(items) > SHOWN:
                lines.append(f"  ... and {len(items) - SHOWN:,} more")
        if self.page is not None:
            shown = counted(self.num_shown, "image")
            lines.append(f"page: {self.page} ({shown}; open it in a browser)")
        return "\n".join(lines)

    def _summary(self) -> list[str]:
        before = f", {self.num_decided:,} of them decided before" if self.num_decided else ""
        accuracy = fraction_text(self.accuracy, self.num_images, self.interval)
        errors = counted(round(self.num_errors), "wrong label")
        lines = [
            f"{counted(self.num_images, 'image')} of {len(self.class_names)} classes{before}: "
            f"about {errors}; out-of-fold accuracy {accuracy}"
        ]
        found = [f"{number:,} {KINDS[kind]}" for kind, number in self.num_by_kind.items()]
        return [*lines, ", ".join(found) if found else "no doubts"]
