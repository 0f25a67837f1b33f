"""How often each training image is seen, and how it is augmented."""

from collections.abc import Iterator
from dataclasses import dataclass

from tlkit.data.images import ImageSplit


@dataclass(frozen=True)
class ViewPolicy:
    """The views of each image whose activations are stored.

    Attributes:
        augment: Augmentation, by name; "none" leaves images as they are.
        number: How many views of each image; 0 where none is stored.

    Example:
        >>> from tlkit.training.views import ViewPolicy
        >>> str(ViewPolicy()), str(ViewPolicy("light", 8))
        ('1 view', '8 views')
    """

    augment: str = "none"
    number: int = 1

    def __str__(self) -> str:
        return f"{self.number} view{'' if self.number == 1 else 's'}"

    def keys(self, split: ImageSplit) -> Iterator[tuple[str, ...]]:
        """Yields for each view a key for each image in its size, which some networks leave open."""
        height, width = split.image_size
        sized = [f"{digest}-{height}x{width}" for digest in split.digests]
        for view in range(self.number):
            suffix = "" if self.augment == "none" else f"-{self.augment}-{split.seed}-{view}"
            yield tuple(f"{name}{suffix}" for name in sized)


PLAIN = ViewPolicy()
"""Each image once, as it is."""
