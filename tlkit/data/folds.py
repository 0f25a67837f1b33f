"""Folds of a data set: every image is a test image once."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import DataError, check_count


def check_folds(data: ImageData, folds: int) -> None:
    """Checks that each class has enough images that are independent of each other.

    Raises:
        DataError: A class has fewer images (or groups of them) than folds.
    """
    train = data.merged().train
    counts = train.independent_counts(data.num_classes)
    for name, count in zip(data.class_names, counts, strict=True):
        if count < folds:
            raise DataError(
                f"`folds` must be at most the number of {train.independent} of each class. "
                f"Received: folds={folds}, and {name!r} has {count}. Add images, or use fewer "
                "folds."
            )


def folds_of_images(data: ImageData, folds: int) -> Iterator[tuple[ImageData, np.ndarray]]:
    """Yields the data of each fold, and the positions of its test images among all images.

    The images of all splits are divided into test images of one fold each, stratified by class;
    images of one group, and copies, stay together. Of the others, as large a fraction is for
    validation as in `data`, none if it has no validation images.

    Args:
        data: The images.
        folds: Number of folds, from 2 to the number of images of the smallest class.

    Raises:
        ArgumentError: `folds` is not a whole number of at least 2.
        DataError: See `check_folds`.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.data.folds import folds_of_images
        >>> images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(40) % 2, ["even", "odd"])
        >>> for fold, positions in folds_of_images(data, 4):
        ...     print(fold.train.num_images, fold.validation.num_images, len(positions))
        25 5 10
        25 5 10
        25 5 10
        25 5 10
    """
    check_count("folds", folds, minimum=2)
    check_folds(data, folds)
    everything = data.merged().train
    num_others = data.train.num_images
    if data.validation is not None:
        num_others += data.validation.num_images
    for positions in _divided(everything, folds, data.seed):
        others = np.setdiff1d(np.arange(everything.num_images), positions)
        validation = None
        if data.validation is not None:
            parts = round(num_others / data.validation.num_images)
            chosen = _divided(everything.subset(others), max(parts, 2), data.seed)[0]
            validation = dataclasses.replace(everything.subset(others[chosen]), name="validation")
            others = np.delete(others, chosen)
        fold = dataclasses.replace(
            data,
            train=everything.subset(others),
            validation=validation,
            test=dataclasses.replace(everything.subset(positions), name="test"),
        )
        yield fold, positions


def _divided(split: ImageSplit, parts: int, seed: int) -> list[np.ndarray]:
    """Divides the rows of a split into parts, stratified by class, with groups kept together."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    keys = np.array(split.group_keys)
    if split.labels.ndim == 2:
        splitter = GroupKFold(parts, shuffle=True, random_state=seed)
        return [test for _, test in splitter.split(keys, groups=keys)]
    smallest = min(len(np.unique(keys[split.labels == c])) for c in np.unique(split.labels))
    stratified = StratifiedGroupKFold(min(parts, max(smallest, 2)), shuffle=True, random_state=seed)
    return [test for _, test in stratified.split(keys, split.labels, keys)]
