"""Whether the folders in a folder are classes or splits: what looks otherwise is asked about."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from tlkit.data.folder_names import split_in_name, split_of_name, unwanted
from tlkit.errors import DataError, some_of

_BESIDE = frozenset(
    (".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".yaml", ".yml", ".html", ".htm", ".pdf")
)
"""Files that describe images and are none."""
_DEEPEST = 16
"""So many folders round the classes are looked through for the one to give."""


def check_classes_in(folders: Mapping[str, str], path: str, argument: str) -> None:
    """Raises `DataError` where folders that would be classes look like something else.

    That is one folder round the classes or splits; several that hold nothing but the same
    folders, or whose names speak of different splits; and splits without classes in them.

    Args:
        folders: The path of each by its name.
        path: Where they lie.
        argument: What errors call that.
    """
    inner = {name: found for name, place in folders.items() if (found := folders_only(place))}
    if len(folders) == 1 and inner:
        _check_wrapper(next(iter(folders)), path, argument)
    if len(set(map(split_of_name, folders)) | {""}) > 2 and all(map(split_of_name, folders)):
        raise DataError(
            f"`{argument}` must hold one folder for each class, or train, val and test with these. "
            f"Received: {argument}={path!r} with {_named(folders)}, in which no folders of classes "
            "are. Put the images into such folders, or list them with their labels in a CSV file."
        )
    filled = {name for name, place in folders.items() if name in inner or not _is_empty(place)}
    if len(filled) < 2 or filled != set(inner):
        return
    most: set[str] = max(map(set, inner.values()), key=len)
    shared = [name for name, times in Counter(chain(*inner.values())).items() if times > 1]
    is_same = len(shared) > 1 and all(set(found) <= most for found in inner.values())
    speak_of = {split_in_name(name) for name in inner}
    if is_same or (len(speak_of) > 1 and "" not in speak_of):
        what = "the same folders" if is_same else "folders"
        raise DataError(
            f"`{argument}` must hold one folder for each class, or folders named train, val and "
            f"test with these. Received: {argument}={path!r} with {_named(inner)}, which hold "
            f"nothing but {what} ({_named(sorted(most))}). If they are splits, rename them, or "
            f"give one of them, such as {os.path.join(path, next(iter(inner)))!r}. If they are "
            "classes, put each one's images right into it, or list them in a CSV file."
        )


def check_splits(
    folders: Mapping[str, str], splits: Sequence[str], path: str, argument: str
) -> None:
    """Raises `DataError` where a folder beside splits looks like one, or lies round the classes.

    Args:
        folders: The path of each by its name.
        splits: Which of them are splits.
        path: Where they lie.
        argument: What errors call that.
    """
    inner = {name: folders_only(place) for name, place in folders.items()}
    classes = {class_name for name in splits for class_name in inner[name]}
    beside = [
        name
        for name, found in inner.items()
        if name not in splits and found and {*found} <= classes
    ]
    if beside:
        raise DataError(
            f"`{argument}` must hold the classes in folders named train, val and test. Received: "
            f"{argument}={path!r} with {_named(beside)} beside {_named(splits)}, of the same "
            "classes. Rename what is a split, or move it elsewhere."
        )
    if len(classes) == 1:
        for name in splits:
            _check_deeper(folders[name], path, argument)


def _check_deeper(split: str, path: str, argument: str) -> None:
    """Raises `DataError` where the classes of a split lie in one folder more."""
    place = Path(split)
    for _ in range(_DEEPEST):
        found = folders_only(str(place))
        if len(found) > 1:
            raise DataError(
                f"`{argument}` must hold the classes right in its splits. Received: "
                f"{argument}={path!r}, where they ({_named(found)}) lie deeper, in "
                f"{str(place)!r}. Move them up into {split!r}, in each split."
            )
        if not found:
            return
        place /= found[0]


def folders_only(path: str) -> tuple[str, ...]:
    """Returns the names of the folders in a folder, sorted; none where images lie beside them."""
    names = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if unwanted(entry.name):
                    continue
                if entry.is_dir():
                    names.append(entry.name)
                elif Path(entry.name).suffix.lower() not in _BESIDE:
                    return ()
    except OSError:  # what cannot be read is reported where files are listed
        return ()
    return tuple(sorted(names))


def _check_wrapper(name: str, path: str, argument: str) -> None:
    place = Path(path, name)
    for _ in range(_DEEPEST):
        found = folders_only(str(place))
        if len(found) > 1 or any(split_of_name(one) for one in found):
            raise DataError(
                f"`{argument}` must be the folder that holds one folder for each class, or train, "
                f"val and test with these. Received: {argument}={path!r}, whose only folder "
                f"{name!r} is no class: it holds {_named(found)} in {str(place)!r}. Give "
                f"{str(place)!r}; or, if {name!r} is a class, put its images right into it."
            )
        if not found:
            return
        place /= found[0]


def _is_empty(path: str) -> bool:
    try:
        with os.scandir(path) as entries:
            return all(unwanted(entry.name) for entry in entries)
    except OSError:  # what cannot be read is reported where files are listed
        return False


def _named(names: Sequence[str] | Mapping[str, object]) -> str:
    return some_of(list(map(repr, names)))
