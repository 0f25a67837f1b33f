"""Draws samples of training images that are valid for cross-validation."""

from collections.abc import Sequence

import numpy as np

from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import DataError

_MIN_PER_CLASS = 2
"""Minimum number of images per class, of different groups, for cross-validation."""


def sample_rows(split: ImageSplit, num_images: int, *, seed: int = 0) -> np.ndarray:
    """Returns rows of a split, in order: a stratified sample with at least two groups per class.

    A group here is also an image with its copies, see `ImageSplit.group_keys`: two copies of one
    image, or two images of one patient, are not independent. Multi-label images are drawn without
    stratification.

    Args:
        split: The split to draw from.
        num_images: Number of rows; exceeded only if two of each class are more.
        seed: Seed of the draw.

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
        return np.sort(order[: max(num_images, _MIN_PER_CLASS)])
    keys = np.array(split.group_keys)
    classes, counts = np.unique(split.labels, return_counts=True)
    chosen = []
    for label, count in zip(classes, _apportion(counts, num_images), strict=True):
        class_rows = order[split.labels[order] == label]
        firsts = np.sort(np.unique(keys[class_rows], return_index=True)[1])[:_MIN_PER_CLASS]
        others = np.setdiff1d(np.arange(len(class_rows)), firsts)
        chosen.append(class_rows[np.concatenate([firsts, others])[:count]])
    return np.sort(np.concatenate(chosen))


def find_lone_class(data: ImageData) -> str | None:
    """Describes a class whose training images are all of one group; `None` if there is none.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.advice.sampling import find_lone_class
        >>> images = np.random.default_rng(0).integers(0, 255, (8, 8, 8, 3), "uint8")
        >>> data = tlkit.load_arrays(images, [0] * 6 + [1] * 2, ["many", "few"])
        >>> find_lone_class(data)
        "'few' has one training image"
    """
    if data.is_multi_label:
        return None
    counts = data.train.independent_counts(data.num_classes)
    for name, count in zip(data.class_names, counts, strict=True):
        if count < _MIN_PER_CLASS:
            noun = "group of training images" if data.train.groups and count else "training image"
            return f"{name!r} has {'one' if count else 'no'} {noun}"
    return None


def check_no_lone_class(data: ImageData, argument: str, remedy: str) -> None:
    """Raises `DataError` if a class has too few independent images for cross-validation.

    Args:
        data: The data with the training images to cross-validate.
        argument: The argument's name in the error.
        remedy: The alternative to adding images.
    """
    if (problem := find_lone_class(data)) is not None:
        raise DataError(
            f"`{argument}` must have at least two different training images of each class (of "
            "different groups, if there are any) for cross-validation. "
            f"Received: {argument} in which {problem}. Add images, or {remedy}."
        )


def _apportion(counts: Sequence[int] | np.ndarray, total: int) -> np.ndarray:
    """Distributes `total` in proportion to `counts`, by largest remainders, at least two each."""
    counts = np.asarray(counts)
    quotas = counts * (total / counts.sum())
    counts_given = np.minimum(np.maximum(np.floor(quotas).astype(np.int64), _MIN_PER_CLASS), counts)
    while counts_given.sum() < total:
        counts_given[
            np.argmax(np.where(counts_given < counts, quotas - counts_given, -np.inf))
        ] += 1
    while counts_given.sum() > total and (counts_given > _MIN_PER_CLASS).any():
        counts_given[
            np.argmin(np.where(counts_given > _MIN_PER_CLASS, quotas - counts_given, np.inf))
        ] -= 1
    return counts_given
