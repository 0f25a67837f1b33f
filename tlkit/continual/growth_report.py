"""What further classes brought, and what they cost the old ones, in figures and in words."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText


@dataclass(frozen=True)
class GrowthReport(ShownAsText):
    """What further classes brought, and what they cost the old ones.

    Attributes:
        old_names: The classes that were there.
        new_names: The classes that were added.
        exemplars: How many stored features of each old class were asked for.
        num_replayed: How many there were in all.
        split: "test" or "validation"; what the accuracies were measured on, or "" for none.
        num_old: Images of old classes in it.
        num_new: Images of new classes in it.
        old_before: Share of the old classes' images that the model before got right, among its
            own classes; `None` without such images.
        old_after: Share of them that are right now, among all classes.
        new_before: 0.0: the model before could name no new class; `None` without such images.
        new_after: Share of the new classes' images that are right now, among all classes.
        unaligned: Old and new accuracy before the new classes' weights were aligned; `None` where
            they were not.
        num_further: Images of old classes in the new folder that took part; they hold their
            classes' place against the new ones, and the old outputs learn nothing from them.
        from_stored: How many of the replayed features an earlier run had kept, for each old class
            that has fewer images left than were asked for.
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
        lines = [f"{len(self.old_names)} old classes and {len(self.new_names)} new: {self._new()}"]
        if self.split:
            lines.append(f"on {self.split}, all {len(self.old_names) + len(self.new_names)} asked:")
        for what, num, before, after in (
            ("old", self.num_old, self.old_before, self.old_after),
            ("new", self.num_new, self.new_before, self.new_after),
        ):
            if before is None or after is None:
                lines.append(f"  {what} classes: no image to measure on")
                continue
            images = "image" if num == 1 else "images"
            lines.append(
                f"  {what} classes: {percent(before)} before, {percent(after)} after "
                f"({num} {images})"
            )
        if self.unaligned is not None:
            shown = [percent(share) if share is not None else "?" for share in self.unaligned]
            lines.append(f"  before weights were aligned: old {shown[0]}, new {shown[1]}")
        if self.num_further:
            lines.append(
                f"{self.num_further} images of old classes in the new folder hold their place "
                "against the new ones; the old outputs learn nothing from them"
            )
        lines.append(self._cost())
        return "\n".join(lines)

    def _new(self) -> str:
        return ", ".join(self.new_names)

    def _cost(self) -> str:
        if self.exemplars:
            replayed = f"{self.num_replayed} stored features of old images were replayed"
            kept = ", ".join(f"{num} of {name!r}" for name, num in self.from_stored.items())
            return f"{replayed}, of which the earlier run had kept {kept}" if kept else replayed
        lost = ""
        if self.old_before is not None and self.old_after is not None:
            lost = f": {100 * (self.old_before - self.old_after):.1f} points of old accuracy"
        return f"no old image was replayed (exemplars=0), at a cost{lost or ' that is not known'}"
