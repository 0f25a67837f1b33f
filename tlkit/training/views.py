"""Views: the stored augmented versions of each training image."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tlkit.data.augmentation import AUGMENTATION_VERSION, Augmentation
from tlkit.data.images import ImageSplit
from tlkit.data.settings import RGB, STRETCH
from tlkit.utils.formatting import counted


@dataclass(frozen=True)
class ViewPolicy:
    """The views of each image whose activations are stored.

    Attributes:
        augmentation: How images are augmented; by default they are left unchanged.
        number: Number of views of each image; 0 if none is stored.

    Example:
        >>> from tlkit.data.augmentation import Augmentation
        >>> from tlkit.training.views import ViewPolicy
        >>> str(ViewPolicy()), str(ViewPolicy(Augmentation("light"), 8))
        ('1 view', '8 views')
    """

    augmentation: Augmentation = field(default_factory=Augmentation)
    number: int = 1

    def __str__(self) -> str:
        return counted(self.number, "view")

    def keys(self, split: ImageSplit) -> Iterator[tuple[str, ...]]:
        """Yields for each view the keys of all images.

        A key includes the image size, because some networks accept images of any size, how images
        are resized to it unless they are stretched, and their channels unless there are three.
        """
        height, width = split.image_size
        resize = "" if split.resize == STRETCH else f"-{split.resize}"
        channels = "" if split.channels == RGB else f"x{split.channels}"
        sized = [f"{digest}-{height}x{width}{channels}{resize}" for digest in split.digests]
        for view in range(self.number):
            augmented = f"{self.augmentation.key}.{AUGMENTATION_VERSION}-{split.seed}-{view}"
            suffix = "" if self.augmentation.is_none else f"-{augmented}"
            yield tuple(f"{name}{suffix}" for name in sized)


PLAIN = ViewPolicy()
"""One view of each image, without augmentation."""
