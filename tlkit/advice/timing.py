"""How long something takes here, in few repetitions."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tlkit.training.frozen import Forward

_LEAST_SECONDS = 0.3
_MOST_TIMES = 20


@dataclass(frozen=True)
class Timed:
    """Seconds of something that takes longer the first time.

    Attributes:
        before: What the first time takes beyond the usual: tracing a graph, say.
        usual: The median of all later times.
    """

    before: float
    usual: float

    def shared_by(self, number: int) -> "Timed":
        """Returns the same where the usual time is that of so many things, for one of them."""
        return Timed(self.before, self.usual / number)


def timed(action: Callable[[], object], least_seconds: float = _LEAST_SECONDS) -> Timed:
    """Returns the seconds of a call, the first one apart.

    It is called until `least_seconds` have passed after the first, at least once more and at most
    20 times.

    Example:
        >>> import time
        >>> from tlkit.advice.timing import timed
        >>> waits = iter([0.2, 0.01, 0.01])
        >>> found = timed(lambda: time.sleep(next(waits, 0.3)))
        >>> found.before > 0.1 > found.usual
        True
    """
    started = time.perf_counter()
    action()
    first = time.perf_counter() - started
    taken: list[float] = []
    while not taken or (sum(taken) < least_seconds and len(taken) < _MOST_TIMES):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    usual = float(np.median(taken))
    return Timed(max(first - usual, 0.0), usual)


def seconds_per_image(
    forward: Forward, shape: tuple[int, ...], dtype: str, *, batch_size: int = 1
) -> float:
    """Returns the median seconds that a forward pass takes for one image of a batch.

    Args:
        forward: From a batch of images to anything.
        shape: Of one image (or of its activations).
        dtype: Of the images.
        batch_size: Images in one pass.
    """
    values = np.random.default_rng(0).integers(0, 256, (batch_size, *shape))
    images = tf.cast(values, dtype)
    return timed(lambda: forward(images).numpy()).usual / batch_size
