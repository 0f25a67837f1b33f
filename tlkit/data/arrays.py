"""Pictures that are in memory already."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from tlkit.data.folders import check_image_size
from tlkit.data.images import ImageData, ImageSplit
from tlkit.data.inspection import DEFAULT_SPLITS
from tlkit.data.reports import DataReport, Leak
from tlkit.data.splits import SPLITS, assign_splits, check_splits
from tlkit.errors import ArgumentError, DataError, check_count

Pair = tuple[np.ndarray, np.ndarray]


def load_arrays(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    validation: Pair | None = None,
    test: Pair | None = None,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = 32,
    splits: Sequence[float] = DEFAULT_SPLITS,
    seed: int = 0,
) -> ImageData:
    """Loads pictures from arrays, split as `load_folder` splits files.

    With `validation` or `test` the split is yours and stays: what is not given is `None` (a
    validation split is never taken out of `images` then).

    Args:
        images: Whole numbers 0...255, `(n, height, width, 3)`, or `(n, height, width)` and
            `(n, height, width, 1)` for grey.
        labels: Positions in `class_names`, `(n,)`; or 0/1 of shape `(n, num_classes)` where a
            picture may have several labels.
        class_names: In the order of the labels; "0", "1", ... by default.
        validation: Pictures and labels to decide on.
        test: Pictures and labels to measure on.
        image_size: What pictures are resized to; as they are by default.
        batch_size: Pictures in a batch.
        splits: Shares of train, validation and test.
        seed: Of the split, the order and the augmentation.

    Raises:
        ArgumentError: An argument breaks its rule.
        DataError: There are too few classes, or too few pictures of one.

    Example:
        >>> import numpy as np, tlkit
        >>> images = np.random.default_rng(0).integers(0, 255, (50, 28, 28), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(50) % 2, ["even", "odd"])
        >>> data.train.num_images + data.validation.num_images + data.test.num_images
        50
    """
    shares = check_splits(splits)
    check_count("batch_size", batch_size)
    given = {"train": (images, labels), "validation": validation, "test": test}
    parts = {
        name: (_pixels(pair[0], name), np.asarray(pair[1]))
        for name, pair in given.items()
        if pair is not None
    }
    names = _class_names(class_names, [one for _, one in parts.values()])
    for name, (pixels, some) in parts.items():
        _check_labels(name, len(pixels), some, names)
    pixels = np.concatenate([one for one, _ in parts.values()])
    all_labels = np.concatenate([one for _, one in parts.values()])
    size = check_image_size(image_size) if image_size is not None else pixels.shape[1:3]
    paths = tuple(
        f"{'images' if name == 'train' else name}[{row}]"
        for name, (some, _) in parts.items()
        for row in range(len(some))
    )
    digests = tuple(_digest(image) for image in pixels)
    if len(parts) > 1:
        assigned = np.concatenate(
            [np.full(len(some), SPLITS.index(name)) for name, (some, _) in parts.items()]
        )
        notes: tuple[str, ...] = () if test is not None else ("no test split",)
    else:
        assigned, notes = _assigned(digests, all_labels, names, shares, seed)
    is_multi_label = all_labels.ndim == 2
    all_labels = all_labels.astype(np.float32 if is_multi_label else np.int64)
    kept, duplicates, conflicts, leaks = _sorted_out(paths, digests, all_labels, assigned)

    def split(number: int) -> ImageSplit:
        rows = kept[assigned[kept] == number]
        return ImageSplit(
            name=SPLITS[number],
            paths=tuple(paths[row] for row in rows),
            labels=all_labels[rows],
            digests=tuple(digests[row] for row in rows),
            image_size=(size[0], size[1]),
            batch_size=batch_size,
            seed=seed,
            _pixels=pixels[rows],
        )

    present = set(assigned[kept].tolist())
    made = [split(number) if number in present else None for number in range(len(SPLITS))]
    train, held_out, measured = made
    if train is None:
        raise DataError("`images` must hold pictures to train on. Received: none that can be used.")
    report = _report(made, names, len(pixels), duplicates, conflicts, leaks, notes)
    return ImageData(
        train=train,
        validation=held_out,
        test=measured,
        class_names=names,
        report=report,
        image_size=(size[0], size[1]),
        batch_size=batch_size,
        seed=seed,
    )


def _pixels(images: np.ndarray, name: str) -> np.ndarray:
    """Returns uint8 `(n, height, width, 3)`."""
    argument = "images" if name == "train" else name
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ArgumentError(
            f"`{argument}` must have the shape (n, height, width), (n, height, width, 1) or "
            f"(n, height, width, 3), n above 0. Received: shape {images.shape}."
        )
    if images.dtype != np.uint8:
        whole = np.issubdtype(images.dtype, np.number) and np.array_equal(images, images.round())
        low, high = (images.min(), images.max()) if whole else (-1, -1)
        if low < 0 or high > 255 or (high <= 1 and np.issubdtype(images.dtype, np.floating)):
            raise ArgumentError(
                f"`{argument}` must hold whole numbers 0...255. Received: {images.dtype} from "
                f"{images.min():.3g} to {images.max():.3g}. Multiply values of 0...1 by 255 and "
                "convert: (images * 255).round().astype('uint8')."
            )
        images = images.astype(np.uint8)
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def _class_names(
    class_names: Sequence[str] | None, labels: Sequence[np.ndarray]
) -> tuple[str, ...]:
    if class_names is None:
        last = max((int(one.max()) if one.ndim == 1 else one.shape[1] - 1) for one in labels)
        class_names = [str(number) for number in range(last + 1)]
    names = tuple(class_names)
    if len(names) < 2 or len(set(names)) < len(names):
        raise ArgumentError(
            "`class_names` must be at least two different names. "
            f"Received: class_names={list(names)!r}."
        )
    return names


def _check_labels(name: str, count: int, labels: np.ndarray, names: tuple[str, ...]) -> None:
    argument = "labels" if name == "train" else f"{name}[1]"
    if len(labels) != count:
        raise ArgumentError(
            f"`{argument}` must have one label per picture. Received: {len(labels)} labels for "
            f"{count} pictures."
        )
    if labels.ndim == 2:
        if labels.shape[1] != len(names) or not np.isin(labels, (0, 1)).all():
            raise ArgumentError(
                f"`{argument}` must be 0 or 1 for each of {len(names)} classes. Received: shape "
                f"{labels.shape} with values {np.unique(labels)[:5].tolist()}."
            )
        return
    is_whole = np.issubdtype(labels.dtype, np.integer)
    if labels.ndim != 1 or not is_whole or labels.min() < 0 or labels.max() >= len(names):
        raise ArgumentError(
            f"`{argument}` must be whole numbers from 0 to {len(names) - 1}, one for each of "
            f"class_names. Received: {labels.dtype} of shape {labels.shape}, values such as "
            f"{np.unique(labels)[[0, -1]].tolist() if labels.size else []}."
        )
    counts = np.bincount(labels, minlength=len(names))
    if name == "train" and counts.min() < 1:
        raise DataError(
            f"`{argument}` must have pictures of every class. Received: none of "
            f"{names[int(counts.argmin())]!r}. Leave it out of class_names, or add pictures."
        )


def _assigned(
    digests: tuple[str, ...],
    labels: np.ndarray,
    names: tuple[str, ...],
    shares: tuple[float, float, float],
    seed: int,
) -> tuple[np.ndarray, tuple[str, ...]]:
    if labels.ndim == 2:  # several labels each: split as one class
        assigned, _ = assign_splits(digests, np.zeros(len(labels), int), ("",), shares, seed)
        return assigned, ()
    for label, name in enumerate(names):
        rows = np.flatnonzero(labels == label)
        if len({digests[row] for row in rows}) < 2 and shares[0] < 1:
            raise DataError(
                "`labels` must give every class at least two pictures, one to train on and one to "
                f"measure on. Received: a single picture of {name!r}."
            )
    assigned, lent = assign_splits(digests, labels, names, shares, seed)
    if not lent:
        return assigned, ()
    return assigned, (f"so few pictures that the split was evened out: {', '.join(lent)}",)


def _sorted_out(
    paths: tuple[str, ...], digests: tuple[str, ...], labels: np.ndarray, assigned: np.ndarray
) -> tuple[np.ndarray, tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...], tuple[Leak, ...]]:
    """Returns the rows to keep, the groups of copies, the contradictions and the leaks."""
    copies: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        copies[digest].append(row)
    groups = [rows for rows in copies.values() if len(rows) > 1]
    conflicts = [rows for rows in groups if len({labels[row].tobytes() for row in rows}) > 1]
    left_out = {row for rows in conflicts for row in rows}
    leaks = []
    for rows in groups:
        if rows[0] in left_out:
            continue
        first = min(rows, key=lambda row: (assigned[row], row))
        for row in rows:
            if row != first and assigned[row] > 0:
                left_out.add(row)
                if assigned[row] != assigned[first]:
                    leaks.append(Leak(paths[first], paths[row]))

    def named(groups: list[list[int]]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(paths[row] for row in rows) for rows in groups)

    kept = np.array([row for row in range(len(digests)) if row not in left_out], np.int64)
    duplicates = [rows for rows in groups if rows not in conflicts]
    return kept, named(duplicates), named(conflicts), tuple(leaks)


def _report(
    made: list[ImageSplit | None],
    names: tuple[str, ...],
    num_images: int,
    duplicates: tuple[tuple[str, ...], ...],
    conflicts: tuple[tuple[str, ...], ...],
    leaks: tuple[Leak, ...],
    notes: tuple[str, ...],
) -> DataReport:
    counts: dict[str, dict[str, int]] = {name: {} for name in names}
    totals: Counter[str] = Counter()
    for split in made:
        if split is None:
            continue
        of_class = (
            split.labels.sum(axis=0) if split.labels.ndim == 2
            else np.bincount(split.labels, minlength=len(names))
        )
        for name, count in zip(names, of_class, strict=True):
            counts[name][split.name] = int(count)
            totals[name] += int(count)
    return DataReport(
        counts=counts,
        num_files=num_images,
        formats={"array": num_images},
        duplicates=duplicates,
        conflicts=conflicts,
        leaks=leaks,
        imbalance=max(totals.values()) / max(min(totals.values()), 1),
        notes=notes,
    )


def _digest(image: np.ndarray) -> str:
    content = repr(image.shape).encode() + image.tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
