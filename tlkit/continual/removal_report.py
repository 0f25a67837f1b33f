"""The report on forgotten images: what is left, and what the forgetting covers."""

from dataclasses import dataclass

from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText


@dataclass(frozen=True)
class RemovalReport(ShownAsText):
    """The report on images that a head has forgotten.

    Attributes:
        num_images: Number of images that were forgotten.
        num_left: Number of images that the head is solved from.
        removed_names: Classes that were forgotten as a whole.
        num_seen: Number of these images on which the network below the head was trained.
        split: "test" or "validation", the split that accuracies were measured on, or "" for none.
        num_measured: Number of its images of the remaining classes.
        before: Accuracy of the earlier model on them, among all of its classes; `None` without
            such images.
        after: Accuracy of the new model on them.
    """

    num_images: int
    num_left: int
    removed_names: tuple[str, ...]
    num_seen: int
    split: str = ""
    num_measured: int = 0
    before: float | None = None
    after: float | None = None

    def __str__(self) -> str:
        names = ", ".join(self.removed_names)
        lines = [
            f"{self.num_images:,} images forgotten"
            + (f", with all of {names}" if names else "")
            + f"; the head is solved from the other {self.num_left:,}"
        ]
        if self.before is not None and self.after is not None:
            lines.append(
                f"{self.split} accuracy on the remaining classes: {percent(self.before)} before, "
                f"{percent(self.after)} after (n = {self.num_measured:,})"
            )
        lines.append(
            "the head is the one that never saw these images, up to rounding; its map of features "
            "is still scaled by the mean and deviation of the features of the first images, and "
            "its temperature is unchanged"
        )
        if self.num_seen:
            lines.append(
                f"not covered: the network below the head was trained on {self.num_seen:,} of "
                "these images and has still seen them. Train it again without them to remove that "
                "too"
            )
        else:
            lines.append("the network below the head was never trained on these images")
        return "\n".join(lines)
