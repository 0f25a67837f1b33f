"""TensorFlow without its chatter, and without taking all of a GPU's memory."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tlkit.utils.keras_settings import check_backend
from tlkit.utils.progress import phase
from tlkit.utils.signals import raised_again

LOADING = "loading TensorFlow"
"""The phase of a run in which that is done."""


def load_tensorflow_quietly() -> None:
    """Imports TensorFlow; the lines its libraries print while they load are not shown.

    They go to the process's standard error before TensorFlow reads how much it should log, so that
    descriptor points elsewhere for as long as the import lasts.

    Raises:
        KerasSettingsError: Keras would run on something else.
    """
    check_backend()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with phase(LOADING):
        _load()
    grow_gpu_memory()


def _load() -> None:
    shown = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with raised_again():
            import tensorflow  # noqa: F401 - loading it is the purpose
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        os.close(nowhere)


def grow_gpu_memory() -> None:
    """Lets TensorFlow take GPU memory as it needs it, not all at once.

    That can be set only before a GPU is first used; after that it stays as it is.
    """
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        with suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)


@contextmanager
def unlogged(*names: str, below: int = logging.CRITICAL) -> Iterator[None]:
    """Keeps loggers silent below a level; TensorFlow's speaks of itself in notebooks.

    Args:
        *names: Of the loggers.
        below: Records of this level and above are still shown.

    Example:
        >>> import logging
        >>> from tlkit.utils.tensorflow_logging import unlogged
        >>> with unlogged("tensorflow", below=logging.WARNING):
        ...     logging.getLogger("tensorflow").isEnabledFor(logging.INFO)
        False
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(max(below, level))
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
