"""What lies in a folder of photographs, before any file is opened."""

import os
from dataclasses import dataclass
from pathlib import Path

from tlkit.data.reports import SkippedFile
from tlkit.errors import DataError

SPLIT_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_SYSTEM_NAMES = {"__MACOSX", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class FoundFile:
    """One file in a class folder; `split` is the user's own, or `None`."""

    path: str
    class_name: str
    split: str | None


@dataclass(frozen=True)
class Scan:
    """All files of a folder.

    Attributes:
        files: In order of their paths.
        skipped: What was not even looked into.
        class_names: Every class folder, empty ones too, sorted.
        splits: The user's own splits ("train", "validation", "test"), or none.
    """

    files: tuple[FoundFile, ...]
    skipped: tuple[SkippedFile, ...]
    class_names: tuple[str, ...]
    splits: tuple[str, ...]


def scan_folder(path: str | os.PathLike[str]) -> Scan:
    """Walks `CLASS/...`, or `train/CLASS/...` with `val`, `validation`, `test`; follows links.

    Raises:
        DataError: There is no folder at `path`, it is empty, or it names a split twice.
    """
    root = Path(path)
    if not root.is_dir():
        what = "which is a file" if root.exists() else "which does not exist"
        raise DataError(
            f"`path` must be a folder of photographs. Received: path={str(path)!r}, {what}. "
            "Give a folder with one subfolder for each class."
        )
    skipped: list[SkippedFile] = []
    folders = _class_folders(root, skipped)
    if not folders:
        raise DataError(
            f"`path` must hold one subfolder for each class. Received: path={str(path)!r}, which "
            "holds none. Put the pictures of each class into a folder with its name."
        )
    by_split: dict[str | None, list[Path]] = {None: folders}
    if any(folder.name == "train" and _class_folders(folder, []) for folder in folders):
        by_split = _split_folders(root, folders, skipped)
    files: list[FoundFile] = []
    names: set[str] = set()
    for split, class_folders in by_split.items():
        for folder in class_folders:
            names.add(folder.name)
            files += _walk(folder, folder.name, split, skipped, frozenset({_identity(root)}))
    return Scan(
        files=tuple(files),
        skipped=tuple(skipped),
        class_names=tuple(sorted(names)),
        splits=tuple(split for split in by_split if split is not None),
    )


def _split_folders(
    root: Path, folders: list[Path], skipped: list[SkippedFile]
) -> dict[str | None, list[Path]]:
    by_split: dict[str | None, list[Path]] = {}
    for folder in folders:
        split = SPLIT_FOLDERS.get(folder.name)
        if split is None:
            skipped.append(SkippedFile(str(folder), None, "stands beside train and is no split"))
            continue
        if split in by_split:
            raise DataError(
                f"`path` must hold each split once. Received: path={str(root)!r} with both val and "
                "validation. Remove or rename one."
            )
        by_split[split] = _class_folders(folder, skipped)
    return by_split


def _class_folders(root: Path, skipped: list[SkippedFile]) -> list[Path]:
    folders = []
    for entry in sorted(root.iterdir()):
        if reason := _ignored(entry.name):
            skipped.append(SkippedFile(str(entry), None, reason))
        elif entry.is_dir():
            folders.append(entry)
        else:
            skipped.append(SkippedFile(str(entry), None, "lies outside the class folders"))
    return folders


def _walk(
    folder: Path,
    class_name: str,
    split: str | None,
    skipped: list[SkippedFile],
    above: frozenset[tuple[int, int]],
) -> list[FoundFile]:
    identity = _identity(folder)
    if identity in above:
        skipped.append(SkippedFile(str(folder), class_name, "a link back to a folder above it"))
        return []
    try:
        entries = sorted(folder.iterdir())
    except PermissionError:
        skipped.append(SkippedFile(str(folder), class_name, "permission denied"))
        return []
    files = []
    for entry in entries:
        if reason := _ignored(entry.name):
            skipped.append(SkippedFile(str(entry), class_name, reason))
        elif entry.is_dir():
            files += _walk(entry, class_name, split, skipped, above | {identity})
        elif entry.is_file():
            files.append(FoundFile(str(entry), class_name, split))
        else:
            reason = "a link to nothing" if entry.is_symlink() else "no regular file"
            skipped.append(SkippedFile(str(entry), class_name, reason))
    return files


def _ignored(name: str) -> str | None:
    if name in _SYSTEM_NAMES:
        return "left by the operating system"
    return "hidden" if name.startswith(".") else None


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
