"""How long something takes here, in few repetitions."""

import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tlkit.training.frozen import Forward

_LEAST_SECONDS = 0.3
_MOST_TIMES = 20


def seconds_of(action: Callable[[], object]) -> float:
    """Returns the median seconds of a call, after one that is not counted.

    It is called until 0.3 seconds have passed, at least twice and at most 20 times.

    Example:
        >>> import time
        >>> from tlkit.advice.timing import seconds_of
        >>> 0.01 <= seconds_of(lambda: time.sleep(0.01)) < 0.1
        True
    """
    action()
    taken: list[float] = []
    while len(taken) < 2 or (sum(taken) < _LEAST_SECONDS and len(taken) < _MOST_TIMES):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


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
    return seconds_of(lambda: forward(images).numpy()) / batch_size
