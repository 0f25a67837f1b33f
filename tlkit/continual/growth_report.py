"""The report on added classes: accuracy on old and new classes before and after."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText

EXACT, REPLAY, ISOLATED = "exact", "replay", "isolated"
METHODS = {
    EXACT: "the head of all images together that the statistics count, from sums over their "
    "features; the old logits change",
    REPLAY: "the old logits are bit-identical; the new classes are balanced against stored "
    "features of old images",
    ISOLATED: "the old logits are bit-identical; the new classes are trained without old images",
}
"""What each method promises."""


@dataclass(frozen=True)
class GrowthReport(ShownAsText):
    """The report on added classes: accuracy on old and new classes before and after.

    Attributes:
        old_names: The old classes.
        new_names: The added classes.
        method: A name of `METHODS`.
        exemplars: Requested number of stored features of each old class.
        num_replayed: Number of stored features that were replayed.
        num_counted: With "exact": number of images of all classes that the head was solved from.
        split: "test" or "validation", the split that accuracies were measured on, or "" for none.
        num_old: Number of its images of old classes.
        num_new: Number of its images of new classes.
        old_before: Accuracy of the old model on the old classes' images, among its own classes;
            `None` without such images.
        old_after: Accuracy of the new model on them, among all classes.
        new_before: 0.0, as the old model could not predict a new class; `None` without such images.
        new_after: Accuracy of the new model on the new classes' images, among all classes.
        joint: Accuracy of the exact head of all images together on the same images of old and of
            new classes; `None` unless all old images are still there.
        unaligned: Old and new accuracy before the new classes' weights were aligned; `None` if
            they were not.
        num_further: Number of images of old classes in the new folder; unless the method is
            "exact", they train the new rows against their classes, and the old outputs are not
            trained on them.
        from_stored: How many of the replayed features an earlier run had stored, for each old class
            with fewer images left than requested.
    """

    old_names: tuple[str, ...]
    new_names: tuple[str, ...]
    method: str = REPLAY
    exemplars: int = 0
    num_replayed: int = 0
    num_counted: int = 0
    split: str = ""
    num_old: int = 0
    num_new: int = 0
    old_before: float | None = None
    old_after: float | None = None
    new_before: float | None = None
    new_after: float | None = None
    joint: tuple[float | None, float | None] | None = None
    unaligned: tuple[float | None, float | None] | None = None
    num_further: int = 0
    from_stored: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        new_names = ", ".join(self.new_names)
        lines = [
            f"{len(self.old_names)} old classes, {len(self.new_names)} new: {new_names}",
            f"method {self.method}: {METHODS.get(self.method, '')}",
        ]
        if self.split:
            num_classes = len(self.old_names) + len(self.new_names)
            lines.append(f"{self.split} accuracy among all {num_classes} classes:")
        for what, num, before, after in (
            ("old", self.num_old, self.old_before, self.old_after),
            ("new", self.num_new, self.new_before, self.new_after),
        ):
            if before is None or after is None:
                lines.append(f"  {what} classes: no images to measure on")
                continue
            lines.append(
                f"  {what} classes: {percent(before)} before, {percent(after)} after (n = {num})"
            )
        if (overall := self._overall(self.old_after, self.new_after)) is not None:
            lines.append(
                f"  all classes: {percent(overall)} after (n = {self.num_old + self.num_new})"
            )
        if self.joint is not None:
            old, new = self.joint
            parts = {"old": old, "new": new, "all": self._overall(old, new)}
            shown = [f"{name} {percent(one)}" for name, one in parts.items() if one is not None]
            lines.append(f"  the exact head of all images together: {', '.join(shown)}")
        if self.unaligned is not None:
            first, second = (percent(one) if one is not None else "?" for one in self.unaligned)
            lines.append(f"  before weights were aligned: old {first}, new {second}")
        if self.num_further:
            lines.append(f"{self.num_further} images of old classes in the new folder {self._use}")
        lines.append(self._cost())
        return "\n".join(lines)

    @property
    def _use(self) -> str:
        """What images of old classes were used for."""
        if self.method == EXACT:
            return "were learned too"
        return "were used against the new classes; the old outputs are not trained on them"

    def _overall(self, old: float | None, new: float | None) -> float | None:
        """Returns the accuracy on all images; `None` unless both parts have some."""
        if old is None or new is None:
            return None
        return (old * self.num_old + new * self.num_new) / (self.num_old + self.num_new)

    def _cost(self) -> str:
        lost = "unknown"
        if self.old_before is not None and self.old_after is not None:
            lost = f"{100 * (self.old_before - self.old_after):.1f} points of old accuracy"
        if self.method == EXACT:
            return f"solved from sums over {self.num_counted:,} images of all classes; cost: {lost}"
        if self.method == ISOLATED:
            return f"no old image was replayed; cost: {lost}"
        replayed = f"{self.num_replayed} stored features of old images were replayed"
        if self.from_stored:
            stored = ", ".join(f"{num} of {name!r}" for name, num in self.from_stored.items())
            replayed = f"{replayed}, including from the earlier run {stored}"
        return f"{replayed}; cost: {lost}"
