"""One batch against what a model takes: shape, values and weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tlkit.errors import ArgumentError, DataError
from tlkit.models.model_spec import PIXELS, UNIT, ModelSpec

_NORMALISED = 16.0
"""Up to here, below and above zero, lie values in units of their deviation."""

_LOWEST, _HIGHEST = -90.0, 1000.0
"""Pixels 0...255 leave their range by less, whatever sharpens or brightens them."""


@dataclass(frozen=True)
class Facts:
    """What is asked of the inputs of a batch.

    Attributes:
        shape: Their own.
        is_float: Whether they are floating-point numbers.
        low: The lowest value; 0 for text.
        high: The highest.
        is_finite: Whether none is NaN or infinite.
    """

    shape: tuple[int, ...]
    is_float: bool
    low: float
    high: float
    is_finite: bool


def values_of(inputs: tf.Tensor) -> list[tf.Tensor]:
    """Returns shape, lowest and highest value, and whether all are finite, as tensors."""
    if inputs.dtype == tf.string:
        return [tf.shape(inputs), tf.constant(0.0), tf.constant(0.0), tf.constant(True)]
    numbers = inputs if inputs.dtype.is_floating else tf.cast(inputs, tf.float32)
    is_finite = tf.reduce_all(tf.math.is_finite(numbers))
    ends = (tf.cast(end(numbers), tf.float32) for end in (tf.reduce_min, tf.reduce_max))
    return [tf.shape(inputs), *ends, is_finite]


def facts_of(values: list[Any], *, is_float: bool) -> Facts:
    """Returns the facts from what `values_of` gave, as arrays."""
    shape, low, high, is_finite = values
    return Facts(tuple(map(int, shape)), is_float, float(low), float(high), bool(is_finite))


def check_inputs(argument: str, facts: Facts, spec: ModelSpec, *, asks_range: bool) -> bool:
    """Checks the inputs of a batch, as they have been brought to the model's rank.

    Returns:
        Whether their values told their range: not those of black images, nor of dark ones where
        the model takes 0...1.

    Raises:
        ArgumentError: They have another shape or another range than the model takes.
        DataError: A value is NaN or infinite, or no token of the model's.
    """
    check_shape(argument, facts.shape, spec)
    if not facts.shape[0] or spec.takes_text:
        return False
    if not facts.is_finite:
        raise DataError(
            f"`{argument}` must hold finite values. Received: NaN or infinite ones. Look for what "
            "divides by zero before the batches, or leave these examples out."
        )
    if spec.num_tokens is not None and not 0 <= facts.low <= facts.high < spec.num_tokens:
        raise DataError(
            f"`{argument}` must hold whole numbers from 0 to {spec.num_tokens - 1}, as the model's "
            f"Embedding has {spec.num_tokens} rows. Received: values from {facts.low:g} to "
            f"{facts.high:g}. Build the Embedding for all tokens, or leave rare ones out."
        )
    if not asks_range or (facts.low, facts.high) == (0.0, 0.0):
        return False
    if is_out_of_range(facts) and spec.value_range == PIXELS:
        raise ArgumentError(
            f"`{argument}` must hold pixels 0...255, for model={spec.name!r} brings these to what "
            f"its layers take itself. Received: values from {facts.low:.3g} to {facts.high:.3g}. "
            f"{_remedy(facts)}"
        )
    if facts.high > _NORMALISED and not is_out_of_range(facts) and spec.value_range == UNIT:
        raise ArgumentError(
            f"`{argument}` must hold values 0...1, for model={spec.name!r} brings these to what "
            f"its layers take. Received: values from {facts.low:.3g} to {facts.high:.3g}, which "
            "are pixels. Divide them by 255, or put keras.layers.Rescaling(1 / 255) in front of "
            "the model."
        )
    may_be_dark_pixels = 1 < facts.high <= _NORMALISED and spec.value_range == UNIT
    return not may_be_dark_pixels


def check_shape(argument: str, shape: tuple[int | None, ...], spec: ModelSpec) -> None:
    """Raises `ArgumentError` unless a shape, as far as it is known, is what the model takes."""
    wanted = spec.input_shape
    if len(shape) == len(wanted) and all(
        None in pair or pair[0] == pair[1] for pair in zip(shape[1:], wanted[1:], strict=True)
    ):
        return
    remedy = "Reshape them, or build the model for them."
    if len(shape) == len(wanted) == 4:
        channels = shape[-1], wanted[-1]
        if None not in channels and channels[0] != channels[1]:
            remedy = _CHANNELS.get(channels, "Build the model for as many channels.")
        else:
            remedy = f"Resize them to that: tf.image.resize(images, {wanted[1:3]})."
    raise ArgumentError(
        f"`{argument}` must have the shape that the model takes, {written_shape(wanted)}. "
        f"Received: {written_shape(shape)}. {remedy}"
    )


def check_weights(argument: str, weights: np.ndarray, num_images: int) -> None:
    """Raises `DataError` unless there is one finite weight, 0 or more, for each image."""
    is_number = weights.dtype.kind in "iufb"
    if is_number and weights.shape in {(num_images,), (num_images, 1)}:
        if np.all((weights >= 0) & (weights < np.inf)):
            return
        received = f"values from {weights.min():.3g} to {weights.max():.3g}"
    else:
        received = f"an array of the shape {weights.shape} and type {weights.dtype}"
    raise DataError(
        f"`{argument}` must have, as its third part, one weight for each image, 0 or more. "
        f"Received: {received} for {num_images} images. Leave the third part out, or give such."
    )


_CHANNELS: dict[tuple[int | None, int | None], str] = {
    (1, 3): "Use tf.image.grayscale_to_rgb(images).",
    (3, 1): "Use tf.image.rgb_to_grayscale(images).",
    (4, 3): "Leave transparency out: images[..., :3].",
    (4, 1): "Use tf.image.rgb_to_grayscale(images[..., :3]).",
}


def is_out_of_range(facts: Facts) -> bool:
    """Whether values are none of pixels 0...255, as files are read."""
    size = max(-facts.low, facts.high)
    is_fraction = facts.is_float and size <= 1
    is_normalised = facts.low < 0 and size <= _NORMALISED
    return is_fraction or is_normalised or facts.low < _LOWEST or facts.high > _HIGHEST


def _remedy(facts: Facts) -> str:
    if facts.low >= 0 and facts.high <= 1:
        return "Multiply them by 255."
    if facts.low >= 0:
        return "Divide them by what brings the largest to 255."
    return "Undo the normalisation: the model does its own."


def written_shape(shape: tuple[int | None, ...]) -> str:
    """Returns the shape of a batch for a message: "(batch, 32, 32, 3)"."""
    sizes = ", ".join("any" if size is None else str(size) for size in shape[1:])
    return f"(batch, {sizes})" if sizes else "(batch,)"
