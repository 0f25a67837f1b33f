"""Checks of one batch against a model's input: shape, values and sample weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tlkit.errors import ArgumentError, DataError
from tlkit.models.model_spec import PIXELS, UNIT, ModelSpec

_MAX_NORMALISED = 16.0
"""Maximum absolute value of inputs that were standardised (divided by their deviation)."""

_MIN_PIXEL, _MAX_PIXEL = -90.0, 1000.0
"""Bounds of pixels 0...255 after augmentation such as sharpening or brightening."""


@dataclass(frozen=True)
class BatchStats:
    """Statistics of the inputs of a batch.

    Attributes:
        shape: The shape of the inputs.
        is_float: Whether they are floating-point numbers.
        low: The lowest value; 0 for text.
        high: The highest value; 0 for text.
        is_finite: Whether no value is NaN or infinite.
    """

    shape: tuple[int, ...]
    is_float: bool
    low: float
    high: float
    is_finite: bool


def batch_stat_tensors(inputs: tf.Tensor) -> list[tf.Tensor]:
    """Returns the shape, the lowest and highest value, and whether all are finite, as tensors."""
    if inputs.dtype == tf.string:
        return [tf.shape(inputs), tf.constant(0.0), tf.constant(0.0), tf.constant(True)]
    numbers = inputs if inputs.dtype.is_floating else tf.cast(inputs, tf.float32)
    is_finite = tf.reduce_all(tf.math.is_finite(numbers))
    ends = (tf.cast(end(numbers), tf.float32) for end in (tf.reduce_min, tf.reduce_max))
    return [tf.shape(inputs), *ends, is_finite]


def batch_stats(values: list[Any], *, is_float: bool) -> BatchStats:
    """Returns the facts from what `batch_stat_tensors` gave, as arrays."""
    shape, low, high, is_finite = values
    return BatchStats(tuple(map(int, shape)), is_float, float(low), float(high), bool(is_finite))


def check_inputs(argument: str, stats: BatchStats, spec: ModelSpec, *, check_range: bool) -> bool:
    """Checks the inputs of a batch, which have the model's rank.

    Returns:
        Whether the values determine their range, unlike those of black images, or of dark ones if
        the model takes 0...1.

    Raises:
        ArgumentError: The shape or the range differs from the model's input.
        DataError: A value is NaN or infinite, or is not a token of the model.
    """
    check_shape(argument, stats.shape, spec)
    if not stats.shape[0] or spec.takes_text:
        return False
    if not stats.is_finite:
        raise DataError(
            f"`{argument}` must contain finite values. Received: NaN or infinite values. Look for "
            "a division by zero in the preprocessing, or leave these examples out."
        )
    if spec.num_tokens is not None and not 0 <= stats.low <= stats.high < spec.num_tokens:
        raise DataError(
            f"`{argument}` must contain whole numbers from 0 to {spec.num_tokens - 1}, as the "
            f"model's Embedding has {spec.num_tokens} rows. Received: values from {stats.low:g} to "
            f"{stats.high:g}. Build the Embedding for all tokens, or leave rare ones out."
        )
    if not check_range or (stats.low, stats.high) == (0.0, 0.0):
        return False
    if is_out_of_range(stats) and spec.value_range == PIXELS:
        raise ArgumentError(
            f"`{argument}` must contain pixels 0...255, because model={spec.name!r} contains its "
            f"own preprocessing. Received: values from {stats.low:.3g} to {stats.high:.3g}. "
            f"{_remedy(stats)}"
        )
    if stats.high > _MAX_NORMALISED and not is_out_of_range(stats) and spec.value_range == UNIT:
        raise ArgumentError(
            f"`{argument}` must contain values 0...1, because the preprocessing of "
            f"model={spec.name!r} expects them. Received: values from {stats.low:.3g} to "
            f"{stats.high:.3g}, which are pixels. Divide them by 255, or put "
            "keras.layers.Rescaling(1 / 255) in front of the model."
        )
    may_be_dark_pixels = 1 < stats.high <= _MAX_NORMALISED and spec.value_range == UNIT
    return not may_be_dark_pixels


def check_shape(argument: str, shape: tuple[int | None, ...], spec: ModelSpec) -> None:
    """Raises `ArgumentError` unless the known sizes of a shape equal those of the model's input."""
    expected = spec.input_shape
    if len(shape) == len(expected) and all(
        None in pair or pair[0] == pair[1] for pair in zip(shape[1:], expected[1:], strict=True)
    ):
        return
    remedy = "Reshape them, or build the model for them."
    if (*shape, 1) == (shape[0], *expected[1:]):
        remedy = "Add an axis: inputs[..., np.newaxis]."
    elif shape == (shape[0], *expected[1:], 1):
        remedy = "Remove the last axis: inputs[..., 0]."
    if len(shape) == len(expected) == 4:
        channels = shape[-1], expected[-1]
        if None not in channels and channels[0] != channels[1]:
            remedy = _CHANNELS.get(channels, "Build the model for as many channels.")
        else:
            remedy = f"Resize them with tf.image.resize(images, {expected[1:3]})."
    raise ArgumentError(
        f"`{argument}` must have the shape of the model's input, {format_shape(expected)}. "
        f"Received: {format_shape(shape)}. {remedy}"
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
        f"`{argument}` must have one weight, 0 or more, for each image as its third part. "
        f"Received: {received} for {num_images} images. Correct the third part, or leave it out."
    )


_CHANNELS: dict[tuple[int | None, int | None], str] = {
    (1, 3): "Use tf.image.grayscale_to_rgb(images).",
    (3, 1): "Use tf.image.rgb_to_grayscale(images).",
    (4, 3): "Remove the alpha channel: images[..., :3].",
    (4, 1): "Use tf.image.rgb_to_grayscale(images[..., :3]).",
}


def is_out_of_range(stats: BatchStats) -> bool:
    """Whether values are not pixels 0...255, as read from files."""
    size = max(-stats.low, stats.high)
    is_fraction = stats.is_float and size <= 1
    is_normalised = stats.low < 0 and size <= _MAX_NORMALISED
    return is_fraction or is_normalised or stats.low < _MIN_PIXEL or stats.high > _MAX_PIXEL


def _remedy(stats: BatchStats) -> str:
    if stats.low >= 0 and stats.high <= 1:
        return "Multiply them by 255."
    if stats.low >= 0:
        return "Scale them so that the largest becomes 255."
    return "Undo the normalisation: the model applies its own."


def format_shape(shape: tuple[int | None, ...]) -> str:
    """Returns the shape of a batch as text for messages: "(batch, 32, 32, 3)"."""
    sizes = ", ".join("any" if size is None else str(size) for size in shape[1:])
    return f"(batch, {sizes})" if sizes else "(batch,)"
