"""Estimates the time of each part of a training from a few measurements."""

from dataclasses import dataclass

from tlkit.advice.timing import Timing
from tlkit.data.images import ImageData
from tlkit.training.sources import steps_in_epoch

FORWARD_FRACTION = 1 / 3
"""Assumed cost of a forward pass, relative to a training step of the same layers."""

NOTHING = Timing(0.0, 0.0)


@dataclass(frozen=True)
class Timings:
    """Measured seconds per image, and per batch for the step.

    The set-up times, for tracing and freezing a graph or setting up readers, are for one graph or
    one pass over the images.

    Attributes:
        forward: A forward pass up to the head's input.
        below: A forward pass up to the trainable layers.
        decoding: Decoding an image.
        augmenting: Decoding and augmenting an image.
        step: One training step.
    """

    forward: Timing
    below: Timing = NOTHING
    decoding: Timing = NOTHING
    augmenting: Timing = NOTHING
    step: Timing = NOTHING


def estimate_head_seconds(data: ImageData, timings: Timings, *, views: int = 1) -> dict[str, float]:
    """Returns the seconds of each part of training the head alone, without solving it.

    Args:
        data: The images; training images are decoded once per view, validation images once.
        timings: The measurements on this machine.
        views: Number of augmented versions of each training image; 1 is the image itself.
    """
    train = timings.decoding if views == 1 else timings.augmenting
    images = train.typical * views * data.train.num_images
    images += timings.decoding.typical * _num_validation(data)
    passes = views * data.train.num_images + _num_validation(data)
    return {
        "preparing": timings.forward.setup + train.setup + _validation_setup(data, timings),
        "features": images + passes * timings.forward.typical,
    }


def estimate_plan_seconds(
    data: ImageData, timings: Timings, *, epochs: int, views: int, is_solved: bool, is_stored: bool
) -> dict[str, float]:
    """Returns the seconds of each part of fine-tuning, in order, without solving the head.

    Args:
        data: The images.
        timings: The measurements on this machine.
        epochs: Number of epochs, without early stopping.
        views: Number of stored versions of each training image, with `is_stored`.
        is_solved: Whether the head is solved first.
        is_stored: Whether steps read stored activations.
    """
    num_train, num_validation = data.train.num_images, _num_validation(data)
    reading = _validation_setup(data, timings)
    has_validation = num_validation > 0
    head = estimate_head_seconds(data, timings) if is_solved else {}
    parts = {"preparing": head.get("preparing", 0.0)}
    if is_solved:
        parts["features"] = head["features"]
    parts["preparing"] += timings.augmenting.setup + timings.step.setup
    steps = timings.step.typical * steps_in_epoch(data.train)
    measuring = num_validation * (timings.decoding.typical + timings.forward.typical)
    if is_stored:
        parts["preparing"] += timings.below.setup + reading
        parts["storing"] = views * num_train * (timings.augmenting.typical + timings.below.typical)
        parts["storing"] += num_validation * (timings.decoding.typical + timings.below.typical)
        num_batches = -(-num_validation // data.batch_size)
        validating = timings.step.typical * FORWARD_FRACTION * num_batches
        parts["training"] = epochs * (steps + validating)
        parts["preparing"] += has_validation * timings.step.setup * FORWARD_FRACTION
    else:
        parts["training"] = epochs * (num_train * timings.augmenting.typical + steps + measuring)
        parts["preparing"] += has_validation * timings.forward.setup + reading
    parts["preparing"] += 2 * (has_validation * timings.forward.setup + reading)
    parts["measuring"] = 2 * measuring  # before and after training
    return parts


def _num_validation(data: ImageData) -> int:
    return data.validation.num_images if data.validation is not None else 0


def _validation_setup(data: ImageData, timings: Timings) -> float:
    """Returns the set-up time of a pass over the validation images."""
    return timings.decoding.setup if _num_validation(data) else 0.0
