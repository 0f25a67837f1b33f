"""The number and the names of a model's classes."""

from collections.abc import Sequence

import keras

from tlkit.errors import ArgumentError, as_tuple
from tlkit.models.heads import head_kind


def num_classes_of(model: keras.Model) -> int:
    """Returns the number of classes of a model: two for one binary output."""
    return 2 if head_kind(model) == "binary" else int(model.output_shape[-1])


def check_class_names(class_names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Returns `class_names` as a tuple.

    Raises:
        ArgumentError: Unless they are `num_classes` different strings.
    """
    names = as_tuple(class_names)
    if not all(isinstance(name, str) for name in names):
        raise ArgumentError(
            f"`class_names` must be strings. Received: class_names={_shorten(names)}. "
            "Give the name of each class, in the order of the model's outputs."
        )
    if len(names) != num_classes:
        raise ArgumentError(
            f"`class_names` must name the model's {num_classes} classes. "
            f"Received: {len(names)}, class_names={_shorten(names)}. "
            "Give the names that the model was trained with, in that order."
        )
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ArgumentError(
            f"`class_names` must not have duplicates. Received: {duplicate!r} more than once. "
            "Rename one of them."
        )
    return names


def _shorten(names: tuple[object, ...]) -> str:
    return repr(names) if len(names) <= 10 else f"{repr(names[:10])[:-1]}, ...)"
