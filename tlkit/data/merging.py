"""Images of new classes, joined with those that an earlier run knows, at their places there."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tlkit.data.class_checks import check_alike, check_classes
from tlkit.data.folder_names import alike
from tlkit.data.folders import split_of
from tlkit.data.images import ImageData, ImageSplit
from tlkit.data.inspection import build_report, readable_images
from tlkit.data.listing import Listing
from tlkit.data.manifests import list_images
from tlkit.data.settings import Settings
from tlkit.data.splits import SPLITS, Division, ImageRecord, divide
from tlkit.errors import DataError, some_of

Places = Mapping[str, tuple[str, str]]
"""From an image's digest to its class and its split."""


@dataclass(frozen=True)
class Joined:
    """New images to learn from, and old ones beside them.

    Attributes:
        data: The new folder's images to train on; in validation and test the old ones too, at
            the places that they had. The classes are the old ones in their order, then the new.
        replayed: Known images that were trained on before and are not in the new folder.
        new_names: The classes that there were not before, sorted.
    """

    data: ImageData
    replayed: ImageSplit
    new_names: tuple[str, ...]


def check_new_classes(listing: Listing, class_names: Sequence[str]) -> None:
    """Raises `DataError` unless a folder has a class folder that is not in `class_names`."""
    found = {name for names in listing.classes.values() for name in names}
    if not found - set(class_names):
        raise DataError(
            f"`{listing.argument}` must hold a class that the run does not have. "
            f"Received: {listing.argument}={listing.path!r} with "
            f"{some_of(list(map(repr, sorted(found)))) or 'no class folder'}. Further images of "
            "classes that exist call for tlkit train --from."
        )


def find_known(
    folders: Iterable[str | os.PathLike[str]],
    places: Places,
    *,
    max_pixels: int,
    cache: str | os.PathLike[str] | None = None,
) -> list[ImageRecord]:
    """Returns the known images that still lie in some folders or manifests, each content once.

    Wherever they have been moved to inside them, they are recognised by their content; their class
    and split are those of `places`. A folder that has gone holds none.

    Raises:
        DataError: A folder or a manifest has become one that cannot be listed.
    """
    found: dict[str, ImageRecord] = {}
    for folder in folders:
        place = Path(folder)
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            continue
        listing = list_images(
            folder,
            argument="the run's photos",
            needs_train=False,
            needs_files=False,
            class_names={class_name for class_name, _ in places.values()},
        )
        images, _ = readable_images(listing, max_pixels=max_pixels, cache=cache)
        for image in images:
            if image.digest in places and image.digest not in found:
                class_name, split = places[image.digest]
                found[image.digest] = replace(image, class_name=class_name, split=split)
    return list(found.values())


def load_joined(
    listing: Listing,
    settings: Settings,
    *,
    class_names: Sequence[str],
    known: Sequence[ImageRecord],
    places: Places,
) -> Joined:
    """Joins a new folder with known images.

    The new folder is divided as `load_folder` divides it. An image in it that is known keeps the
    split that it had, whatever folder it lies in now, and its group goes with it; one that is
    known under another class is left out, as a conflict.

    Args:
        listing: The new folder.
        settings: Of the images; its seed is that of the earlier division, so that the same rule
            holds; it names no classes.
        class_names: The old classes in their order.
        known: What `find_known` returned.
        places: All that is known, also of images that have gone.

    Raises:
        DataError: There is no new class, or one without two different usable images, or without
            one to train on; or its name is not one line of text.
    """
    check_new_classes(listing, class_names)
    images, formats = readable_images(
        listing,
        max_pixels=settings.max_pixels,
        cache=settings.cache,
        damaged=settings.damaged,
    )
    division = divide(images, settings.splits, settings.seed)
    _keep_places(images, division, places, _places_of_groups([*images, *known], places))
    _check(images, division, class_names, listing)
    here = {images[row].digest for rows in division.splits.values() for row in rows}
    beside = [image for image in known if image.digest not in here]
    everything = [*images, *beside]
    for row, image in enumerate(beside, start=len(images)):
        if image.split != "train":
            division.splits.setdefault(image.split, []).append(row)
    found = {everything[row].class_name for rows in division.splits.values() for row in rows}
    new_names = tuple(sorted(found - set(class_names)))
    names = (*class_names, *new_names)

    parts = {
        name: split_of(name, (everything[row] for row in division.splits[name]), names, settings)
        for name in SPLITS
        if division.splits.get(name)
    }
    if beside:
        num_trained = sum(image.split == "train" for image in beside)
        division.notes.append(
            f"{len(beside)} images that the earlier run found are not among these files: "
            f"{len(beside) - num_trained} of them measure the old classes, {num_trained} were "
            "trained on."
        )
    report = build_report(everything, division, listing, formats)
    data = ImageData(
        parts["train"],
        parts.get("validation"),
        parts.get("test"),
        names,
        replace(report, num_files=report.num_files - len(beside)),
        settings.image_size,
        settings.batch_size,
        settings.seed,
    )
    replayed = split_of(
        "train",
        (image for image in beside if image.split == "train"),
        names,
        settings,
    )
    return Joined(data, replayed, new_names)


def _places_of_groups(images: Iterable[ImageRecord], places: Places) -> dict[str, str]:
    """The split of each group that has known images: where they are torn, training first."""
    found: dict[str, str] = {}
    for image in images:
        if image.group and image.digest in places:
            _, place = places[image.digest]
            before = found.get(image.group, place)
            found[image.group] = min(place, before, key=SPLITS.index)
    return found


def _keep_places(
    images: Sequence[ImageRecord], division: Division, places: Places, of_group: Mapping[str, str]
) -> None:
    """Moves images that are known, or whose group is, to the splits that they were in."""
    moved = 0
    splits: dict[str, list[int]] = {name: [] for name in division.splits}
    measured: set[str] = set()
    for name, rows in division.splits.items():
        for row in rows:
            image = images[row]
            own = image.class_name, of_group.get(image.group, name)
            class_name, place = places.get(image.digest, own)
            if class_name != image.class_name:
                division.conflicts.append((f"{class_name}, in the earlier run", image.path))
                continue
            if place != "train" and image.digest in measured:
                continue  # of copies, what measures has one
            measured.add(image.digest)
            moved += place != name
            splits.setdefault(place, []).append(row)
    division.splits = splits
    if moved:
        division.notes.append(
            f"{moved} images that the earlier run knows, or whose group it knows, keep the split "
            "that they had in it."
        )


def _check(
    images: Sequence[ImageRecord],
    division: Division,
    class_names: Sequence[str],
    listing: Listing,
) -> None:
    """Holds new classes to the rules of training; old ones have been trained already."""
    in_use = {images[row].class_name for rows in division.splits.values() for row in rows}
    found = {name for names in listing.classes.values() for name in names}
    if empty := sorted(found - in_use - set(class_names)):
        raise DataError(
            f"`{listing.argument}` must hold usable images of each new class. "
            f"Received: {listing.argument}={listing.path!r} with none of "
            f"{some_of(list(map(repr, empty)))}. Add some, or remove the folder; tlkit inspect "
            "lists what cannot be used."
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
    if not alike(class_names):
        check_alike([*class_names, *found])
