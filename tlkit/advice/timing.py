"""Measures the duration of calls with few repetitions."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tlkit.training.frozen import Forward

_MIN_SECONDS = 0.3
_MAX_CALLS = 10


@dataclass(frozen=True)
class Timing:
    """The duration of a call that takes longer the first time, in seconds.

    Attributes:
        setup: The extra time of the first call, such as for tracing a graph.
        typical: The median of all later calls.
    """

    setup: float
    typical: float

    def divide(self, number: int) -> "Timing":
        """Returns the timing of one item, if a call processes `number` items."""
        return Timing(self.setup, self.typical / number)


def time_calls(action: Callable[[], object], min_seconds: float = _MIN_SECONDS) -> Timing:
    """Measures the duration of a call, separately for the first one.

    After the first call it is repeated until `min_seconds` have passed, 1 to 10 times.

    Example:
        >>> import time
        >>> from tlkit.advice.timing import time_calls
        >>> delays = iter([0.2, 0.01, 0.01])
        >>> timing = time_calls(lambda: time.sleep(next(delays, 0.3)))
        >>> timing.setup > 0.1 > timing.typical
        True
    """
    started = time.perf_counter()
    action()
    first = time.perf_counter() - started
    durations: list[float] = []
    while not durations or (sum(durations) < min_seconds and len(durations) < _MAX_CALLS):
        started = time.perf_counter()
        action()
        durations.append(time.perf_counter() - started)
    typical = float(np.median(durations))
    return Timing(max(first - typical, 0.0), typical)


def seconds_per_image(
    forward: Forward, shape: tuple[int, ...], dtype: str, *, batch_size: int = 1
) -> float:
    """Returns the median seconds per image of a forward pass.

    Args:
        forward: A function of a batch of images.
        shape: The shape of one image (or of its activations).
        dtype: The type of the images.
        batch_size: Images per pass.
    """
    values = np.random.default_rng(0).integers(0, 256, (batch_size, *shape))
    images = tf.cast(values, dtype)
    return time_calls(lambda: forward(images).numpy()).typical / batch_size
