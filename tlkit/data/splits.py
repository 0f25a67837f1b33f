"""Assigns images to splits by their content, class or group, and a seed."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tlkit.data.class_weighting import balanced_factors
from tlkit.data.grouping import SplitGroup, join_groups, place_groups
from tlkit.data.reports import Leak
from tlkit.errors import quoted, some_of

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ImageRecord:
    """A readable image.

    Attributes:
        path: The path of the file.
        class_name: Its class; empty for multi-label images.
        digest: The hash of its content.
        split: Its split if the user made one, else empty.
        labels: All its labels, for multi-label images.
        group: The key of its group, whose images stay in one split; empty without a group.
        checksum: A hash to verify its content in the graph, see `tlkit.data.checksums`.
    """

    path: str
    class_name: str
    digest: str
    split: str = ""
    labels: tuple[str, ...] = ()
    group: str = ""
    checksum: int = 0


@dataclass
class Division:
    """The positions of the images in each split, and the images that were left out."""

    splits: dict[str, list[int]]
    duplicates: list[tuple[str, ...]] = field(default_factory=list)
    conflicts: list[tuple[str, ...]] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    group_leaks: list[Leak] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def complete_groups(images: Sequence[ImageRecord]) -> tuple[list[ImageRecord], list[str]]:
    """Joins groups that share copies, and gives images without a group that of their copies.

    Returns:
        The images with their groups, and notes for the report.
    """
    group_of_digest, joined = join_groups((image.digest, image.group) for image in images)
    notes = []
    if joined:
        keys = some_of([some_of(one, separator=" = ") for one in joined])
        notes.append(f"Groups joined, as they share an image: {keys}.")
    return [replace(one, group=group_of_digest.get(one.digest, "")) for one in images], notes


def divide(
    images: Sequence[ImageRecord], fractions: tuple[float, float, float], seed: int
) -> Division:
    """Splits images into training, validation and test.

    A user's split is kept; if it has only training, or training and test, the missing splits are
    taken from training. Otherwise an image's place is u = hash(content, class, seed), a number in
    [0, 1): training below the first fraction, then validation, then test. So copies stay together,
    and no image moves when others are added. The exception is a class in which a split would be
    empty: the images nearest in u then fill training, validation and test, in this order, with one
    image each.

    A group goes into one split as a whole, by u = hash(group, seed): so its split depends neither
    on its images nor on other groups. The exception is as above, see `place_groups`. From a user's
    split, images whose group is in an earlier split are left out, and so are copies. All copies of
    an image must have the same group.

    Images with the same content in several classes are conflicts and in no split. Training keeps
    copies; validation and test have each content once, and none of an earlier split.

    Args:
        images: All readable images; their order is kept.
        fractions: The fractions of training, validation and test.
        seed: The seed of the hashes.

    Raises:
        DataError: There are so few groups that a split would be empty.
    """
    division = Division({})
    by_content: dict[str, list[int]] = defaultdict(list)
    for position, image in enumerate(images):
        by_content[image.digest].append(position)
    usable = []
    for positions in by_content.values():
        paths = tuple(images[position].path for position in positions)
        labels = {(images[row].class_name, images[row].labels) for row in positions}
        if len(labels) > 1:
            division.conflicts.append(paths)
            continue
        usable += positions
        if len(positions) > 1:
            division.duplicates.append(paths)
    assigned = _assign_splits(images, usable, division, fractions, seed)
    _fill_splits(images, sorted(usable), assigned, division)
    return division


def place(digest: str, class_name: str, seed: int) -> float:
    """Returns the number in [0, 1) that determines an image's split."""
    return _unit_hash(f"{digest}\0{class_name}\0{seed}")


def place_of_group(group: str, seed: int) -> float:
    """Returns the number in [0, 1) that determines a group's split."""
    return _unit_hash(f"{group}\0{seed}")


def _unit_hash(text: str) -> float:
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return (number >> 11) / 2**53  # as many bits as a float has, so that nothing is rounded up to 1


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the "balanced" weight of each class: num_images / (num_classes × count).

    With these weights each class has the same total weight, and the sum over all images is
    unchanged. A class without images has the weight 0.

    Args:
        labels: `(num_images,)`, whole numbers from 0 to `num_classes - 1`.
        num_classes: Number of classes.

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
    return balanced_factors(np.bincount(labels, minlength=num_classes))


def _assign_splits(
    images: Sequence[ImageRecord],
    usable: list[int],
    division: Division,
    fractions: tuple[float, float, float],
    seed: int,
) -> dict[int, str]:
    """Returns the split of each usable position, before copies across splits are left out."""
    user_splits = {images[position].split for position in usable} - {""}
    positions = [position for position in usable if images[position].split in ("", "train")]
    if "validation" in user_splits:
        return {position: images[position].split for position in usable}
    if "test" in user_splits:
        train, validation, _ = fractions
        fractions = (train / (train + validation), validation / (train + validation), 0.0)
        if validation:
            division.notes.append("There is no validation split: it is taken from `train`.")
    if any(images[position].group for position in positions):
        assigned = _assign_by_group(images, positions, division, fractions, seed)
    else:
        assigned = _assign_by_class(images, positions, division, fractions, seed)
    return assigned | {position: "test" for position in usable if images[position].split == "test"}


def _assign_by_class(
    images: Sequence[ImageRecord],
    positions: list[int],
    division: Division,
    fractions: tuple[float, float, float],
    seed: int,
) -> dict[int, str]:
    names = [name for name, fraction in zip(SPLITS, fractions, strict=True) if fraction > 0]
    ends = np.cumsum([fraction for fraction in fractions if fraction > 0])[:-1]
    by_class: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for position in positions:
        image = images[position]
        by_class[image.class_name][image.digest].append(position)
    assigned, too_small = {}, []
    for class_name, by_content in sorted(by_class.items()):
        order = sorted((place(digest, class_name, seed), digest) for digest in by_content)
        cuts = np.searchsorted([number for number, _ in order], ends)
        filled = _fill_empty_splits(list(map(int, cuts)), len(order))
        if filled != list(cuts):
            too_small.append(class_name)
        for rank, (_, digest) in enumerate(order):
            name = names[sum(rank >= cut for cut in filled)]
            assigned.update(dict.fromkeys(by_content[digest], name))
    if too_small:
        division.notes.append(
            "Classes so small that a split would be empty, which got the nearest images: "
            f"{quoted(too_small)}."
        )
    return assigned


def _assign_by_group(
    images: Sequence[ImageRecord],
    positions: list[int],
    division: Division,
    fractions: tuple[float, float, float],
    seed: int,
) -> dict[int, str]:
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position in positions:
        group, digest = images[position].group, images[position].digest
        members[(group, "") if group else ("", digest)].append(position)
    groups = {}
    for (group, digest), rows in members.items():
        classes = frozenset(images[row].class_name for row in rows)
        if group:
            key, number = f"group {group}", place_of_group(group, seed)
        else:
            key = f"image {digest}"
            number = place(digest, images[rows[0]].class_name, seed)
        groups[key] = SplitGroup(number, classes, tuple(rows))
    used = {name: fraction for name, fraction in zip(SPLITS, fractions, strict=True) if fraction}
    split_of_group, notes = place_groups(groups, used)
    division.notes += notes
    return {row: split_of_group[key] for key, one in groups.items() for row in one.positions}


def _fill_empty_splits(cuts: list[int], count: int) -> list[int]:
    """Moves the cuts between splits of `count` images so that as few as possible are empty."""
    for index in range(len(cuts)):
        earliest = index + 1
        latest = max(count - (len(cuts) - index), earliest)
        cuts[index] = min(max(cuts[index], earliest), latest)
        if index:
            cuts[index] = max(cuts[index], cuts[index - 1] + 1)
    return [min(cut, count) for cut in cuts]


def _fill_splits(
    images: Sequence[ImageRecord], usable: list[int], assigned: dict[int, str], division: Division
) -> None:
    first: dict[str, tuple[str, int]] = {}
    first_of_group: dict[str, tuple[str, int]] = {}
    counts = Counter(assigned.values())
    for name in SPLITS:
        if name not in counts:
            continue
        division.splits[name] = []
        for position in usable:
            if assigned[position] != name:
                continue
            image = images[position]
            current = (name, position)
            split, earlier = first.get(image.digest, current)
            if split != name:
                division.leaks.append(Leak(images[earlier].path, image.path))
                continue
            if image.group:
                split, earlier_mate = first_of_group.setdefault(image.group, current)
                if split != name:
                    division.group_leaks.append(Leak(images[earlier_mate].path, image.path))
                    continue
            first.setdefault(image.digest, current)
            if name == "train" or earlier == position:
                division.splits[name].append(position)
    if division.leaks:
        division.notes.append(
            f"Your split leaks: {len(division.leaks)} images of validation or test are copies of "
            "images of an earlier split. They are left out."
        )
    if division.group_leaks:
        division.notes.append(
            f"Your split divides groups: {len(division.group_leaks)} images of validation or test "
            "belong to a group of an earlier split. They are left out."
        )
