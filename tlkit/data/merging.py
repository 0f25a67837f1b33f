"""Joins images of new classes with those of an earlier run, which keep their splits."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tlkit.data.class_checks import check_classes, check_similar_names
from tlkit.data.folder_names import similar_names
from tlkit.data.folders import split_of
from tlkit.data.image_places import may_exist
from tlkit.data.images import ImageData, ImageSplit
from tlkit.data.inspection import build_report, readable_images
from tlkit.data.listing import Listing
from tlkit.data.manifests import list_images
from tlkit.data.reports import DataReport
from tlkit.data.settings import Settings
from tlkit.data.splits import SPLITS, Division, ImageRecord, divide
from tlkit.errors import DataError, quoted

KnownImages = Mapping[str, tuple[str, str]]
"""The class and the split of each image of the earlier run, by digest."""


@dataclass(frozen=True)
class Joined:
    """New images, and old ones for replay and evaluation.

    Attributes:
        data: The new folder's training images; validation and test also have the old images, in the
            splits that they had. The classes are the old ones in their order, then the new ones.
        replayed: Old training images that are not in the new folder.
        new_names: The new classes, sorted.
    """

    data: ImageData
    replayed: ImageSplit
    new_names: tuple[str, ...]


def check_new_classes(listing: Listing, class_names: Sequence[str]) -> None:
    """Raises `DataError` unless a folder has a class that is not in `class_names`."""
    found = {name for names in listing.classes.values() for name in names}
    if not found - set(class_names):
        raise DataError(
            f"`{listing.argument}` must contain a class that the run does not have. "
            f"Received: {listing.argument}={listing.path!r} with "
            f"{quoted(sorted(found)) or 'no class folder'}. To train on further images of "
            "existing classes, use tlkit train --from."
        )


def find_known_images(
    folders: Iterable[str | os.PathLike[str]],
    known_images: KnownImages,
    *,
    max_pixels: int,
    cache: str | os.PathLike[str] | None = None,
) -> list[ImageRecord]:
    """Returns the earlier run's images that still exist in folders or manifests, each once.

    Images are recognised by their content, even if they were moved within the folders; their class
    and split are those of `known_images`. Missing folders are skipped.

    Raises:
        DataError: A folder or a manifest can no longer be listed.
    """
    found: dict[str, ImageRecord] = {}
    for folder in folders:
        location = Path(folder)
        if not may_exist(folder) or (location.is_dir() and not any(location.iterdir())):
            continue
        listing = list_images(
            folder,
            argument="the run's images",
            needs_train=False,
            needs_files=False,
            class_names={class_name for class_name, _ in known_images.values()},
            cache=cache,
        )
        images, _ = readable_images(listing, max_pixels=max_pixels, cache=cache)
        for image in images:
            if image.digest in known_images and image.digest not in found:
                class_name, split = known_images[image.digest]
                found[image.digest] = replace(image, class_name=class_name, split=split)
    return list(found.values())


def load_joined(
    listing: Listing,
    settings: Settings,
    *,
    class_names: Sequence[str],
    known: Sequence[ImageRecord],
    known_images: KnownImages,
) -> Joined:
    """Joins a new folder with the earlier run's images.

    The new folder is split as by `load_folder`. Images in it that the earlier run had keep their
    split, whatever folder they are in now, and so do the images of their groups; if they now have
    another class, they are left out as conflicts.

    Args:
        listing: The new folder.
        settings: The settings of the images, with the seed of the earlier split, so that the same
            rule applies, and without class names.
        class_names: The old classes in their order.
        known: The result of `find_known_images`.
        known_images: The class and split of all earlier images, also of missing ones.

    Raises:
        DataError: There is no new class; a new class has fewer than two different usable images, or
            none in training; or its name spans several lines.
    """
    check_new_classes(listing, class_names)
    images, formats = readable_images(
        listing,
        max_pixels=settings.max_pixels,
        cache=settings.cache,
        damaged=settings.damaged,
    )
    division = divide(images, settings.splits, settings.seed)
    _keep_splits(images, division, known_images, _splits_of_groups([*images, *known], known_images))
    _check_new_images(images, division, class_names, listing)
    new_digests = {images[row].digest for rows in division.splits.values() for row in rows}
    old_only = [image for image in known if image.digest not in new_digests]
    all_images = [*images, *old_only]
    for row, image in enumerate(old_only, start=len(images)):
        if image.split != "train":
            division.splits.setdefault(image.split, []).append(row)
    found = {all_images[row].class_name for rows in division.splits.values() for row in rows}
    new_names = tuple(sorted(found - set(class_names)))
    names = (*class_names, *new_names)

    image_splits = {
        name: split_of(name, (all_images[row] for row in division.splits[name]), names, settings)
        for name in SPLITS
        if division.splits.get(name)
    }
    if old_only:
        num_trained = sum(image.split == "train" for image in old_only)
        division.notes.append(
            f"{len(old_only)} images of the earlier run are not in this folder: "
            f"{len(old_only) - num_trained} of them are used to evaluate the old classes, "
            f"{num_trained} are training images."
        )
    report = build_report(all_images, division, listing, formats)
    data = ImageData(
        image_splits["train"],
        image_splits.get("validation"),
        image_splits.get("test"),
        names,
        replace(report, num_files=report.num_files - len(old_only)),
        settings.image_size,
        settings.batch_size,
        settings.seed,
        settings.resize,
        settings.channels,
    )
    replayed = split_of(
        "train",
        (image for image in old_only if image.split == "train"),
        names,
        settings,
    )
    return Joined(data, replayed, new_names)


def load_known(
    known: Sequence[ImageRecord], settings: Settings, class_names: Sequence[str]
) -> ImageData:
    """Returns images of an earlier run in the splits that they had.

    Args:
        known: Some results of `find_known_images`, of these classes.
        settings: The settings of the images.
        class_names: The classes in their order.

    Raises:
        DataError: None of them is a training image.
    """
    of_split: dict[str, list[ImageRecord]] = {name: [] for name in SPLITS}
    for image in known:
        of_split[image.split].append(image)
    if not of_split["train"]:
        raise DataError(
            "`run` must have a training image left, on which its exports are checked. Received: "
            "none in the folders of its images. Restore one of them."
        )
    splits = {
        name: split_of(name, images, class_names, settings)
        for name, images in of_split.items()
        if images
    }
    counts = {
        class_name: {
            name: sum(image.class_name == class_name for image in images)
            for name, images in of_split.items()
        }
        for class_name in class_names
    }
    return ImageData(
        splits["train"],
        splits.get("validation"),
        splits.get("test"),
        tuple(class_names),
        DataReport(counts=counts, num_files=len(known), formats={}),
        settings.image_size,
        settings.batch_size,
        settings.seed,
        settings.resize,
        settings.channels,
    )


def _splits_of_groups(images: Iterable[ImageRecord], known_images: KnownImages) -> dict[str, str]:
    """Returns the earliest split of the known images of each group that has any."""
    found: dict[str, str] = {}
    for image in images:
        if image.group and image.digest in known_images:
            _, split = known_images[image.digest]
            earlier = found.get(image.group, split)
            found[image.group] = min(split, earlier, key=SPLITS.index)
    return found


def _keep_splits(
    images: Sequence[ImageRecord],
    division: Division,
    known_images: KnownImages,
    split_of_group: Mapping[str, str],
) -> None:
    """Moves images of the earlier run, and of its groups, to the splits that they had there."""
    moved = 0
    splits: dict[str, list[int]] = {name: [] for name in division.splits}
    evaluated: set[str] = set()
    for name, rows in division.splits.items():
        for row in rows:
            image = images[row]
            new_label = image.class_name, split_of_group.get(image.group, name)
            class_name, split = known_images.get(image.digest, new_label)
            if class_name != image.class_name:
                division.conflicts.append((f"{class_name}, in the earlier run", image.path))
                continue
            if split != "train" and image.digest in evaluated:
                continue  # validation and test have one of each copy
            evaluated.add(image.digest)
            moved += split != name
            splits.setdefault(split, []).append(row)
    division.splits = splits
    if moved:
        division.notes.append(
            f"{moved} images that the earlier run had, or whose group it had, keep their split "
            "of that run."
        )


def _check_new_images(
    images: Sequence[ImageRecord],
    division: Division,
    class_names: Sequence[str],
    listing: Listing,
) -> None:
    """Applies the checks of training to new classes; old ones have been trained already."""
    in_use = {images[row].class_name for rows in division.splits.values() for row in rows}
    found = {name for names in listing.classes.values() for name in names}
    if empty := sorted(found - in_use - set(class_names)):
        raise DataError(
            f"`{listing.argument}` must contain usable images of each new class. "
            f"Received: {listing.argument}={listing.path!r} with none of "
            f"{quoted(empty)}. Add some, or remove the folder; tlkit inspect "
            "lists unusable files."
        )
    trained = [
        ImageRecord("", name, f"{name}{n}", "train") for name in class_names for n in range(2)
    ]
    splits = {name: list(rows) for name, rows in division.splits.items()}
    splits["train"] = [
        *splits.get("train", []),
        *range(len(images), len(images) + len(trained)),
    ]
    check_classes([*images, *trained], replace(division, splits=splits))
    if not similar_names(class_names):
        check_similar_names([*class_names, *found])
