"""Images to measure a trained model on: its classes are given, and no rule of training holds."""

import dataclasses
import os
from collections.abc import Sequence

from tlkit.data.folders import split_of
from tlkit.data.images import ImageSplit
from tlkit.data.inspection import readable_images
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.manifests import list_images
from tlkit.data.settings import DAMAGED, KEEP, Settings
from tlkit.data.splits import divide
from tlkit.errors import DataError, check_choice, check_count, did_you_mean, some_of


def load_for_measuring(
    path: str | os.PathLike[str],
    class_names: Sequence[str],
    *,
    image_size: tuple[int, int],
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
    damaged: str = KEEP,
    cache: str | os.PathLike[str] | None = None,
    argument: str = "path",
) -> ImageSplit:
    """Loads images whose labels are positions in `class_names`.

    Any number of the classes may be there, with any number of images. Of a folder with a split
    of its own that is `test`, else validation; else it is all of it. As in any split that
    measures, each content counts once: copies, images that an earlier split of the folder also
    holds, images under two labels and unreadable files are left out.

    Args:
        path: A folder as `load_folder` takes it, or a manifest; it needs no `train`.
        class_names: The model's classes, in the order of its outputs.
        image_size: Height and width that images are stretched to.
        batch_size: Images in a batch.
        max_pixels: The most pixels that an image may have.
        damaged: "keep" or "skip", see `load_folder`.
        cache: The cache's folder, as `cache_folder` takes it.
        argument: What errors call `path`.

    Returns:
        A split named "test".

    Raises:
        DataError: `path` is no folder or manifest of images, or one of a class that the model
            does not have.
        ArgumentError: `max_pixels` is no positive whole number, or `damaged` neither of the two.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from PIL import Image
        >>> from tlkit.data.measuring import load_for_measuring
        >>> with TemporaryDirectory() as folder:
        ...     Path(folder, "light").mkdir()
        ...     Image.fromarray(np.full((9, 9, 3), 200, np.uint8)).save(f"{folder}/light/1.png")
        ...     split = load_for_measuring(folder, ["dark", "light"], image_size=(8, 8))
        >>> split.labels.tolist()
        [1]
    """
    check_count("max_pixels", max_pixels)
    check_choice("damaged", damaged, DAMAGED)
    listing = list_images(path, argument=argument, needs_train=False, class_names=class_names)
    images, _ = readable_images(listing, max_pixels=max_pixels, cache=cache, damaged=damaged)
    own = {image.split for image in images}
    measured = next((split for split in ("test", "validation") if split in own), "")
    if not measured:
        measured = "test"
        images = [dataclasses.replace(image, split=measured) for image in images]
    division = divide(images, (1.0, 0.0, 0.0), seed=0)
    found = [images[position] for position in division.splits.get(measured, ())]
    if not found:
        raise DataError(
            f"`{argument}` must hold images to measure on. Received: {argument}={str(path)!r} "
            f"with {len(listing.skipped)} files that cannot be used and "
            f"{len(division.conflicts)} images under several labels. tlkit inspect lists them."
        )
    if unknown := sorted({image.class_name for image in found} - set(class_names)):
        raise DataError(
            f"`{argument}` must hold images of the model's classes, "
            f"{some_of(list(map(repr, class_names)))}. Received: {argument}={str(path)!r} with "
            f"{some_of(list(map(repr, unknown)))}.{did_you_mean(unknown[0], class_names)} "
            "Rename or remove these classes."
        )
    settings = Settings(image_size, batch_size, (1.0, 0.0, 0.0), seed=0, max_pixels=max_pixels)
    return split_of("test", found, class_names, settings)
