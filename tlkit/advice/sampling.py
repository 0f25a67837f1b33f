"""Which images are looked at where all of them would take too long."""

from collections.abc import Sequence

import numpy as np

from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import DataError

_LEAST = 2
"""Of each class, of different units: what is cross-validated measures one by the other."""


def sample_rows(split: ImageSplit, num_images: int, *, seed: int = 0) -> np.ndarray:
    """Returns rows of a split, in order: each class by its share, but with two units at least.

    A unit is an image with its copies, or a group, see `ImageSplit.units`: two copies of one
    image, or two images of one patient, are no two things to measure one by the other. Where
    images have several labels each, rows are drawn without regard to them.

    Args:
        split: What to draw from.
        num_images: How many rows; more only where two of each class are more.
        seed: Of the draw.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.advice.sampling import sample_rows
        >>> images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), "uint8")
        >>> labels = [0] * 37 + [1] * 3
        >>> train = tlkit.load_arrays(images, labels, ["many", "few"], splits=(1, 0, 0)).train
        >>> np.bincount(train.labels[sample_rows(train, 10)]).tolist()
        [8, 2]
    """
    if split.num_images <= num_images:
        return np.arange(split.num_images)
    order = np.random.default_rng(seed).permutation(split.num_images)
    if split.labels.ndim == 2:
        return np.sort(order[: max(num_images, _LEAST)])
    units = np.array(split.group_keys)
    classes, counts = np.unique(split.labels, return_counts=True)
    chosen = []
    for label, count in zip(classes, _shared_out(counts, num_images), strict=True):
        of_class = order[split.labels[order] == label]
        firsts = np.sort(np.unique(units[of_class], return_index=True)[1])[:_LEAST]
        others = np.setdiff1d(np.arange(len(of_class)), firsts)
        chosen.append(of_class[np.concatenate([firsts, others])[:count]])
    return np.sort(np.concatenate(chosen))


def lone_class(data: ImageData) -> str | None:
    """Names a class whose training images are all of one unit, and says so; `None` without one.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.advice.sampling import lone_class
        >>> images = np.random.default_rng(0).integers(0, 255, (8, 8, 8, 3), "uint8")
        >>> data = tlkit.load_arrays(images, [0] * 6 + [1] * 2, ["many", "few"])
        >>> lone_class(data)
        "'few' has one training image"
    """
    if data.is_multi_label:
        return None
    train, units = data.train, np.array(data.train.group_keys)
    for number, name in enumerate(data.class_names):
        found = np.unique(units[train.labels == number])
        if len(found) < _LEAST:
            what = "group of training images" if train.groups and len(found) else "training image"
            return f"{name!r} has {'one' if len(found) else 'no'} {what}"
    return None


def check_no_lone_class(data: ImageData, argument: str, remedy: str) -> None:
    """Raises `DataError` where a class has too little for one part to be measured by another.

    Args:
        data: Whose training images are to be cross-validated.
        argument: What the error calls them.
        remedy: What is to be done where none can be added.
    """
    if (lone := lone_class(data)) is not None:
        raise DataError(
            f"`{argument}` must hold at least two different training images each of all classes "
            "(of different groups, where they have any), to measure one by the other. "
            f"Received: {argument} in which {lone}. Add some, or {remedy}."
        )


def _shared_out(counts: Sequence[int] | np.ndarray, total: int) -> np.ndarray:
    """Shares `total` out by `counts`, the largest remainders first, with two for each at least."""
    counts = np.asarray(counts)
    wanted = counts * (total / counts.sum())
    given = np.minimum(np.maximum(np.floor(wanted).astype(np.int64), _LEAST), counts)
    while given.sum() < total:
        given[np.argmax(np.where(given < counts, wanted - given, -np.inf))] += 1
    while given.sum() > total and (given > _LEAST).any():
        given[np.argmin(np.where(given > _LEAST, wanted - given, np.inf))] -= 1
    return given
