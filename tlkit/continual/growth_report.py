"""The report on added classes: accuracy on old and new classes before and after."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText


@dataclass(frozen=True)
class GrowthReport(ShownAsText):
    """The report on added classes: accuracy on old and new classes before and after.

    Attributes:
        old_names: The old classes.
        new_names: The added classes.
        exemplars: Requested number of stored features of each old class.
        num_replayed: Number of stored features that were replayed.
        split: "test" or "validation", the split that accuracies were measured on, or "" for none.
        num_old: Number of its images of old classes.
        num_new: Number of its images of new classes.
        old_before: Accuracy of the old model on the old classes' images, among its own classes;
            `None` without such images.
        old_after: Accuracy of the new model on them, among all classes.
        new_before: 0.0, as the old model could not predict a new class; `None` without such images.
        new_after: Accuracy of the new model on the new classes' images, among all classes.
        unaligned: Old and new accuracy before the new classes' weights were aligned; `None` if
            they were not.
        num_further: Number of images of old classes in the new folder; they train the new rows
            against their classes, and the old outputs are not trained on them.
        from_stored: How many of the replayed features an earlier run had stored, for each old class
            with fewer images left than requested.
    """

    old_names: tuple[str, ...]
    new_names: tuple[str, ...]
    exemplars: int
    num_replayed: int
    split: str = ""
    num_old: int = 0
    num_new: int = 0
    old_before: float | None = None
    old_after: float | None = None
    new_before: float | None = None
    new_after: float | None = None
    unaligned: tuple[float | None, float | None] | None = None
    num_further: int = 0
    from_stored: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        new_names = ", ".join(self.new_names)
        lines = [f"{len(self.old_names)} old classes, {len(self.new_names)} new: {new_names}"]
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
        if self.unaligned is not None:
            old, new = [percent(one) if one is not None else "?" for one in self.unaligned]
            lines.append(f"  before weights were aligned: old {old}, new {new}")
        if self.num_further:
            lines.append(
                f"{self.num_further} images of old classes in the new folder were used against "
                "the new classes; the old outputs are not trained on them"
            )
        lines.append(self._cost())
        return "\n".join(lines)

    def _cost(self) -> str:
        if self.exemplars:
            replayed = f"{self.num_replayed} stored features of old images were replayed"
            stored = ", ".join(f"{num} of {name!r}" for name, num in self.from_stored.items())
            return f"{replayed}, including from the earlier run {stored}" if stored else replayed
        lost = "unknown"
        if self.old_before is not None and self.old_after is not None:
            lost = f"{100 * (self.old_before - self.old_after):.1f} points of old accuracy"
        return f"no old image was replayed (exemplars=0); cost: {lost}"
