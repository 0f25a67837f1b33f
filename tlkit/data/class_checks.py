"""Checks of the classes and labels of split images before training."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tlkit.data.folder_names import similar_names
from tlkit.data.splits import Division, ImageRecord
from tlkit.errors import DataError, quoted


def check_classes(
    images: Sequence[ImageRecord], division: Division, *, may_lack_classes: bool = False
) -> tuple[str, ...]:
    """Returns the sorted names of the classes that have images.

    Args:
        images: All readable images.
        division: Their splits.
        may_lack_classes: Whether one class is enough, and one image of a class.

    Raises:
        DataError: There are fewer than two classes; a class has a single image (copies count once);
            a class of validation or test has no training image; the user's own validation or test
            split has nothing but copies of images of earlier splits; or a class name spans several
            lines, which the class list of an exported model cannot hold.
    """
    contents: dict[str, set[str]] = defaultdict(set)
    in_train = set()
    for name, positions in division.splits.items():
        for position in positions:
            image = images[position]
            contents[image.class_name].add(image.digest)
            if name == "train":
                in_train.add(image.class_name)
    check_own_splits(images, division)
    if untrained := sorted(set(contents) - in_train):
        raise DataError(
            "Every class must have images in `train`. Received: no training images of "
            f"{quoted(untrained)}. Add some, or remove the class."
        )
    if len(contents) < (1 if may_lack_classes else 2):
        found = quoted(sorted(contents)) or "none"
        raise DataError(
            f"There must be images of at least two classes. Received: classes={found}. "
            "Add images of another class."
        )
    single = sorted(name for name, digests in contents.items() if len(digests) == 1)
    if single and not may_lack_classes:
        raise DataError(
            "Every class must have at least two different images. Received: a single image "
            f"of {quoted(single)}. Add some, or remove the class."
        )
    _check_names(contents)
    return tuple(sorted(contents))


def check_labels(images: Sequence[ImageRecord], division: Division) -> tuple[str, ...]:
    """Returns the sorted labels of a multi-label data set.

    Raises:
        DataError: There are fewer than two labels, or fewer than two different images; the user's
            own validation or test split has nothing but copies of images of earlier splits; or a
            label spans several lines.
    """
    check_own_splits(images, division)
    used = [images[row] for rows in division.splits.values() for row in rows]
    _check_different(used)
    labels = {label for image in used for label in image.labels}
    if len(labels) < 2:
        found = quoted(sorted(labels)) or "none"
        raise DataError(
            f"There must be at least two labels. Received: labels={found}. For a single yes/no "
            "label, give each image one of two classes instead."
        )
    _check_names(labels)
    return tuple(sorted(labels))


def _check_different(images: Sequence[ImageRecord]) -> None:
    """Raises `DataError` unless there are at least two different images."""
    if len({image.digest for image in images}) < 2:
        raise DataError(
            "There must be at least two different images. "
            f"Received: {len(images)} images. Add some."
        )


def check_own_splits(images: Sequence[ImageRecord], division: Division) -> None:
    """Raises `DataError` if all images of the user's validation or test split were left out."""
    for name, positions in division.splits.items():
        if not positions and any(image.split == name for image in images):
            raise DataError(
                f"The {name} split must have images that earlier splits do not have. Received: "
                f"only {len(division.leaks)} copies of earlier images, {len(division.group_leaks)} "
                f"images of earlier groups and {len(division.conflicts)} conflicts. Add other "
                "images to it, or remove this split."
            )


def _check_names(names: Iterable[str]) -> None:
    if broken := sorted(name for name in names if not is_one_line(name)):
        raise DataError(
            "Every class must have a single-line name. Received: "
            f"{quoted(broken)}. Rename the class."
        )


def check_similar_names(names: Iterable[str]) -> None:
    """Raises `DataError` if class names differ only in case, spaces or invisible characters.

    They are usually one class with two spellings; if not, readers of a report confuse them.
    """
    if found := similar_names(names):
        raise DataError(
            "Every class must have a name that differs from the others in more than case, spaces "
            f"and invisible characters. Received: {found}. Merge them, rename one, or, if they are "
            "different classes, list all names in `class_names`."
        )


def is_one_line(class_name: str) -> bool:
    """Whether a class name fits on one line, as the class list of an exported model requires."""
    return str(class_name).splitlines() == [str(class_name)]
