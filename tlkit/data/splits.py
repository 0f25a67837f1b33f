"""Which split a picture belongs to: a rule of its content, its class and the seed alone."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tlkit.data.reports import Leak
from tlkit.errors import DataError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Picture:
    """A readable picture.

    Attributes:
        path: Where it is.
        class_name: Its class; empty where pictures have several labels.
        digest: The hash of its content.
        split: The user's own, empty where there is none.
        labels: All its labels, where it may have several.
    """

    path: str
    class_name: str
    digest: str
    split: str = ""
    labels: tuple[str, ...] = ()


@dataclass
class Division:
    """The positions of the pictures in each split, and what stood in their way."""

    splits: dict[str, list[int]]
    duplicates: list[tuple[str, ...]] = field(default_factory=list)
    conflicts: list[tuple[str, ...]] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def divide(pictures: Sequence[Picture], shares: tuple[float, float, float], seed: int) -> Division:
    """Divides pictures into training, validation and test.

    The user's own split stays as it is; only where it has neither validation nor anything but
    training, what lacks is taken from training. Otherwise a picture's place is
    u = hash(content, class, seed), a number in [0, 1): training below the first share, then
    validation, then test. So copies stay together, and no picture moves when others come.
    The exception is a class in which a split would come out empty: the pictures that are nearest
    in u then fill training, validation and test, in this order, with one each.

    The same content in several classes is a conflict, and in no split at all. Training keeps
    copies; validation and test have each content once, and none that an earlier split has.

    Args:
        pictures: All readable pictures, in the order that they shall keep.
        shares: Of training, validation and test.
        seed: Of the rule.
    """
    division = Division({})
    by_content: dict[str, list[int]] = defaultdict(list)
    for position, picture in enumerate(pictures):
        by_content[picture.digest].append(position)
    usable = []
    for positions in by_content.values():
        paths = tuple(pictures[position].path for position in positions)
        labels = {(pictures[row].class_name, pictures[row].labels) for row in positions}
        if len(labels) > 1:
            division.conflicts.append(paths)
            continue
        usable += positions
        if len(positions) > 1:
            division.duplicates.append(paths)
    places = _own_places(pictures, usable, division, shares, seed)
    _fill_splits(pictures, sorted(usable), places, division)
    return division


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
    for name, positions in division.splits.items():
        if not positions and any(picture.split == name for picture in pictures):
            raise DataError(
                f"The {name} split must hold pictures that training does not hold. Received: "
                f"{len(division.leaks)} copies of earlier pictures and {len(division.conflicts)} "
                "conflicts. Put other pictures into it, or remove its folder."
            )
    if untrained := sorted(set(contents) - in_train):
        raise DataError(
            "Every class must have pictures in `train`. Received: none there for "
            f"{', '.join(map(repr, untrained))}. Add some, or remove the class."
        )
    if len(contents) < 2:
        found = ", ".join(map(repr, sorted(contents))) or "none"
        raise DataError(
            f"There must be pictures of at least two classes. Received: classes={found}. "
            "Put one folder for each class side by side, with pictures in it."
        )
    if single := sorted(name for name, digests in contents.items() if len(digests) == 1):
        raise DataError(
            "Every class must have at least two different pictures. Received: a single picture "
            f"of {', '.join(map(repr, single))}. Add some, or remove the class."
        )
    if broken := sorted(name for name in contents if not is_one_line(name)):
        raise DataError(
            "Every class must have a name of one line. Received: "
            f"{', '.join(map(repr, broken))}. Rename the class."
        )
    return tuple(sorted(contents))


def is_one_line(class_name: str) -> bool:
    """Whether a class's name can stand on a line of its own in an exported model's list."""
    return str(class_name).splitlines() == [str(class_name)]


def place(digest: str, class_name: str, seed: int) -> float:
    """The number in [0, 1) that decides on a picture's split."""
    text = f"{digest}\0{class_name}\0{seed}"
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return (number >> 11) / 2**53  # all the bits a float holds, so that none is rounded up to 1


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the "balanced" weight of each class: num_images / (num_classes × count).

    Weighted by them, all classes together count as much as before, and each as much as any other.
    A class without a picture weighs 0.

    Args:
        labels: `(num_images,)`, whole numbers from 0 to `num_classes - 1`.
        num_classes: How many classes there are.

    Returns:
        float64, `(num_classes,)`.

    Example:
        >>> import numpy as np
        >>> from tlkit.data.splits import class_weights
        >>> class_weights(np.array([0, 0, 0, 1]), 2).round(3).tolist()
        [0.667, 2.0]

    Reference:
        King and Zeng, Logistic Regression in Rare Events Data, 2001, in the form that
        https://scikit-learn.org/stable/modules/generated/sklearn.utils.class_weight.compute_class_weight.html
        gives it.
    """
    counts = np.bincount(labels, minlength=num_classes)
    return np.where(counts > 0, len(labels) / (num_classes * np.maximum(counts, 1)), 0.0)


def _own_places(
    pictures: Sequence[Picture],
    usable: list[int],
    division: Division,
    shares: tuple[float, float, float],
    seed: int,
) -> dict[int, str]:
    """The split of each usable position, before copies are looked at."""
    own = {pictures[position].split for position in usable} - {""}
    free = [position for position in usable if pictures[position].split in ("", "train")]
    if "validation" in own:
        return {position: pictures[position].split for position in usable}
    if "test" in own:
        train, validation, _ = shares
        shares = (train / (train + validation), validation / (train + validation), 0.0)
        if validation:
            division.notes.append("There is no validation folder: it is taken from `train`.")
    places = _rule(pictures, free, division, shares, seed)
    return places | {position: "test" for position in usable if pictures[position].split == "test"}


def _rule(
    pictures: Sequence[Picture],
    positions: list[int],
    division: Division,
    shares: tuple[float, float, float],
    seed: int,
) -> dict[int, str]:
    wanted = [name for name, share in zip(SPLITS, shares, strict=True) if share > 0]
    ends = np.cumsum([share for share in shares if share > 0])[:-1]
    by_class: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for position in positions:
        picture = pictures[position]
        by_class[picture.class_name][picture.digest].append(position)
    places, too_small = {}, []
    for class_name, by_content in sorted(by_class.items()):
        order = sorted((place(digest, class_name, seed), digest) for digest in by_content)
        cuts = np.searchsorted([number for number, _ in order], ends)
        filled = _with_none_empty(list(map(int, cuts)), len(order))
        if filled != list(cuts):
            too_small.append(class_name)
        for rank, (_, digest) in enumerate(order):
            name = wanted[sum(rank >= cut for cut in filled)]
            places.update(dict.fromkeys(by_content[digest], name))
    if too_small:
        names = ", ".join(map(repr, too_small))
        division.notes.append(
            f"So small that a split would have been empty, and filled with the nearest: {names}."
        )
    return places


def _with_none_empty(cuts: list[int], count: int) -> list[int]:
    """Moves the cuts between the splits of `count` pictures so that as many as can have one."""
    for index in range(len(cuts)):
        earliest = index + 1
        latest = max(count - (len(cuts) - index), earliest)
        cuts[index] = min(max(cuts[index], earliest), latest)
        if index:
            cuts[index] = max(cuts[index], cuts[index - 1] + 1)
    return [min(cut, count) for cut in cuts]


def _fill_splits(
    pictures: Sequence[Picture], usable: list[int], places: dict[int, str], division: Division
) -> None:
    first: dict[str, tuple[str, int]] = {}
    counts = Counter(places.values())
    for name in SPLITS:
        if name not in counts:
            continue
        division.splits[name] = []
        for position in usable:
            if places[position] != name:
                continue
            picture = pictures[position]
            split, earlier = first.setdefault(picture.digest, (name, position))
            if split != name:
                division.leaks.append(Leak(pictures[earlier].path, picture.path))
            elif name == "train" or earlier == position:
                division.splits[name].append(position)
    if division.leaks:
        division.notes.append(
            f"Your own split leaks: {len(division.leaks)} pictures of validation or test also "
            "stand in an earlier split. These copies are kept out."
        )
