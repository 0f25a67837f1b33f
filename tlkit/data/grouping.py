"""Groups of images that must stay in one split, such as those of one patient or one scene."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from numbers import Integral
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tlkit.data.listing import Listing
from tlkit.errors import ArgumentError, DataError, quoted
from tlkit.utils.formatting import percent

GroupKey = Callable[[Path], str | int | None]
"""A function from an image's path to its group's key; `None` or "" for no group."""

_MAX_UNNOTED_DEVIATION = 0.15


@dataclass(frozen=True)
class SplitGroup:
    """A group, or an image without one with its copies, that goes into one split as a whole.

    Attributes:
        place: The number in [0, 1) that determines its split.
        classes: The classes of its images.
        positions: The positions of its images.
    """

    place: float
    classes: frozenset[str]
    positions: tuple[int, ...]


def assign_groups(listing: Listing, groups: GroupKey) -> None:
    """Sets each file's group to the key that `groups` returns for its path, in place.

    If it returns no key for any path, a note is added: it may expect paths of another form.

    Raises:
        ArgumentError: `groups` is not callable, or returns something else than a key.
    """
    if not callable(groups):
        raise ArgumentError(
            "`groups` must be a function from a path to the key of its group. Received: "
            f"groups={groups!r}. Write for example groups=lambda path: path.stem.split('_')[0]."
        )
    files = [
        replace(file, group=group_text(groups(Path(file.path)), file.path))
        for file in listing.files
    ]
    listing.files = files
    if files and not any(file.group for file in files):
        listing.notes.append(
            f"`groups` returned no key for any image, such as {files[0].path!r}: there are no "
            "groups."
        )


def group_text(key: object, path: str) -> str:
    """Returns the key of an image's group as text, "" for no group.

    Raises:
        ArgumentError: `key` is not text, a whole number or `None`.
    """
    if key is not None and (isinstance(key, bool) or not isinstance(key, str | Integral)):
        raise ArgumentError(
            "`groups` must be text or a whole number for each image, or None for no "
            f"group. Received: {key!r} for {path!r}. Convert it with str()."
        )
    return "" if key is None else str(key).strip()


def join_groups(members: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[tuple[str, ...]]]:
    """Joins groups that contain copies of the same image, which must not be in two splits.

    Args:
        members: The digest and the group of each image; "" for no group.

    Returns:
        The group of each digest that has one, and the keys that were joined. A joined group is
        named by the first of its sorted keys.
    """
    group_of_digest: dict[str, str] = {}
    shared = [(group_of_digest.setdefault(digest, key), key) for digest, key in members if key]
    if not shared:
        return {}, []
    keys = sorted({key for _, key in shared})
    numbers = {key: number for number, key in enumerate(keys)}
    edges = [(numbers[one], numbers[other]) for one, other in shared if one != other]
    ends = np.array(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges), bool), ends), shape=(len(keys),) * 2)
    clusters: dict[int, list[str]] = defaultdict(list)
    for key, number in zip(keys, connected_components(graph, directed=False)[1], strict=True):
        clusters[number].append(key)
    first = {key: cluster[0] for cluster in clusters.values() for key in cluster}
    joined = sorted(tuple(cluster) for cluster in clusters.values() if len(cluster) > 1)
    return {digest: first[key] for digest, key in group_of_digest.items()}, joined


def place_groups(
    groups: Mapping[str, SplitGroup], fractions: Mapping[str, float]
) -> tuple[dict[str, str], list[str]]:
    """Assigns whole groups to splits by their `place`, and fills splits that would lack a class.

    A class with k groups must be present in the first k splits, in the order of `fractions`. If the
    places leave it out of one, its group with the nearest place moves there, unless another class
    would lose its last group in a split. Into training it moves even then.

    Args:
        groups: The groups by key.
        fractions: The fractions of the splits wanted, in the order training, validation, test.

    Returns:
        The split of each group, and notes for the report.

    Raises:
        DataError: A split remains without a group.
    """
    splits = _Placement(groups, fractions)
    unserved: dict[str, list[str]] = defaultdict(list)
    moved: list[str] = []
    for split in fractions:
        for name in splits.classes:
            if splits.has(split, name):
                continue
            is_moved = splits.is_entitled(split, name) and splits.move_into(split, name)
            (moved if is_moved else unserved[split]).append(name)
    for split in fractions:
        if split not in splits.split_of_group.values():
            raise DataError(
                "Images of one group must be in one split, and no split may be empty. "
                f"Received: {len(groups)} groups, none of which can be moved to {split}. "
                "Add groups, or leave this split out with a fraction of 0 in `splits`."
            )
    notes = [
        f"Classes with too few groups to be in {split}: {quoted(names)}."
        for split, names in unserved.items()
        if names
    ]
    if moved:
        names = quoted(dict.fromkeys(moved))
        notes.append(f"Classes with few groups, of which one was moved to fill a split: {names}.")
    return splits.split_of_group, [
        *notes,
        *_notes_on_fractions(groups, splits.split_of_group, fractions),
    ]


class _Placement:
    """The assignment of groups to splits, and the number of groups per split and class.

    Attributes:
        split_of_group: The split of each group.
        classes: The keys of the groups of each class; classes with the fewest groups first.
    """

    def __init__(self, groups: Mapping[str, SplitGroup], fractions: Mapping[str, float]) -> None:
        bounds = np.cumsum([0.0, *fractions.values()])
        self._groups, self._names = groups, tuple(fractions)
        self._bounds = dict(zip(fractions, pairwise(bounds), strict=True))
        self._counts: Counter[tuple[str, str]] = Counter()
        self.split_of_group: dict[str, str] = {}
        found: dict[str, list[str]] = defaultdict(list)
        for key, group in sorted(groups.items()):
            index = int(np.searchsorted(bounds[1:-1], group.place, side="right"))
            self._assign(key, self._names[index])
            for name in group.classes:
                found[name].append(key)
        self.classes = dict(sorted(found.items(), key=lambda item: (len(item[1]), item[0])))

    def has(self, split: str, class_name: str) -> bool:
        """Whether a split has a group of a class."""
        return self._counts[split, class_name] > 0

    def is_entitled(self, split: str, class_name: str) -> bool:
        """Whether a class has enough groups to be present in a split."""
        return self._names.index(split) < len(self.classes[class_name])

    def move_into(self, split: str, class_name: str) -> bool:
        """Moves the class's nearest movable group into a split; returns whether there was one."""
        keys = self.classes[class_name]
        movable = [key for key in keys if self._is_movable(key)]
        if split == self._names[0]:  # training must have every class
            movable = movable or keys
        if not movable:
            return False
        low, high = self._bounds[split]
        places = {key: self._groups[key].place for key in movable}
        nearest = min(places, key=lambda key: (max(low - places[key], places[key] - high), key))
        self._assign(nearest, split)
        return True

    def _is_movable(self, key: str) -> bool:
        split = self.split_of_group[key]
        return all(
            self._counts[split, name] > 1 or not self.is_entitled(split, name)
            for name in self._groups[key].classes
        )

    def _assign(self, key: str, split: str) -> None:
        old_split = self.split_of_group.get(key)
        self.split_of_group[key] = split
        for name in self._groups[key].classes:
            self._counts[split, name] += 1
            if old_split is not None:
                self._counts[old_split, name] -= 1


def _notes_on_fractions(
    groups: Mapping[str, SplitGroup],
    split_of_group: Mapping[str, str],
    fractions: Mapping[str, float],
) -> list[str]:
    """Returns notes on splits whose fraction of the images is far from the one requested."""
    total = sum(len(group.positions) for group in groups.values())
    notes = []
    for split, fraction in fractions.items():
        num_images = sum(
            len(group.positions) for key, group in groups.items() if split_of_group[key] == split
        )
        if abs(num_images / total - fraction) > _MAX_UNNOTED_DEVIATION:
            notes.append(
                f"Groups are so few or uneven that {split} has {percent(num_images / total, 0)} of "
                f"the images instead of {percent(fraction, 0)}; another seed gives another split."
            )
    return notes
