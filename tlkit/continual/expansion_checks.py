"""Checks of the arguments of `expand`, made before any work is done."""

import keras
import numpy as np

from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import (
    ArgumentError,
    DataError,
    check_count,
    check_not_negative,
    check_positive,
)
from tlkit.evaluation.data_checks import check_images
from tlkit.models.heads import head_kind


def check_numbers(
    threshold: float,
    num_units: int | None,
    *,
    target: float | None,
    strength: float,
    sparsity: float,
) -> None:
    """Checks the arguments that decide on growing."""
    check_positive("threshold", threshold)
    if num_units is not None:
        check_count("num_units", num_units)
    if target is not None:
        check_not_negative("target", target)
    check_not_negative("strength", strength)
    check_not_negative("sparsity", sparsity)


def check_training(probe_epochs: int, epochs: int, learning_rate: float) -> None:
    """Checks the arguments of training."""
    check_count("probe_epochs", probe_epochs)
    check_count("epochs", epochs)
    check_positive("learning_rate", learning_rate)


def check_data(data: ImageData, model: keras.Model) -> ImageSplit:
    """Checks the new task, and returns its validation images."""
    if not isinstance(data, ImageData) or data.validation is None or not data.validation.num_images:
        raise DataError(
            "`data` must contain validation images, which decide whether the network grows. "
            f"Received: data={type(data).__name__} without any. Give load_folder(...) splits with "
            "a validation fraction."
        )
    for argument, split in (("data.train", data.train), ("data.validation", data.validation)):
        check_images(argument, split, model, labels="given")
    present = set(np.asarray(data.train.labels).ravel().tolist())
    absent = [name for number, name in enumerate(data.class_names) if number not in present]
    if absent:
        raise DataError(
            "`data` must contain training images of every class that gets an output. "
            f"Received: none of {', '.join(map(repr, absent))}. Add some, or leave the class out."
        )
    return data.validation


def check_head(model: keras.Model) -> None:
    """Checks that the model's classes are mutually exclusive, as those of `expand` are."""
    if head_kind(model) == "multi_label":
        raise ArgumentError(
            "`model` must have mutually exclusive classes. Received: "
            f"model={model.name!r}, a multi-label classifier, whose new labels could not be "
            "trained among themselves. Use tlkit.add_classes."
        )
