"""Whether divided pictures can be trained on."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tlkit.data.folder_names import alike
from tlkit.data.splits import Division, Picture
from tlkit.errors import DataError, some_of


def check_classes(pictures: Sequence[Picture], division: Division) -> tuple[str, ...]:
    """Returns the names of the classes that have pictures, sorted.

    Raises:
        DataError: There are fewer than two classes; a class has a single picture (copies count
            once); a class of validation or test has no picture to train on; the user's own
            validation or test has none but copies of earlier pictures; or a class's name is not
            one line of text, which an exported model could not list.
    """
    contents: dict[str, set[str]] = defaultdict(set)
    in_train = set()
    for name, positions in division.splits.items():
        for position in positions:
            picture = pictures[position]
            contents[picture.class_name].add(picture.digest)
            if name == "train":
                in_train.add(picture.class_name)
    check_own_splits(pictures, division)
    if untrained := sorted(set(contents) - in_train):
        raise DataError(
            "Every class must have pictures in `train`. Received: none there for "
            f"{_named(untrained)}. Add some, or remove the class."
        )
    if len(contents) < 2:
        found = _named(sorted(contents)) or "none"
        raise DataError(
            f"There must be pictures of at least two classes. Received: classes={found}. "
            "Add pictures of another class."
        )
    if single := sorted(name for name, digests in contents.items() if len(digests) == 1):
        raise DataError(
            "Every class must have at least two different pictures. Received: a single picture "
            f"of {_named(single)}. Add some, or remove the class."
        )
    _check_names(contents)
    return tuple(sorted(contents))


def check_labels(pictures: Sequence[Picture], division: Division) -> tuple[str, ...]:
    """Returns the labels that pictures carry which may have several, sorted.

    Raises:
        DataError: There are fewer than two labels, or fewer than two different pictures; the
            user's own validation or test has none but copies of earlier pictures; or a label is
            not one line of text.
    """
    check_own_splits(pictures, division)
    used = [pictures[row] for rows in division.splits.values() for row in rows]
    _check_different(used)
    labels = {label for picture in used for label in picture.labels}
    if len(labels) < 2:
        found = _named(sorted(labels)) or "none"
        raise DataError(
            f"There must be at least two labels. Received: labels={found}. For one label that a "
            "picture has or has not, give each picture one of two classes."
        )
    _check_names(labels)
    return tuple(sorted(labels))


def _check_different(pictures: Sequence[Picture]) -> None:
    """Raises `DataError` unless there are at least two different pictures."""
    if len({picture.digest for picture in pictures}) < 2:
        raise DataError(
            "There must be at least two different images. "
            f"Received: {len(pictures)} images. Add some."
        )


def check_own_splits(pictures: Sequence[Picture], division: Division) -> None:
    """Raises `DataError` if the user's validation or test holds nothing of its own."""
    for name, positions in division.splits.items():
        if not positions and any(picture.split == name for picture in pictures):
            raise DataError(
                f"The {name} split must hold pictures that training does not hold. Received: "
                f"{len(division.leaks)} copies of earlier pictures, {len(division.group_leaks)} "
                f"pictures of earlier groups and {len(division.conflicts)} conflicts. "
                "Put other pictures into it, or leave this split out."
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
