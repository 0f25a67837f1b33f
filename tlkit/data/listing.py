"""Lists the files of an image folder by class, and by the user's split if there is one."""

import errno
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from tlkit.data.addresses import is_address
from tlkit.data.folder_names import HIDDEN, OF_SYSTEM, reason_to_ignore, split_of_name
from tlkit.data.image_places import locate
from tlkit.data.layouts import check_classes_in, check_splits
from tlkit.data.reports import SkippedFile
from tlkit.errors import DataError

OUTSIDE = "not in a class folder"
_LISTED = "link to a folder of the class that is already listed"
_LOOP = "link back to an enclosing folder"
IGNORED = (HIDDEN, OF_SYSTEM, _LISTED, _LOOP)
"""Reasons to skip what is no image, or is listed elsewhere."""


@dataclass(frozen=True)
class FoundFile:
    """A listed file, which is expected to be an image.

    Attributes:
        path: The path of the file.
        class_name: Its class; empty for multi-label images.
        split: Its split if the user made one, else empty.
        labels: All its labels, for multi-label images.
        group: The key of its group, whose images stay in one split; empty without a group.
    """

    path: str
    class_name: str
    split: str
    labels: tuple[str, ...] = ()
    group: str = ""


@dataclass
class Listing:
    """The files of a folder or a manifest.

    Attributes:
        path: The folder or the manifest, as errors show it.
        argument: The argument's name in errors.
        files: The files that are expected to be images.
        skipped: Files that cannot be used.
        damaged: Files that are used although the decoder warns of damage.
        classes: The names of the classes of each split, with or without files.
        notes: Notes for the report.
        is_multi_label: Whether an image may have several labels at once.
    """

    path: str = ""
    argument: str = "path"
    files: list[FoundFile] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    damaged: list[SkippedFile] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_multi_label: bool = False


def classes_of(listing: Listing) -> tuple[str, ...]:
    """Returns the names of all classes or labels in a listing, in order."""
    return tuple(sorted({name for names in listing.classes.values() for name in names}))


@dataclass(frozen=True)
class _Folder:
    """A folder with the device and inode numbers of its chain of parents and of itself."""

    path: str
    trail: tuple[tuple[int, int], ...]
    is_link: bool = False


def list_folder(
    path: str | os.PathLike[str],
    *,
    argument: str = "path",
    needs_train: bool = True,
    class_names: Iterable[str] = (),
    cache: str | os.PathLike[str] | None = None,
) -> Listing:
    """Lists `CLASS/**`, or `train/CLASS/**`, `val/CLASS/**` and `test/CLASS/**`.

    Splits may have their other common names, see `tlkit.data.folder_names`. If folders look like
    neither splits nor classes, the error says which folder to pass. Links are followed, except back
    to a folder that is being listed. Class names are normalised to Unicode NFC, so that folders
    from different systems agree.

    Args:
        path: The folder, or an archive or an address of one, see `locate`.
        argument: The argument's name in errors.
        needs_train: Whether a user's split must include training.
        class_names: Names of folders that are classes, whatever they look like.
        cache: The cache's folder, as `cache_folder` takes it.

    Raises:
        ArgumentError: An address needs a package that is not installed.
        StorageError: The files of an archive or an address do not fit on the cache's disk.
        DataError: `path` is not a folder, or is empty; there are two folders for one split, or no
            training split although it is needed; or the folders look like splits or like a folder
            that encloses the classes.
    """
    place = locate(path, argument=argument, cache=cache)
    root, given = place.folder, str(path if is_address(path) else Path(path))
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise DataError(
            f"`{argument}` must be a folder of images. Received: {argument}={given!r}, which "
            f"{problem}. Give the folder that holds one folder for each class, or an archive of it."
        )
    listing = Listing(given, argument, notes=[*place.notes], skipped=[*place.skipped])
    top = _top_folder(root)
    folders = _folders_outside_classes(top, listing)
    if not folders and not listing.skipped:
        raise DataError(
            f"`{argument}` must be a folder of images. Received: {argument}={given!r}, which "
            "is empty. Put one folder for each class into it."
        )
    splits = _split_names(folders)
    places = {name: folder.path for name, folder in folders.items()}
    if splits:
        _check_splits(splits, listing, needs_train)
        check_splits(places, splits, listing.path, argument)
        for name in splits:
            inner = _folders_outside_classes(folders[name], listing)
            _list_classes(inner, split_of_name(name), listing)
        for name in sorted(set(folders) - set(splits)):
            reason = "beside the split folders"
            listing.skipped.append(SkippedFile(folders[name].path, "", reason))
    else:
        if not set(folders) <= set(class_names):
            check_classes_in(places, listing.path, argument)
        _list_classes(folders, "", listing)
    listing.files.sort(key=lambda file: (file.split, file.class_name, file.path))
    listing.skipped.sort(key=lambda file: (file.class_name, file.path))
    return listing


def list_all_below(path: str | os.PathLike[str]) -> Listing:
    """Lists all files in a folder and its subfolders, whatever the subfolders mean.

    `skipped` holds what cannot be read; what is hidden, of an operating system, or listed
    elsewhere is left out.
    """
    listing = Listing(str(path))
    _list_files(_top_folder(Path(path)), "", "", listing)
    listing.skipped = [file for file in listing.skipped if file.reason not in IGNORED]
    return listing


def _top_folder(path: Path) -> _Folder:
    status = path.stat()
    return _Folder(str(path), ((status.st_dev, status.st_ino),))


def _split_names(folders: dict[str, _Folder]) -> list[str]:
    """Returns the names of the folders that are splits; none if the folders are classes."""
    named = [name for name in folders if split_of_name(name)]
    has_classes = any(entry.is_dir() for name in named for entry in _scan(folders[name].path)[0])
    return named if has_classes and (len(named) > 1 or len(folders) == 1) else []


def _check_splits(names: list[str], listing: Listing, needs_train: bool) -> None:
    splits = [split_of_name(name) for name in names]
    if len(set(splits)) < len(splits) or (needs_train and "train" not in splits):
        train = "`train`, and at most" if needs_train else "at most one folder for `train`, and"
        raise DataError(
            f"`{listing.argument}` must contain {train} one folder each for validation (`val` or "
            f"`validation`) and `test`. Received: {listing.argument}={listing.path!r} with "
            f"{', '.join(sorted(names))}. Rename or merge these folders."
        )


def _list_classes(folders: dict[str, _Folder], split: str, listing: Listing) -> None:
    names = listing.classes.setdefault(split, [])
    for name, folder in folders.items():
        class_name = unicodedata.normalize("NFC", name)
        if class_name not in names:
            names.append(class_name)
        _list_files(folder, class_name, split, listing)


def _list_files(folder: _Folder, class_name: str, split: str, listing: Listing) -> None:
    """Lists the files of a class, each folder once even if links lead to it repeatedly.

    Folders come before links to them, so that files are listed under their real path.
    """
    listed = {folder.trail[-1]}
    inside, linked = [folder], list[_Folder]()
    while inside or linked:
        folders, files = _list_entries((inside or linked).pop(0), class_name, listing.skipped)
        listing.files.extend(FoundFile(file, class_name, split) for file in files)
        for inner in folders.values():
            (linked if inner.is_link else inside).append(inner)
            if not inner.is_link:
                listed.add(inner.trail[-1])
        while not inside and linked and linked[0].trail[-1] in listed:
            listing.skipped.append(SkippedFile(linked.pop(0).path, class_name, _LISTED))
        if not inside and linked:
            listed.add(linked[0].trail[-1])


def _folders_outside_classes(folder: _Folder, listing: Listing) -> dict[str, _Folder]:
    folders, files = _list_entries(folder, "", listing.skipped)
    listing.skipped.extend(SkippedFile(file, "", OUTSIDE) for file in files)
    return folders


def _list_entries(
    folder: _Folder, class_name: str, skipped: list[SkippedFile]
) -> tuple[dict[str, _Folder], list[str]]:
    """Returns the subfolders of `folder` by name, and the paths of its files."""
    folders, files = {}, []
    entries, problem = _scan(folder.path)
    if problem:
        skipped.append(SkippedFile(folder.path, class_name, problem))
    for entry in entries:
        status, reason = _check_entry(entry, folder)
        if status is None or reason:
            shown = entry.path.encode("utf-8", "backslashreplace").decode()
            skipped.append(SkippedFile(shown, class_name, reason))
        elif S_ISDIR(status.st_mode):
            trail = (*folder.trail, (status.st_dev, status.st_ino))
            folders[entry.name] = _Folder(entry.path, trail, entry.is_symlink())
        else:
            files.append(entry.path)
    return folders, files


def _check_entry(entry: os.DirEntry[str], folder: _Folder) -> tuple[os.stat_result | None, str]:
    """Returns an entry's status, and the reason why it cannot be used, or ""."""
    if reason := reason_to_ignore(entry.name):
        return None, reason
    try:
        status = entry.stat()
    except OSError as error:
        return None, _reason_of(error)
    if S_ISDIR(status.st_mode):
        is_loop = (status.st_dev, status.st_ino) in folder.trail
        return status, _LOOP if is_loop else ""
    return status, "" if S_ISREG(status.st_mode) else "neither a file nor a folder"


def _scan(folder: str) -> tuple[list[os.DirEntry[str]], str]:
    """Returns a folder's entries, sorted by name, and why it cannot be read, or ""."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name), ""
    except OSError as error:
        return [], _reason_of(error)


def _reason_of(error: OSError) -> str:
    reasons = {
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.ENAMETOOLONG: "its path is too long",
        errno.ENOENT: "broken link",
        errno.ELOOP: "broken link",
    }
    return reasons.get(error.errno or 0, f"cannot be read: {error.strerror}")
