"""Loads images for evaluating a trained model, whose classes are given."""

import dataclasses
import os
from collections.abc import Sequence

from tlkit.data.folders import split_of
from tlkit.data.images import ImageSplit
from tlkit.data.inspection import readable_images
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.manifests import list_images
from tlkit.data.settings import (
    DAMAGED,
    KEEP,
    RESIZES,
    RGB,
    STRETCH,
    Settings,
    check_channels_of_files,
)
from tlkit.data.splits import divide
from tlkit.errors import DataError, check_choice, check_count, did_you_mean, quoted


def load_for_measuring(
    path: str | os.PathLike[str],
    class_names: Sequence[str],
    *,
    image_size: tuple[int, int],
    resize: str = STRETCH,
    channels: int = RGB,
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
    damaged: str = KEEP,
    cache: str | os.PathLike[str] | None = None,
    argument: str = "path",
    multi_label: bool = False,
) -> ImageSplit:
    """Loads images with labels that are positions in `class_names`.

    Any number of the classes may be present, with any number of images. If the folder has a user's
    split, its `test` split is used, or else validation; otherwise all images are. Each image counts
    once: copies, images of an earlier split of the folder, images with two labels and unreadable
    files are left out.

    Args:
        path: A folder as `load_folder` takes it, or a manifest; it needs no `train`.
        class_names: The model's classes, in the order of its outputs.
        image_size: Height and width that images are resized to.
        resize: "stretch", "crop" or "pad", see `load_folder`.
        channels: 3 for RGB or 1 for grey images.
        batch_size: Images per batch.
        max_pixels: Maximum number of pixels of an image.
        damaged: "keep" or "skip", see `load_folder`.
        cache: The cache's folder, as `cache_folder` takes it.
        argument: The name of `path` in errors.
        multi_label: Whether an image may have several labels, which a manifest lists.

    Returns:
        A split named "test".

    Raises:
        DataError: `path` is not a folder or manifest of images, or has a class that the model does
            not have.
        ArgumentError: `max_pixels` is not a positive whole number, `damaged` is neither "keep" nor
            "skip", or `resize` or `channels` is not one of these.

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
    check_choice("resize", resize, RESIZES)
    check_channels_of_files(channels)
    listing = list_images(
        path,
        argument=argument,
        needs_train=False,
        class_names=class_names,
        multi_label=multi_label,
        cache=cache,
    )
    images, _ = readable_images(listing, max_pixels=max_pixels, cache=cache, damaged=damaged)
    split_names = {image.split for image in images}
    measured = next((split for split in ("test", "validation") if split in split_names), "")
    if not measured:
        measured = "test"
        images = [dataclasses.replace(image, split=measured) for image in images]
    division = divide(images, (1.0, 0.0, 0.0), seed=0)
    found = [images[position] for position in division.splits.get(measured, ())]
    if not found:
        raise DataError(
            f"`{argument}` must contain images to evaluate. Received: {argument}={str(path)!r} "
            f"with {len(listing.skipped)} files that cannot be used and "
            f"{len(division.conflicts)} images with several labels. Run tlkit inspect to list them."
        )
    names = [image.labels if multi_label else (image.class_name,) for image in found]
    if unknown := sorted({name for some in names for name in some} - set(class_names)):
        raise DataError(
            f"`{argument}` must contain only images of the model's classes, "
            f"{quoted(class_names)}. Received: {argument}={str(path)!r} with "
            f"{quoted(unknown)}.{did_you_mean(unknown[0], class_names)} "
            "Rename or remove these classes."
        )
    settings = Settings(
        image_size,
        batch_size,
        (1.0, 0.0, 0.0),
        seed=0,
        max_pixels=max_pixels,
        resize=resize,
        channels=channels,
    )
    return split_of("test", found, class_names, settings, is_multi_label=multi_label)
