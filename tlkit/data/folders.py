"""Loads images from a folder of class folders."""

import os
from collections.abc import Iterable, Sequence

import numpy as np

from tlkit.data.class_checks import check_classes, check_labels, check_similar_names
from tlkit.data.decisions import apply_decisions
from tlkit.data.grouping import GroupKey, assign_groups
from tlkit.data.image_places import shown_path
from tlkit.data.images import ImageData, ImageSplit
from tlkit.data.inspection import build_report, readable_images
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.listing import IGNORED, Listing, list_folder
from tlkit.data.settings import KEEP, RGB, STRETCH, Settings, check_settings
from tlkit.data.splits import ImageRecord, divide
from tlkit.errors import DataError, quoted, some_of


def load_folder(
    path: str | os.PathLike[str],
    *,
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
    """Loads the images of a folder; pixels are read when a dataset is iterated.

    The layout is `CLASS/**`, or a split made by the user: `train/CLASS/**` with `val` and `test`
    beside it, under these or their other common names (`valid`, `dev`, `training_set`, in any
    case). Other layouts raise an error that says which folder to give. A user's split is kept. If
    it has a test folder but no validation, validation is taken from `train`; if it has validation
    but no test, there is no test split. Without a user's split, an image's split depends only on
    its content, its class and the seed, so that adding files moves no existing image; the fractions
    then hold approximately in each class. Only a class so small that a split would be empty is
    split by another rule, see `tlkit.data.splits.divide`.

    Every file is decoded once, in parallel, and the result is cached. Files that cannot be used are
    skipped and listed in the report with the reason, as are copies, contradicting labels and leaks.
    Nothing on the disk is changed.

    Images of one patient or one scene are not independent: with `groups` they all go into one
    split, which depends only on the group's key and the seed. The fractions then hold approximately
    over all images.

    The folder may be packed in a ZIP or tar archive, or lie at an address such as
    `s3://bucket/images` or `https://example.org/images.zip` (extra `remote`), as a folder or an
    archive. Both are copied to the cache once for each content.

    Args:
        path: The folder, the archive or the address.
        image_size: Height and width that images are resized to; one number for a square.
        resize: How images of another aspect ratio are brought to `image_size`: "stretch" changes
            the aspect ratio; "crop" cuts out the largest centred rectangle of that ratio, so that
            nothing is distorted but the edges are lost; "pad" scales the whole image to fit and
            fills the rest with grey, 127, on both sides. The model must be used in the same way:
            pass the same `resize` to `predict`, `explain` and `export_model`.
        channels: 3 for RGB, to which grey images are repeated; or 1 for grey images, to which the
            brightness of coloured ones is reduced, for `build_classifier(channels=1)`.
        batch_size: Images per batch.
        splits: Fractions of training, validation and test; a split with fraction 0 is `None`.
        seed: Seed of the split, the order and the augmentation.
        class_names: The classes in the order of the labels; sorted by name by default.
        groups: A function from a `pathlib.Path` to the key of its group, such as
            `lambda path: path.stem.split("_")[0]`; `None` means that the image has no group.
        max_pixels: Maximum number of pixels of an image.
        damaged: "keep" uses damaged JPEG files as far as they can be decoded, "skip" leaves them
            out; the report lists them with the decoder's message. Files that cannot be decoded at
            all are always left out.
        decisions: CSV file of decisions about labels, made with `review_labels`: images are moved
            to other classes or set aside, and no file is changed. It is checked before any image is
            decoded.
        cache: The cache's folder, as `cache_folder` takes it.

    Raises:
        ArgumentError: A size, a fraction, the seed, the names or a group's key is invalid,
            `resize` or `channels` is not one of these, or an address needs another package.
        StorageError: The files of an archive or an address do not fit on the cache's disk.
        DataError: `path` is not a folder of at least two classes with at least two images each;
            a class of validation or test is not in `train`; `class_names` differ from the folder's
            classes; there are so few groups that a split would be empty; an archive is damaged, or
            an address cannot be read; a decision names a file that is not there, whose content or
            label has changed, or an unknown class.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from PIL import Image
        >>> import tlkit
        >>> with TemporaryDirectory() as folder:
        ...     for number in range(8):
        ...         path = Path(folder, "dark" if number < 4 else "light", f"{number}.png")
        ...         path.parent.mkdir(exist_ok=True)
        ...         Image.fromarray(np.full((9, 9, 3), 30 * number, np.uint8)).save(path)
        ...     data = tlkit.load_folder(folder, image_size=8, splits=(0.5, 0.5, 0))
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
    listing = list_folder(path, class_names=class_names or (), cache=cache)
    if decisions is not None:
        apply_decisions(listing, decisions, class_names=class_names or ())
    if groups is not None:
        assign_groups(listing, groups)
    return load_listing(listing, settings)


def split_of(
    name: str,
    images: Iterable[ImageRecord],
    class_names: Sequence[str],
    settings: Settings,
    *,
    is_multi_label: bool = False,
) -> ImageSplit:
    """Returns images as a split, sorted by class and path.

    Multi-label images are sorted by path only.
    """
    numbers = {class_name: number for number, class_name in enumerate(class_names)}
    ordered = sorted(images, key=lambda one: (numbers.get(one.class_name, 0), one.path))
    if is_multi_label:
        labels = np.zeros((len(ordered), len(numbers)), np.float32)
        for row, image in zip(labels, ordered, strict=True):
            row[[numbers[label] for label in image.labels]] = 1
    else:
        labels = np.array([numbers[image.class_name] for image in ordered], np.int64)
    groups = tuple(image.group for image in ordered)
    from tlkit.data.keras_split import KerasSplit

    return KerasSplit(
        name,
        tuple(image.path for image in ordered),
        labels,
        tuple(image.digest for image in ordered),
        settings.image_size,
        settings.batch_size,
        settings.seed,
        settings.max_pixels,
        groups=groups if any(groups) else (),
        _checksums=tuple(image.checksum for image in ordered),
        resize=settings.resize,
        channels=settings.channels,
    )


def load_listing(listing: Listing, settings: Settings) -> ImageData:
    """Loads files that are already listed, as `load_folder` does."""
    images, formats = readable_images(
        listing,
        max_pixels=settings.max_pixels,
        cache=settings.cache,
        damaged=settings.damaged,
    )
    if not images and listing.skipped:
        first = next((one for one in listing.skipped if one.reason not in IGNORED), None)
        example = "" if first is None else f", such as {shown_path(first.path)!r} ({first.reason})"
        raise DataError(
            f"`{listing.argument}` must contain images. Received: {listing.argument}="
            f"{listing.path!r} with no image that can be used{example}. Run tlkit inspect to list "
            "what it holds."
        )
    division = divide(images, settings.splits, settings.seed)
    if listing.is_multi_label:
        found = check_labels(images, division)
    else:
        found = check_classes(images, division, may_lack_classes=settings.may_lack_classes)
    if settings.class_names is None:
        check_similar_names(found)
    names = _order_classes(found, settings, listing)
    parts = {
        name: split_of(
            name,
            (images[row] for row in rows),
            names,
            settings,
            is_multi_label=listing.is_multi_label,
        )
        for name, rows in division.splits.items()
    }
    return ImageData(
        parts["train"],
        parts.get("validation"),
        parts.get("test"),
        names,
        build_report(images, division, listing, formats),
        settings.image_size,
        settings.batch_size,
        settings.seed,
        settings.resize,
        settings.channels,
    )


def _order_classes(found: tuple[str, ...], settings: Settings, listing: Listing) -> tuple[str, ...]:
    wanted = settings.class_names
    if wanted is None:
        return found
    missing = [repr(name) for name in wanted if name not in found]
    if settings.may_lack_classes:
        missing = []
    new = [repr(name) for name in found if name not in wanted]
    if missing or new:
        problems = [f"no images of {some_of(missing)}"] if missing else []
        problems += [f"unexpected classes {some_of(new)}"] if new else []
        raise DataError(
            f"`{listing.argument}` must contain images of exactly the classes "
            f"{quoted(wanted)}. Received: {listing.argument}={listing.path!r} "
            f"with {' and '.join(problems)}. Rename, add or remove classes."
        )
    return tuple(wanted)
