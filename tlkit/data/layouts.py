"""Whether the folders in a folder are classes or splits: what looks otherwise is asked about."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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

    That is one folder round the classes or splits; splits without classes in them; and folders
    that hold nothing but folders, where several hold the same, where these have the names of
    what lies beside them, or where names speak of splits, whatever else lies there.

    Args:
        folders: The path of each by its name.
        path: Where they lie.
        argument: What errors call that.
    """
    inner = {name: found for name, place in folders.items() if (found := folders_only(place))}
    if len(folders) == 1 and inner:
        _check_wrapper(next(iter(folders)), path, argument)
    named, spoken_of = (set(map(of, folders)) for of in (split_of_name, split_in_name))
    if len(named - {""}) > 1 or (len(spoken_of) > 1 and "" not in spoken_of and not inner):
        raise DataError(
            f"`{argument}` must hold one folder for each class, or train, val and test with these. "
            f"Received: {argument}={path!r} with {_named(folders)}, in which no folders of classes "
            "are. Put the images into such folders, or list them with their labels in a CSV file."
        )
    filled = {name for name, place in folders.items() if name in inner or not _is_empty(place)}
    suspects, what = _no_classes_in(inner, filled)
    if not suspects:
        return
    most: set[str] = max((set(inner[name]) for name in suspects), key=len)
    rest = sorted(filled - set(suspects))
    beside = f" (beside {_named(rest)})" if rest else ""
    hold = "holds" if len(suspects) == 1 else "hold"
    raise DataError(
        f"`{argument}` must hold one folder for each class, or folders named train, val and "
        f"test with these. Received: {argument}={path!r} with {_named(suspects)}"
        f"{beside}, which {hold} nothing but {what} ({_named(sorted(most))}). If they are splits, "
        f"rename them, or give one of them, such as {os.path.join(path, suspects[0])!r}. If they "
        "are classes, put each one's images right into it, or list them in a CSV file."
    )


def _no_classes_in(
    inner: Mapping[str, Sequence[str]], filled: Collection[str]
) -> tuple[list[str], str]:
    """Returns which of several folders look like no classes, and what they hold; or none.

    Args:
        inner: What those hold that hold nothing but folders.
        filled: The names of all that hold something.
    """
    if len(filled) < 2:
        return [], ""
    times = Counter(chain(*inner.values()))
    shared = {name for name, number in times.items() if number > 1}
    same = [name for name, found in inner.items() if len(shared.intersection(found)) > 1]
    if len(same) > 1:
        return same, "the same folders"
    again = [name for name, found in inner.items() if len(found) > 1 and {*found} <= {*filled}]
    if again:
        return again, "folders of the names beside them"
    speak_of = {name: split for name in filled if (split := split_in_name(name))}
    speaking = [name for name in inner if name in speak_of]
    if speaking and len(set(speak_of.values())) > 1:
        return speaking, "folders"
    return [name for name in inner if split_of_name(name) and len(inner[name]) > 1], "folders"


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
    if all(len(inner[name]) < 2 for name in splits):
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
