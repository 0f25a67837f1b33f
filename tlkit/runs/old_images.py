"""The images of an earlier run that another goes on from: what it has seen, what it learned."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.data.folders import load_listing
from tlkit.data.images import ImageData
from tlkit.data.manifests import list_images
from tlkit.data.settings import check_settings
from tlkit.errors import DataError
from tlkit.runs.config import SPLITS, RunConfig
from tlkit.runs.context import RunContext
from tlkit.runs.directory import Run, seen_by, unseen

if TYPE_CHECKING:
    from tlkit.continual.warm_start import OldTask


def without_seen(data: ImageData, parent: Run) -> ImageData:
    """Keeps out of validation and test what an earlier run has seen: another seed splits anew."""
    seen = seen_by(parent)
    validation, test = (
        unseen(split, seen) if split is not None else None for split in (data.validation, data.test)
    )
    if validation is not None and not validation.num_images:
        raise DataError(
            "`photos` must hold images that the earlier run has not seen, to measure on. "
            f"Received: images whose whole validation split was seen by {str(parent.path)!r}. "
            "Add new images."
        )
    if test is not None and not test.num_images:
        test = None
    return dataclasses.replace(data, validation=validation, test=test)


def old_task(config: RunConfig, context: RunContext, data: ImageData) -> "OldTask | None":
    """Returns the images of what a run to go on from has learned, where they are.

    What this run trains on, or chooses by, is not among those that are measured.

    Raises:
        DataError: `old_photos` was given and cannot be used.
    """
    from tlkit.continual.warm_start import OldTask

    parent, log = context.parent, context.log
    if parent is None:
        return None
    is_given = config.old_photos is not None
    folder = config.old_photos or parent.run_record.config.photos
    if not is_given and (parent.run_record.growth is not None or not Path(folder).exists()):
        log(
            "Forgetting is not measured: the images of all old classes are not where the earlier "
            "run found them. Name their folder (--old-photos DIR)."
        )
        return None
    try:
        old = _loaded(folder, parent, config)
    except DataError as error:
        if is_given:
            raise
        log(
            "Forgetting is not measured: where the earlier run found its images there are others "
            f"now. Name their folder (--old-photos DIR). {error}"
        )
        return None
    trained = frozenset(data.train.digests)
    chosen = frozenset(data.validation.digests if data.validation is not None else ())
    decided = unseen(old.validation, trained) if old.validation is not None else None
    if decided is not None and not decided.num_images:
        decided = None
    seen = seen_by(parent) | trained | chosen
    for split in (old.test, old.validation):
        measured = unseen(split, seen) if split is not None else None
        if measured is not None and measured.num_images:
            decided_on = None if split is old.validation else decided
            return OldTask(old.train, decided_on, measured)
    log(
        "Forgetting is not measured: the earlier run or this one trains on every old image that "
        "is held out, or decides on it. Name others (--old-photos DIR)."
    )
    return OldTask(old.train, decided, None)


def _loaded(folder: str, parent: Run, config: RunConfig) -> ImageData:
    """The images of the earlier run, divided as it did."""
    return load_listing(
        list_images(folder, argument="old_photos"),
        check_settings(
            parent.image_size,
            config.batch_size,
            SPLITS,
            parent.run_record.seed,
            class_names=parent.class_names,
            max_pixels=config.max_pixels,
            damaged=config.damaged,
        ),
    )
