"""Which split an image belongs to: a rule of its content, class or group, and the seed alone."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tlkit.data.grouping import Unit, join_groups, place_units
from tlkit.data.reports import Leak
from tlkit.errors import some_of

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ImageRecord:
    """A readable image.

    Attributes:
        path: Where it is.
        class_name: Its class; empty where images have several labels.
        digest: The hash of its content.
        split: The user's own, empty where there is none.
        labels: All its labels, where it may have several.
        group: The key of the images that it must not be torn from; empty where it has none.
        checksum: A hash by which the graph recognises its content, see `tlkit.data.checksums`.
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
    """The positions of the images in each split, and what stood in their way."""

    splits: dict[str, list[int]]
    duplicates: list[tuple[str, ...]] = field(default_factory=list)
    conflicts: list[tuple[str, ...]] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    group_leaks: list[Leak] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def in_whole_groups(images: Sequence[ImageRecord]) -> tuple[list[ImageRecord], list[str]]:
    """Joins groups that share a content; what has no group takes that of its copies.

    Returns:
        The images with their groups, and what is to be noted.
    """
    of_content, joined = join_groups((image.digest, image.group) for image in images)
    notes = []
    if joined:
        keys = some_of([some_of(one, separator=" = ") for one in joined])
        notes.append(f"Groups joined, as they share an image: {keys}.")
    return [replace(one, group=of_content.get(one.digest, "")) for one in images], notes


def divide(
    images: Sequence[ImageRecord], shares: tuple[float, float, float], seed: int
) -> Division:
    """Divides images into training, validation and test.

    The user's own split stays as it is; only where it has neither validation nor anything but
    training, what lacks is taken from training. Otherwise an image's place is
    u = hash(content, class, seed), a number in [0, 1): training below the first share, then
    validation, then test. So copies stay together, and no image moves when others come.
    The exception is a class in which a split would come out empty: the images that are nearest
    in u then fill training, validation and test, in this order, with one each.

    Where images have groups, a group goes into one split as a whole, by u = hash(group, seed):
    so a group is in the same split whatever images it has, and whatever others there are. The
    exception is as above, see `place_units`. In the user's own split, images of a group that an
    earlier split holds are kept out, as copies are. All images of one content must be given the
    same group.

    The same content in several classes is a conflict, and in no split at all. Training keeps
    copies; validation and test have each content once, and none that an earlier split has.

    Args:
        images: All readable images, in the order that they shall keep.
        shares: Of training, validation and test.
        seed: Of the rule.

    Raises:
        DataError: Groups are so few that a split would be empty.
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
    places = _own_places(images, usable, division, shares, seed)
    _fill_splits(images, sorted(usable), places, division)
    return division


def place(digest: str, class_name: str, seed: int) -> float:
    """The number in [0, 1) that decides on an image's split."""
    return _number(f"{digest}\0{class_name}\0{seed}")


def place_of_group(group: str, seed: int) -> float:
    """The number in [0, 1) that decides on the split of a group's images."""
    return _number(f"{group}\0{seed}")


def _number(text: str) -> float:
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return (number >> 11) / 2**53  # all the bits a float holds, so that none is rounded up to 1


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the "balanced" weight of each class: num_images / (num_classes × count).

    Weighted by them, all classes together count as much as before, and each as much as any other.
    A class without an image weighs 0.

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
    images: Sequence[ImageRecord],
    usable: list[int],
    division: Division,
    shares: tuple[float, float, float],
    seed: int,
) -> dict[int, str]:
    """The split of each usable position, before copies are looked at."""
    own = {images[position].split for position in usable} - {""}
    free = [position for position in usable if images[position].split in ("", "train")]
    if "validation" in own:
        return {position: images[position].split for position in usable}
    if "test" in own:
        train, validation, _ = shares
        shares = (train / (train + validation), validation / (train + validation), 0.0)
        if validation:
            division.notes.append("There is no validation split: it is taken from `train`.")
    if any(images[position].group for position in free):
        places = _rule_of_groups(images, free, division, shares, seed)
    else:
        places = _rule(images, free, division, shares, seed)
    return places | {position: "test" for position in usable if images[position].split == "test"}


def _rule(
    images: Sequence[ImageRecord],
    positions: list[int],
    division: Division,
    shares: tuple[float, float, float],
    seed: int,
) -> dict[int, str]:
    wanted = [name for name, share in zip(SPLITS, shares, strict=True) if share > 0]
    ends = np.cumsum([share for share in shares if share > 0])[:-1]
    by_class: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for position in positions:
        image = images[position]
        by_class[image.class_name][image.digest].append(position)
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
        names = some_of(list(map(repr, too_small)))
        division.notes.append(
            f"So small that a split would have been empty, and filled with the nearest: {names}."
        )
    return places


def _rule_of_groups(
    images: Sequence[ImageRecord],
    positions: list[int],
    division: Division,
    shares: tuple[float, float, float],
    seed: int,
) -> dict[int, str]:
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position in positions:
        group, digest = images[position].group, images[position].digest
        members[(group, "") if group else ("", digest)].append(position)
    units = {}
    for (group, digest), rows in members.items():
        classes = frozenset(images[row].class_name for row in rows)
        alone = place(digest, images[rows[0]].class_name, seed)
        number = place_of_group(group, seed) if group else alone
        units[f"group {group}" if group else f"image {digest}"] = Unit(number, classes, tuple(rows))
    wanted = {name: share for name, share in zip(SPLITS, shares, strict=True) if share > 0}
    of_unit, notes = place_units(units, wanted)
    division.notes += notes
    return {row: of_unit[key] for key, unit in units.items() for row in unit.positions}


def _with_none_empty(cuts: list[int], count: int) -> list[int]:
    """Moves the cuts between the splits of `count` images so that as many as can have one."""
    for index in range(len(cuts)):
        earliest = index + 1
        latest = max(count - (len(cuts) - index), earliest)
        cuts[index] = min(max(cuts[index], earliest), latest)
        if index:
            cuts[index] = max(cuts[index], cuts[index - 1] + 1)
    return [min(cut, count) for cut in cuts]


def _fill_splits(
    images: Sequence[ImageRecord], usable: list[int], places: dict[int, str], division: Division
) -> None:
    first: dict[str, tuple[str, int]] = {}
    first_of_group: dict[str, tuple[str, int]] = {}
    counts = Counter(places.values())
    for name in SPLITS:
        if name not in counts:
            continue
        division.splits[name] = []
        for position in usable:
            if places[position] != name:
                continue
            image = images[position]
            here = (name, position)
            split, earlier = first.get(image.digest, here)
            if split != name:
                division.leaks.append(Leak(images[earlier].path, image.path))
                continue
            if image.group:
                split, mate = first_of_group.setdefault(image.group, here)
                if split != name:
                    division.group_leaks.append(Leak(images[mate].path, image.path))
                    continue
            first.setdefault(image.digest, here)
            if name == "train" or earlier == position:
                division.splits[name].append(position)
    if division.leaks:
        division.notes.append(
            f"Your own split leaks: {len(division.leaks)} images of validation or test also "
            "stand in an earlier split. These copies are kept out."
        )
    if division.group_leaks:
        division.notes.append(
            f"Your own split tears groups: {len(division.group_leaks)} images of validation or "
            "test are of a group that an earlier split holds. They are kept out."
        )
