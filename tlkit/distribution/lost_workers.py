"""A worker that is gone, in words."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from tlkit.distribution.workers import Workers
from tlkit.errors import TrainingError

_SIGNS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
_LENGTH = 300


@contextmanager
def lost_worker_named(workers: Workers) -> Iterator[None]:
    """Says, where the workers cannot go on together, that one of them is gone and what to do.

    Raises:
        TrainingError: TensorFlow has found that another worker does not answer.
    """
    try:
        yield
    except _SIGNS as error:
        if workers.num_workers == 1:
            raise
        raise TrainingError(
            f"All {workers.num_workers} workers must stay to the end. Received: one that no longer "
            f"answers worker {workers.index} ({_reason(error)}). See what that one said, and start "
            "the same command on every worker again: with a run directory it goes on from the last "
            "epoch that was saved."
        ) from error


def _reason(error: tf.errors.OpError) -> str:
    """What TensorFlow says, without the places in the program that it lists before."""
    lines = [line for line in str(error.message).splitlines() if not line.startswith("  File")]
    before, _, after = " ".join(" ".join(lines).split()).rpartition("aborted by: ")
    return f"{type(error).__name__}: {(after or before)[:_LENGTH]}"
