"""Whether divided images can be trained on."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tlkit.data.folder_names import alike
from tlkit.data.splits import Division, ImageRecord
from tlkit.errors import DataError, some_of


def check_classes(images: Sequence[ImageRecord], division: Division) -> tuple[str, ...]:
    """Returns the names of the classes that have images, sorted.

    Raises:
        DataError: There are fewer than two classes; a class has a single image (copies count
            once); a class of validation or test has no image to train on; the user's own
            validation or test has none but copies of earlier images; or a class's name is not
            one line of text, which an exported model could not list.
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
            "Every class must have images in `train`. Received: none there for "
            f"{_named(untrained)}. Add some, or remove the class."
        )
    if len(contents) < 2:
        found = _named(sorted(contents)) or "none"
        raise DataError(
            f"There must be images of at least two classes. Received: classes={found}. "
            "Add images of another class."
        )
    if single := sorted(name for name, digests in contents.items() if len(digests) == 1):
        raise DataError(
            "Every class must have at least two different images. Received: a single image "
            f"of {_named(single)}. Add some, or remove the class."
        )
    _check_names(contents)
    return tuple(sorted(contents))


def check_labels(images: Sequence[ImageRecord], division: Division) -> tuple[str, ...]:
    """Returns the labels that images carry which may have several, sorted.

    Raises:
        DataError: There are fewer than two labels, or fewer than two different images; the
            user's own validation or test has none but copies of earlier images; or a label is
            not one line of text.
    """
    check_own_splits(images, division)
    used = [images[row] for rows in division.splits.values() for row in rows]
    _check_different(used)
    labels = {label for image in used for label in image.labels}
    if len(labels) < 2:
        found = _named(sorted(labels)) or "none"
        raise DataError(
            f"There must be at least two labels. Received: labels={found}. For one label that a "
            "image has or has not, give each image one of two classes."
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
    """Raises `DataError` if the user's validation or test holds nothing of its own."""
    for name, positions in division.splits.items():
        if not positions and any(image.split == name for image in images):
            raise DataError(
                f"The {name} split must hold images that training does not hold. Received: "
                f"{len(division.leaks)} copies of earlier images, {len(division.group_leaks)} "
                f"images of earlier groups and {len(division.conflicts)} conflicts. "
                "Put other images into it, or leave this split out."
            )


def _check_names(names: Iterable[str]) -> None:
    if broken := sorted(name for name in names if not is_one_line(name)):
        raise DataError(
            "Every class must have a name of one line. Received: "
            f"{_named(broken)}. Rename the class."
        )


def check_alike(names: Iterable[str]) -> None:
    """Raises `DataError` where names of classes differ in case, spaces or unseen characters alone.

    They are one class that was written in two ways, or are taken for it by who reads a report.
    """
    if found := alike(names):
        raise DataError(
            "Every class must have a name that differs from the others in more than case, spaces "
            f"and invisible characters. Received: {found}. Make them one class, rename one, or, if "
            "they are two, give all names (`class_names`)."
        )


def _named(names: Sequence[str]) -> str:
    return some_of(list(map(repr, names)))


def is_one_line(class_name: str) -> bool:
    """Whether a class's name can stand on a line of its own in an exported model's list."""
    return str(class_name).splitlines() == [str(class_name)]
