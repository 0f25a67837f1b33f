"""Images that belong together, such as those of one patient or of one scene."""

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
from tlkit.errors import ArgumentError, DataError, some_of
from tlkit.utils.formatting import percent

GroupKey = Callable[[Path], str | int | None]
"""From an image's path to the key of its group; `None` or "" for one that stands alone."""

_NOTED_DIFFERENCE = 0.15


@dataclass(frozen=True)
class Unit:
    """What goes into one split as a whole: a group, or an image that has none.

    Attributes:
        place: The number in [0, 1) that decides on its split.
        classes: Those of its images.
        positions: Those of its images.
    """

    place: float
    classes: frozenset[str]
    positions: tuple[int, ...]


def assign_groups(listing: Listing, groups: GroupKey) -> None:
    """Gives each file the key that `groups` makes of its path, in place.

    Where it makes none of any path, a note says so: its keys may be those of other paths.

    Raises:
        ArgumentError: `groups` is no function, or returns no key.
    """
    if not callable(groups):
        raise ArgumentError(
            "`groups` must be a function from a path to the key of its group. "
            f"Received: groups={groups!r}. Write groups=lambda path: path.stem.split('_')[0], say."
        )
    files = [
        replace(file, group=group_text(groups(Path(file.path)), file.path))
        for file in listing.files
    ]
    listing.files = files
    if files and not any(file.group for file in files):
        listing.notes.append(
            f"`groups` gave no image a key, {files[0].path!r} for one: each stands alone."
        )


def group_text(key: object, path: str) -> str:
    """Returns the key of an image's group as text, "" where it stands alone.

    Raises:
        ArgumentError: It is no key.
    """
    if key is not None and (isinstance(key, bool) or not isinstance(key, str | Integral)):
        raise ArgumentError(
            "`groups` must be text or a whole number for each image, or None for one that stands "
            f"alone. Received: {key!r} for {path!r}. Use str(...) of it, say."
        )
    return "" if key is None else str(key).strip()


def join_groups(members: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[tuple[str, ...]]]:
    """Joins groups that share a content, each of which must not stand in two splits.

    Args:
        members: Content and group of each image; "" where it has none.

    Returns:
        The group of each content that has one, and those that were joined. They go by the key
        that sorts first.
    """
    of_content: dict[str, str] = {}
    shared = [(of_content.setdefault(content, key), key) for content, key in members if key]
    if not shared:
        return {}, []
    keys = sorted({key for _, key in shared})
    numbers = {key: number for number, key in enumerate(keys)}
    edges = [(numbers[one], numbers[other]) for one, other in shared if one != other]
    ends = np.array(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges), bool), ends), shape=(len(keys),) * 2)
    joined: dict[int, list[str]] = defaultdict(list)
    for key, cluster in zip(keys, connected_components(graph, directed=False)[1], strict=True):
        joined[cluster].append(key)
    first = {key: together[0] for together in joined.values() for key in together}
    found = sorted(tuple(together) for together in joined.values() if len(together) > 1)
    return {content: first[key] for content, key in of_content.items()}, found


def place_units(
    units: Mapping[str, Unit], shares: Mapping[str, float]
) -> tuple[dict[str, str], list[str]]:
    """Places whole units in splits by their number alone, and fills what would be empty.

    As many splits as a class has units, in the order of `shares`, get one of them: where the
    numbers leave a class out of one, the nearest unit that is not the last of another class
    there moves. To training it moves even then.

    Args:
        units: By key.
        shares: Of the splits that are wanted, in the order training, validation, test.

    Returns:
        The split of each unit, and what is to be noted.

    Raises:
        DataError: A split has no unit all the same.
    """
    splits = _Placed(units, shares)
    missed: dict[str, list[str]] = defaultdict(list)
    moved: list[str] = []
    for split in shares:
        for name in splits.classes:
            if splits.has(split, name):
                continue
            is_moved = splits.is_due(split, name) and splits.bring(split, name)
            (moved if is_moved else missed[split]).append(name)
    for split in shares:
        if split not in splits.of_unit.values():
            raise DataError(
                "Images of one group must lie in one split, and no split be empty. "
                f"Received: {len(units)} groups, none of which can be spared for {split}. "
                "Add groups, or leave this split out with a share of 0 in `splits`."
            )
    notes = [
        f"Classes without a group that {split} could have: {some_of(list(map(repr, names)))}."
        for split, names in missed.items()
        if names
    ]
    if moved:
        names = some_of(list(map(repr, dict.fromkeys(moved))))
        notes.append(f"Of so few groups that a split would have had none; one was moved: {names}.")
    return splits.of_unit, [*notes, *_notes_on_shares(units, splits.of_unit, shares)]


class _Placed:
    """Units in their splits, and how many of each class a split has.

    Attributes:
        of_unit: The split of each unit.
        classes: The keys of the units of each class, those with the fewest first.
    """

    def __init__(self, units: Mapping[str, Unit], shares: Mapping[str, float]) -> None:
        bounds = np.cumsum([0.0, *shares.values()])
        self._units, self._names = units, tuple(shares)
        self._bounds = dict(zip(shares, pairwise(bounds), strict=True))
        self._counts: Counter[tuple[str, str]] = Counter()
        self.of_unit: dict[str, str] = {}
        found: dict[str, list[str]] = defaultdict(list)
        for key, unit in sorted(units.items()):
            index = int(np.searchsorted(bounds[1:-1], unit.place, side="right"))
            self._put(key, self._names[index])
            for name in unit.classes:
                found[name].append(key)
        self.classes = dict(sorted(found.items(), key=lambda item: (len(item[1]), item[0])))

    def has(self, split: str, class_name: str) -> bool:
        """Whether a split has a unit of a class."""
        return self._counts[split, class_name] > 0

    def is_due(self, split: str, class_name: str) -> bool:
        """Whether a class has so many units that one of them belongs to a split."""
        return self._names.index(split) < len(self.classes[class_name])

    def bring(self, split: str, class_name: str) -> bool:
        """Moves the class's nearest unit that can be spared; returns whether there is one."""
        keys = self.classes[class_name]
        can_move = [key for key in keys if self._can_be_spared(key)]
        if split == self._names[0]:  # without training there is nothing
            can_move = can_move or keys
        if not can_move:
            return False
        low, high = self._bounds[split]
        places = {key: self._units[key].place for key in can_move}
        nearest = min(places, key=lambda key: (max(low - places[key], places[key] - high), key))
        self._put(nearest, split)
        return True

    def _can_be_spared(self, key: str) -> bool:
        split = self.of_unit[key]
        return all(
            self._counts[split, name] > 1 or not self.is_due(split, name)
            for name in self._units[key].classes
        )

    def _put(self, key: str, split: str) -> None:
        before = self.of_unit.get(key)
        self.of_unit[key] = split
        for name in self._units[key].classes:
            self._counts[split, name] += 1
            if before is not None:
                self._counts[before, name] -= 1


def _notes_on_shares(
    units: Mapping[str, Unit], of_unit: Mapping[str, str], shares: Mapping[str, float]
) -> list[str]:
    """Groups of very different sizes can leave a split far from its share of the images."""
    total = sum(len(unit.positions) for unit in units.values())
    notes = []
    for split, share in shares.items():
        held = sum(len(unit.positions) for key, unit in units.items() if of_unit[key] == split)
        if abs(held / total - share) > _NOTED_DIFFERENCE:
            notes.append(
                f"Groups are so few or uneven that {split} has {percent(held / total, 0)} of the "
                f"images instead of {percent(share, 0)}; another seed divides them otherwise."
            )
    return notes
