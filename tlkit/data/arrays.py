"""Images from arrays in memory."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tlkit.data.class_checks import check_classes, check_labels, is_one_line
from tlkit.data.grouping import group_text
from tlkit.data.images import ImageData, ImageSplit
from tlkit.data.reading import content_digest
from tlkit.data.reports import DataReport
from tlkit.data.settings import GREY, RGB, STRETCH, check_settings
from tlkit.data.splits import Division, ImageRecord, complete_groups, divide
from tlkit.errors import ArgumentError

Arrays = tuple[np.ndarray, np.ndarray]

_MAX_CHANNELS = 64
"""More are taken for images with the channels first."""


def load_arrays(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    validation: Arrays | None = None,
    test: Arrays | None = None,
    groups: Sequence[str | int | None] | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize: str = STRETCH,
    channels: int | None = None,
    batch_size: int = 32,
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> ImageData:
    """Loads images from arrays and splits them by the same rule as `load_folder`.

    Args:
        images: Integer values in 0...255, RGB `(n, height, width, 3)` or greyscale `(n, height,
            width)` or `(n, height, width, 1)`, or with any other number of channels. Stored as
            uint8.
        labels: Integers from 0 to `num_classes - 1`, `(n,)` or `(n, 1)`; for multi-label images 0
            and 1, `(n, num_classes)`.
        class_names: The class names in the order of the labels; "0", "1" and so on by default.
        validation: Images and labels of the user's own validation split.
        test: Images and labels of the user's own test split.
        groups: The key of each image's group, such as a patient or a scene; all images of a group
            go into one split, see `load_folder`. `None` or "" for an image without a group. Not
            allowed together with `validation` or `test`.
        image_size: Height and width that images are resized to; their own size by default.
        resize: "stretch", "crop" or "pad", see `load_folder`.
        channels: The number of channels that `images` have; or 3, the default for greyscale images,
            which repeats their channel. Greyscale images stay grey with 1, for
            `build_classifier(channels=1)`.
        batch_size: Images per batch.
        splits: Fractions of training, validation and test; ignored if `validation` or `test` is
            given.
        seed: Seed of the split, the order and the augmentation.

    Raises:
        ArgumentError: An argument is invalid.
        DataError: There are fewer than two classes, or fewer than two different images of a class;
            or there are so few groups that a split would be empty.

    Example:
        >>> import numpy as np
        >>> import tlkit
        >>> images = np.arange(20 * 64, dtype=np.int64).reshape(20, 8, 8) % 251
        >>> data = tlkit.load_arrays(images, [0, 1] * 10, ["even", "odd"], splits=(0.5, 0.5, 0))
        >>> next(iter(data.train.dataset()))[0].shape[1:]
        TensorShape([8, 8, 3])
    """
    sources = {"images": (images, labels), "validation": validation, "test": test}
    checked = {
        name: _checked_source(name, source)
        for name, source in sources.items()
        if source is not None
    }
    own_size = checked["images"][0].shape[1:3]
    num_channels = _checked_channels(channels, {name: one[0] for name, one in checked.items()})
    settings = check_settings(
        own_size if image_size is None else image_size, batch_size, splits, seed, resize=resize
    )
    names = _checked_names(class_names, [pair[1] for pair in checked.values()])
    is_split = len(checked) > 1
    keys = _checked_groups(groups, len(checked["images"][0]), is_split=is_split)
    records, pixels, rows = [], [], []
    for name, (array, numbers) in checked.items():
        if len(array) != len(numbers):
            raise ArgumentError(
                f"`labels` must have one label for each image. Received: {len(array)} images and "
                f"{len(numbers)} labels for `{name}`. Give as many labels as images."
            )
        split_name = "" if not is_split else "train" if name == "images" else name
        for row, (image, label) in enumerate(zip(array, numbers, strict=True)):
            records.append(_record(f"{name}[{row}]", image, label, names, split_name))
            pixels.append(image)
            rows.append(label)
    if keys:
        records = [replace(record, group=key) for record, key in zip(records, keys, strict=True)]
    records, notes = complete_groups(records)
    division = divide(records, settings.splits, settings.seed)
    if rows[0].ndim == 0:
        check_classes(records, division)
    else:
        check_labels(records, division)

    from tlkit.data.keras_split import KerasSplit

    def split(name: str) -> ImageSplit:
        positions = division.splits[name]
        array = np.stack([pixels[position] for position in positions])
        group_keys = tuple(records[position].group for position in positions)
        return KerasSplit(
            name,
            tuple(records[position].path for position in positions),
            np.stack([rows[position] for position in positions]),
            tuple(records[position].digest for position in positions),
            settings.image_size,
            settings.batch_size,
            settings.seed,
            _pixels=np.broadcast_to(array, (*array.shape[:3], num_channels)),
            groups=group_keys if any(group_keys) else (),
            resize=settings.resize,
            channels=num_channels,
        )

    image_splits = {name: split(name) for name in division.splits}
    return ImageData(
        image_splits["train"],
        image_splits.get("validation"),
        image_splits.get("test"),
        names,
        _report(image_splits, names, len(records), division, notes),
        settings.image_size,
        settings.batch_size,
        settings.seed,
        settings.resize,
        num_channels,
    )


def _checked_channels(channels: int | None, images: dict[str, np.ndarray]) -> int:
    """Returns the number of channels of all images."""
    found = {name: array.shape[-1] for name, array in images.items()}
    own = max(found.values())
    wanted = (RGB if own == GREY else own) if channels is None else channels
    is_possible = type(wanted) is int and all(
        one == wanted or (one, wanted) == (GREY, RGB) for one in found.values()
    )
    if not is_possible:
        shown = ", ".join(f"{name} with {number}" for name, number in found.items())
        raise ArgumentError(
            "`channels` must be the number of channels of the images, or 3 for greyscale images. "
            f"Received: channels={channels!r}, {shown}. Leave `channels` out, or give images with "
            "the same channels in every split."
        )
    return wanted


def _checked_source(name: str, source: Arrays) -> Arrays:
    """Returns images as `_checked_images` does, and labels as `_checked_labels` does."""
    if not (isinstance(source, list | tuple) and len(source) == 2):
        raise ArgumentError(
            f"`{name}` must be two arrays, (images, labels). Received: a "
            f"{type(source).__name__}. Write {name}=(images, labels)."
        )
    return _checked_images(name, source[0]), _checked_labels(name, source[1])


def _checked_images(name: str, images: np.ndarray) -> np.ndarray:
    """Returns the images as uint8 `(n, height, width, channels)`."""
    array = np.asarray(images)
    if array.ndim == 3:
        array = array[..., np.newaxis]
    if array.ndim != 4 or array.shape[-1] > _MAX_CHANNELS or 0 in array.shape:
        raise ArgumentError(
            f"`{name}` must be images of one size, (n, height, width) or (n, height, width, "
            f"channels) with at most {_MAX_CHANNELS} channels. Received: {name} of shape "
            f"{np.shape(images)}. Resize them to one size, with the channels last."
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f" and array.max() <= 1:
        raise ArgumentError(
            f"`{name}` must have values in 0...255. Received: {name} of {array.dtype} with the "
            f"maximum {array.max()}. Multiply by 255 and round."
        )
    is_pixel = array.dtype.kind in "iuf" and bool(
        np.all((array >= 0) & (array <= 255) & (array == np.floor(array)))
    )
    if not is_pixel:
        raise ArgumentError(
            f"`{name}` must be integers in 0...255. Received: {name} of {array.dtype} with "
            "other values. Undo any normalisation: the model applies its own."
        )
    return array.astype(np.uint8)


def _checked_labels(name: str, labels: np.ndarray) -> np.ndarray:
    """Returns the labels as int64 `(n,)`, or as float32 `(n, num_classes)`."""
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    is_single = (
        array.ndim == 1 and array.dtype.kind in "iu" and (array.size == 0 or array.min() >= 0)
    )
    is_several = array.ndim == 2 and array.dtype.kind in "iufb" and np.isin(array, (0, 1)).all()
    if not is_single and not is_several:
        raise ArgumentError(
            f"`labels` must be whole numbers from 0 on, (n,), or 0 and 1, (n, num_classes). "
            f"Received: labels of `{name}` with shape {array.shape} and type {array.dtype}. "
            "Number the classes."
        )
    return array.astype(np.int64 if is_single else np.float32)


def _checked_names(class_names: Sequence[str] | None, labels: list[np.ndarray]) -> tuple[str, ...]:
    if len({array.shape[1:] for array in labels}) > 1:
        raise ArgumentError(
            "`labels` must be of one kind in every split. Received: labels of shapes "
            f"{', '.join(str(array.shape) for array in labels)}. Number the classes in each."
        )
    needed = max(
        array.shape[1] if array.ndim == 2 else int(array.max(initial=0)) + 1 for array in labels
    )
    names = tuple(map(str, range(needed))) if class_names is None else tuple(class_names)
    if broken := [name for name in names if not is_one_line(name)]:
        raise ArgumentError(
            "`class_names` must be names of one line each. "
            f"Received: {', '.join(map(repr, broken))}. Rename the class."
        )
    is_enough = len(names) == needed if labels[0].ndim == 2 else len(names) >= needed
    if not is_enough or len(set(names)) < len(names):
        raise ArgumentError(
            f"`class_names` must be {needed} different names, one for each label. "
            f"Received: class_names={names!r}. Leave them out to number the classes."
        )
    return names


def _checked_groups(
    groups: Sequence[str | int | None] | None, num_images: int, *, is_split: bool
) -> list[str]:
    """Returns a key for each image, or none at all."""
    if groups is None:
        return []
    if is_split:
        raise ArgumentError(
            "`groups` must be left out where `validation` or `test` is given: you have split. "
            f"Received: groups={groups!r:.80}. Leave one of them out."
        )
    keys = list(groups)
    if len(keys) != num_images:
        raise ArgumentError(
            f"`groups` must be as many as the images. Received: {num_images} images and "
            f"{len(keys)} groups. Give one for each, None for an image that stands alone."
        )
    return [group_text(key, f"images[{row}]") for row, key in enumerate(keys)]


def _record(
    path: str, image: np.ndarray, label: np.ndarray, names: tuple[str, ...], split: str
) -> ImageRecord:
    digest = content_digest(image.tobytes() + str(image.shape).encode())
    if label.ndim == 0:
        return ImageRecord(path, names[label], digest, split)
    labels = tuple(names[index] for index in np.flatnonzero(label))
    return ImageRecord(path, "", digest, split, labels)


def _report(
    image_splits: dict[str, ImageSplit],
    names: tuple[str, ...],
    num_images: int,
    division: Division,
    notes: list[str],
) -> DataReport:
    counts: dict[str, dict[str, int]] = {name: {} for name in names}
    for split_name, split in image_splits.items():
        if split.labels.ndim == 2:
            per_class = split.labels.sum(axis=0).astype(int)
        else:
            per_class = np.bincount(split.labels, minlength=len(names))
        for name, count in zip(names, per_class, strict=True):
            counts[name][split_name] = int(count)
    totals = {name: sum(row.values()) for name, row in counts.items()}
    present = [total for total in totals.values() if total]
    return DataReport(
        counts=counts,
        num_files=num_images,
        formats={"array": num_images},
        duplicates=tuple(division.duplicates),
        conflicts=tuple(division.conflicts),
        leaks=tuple(division.leaks),
        empty_classes=tuple(name for name, total in totals.items() if not total),
        imbalance=max(present) / min(present),
        num_groups=len({group for split in image_splits.values() for group in split.groups} - {""}),
        notes=(*notes, *division.notes),
    )
