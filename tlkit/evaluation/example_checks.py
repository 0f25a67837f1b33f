"""Checks of inputs that are no images against a model: their kind, shape and values."""

import numpy as np

from tlkit.data.images import ImageSplit
from tlkit.errors import ArgumentError
from tlkit.evaluation.batch_checks import BatchStats, check_inputs
from tlkit.models.model_spec import ModelSpec

_TEXT = "string"


def check_kind(argument: str, dtype: str, spec: ModelSpec) -> None:
    """Raises `ArgumentError` unless a model takes inputs of a type.

    Texts and numbers are never converted to each other, and fractions are not rounded to the whole
    numbers that a model takes (except for pixels, which are whole numbers as floats).

    Args:
        argument: The argument's name in errors.
        dtype: The type of the inputs, such as "string" or "float32".
        spec: The model's specification.
    """
    is_text = dtype == _TEXT
    if is_text != spec.takes_text:
        kinds = ("text", "numbers") if spec.takes_text else ("numbers", "text")
        raise ArgumentError(
            f"`{argument}` must contain {kinds[0]}, which model={spec.name!r} takes. Received: "
            f"{kinds[1]}, {dtype}. Pass the inputs it was built for, or build it with "
            f"keras.Input(..., dtype={dtype!r})."
        )
    takes_whole = "int" in spec.input_dtype and not spec.takes_images
    if takes_whole and "float" in dtype:
        raise ArgumentError(
            f"`{argument}` must contain whole numbers, {spec.input_dtype}, which model="
            f"{spec.name!r} takes. Received: {dtype}. Convert them with "
            f".astype({spec.input_dtype!r}), or build it with keras.Input(..., dtype={dtype!r})."
        )


def check_examples(argument: str, examples: np.ndarray, spec: ModelSpec) -> None:
    """Raises unless inputs in memory have the kind, the shape and the values that a model takes.

    Args:
        argument: The argument's name in errors.
        examples: `(n, ...)`, as `tlkit.data.examples.examples_of` returns them.
        spec: The model's specification.

    Raises:
        ArgumentError: The model takes inputs of another type, shape or range.
        DataError: A value is no token of the model.
    """
    is_text = examples.dtype == object
    check_kind(argument, _TEXT if is_text else examples.dtype.name, spec)
    is_known = not is_text and examples.size > 0
    low, high = (float(examples.min()), float(examples.max())) if is_known else (0.0, 0.0)
    stats = BatchStats(examples.shape, examples.dtype.kind == "f", low, high, is_finite=True)
    check_inputs(argument, stats, spec, check_range=True)


def check_example_split(argument: str, split: ImageSplit, spec: ModelSpec) -> None:
    """Raises as `check_examples` does unless the inputs of a split are what a model takes."""
    if (examples := split.source.pixels) is not None:
        check_examples(argument, examples, spec)
