"""The images of the earlier run that a run starts from, and how forgetting is measured on them."""

import dataclasses
from typing import TYPE_CHECKING

from tlkit.data.folders import load_listing
from tlkit.data.image_places import may_exist
from tlkit.data.images import ImageData
from tlkit.data.manifests import list_images
from tlkit.data.settings import check_settings
from tlkit.errors import DataError
from tlkit.runs.config import SPLITS, RunConfig
from tlkit.runs.context import RunContext
from tlkit.runs.directory import Run, exclude_images, seen_digests

if TYPE_CHECKING:
    from tlkit.continual.warm_start import OldTask


def exclude_seen(data: ImageData, parent: Run, *, needs_validation: bool) -> ImageData:
    """Removes images that an earlier run has seen from validation and test.

    With another seed, its training images may be in them.

    Args:
        data: The images.
        parent: The earlier run.
        needs_validation: Whether validation images must remain, if there are any.

    Raises:
        DataError: None remain.
    """
    seen = seen_digests(parent)
    validation, test = (
        exclude_images(split, seen) if split is not None else None
        for split in (data.validation, data.test)
    )
    if validation is not None and not validation.num_images and needs_validation:
        raise DataError(
            "`photos` must contain images for validation that the earlier run has not seen. "
            f"Received: images whose whole validation split was used by {str(parent.path)!r}. "
            "Add new images."
        )
    validation, test = (
        split if split is not None and split.num_images else None for split in (validation, test)
    )
    return dataclasses.replace(data, validation=validation, test=test)


def load_old_task(config: RunConfig, context: RunContext, data: ImageData) -> "OldTask | None":
    """Returns the task of the earlier run, if there is one and its images are available.

    Images that this run uses for training or selection are not among those that are measured.

    Raises:
        DataError: `old_photos` was given and is unusable.
    """
    from tlkit.continual.warm_start import OldTask

    parent, log = context.parent, context.log
    if parent is None:
        return None
    is_given = config.old_photos is not None
    earlier = parent.run_record.config
    folder = config.old_photos or earlier.photos
    if not is_given and (parent.run_record.growth is not None or not may_exist(folder)):
        log(
            "Forgetting is not measured: the images of the old classes are not all in the folder "
            "of the earlier run. Name their folder (--old-photos DIR)."
        )
        return None
    try:
        old = _load(folder, parent, config, decisions=None if is_given else earlier.decisions)
    except DataError as error:
        if is_given:
            raise
        log(
            "Forgetting is not measured: the folder of the earlier run holds other images now. "
            f"Name the folder of its images (--old-photos DIR). {error}"
        )
        return None
    train = frozenset(data.train.digests)
    validation = frozenset(data.validation.digests if data.validation is not None else ())
    selection = exclude_images(old.validation, train) if old.validation is not None else None
    if selection is not None and not selection.num_images:
        selection = None
    seen = seen_digests(parent) | train | validation
    for split in (old.test, old.validation):
        measured = exclude_images(split, seen) if split is not None else None
        if measured is not None and measured.num_images:
            return OldTask(old.train, None if split is old.validation else selection, measured)
    log(
        "Forgetting is not measured: every held-out image of the earlier run is used for training "
        "or selection by that run or this one. Name a folder with others (--old-photos DIR)."
    )
    return OldTask(old.train, selection, None)


def _load(folder: str, parent: Run, config: RunConfig, *, decisions: str | None) -> ImageData:
    """Loads the images of the earlier run with its split."""
    return load_listing(
        list_images(
            folder,
            argument="old_photos",
            multi_label=parent.is_multi_label,
            decisions=decisions,
        ),
        check_settings(
            parent.image_size,
            config.batch_size,
            SPLITS,
            parent.run_record.seed,
            class_names=parent.class_names,
            max_pixels=config.max_pixels,
            damaged=config.damaged,
            resize=parent.resize,
            channels=parent.channels,
        ),
    )
