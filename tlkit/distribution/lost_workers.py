"""The error for a lost worker."""

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
    """Raises an error with a remedy if the workers cannot continue because one was lost.

    Raises:
        TrainingError: TensorFlow has detected that another worker does not respond.
    """
    try:
        yield
    except _SIGNS as error:
        if workers.num_workers == 1:
            raise
        raise TrainingError(
            f"All {workers.num_workers} workers must run until the end. Received: one that no "
            f"longer responds to worker {workers.index} ({_reason(error)}). See its output, and "
            "start the same command on every worker again: with a run directory it resumes from "
            "the last saved epoch."
        ) from error


def _reason(error: tf.errors.OpError) -> str:
    """Returns TensorFlow's message without the stack trace before it."""
    lines = [line for line in str(error.message).splitlines() if not line.startswith("  File")]
    before, _, after = " ".join(" ".join(lines).split()).rpartition("aborted by: ")
    return f"{type(error).__name__}: {(after or before)[:_LENGTH]}"
