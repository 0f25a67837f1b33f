"""How long the parts of a plan will take, put together from a few measurements."""

from dataclasses import dataclass

from tlkit.advice.timing import Timed
from tlkit.data.images import ImageData
from tlkit.training.sources import steps_in_epoch

FORWARD_SHARE = 1 / 3
"""Of a training step that a forward pass of the same layers is taken to cost."""

NOTHING = Timed(0.0, 0.0)


@dataclass(frozen=True)
class Timings:
    """What was measured: seconds of one image, but of a batch for the step.

    What comes before the first of them, tracing and freezing a graph or setting readers up, is
    that of one graph or one pass over images.

    Attributes:
        forward: All below the head's weights.
        below: All below what trains.
        decoding: An image as it is.
        augmenting: An image decoded and augmented.
        step: One step of training.
    """

    forward: Timed
    below: Timed = NOTHING
    decoding: Timed = NOTHING
    augmenting: Timed = NOTHING
    step: Timed = NOTHING


def seconds_of_head(data: ImageData, timings: Timings, *, views: int = 1) -> dict[str, float]:
    """Returns the seconds of each part of the head alone, but for solving it.

    Args:
        data: Its training images are decoded in so many views, those of validation once.
        timings: Of this machine.
        views: Augmented versions of each training image; 1 is the image as it is.
    """
    train = timings.decoding if views == 1 else timings.augmenting
    images = train.usual * views * data.train.num_images
    images += timings.decoding.usual * _num_validation(data)
    passes = views * data.train.num_images + _num_validation(data)
    return {
        "preparing": timings.forward.before + train.before + _reading_validation(data, timings),
        "features": images + passes * timings.forward.usual,
    }


def seconds_of_plan(
    data: ImageData, timings: Timings, *, epochs: int, views: int, is_solved: bool, is_stored: bool
) -> dict[str, float]:
    """Returns the seconds of each part of fine-tuning, in order, but for solving the head.

    Args:
        data: The images.
        timings: Of this machine.
        epochs: All of them; training may stop before.
        views: Versions of each training image that are stored, with `is_stored`.
        is_solved: Whether the head is solved first.
        is_stored: Whether steps read stored activations.
    """
    num_train, num_validation = data.train.num_images, _num_validation(data)
    reading = _reading_validation(data, timings)
    has_validation = num_validation > 0
    head = seconds_of_head(data, timings) if is_solved else {}
    parts = {"preparing": head.get("preparing", 0.0)}
    if is_solved:
        parts["features"] = head["features"]
    parts["preparing"] += timings.augmenting.before + timings.step.before
    steps = timings.step.usual * steps_in_epoch(data.train)
    measuring = num_validation * (timings.decoding.usual + timings.forward.usual)
    if is_stored:
        parts["preparing"] += timings.below.before + reading
        parts["storing"] = views * num_train * (timings.augmenting.usual + timings.below.usual)
        parts["storing"] += num_validation * (timings.decoding.usual + timings.below.usual)
        num_batches = -(-num_validation // data.batch_size)
        validating = timings.step.usual * FORWARD_SHARE * num_batches
        parts["training"] = epochs * (steps + validating)
        parts["preparing"] += has_validation * timings.step.before * FORWARD_SHARE
    else:
        parts["training"] = epochs * (num_train * timings.augmenting.usual + steps + measuring)
        parts["preparing"] += has_validation * timings.forward.before + reading
    parts["preparing"] += 2 * (has_validation * timings.forward.before + reading)
    parts["measuring"] = 2 * measuring  # before and afterwards
    return parts


def _num_validation(data: ImageData) -> int:
    return data.validation.num_images if data.validation is not None else 0


def _reading_validation(data: ImageData, timings: Timings) -> float:
    """Before the first image of a pass over validation comes."""
    return timings.decoding.before if _num_validation(data) else 0.0
