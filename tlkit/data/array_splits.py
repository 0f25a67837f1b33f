"""Splits of arrays in memory: images, or inputs of any other kind."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tlkit.data.class_checks import check_classes, check_labels, is_one_line
from tlkit.data.grouping import group_text
from tlkit.data.images import ImageData, ImageSplit
from tlkit.data.reading import content_digest
from tlkit.data.reports import DataReport
from tlkit.data.settings import Settings
from tlkit.data.splits import Division, ImageRecord, complete_groups, divide
from tlkit.errors import ArgumentError

Arrays = tuple[np.ndarray, np.ndarray]


def split_arrays(
    sources: Mapping[str, Arrays],
    class_names: Sequence[str] | None,
    groups: Sequence[str | int | None] | None,
    *,
    settings: Settings,
) -> ImageData:
    """Splits checked arrays with their labels.

    Args:
        sources: The arrays and labels of each argument. The first is the training split if there
            are others, which are then named as their splits; else it is split.
        class_names: The class names in the order of the labels; `None` to number them.
        groups: The group of each example; `None` for none.
        settings: How to split and batch; `channels` is 0 for inputs that are no images.

    Raises:
        ArgumentError: The class names, the groups, or the number of labels do not fit.
        DataError: See `load_arrays`.
    """
    first, *others = sources
    names = _checked_names(class_names, [pair[1] for pair in sources.values()])
    keys = _checked_groups(groups, first, len(sources[first][0]), is_split=bool(others))
    records, values, rows = [], [], []
    for name, (array, numbers) in sources.items():
        if len(array) != len(numbers):
            what = "images" if settings.channels else "inputs"
            raise ArgumentError(
                f"`labels` must have one label for each of the {what}. Received: {len(array)} "
                f"{what} and {len(numbers)} labels for `{name}`. Give as many labels as {what}."
            )
        split_name = "" if not others else "train" if name == first else name
        for row, (example, label) in enumerate(zip(array, numbers, strict=True)):
            records.append(_record(f"{name}[{row}]", example, label, names, split_name))
            values.append(example)
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
        group_keys = tuple(records[position].group for position in positions)
        return KerasSplit(
            name,
            tuple(records[position].path for position in positions),
            np.stack([rows[position] for position in positions]),
            tuple(records[position].digest for position in positions),
            settings.image_size,
            settings.batch_size,
            settings.seed,
            _pixels=_stacked([values[position] for position in positions], settings.channels),
            groups=group_keys if any(group_keys) else (),
            resize=settings.resize,
            channels=settings.channels,
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
        settings.channels,
    )


def check_pair(name: str, source: object, what: str) -> None:
    """Raises `ArgumentError` unless an argument is a pair of arrays.

    Args:
        name: The argument's name.
        source: The argument.
        what: What the first array holds, such as "images".
    """
    if not (isinstance(source, list | tuple) and len(source) == 2):
        raise ArgumentError(
            f"`{name}` must be two arrays, ({what}, labels). Received: a "
            f"{type(source).__name__}. Write {name}=({what}, labels)."
        )


def content_of(example: np.ndarray | bytes) -> bytes:
    """Returns bytes that differ for examples that differ in values, shape or type.

    Example:
        >>> import numpy as np
        >>> from tlkit.data.array_splits import content_of
        >>> content_of(b"ab"), content_of(np.array([b"a", b"b"], object))
        (b'text2 ab', b'text1 a1 b')
    """
    if isinstance(example, bytes) or example.dtype == object:
        texts = [example] if isinstance(example, bytes) else example.ravel().tolist()
        return b"text" + b"".join(b"%d %s" % (len(text), text) for text in texts)
    shape = repr((example.shape, example.dtype.str)).encode()
    return shape + np.ascontiguousarray(example).tobytes()


def _stacked(values: list[np.ndarray], channels: int) -> np.ndarray:
    """Returns all examples as one array; greyscale images get as many channels as asked for."""
    array = np.array(values, object) if isinstance(values[0], bytes) else np.stack(values)
    return np.broadcast_to(array, (*array.shape[:3], channels)) if channels else array


def checked_labels(name: str, labels: np.ndarray | Sequence[Any]) -> np.ndarray:
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
    groups: Sequence[str | int | None] | None, name: str, num_examples: int, *, is_split: bool
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
    if len(keys) != num_examples:
        raise ArgumentError(
            f"`groups` must be as many as the {name}. Received: {num_examples} {name} and "
            f"{len(keys)} groups. Give one for each, None for one that stands alone."
        )
    return [group_text(key, f"{name}[{row}]") for row, key in enumerate(keys)]


def _record(
    path: str, example: np.ndarray | bytes, label: np.ndarray, names: tuple[str, ...], split: str
) -> ImageRecord:
    digest = _digest_of(example)
    if label.ndim == 0:
        return ImageRecord(path, names[label], digest, split)
    labels = tuple(names[index] for index in np.flatnonzero(label))
    return ImageRecord(path, "", digest, split, labels)


def _digest_of(example: np.ndarray | bytes) -> str:
    if isinstance(example, np.ndarray) and example.dtype == np.uint8 and example.ndim == 3:
        # an image; splits of earlier versions depend on this hash
        return content_digest(example.tobytes() + str(example.shape).encode())
    return content_digest(content_of(example))


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
