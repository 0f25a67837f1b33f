"""Checks that the subfolders of an image folder are plausible classes or splits."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path

from tlkit.data.folder_names import reason_to_ignore, split_in_name, split_of_name
from tlkit.errors import DataError, quoted

_METADATA_SUFFIXES = frozenset(
    (".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".yaml", ".yml", ".html", ".htm", ".pdf")
)
"""Suffixes of files that may lie beside images but are not images."""
_MAX_DEPTH = 16
"""Maximum depth at which enclosing folders are searched for the class folders."""


def check_classes_in(folders: Mapping[str, str], path: str, argument: str) -> None:
    """Raises `DataError` if folders that would be read as classes look like something else.

    These are: a single folder that encloses the classes or splits; splits without class folders;
    and folders with nothing but folders in them, if several contain the same ones, if these have
    the names of neighbouring folders, or if names mention splits.

    Args:
        folders: The path of each folder by its name.
        path: The folder that contains them.
        argument: The argument's name in errors.
    """
    inner = {name: found for name, place in folders.items() if (found := folders_only(place))}
    if len(folders) == 1 and inner:
        _check_wrapper(next(iter(folders)), path, argument)
    split_names, mentioned = (set(map(of, folders)) for of in (split_of_name, split_in_name))
    if len(split_names - {""}) > 1 or (len(mentioned) > 1 and "" not in mentioned and not inner):
        raise DataError(
            f"`{argument}` must contain one folder for each class, or train, val and test with "
            f"these. Received: {argument}={path!r} with {quoted(folders)}, which contain no class "
            "folders. Put the images into class folders, or list them with labels in a CSV file."
        )
    filled = {name for name, place in folders.items() if name in inner or not _is_empty(place)}
    suspects, content = _find_suspects(inner, filled)
    if not suspects:
        return
    largest: set[str] = max((set(inner[name]) for name in suspects), key=len)
    others = sorted(filled - set(suspects))
    beside = f" (beside {quoted(others)})" if others else ""
    verb = "contains" if len(suspects) == 1 else "contain"
    raise DataError(
        f"`{argument}` must contain one folder for each class, or folders named train, val and "
        f"test with these. Received: {argument}={path!r} with {quoted(suspects)}"
        f"{beside}, which {verb} nothing but {content} ({quoted(sorted(largest))}). If they are "
        "splits, rename them, or pass one of them, such as "
        f"{os.path.join(path, suspects[0])!r}. If they are classes, put each one's images "
        "directly into it, or list them in a CSV file."
    )


def _find_suspects(
    inner: Mapping[str, Sequence[str]], filled: Collection[str]
) -> tuple[list[str], str]:
    """Returns the folders that do not look like classes, and what they contain.

    Args:
        inner: The subfolders of each folder that contains nothing but folders.
        filled: The names of all folders that are not empty.
    """
    if len(filled) < 2:
        return [], ""
    counts = Counter(chain(*inner.values()))
    shared = {name for name, number in counts.items() if number > 1}
    sharing = [name for name, found in inner.items() if len(shared.intersection(found)) > 1]
    if len(sharing) > 1:
        return sharing, "the same folders"
    repeated = [name for name, found in inner.items() if len(found) > 1 and {*found} <= {*filled}]
    if repeated:
        return repeated, "folders with the names of their neighbours"
    mentioned = {name: split for name in filled if (split := split_in_name(name))}
    mentioning = [name for name in inner if name in mentioned]
    if mentioning and len(set(mentioned.values())) > 1:
        return mentioning, "folders"
    return [name for name in inner if split_of_name(name) and len(inner[name]) > 1], "folders"


def check_splits(
    folders: Mapping[str, str], splits: Sequence[str], path: str, argument: str
) -> None:
    """Raises `DataError` if a folder beside splits looks like one, or if classes lie deeper.

    Args:
        folders: The path of each folder by its name.
        splits: The names of those that are splits.
        path: The folder that contains them.
        argument: The argument's name in errors.
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
            f"`{argument}` must contain the classes in folders named train, val and test. "
            f"Received: {argument}={path!r} with {quoted(beside)} beside {quoted(splits)}, "
            "with the same classes. Rename it if it is a split, or move it elsewhere."
        )
    if all(len(inner[name]) < 2 for name in splits):
        for name in splits:
            _check_nesting(folders[name], path, argument)


def _check_nesting(split: str, path: str, argument: str) -> None:
    """Raises `DataError` if a split has one folder that encloses its classes."""
    place = Path(split)
    for _ in range(_MAX_DEPTH):
        found = folders_only(str(place))
        if len(found) > 1:
            raise DataError(
                f"`{argument}` must contain the classes directly in its splits. Received: "
                f"{argument}={path!r}, where they ({quoted(found)}) lie deeper, in "
                f"{str(place)!r}. Move them up into {split!r}, in each split."
            )
        if not found:
            return
        place /= found[0]


def folders_only(path: str) -> tuple[str, ...]:
    """Returns the sorted names of a folder's subfolders; none if it also contains images."""
    names = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if reason_to_ignore(entry.name):
                    continue
                if entry.is_dir():
                    names.append(entry.name)
                elif Path(entry.name).suffix.lower() not in _METADATA_SUFFIXES:
                    return ()
    except OSError:  # reported when files are listed
        return ()
    return tuple(sorted(names))


def _check_wrapper(name: str, path: str, argument: str) -> None:
    place = Path(path, name)
    for _ in range(_MAX_DEPTH):
        found = folders_only(str(place))
        if len(found) > 1 or any(split_of_name(one) for one in found):
            raise DataError(
                f"`{argument}` must be the folder that holds one folder for each class, or train, "
                f"val and test with these. Received: {argument}={path!r}, whose only folder "
                f"{name!r} is not a class: it holds {quoted(found)} in {str(place)!r}. Pass "
                f"{str(place)!r}; or, if {name!r} is a class, put its images directly into it."
            )
        if not found:
            return
        place /= found[0]


def _is_empty(path: str) -> bool:
    try:
        with os.scandir(path) as entries:
            return all(reason_to_ignore(entry.name) for entry in entries)
    except OSError:  # reported when files are listed
        return False
