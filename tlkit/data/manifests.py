"""Loads images that a CSV file lists."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tlkit.data.addresses import is_address
from tlkit.data.decisions import apply_decisions
from tlkit.data.folders import load_listing
from tlkit.data.grouping import GroupKey, assign_groups
from tlkit.data.images import ImageData
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.listing import Listing, list_folder
from tlkit.data.manifest_rows import SEPARATOR, list_manifest
from tlkit.data.settings import KEEP, RGB, STRETCH, check_settings
from tlkit.errors import ArgumentError

SUFFIX = ".csv"

_DEFAULTS = (224, 32, (0.8, 0.1, 0.1), 0)  # image size, batch size, splits, seed


def load_manifest(
    path: str | os.PathLike[str],
    *,
    multi_label: bool = False,
    separator: str = SEPARATOR,
    image_size: int | tuple[int, int] = 224,
    resize: str = STRETCH,
    channels: int = RGB,
    batch_size: int = 32,
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    groups: GroupKey | None = None,
    max_pixels: int = MAX_PIXELS,
    damaged: str = KEEP,
    decisions: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> ImageData:
    r"""Loads the images that a manifest lists, as `load_folder` loads those of a folder.

    A manifest is a CSV file in UTF-8 with one image per row. Its first line names the columns:
    `path`, absolute or relative to the manifest's folder, and `label`; optionally `group` and
    `split`. All files must exist; those that are not images are skipped and listed in the report.

    Without a column `split`, an image's split depends only on its content, its label and the seed,
    so that adding rows moves no existing image. With it ("train", "val" or "validation", "test"),
    every image goes into the split given.

    Rows with the same `group` (one patient, one scene) go into one split, which depends only on the
    group's key and the seed. Groups that share copies of an image are joined. If the column `split`
    divides a group, its images stay in the earliest split only, and the report lists the others.

    With `multi_label=True` an image may have several labels, `sea|sun` in one cell, or none, an
    empty cell or `|`; or there is one column for each label, with 1 for the images that have it and
    0 for all others, in place of the column `label`. Its
    split then depends only on its content and the seed.

    Args:
        path: The CSV file.
        multi_label: Whether an image may have several labels at once.
        separator: The separator between the labels of one image, with `multi_label`.
        image_size: Height and width that images are resized to; one number for a square.
        resize: "stretch", "crop" or "pad", see `load_folder`.
        channels: 3 for RGB or 1 for grey images, see `load_folder`.
        batch_size: Images per batch.
        splits: Fractions of training, validation and test; a split with fraction 0 is `None`.
        seed: Seed of the split, the order and the augmentation.
        class_names: The classes in the order of the labels; sorted by name by default.
        groups: As for `load_folder`, if the manifest has no groups itself.
        max_pixels: Maximum number of pixels of an image.
        damaged: "keep" or "skip", see `load_folder`.
        decisions: CSV file of decisions about labels, see `load_folder`; not with `multi_label`.
        cache: The cache's folder, as `cache_folder` takes it.

    Returns:
        The images. Labels are int64 `(n,)`; with `multi_label` 0 and 1 as float32 `(n,
        num_classes)`.

    Raises:
        ArgumentError: A size, a fraction, `resize`, `channels`, the seed, the names, the separator
            or a group's key is invalid; `groups` is given although the manifest has groups;
            `decisions` is given together with `multi_label`.
        DataError: `path` is not such a table; columns are missing or unknown; a row has no path or
            no label; files are missing, or listed in two rows; there are too few classes or images,
            as for `load_folder`; `class_names` differ from the manifest's classes; a decision is
            invalid, as for `load_folder`.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from PIL import Image
        >>> import tlkit
        >>> with TemporaryDirectory() as folder:
        ...     rows = ["path,label"]
        ...     for number in range(8):
        ...         image = Image.fromarray(np.full((9, 9, 3), 30 * number, np.uint8))
        ...         image.save(Path(folder, f"{number}.png"))
        ...         rows.append(f"{number}.png," + ("dark" if number < 4 else "light"))
        ...     manifest = Path(folder, "images.csv")
        ...     _ = manifest.write_text("\n".join(rows), encoding="utf-8")
        ...     data = tlkit.load_manifest(manifest, image_size=8, splits=(0.5, 0.5, 0))
        >>> data.class_names
        ('dark', 'light')
    """
    settings = check_settings(
        image_size,
        batch_size,
        splits,
        seed,
        class_names=class_names,
        max_pixels=max_pixels,
        damaged=damaged,
        cache=cache,
        resize=resize,
        channels=channels,
    )
    if not isinstance(separator, str) or not separator.strip():
        raise ArgumentError(
            "`separator` must be a string that is not only spaces. "
            f"Received: separator={separator!r}. Use '|', for example."
        )
    listing = list_manifest(path, separator=separator.strip() if multi_label else None)
    if decisions is not None:
        apply_decisions(listing, decisions, class_names=class_names or ())
    if groups is not None:
        if any(file.group for file in listing.files):
            raise ArgumentError(
                "`groups` must be left out if the manifest has a column with groups. "
                f"Received: groups={groups!r}, path={listing.path!r}. Empty the column, or leave "
                "`groups` out."
            )
        assign_groups(listing, groups)
    return load_listing(listing, settings)


def list_images(
    path: str | os.PathLike[str],
    *,
    argument: str = "path",
    needs_train: bool = True,
    needs_files: bool = True,
    class_names: Iterable[str] = (),
    multi_label: bool = False,
    cache: str | os.PathLike[str] | None = None,
    decisions: str | os.PathLike[str] | None = None,
) -> Listing:
    """Lists a folder, or a manifest if the path is that of a CSV file.

    Args:
        path: A path as `load_folder` or `load_manifest` takes it.
        argument: The argument's name in errors.
        needs_train: Whether a user's split must include training.
        needs_files: Whether all files of a manifest must exist.
        class_names: See `list_folder`; decisions may move images to these, too.
        multi_label: Whether an image may have several labels, of which a manifest must tell all.
        cache: The cache's folder, as `cache_folder` takes it.
        decisions: CSV file of decisions about labels, see `load_folder`.

    Raises:
        ArgumentError: A folder is to have several labels per image.
        DataError: What `list_folder`, `list_manifest` and `apply_decisions` raise.
    """
    names = tuple(class_names)
    if _is_manifest(path):
        listing = list_manifest(
            path,
            separator=SEPARATOR if multi_label else None,
            argument=argument,
            needs_train=needs_train,
            needs_files=needs_files,
            needs_labels=multi_label,
        )
    elif multi_label:
        raise ArgumentError(
            f"`{argument}` must be a CSV file with several labels per image: a folder has one "
            f"class for each. Received: {argument}={os.fspath(path)!r}. Write a table with the "
            "columns path and label, and labels such as sea|sun."
        )
    else:
        listing = list_folder(
            path, argument=argument, needs_train=needs_train, class_names=names, cache=cache
        )
    if decisions is not None:
        apply_decisions(listing, decisions, class_names=names)
    return listing


def load_images(
    path: str | os.PathLike[str], *, argument: str = "path", resize: str = STRETCH
) -> ImageData:
    """Loads a folder, or a manifest if the path is that of a CSV file, with default settings.

    Args:
        path: A path as `load_folder` or `load_manifest` takes it.
        argument: The argument's name in errors.
        resize: "stretch", "crop" or "pad", see `load_folder`.

    Raises:
        ArgumentError: `resize` is not one of these.
        DataError: What `load_folder` and `load_manifest` raise.
    """
    settings = check_settings(*_DEFAULTS, resize=resize)
    return load_listing(list_images(path, argument=argument), settings)


def _is_manifest(path: str | os.PathLike[str]) -> bool:
    is_csv = Path(path).suffix.lower() == SUFFIX and not is_address(path)
    return is_csv and not Path(path).is_dir()
