"""Import of TensorFlow, quickly, without its messages, and without taking all memory of a GPU."""

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tlkit.utils.keras_settings import check_backend
from tlkit.utils.progress import phase
from tlkit.utils.signals import lost_signal_raised

LOADING = "loading TensorFlow"
"""Name of the phase."""


def load_tensorflow_quietly() -> None:
    """Imports TensorFlow without the messages that its libraries print.

    They print them to standard error before TensorFlow reads its logging level, so that the file
    descriptor is redirected during the import.

    Raises:
        KerasSettingsError: Keras would use another backend.
    """
    check_backend()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with phase(LOADING):
        _load()
    grow_gpu_memory()


def _load() -> None:
    with standard_error_hidden(), lost_signal_raised(), garbage_kept():
        import keras  # noqa: F401 - only the imports are needed
        import tensorflow  # noqa: F401


@contextmanager
def standard_error_hidden() -> Iterator[None]:
    """Hides what is written to standard error within the block, also by libraries in C++."""
    shown = os.dup(2)
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, 2)
    try:
        yield
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        os.close(null_device)


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Collects no garbage within the block.

    Objects of an import stay, and collections on the way take a tenth to a fifth of TensorFlow's.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def grow_gpu_memory() -> None:
    """Lets TensorFlow allocate GPU memory as needed instead of all at once.

    This has no effect after a GPU was first used.
    """
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        with suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)


@contextmanager
def unlogged(*names: str, below: int = logging.CRITICAL) -> Iterator[None]:
    """Silences loggers below a level; TensorFlow logs internal messages in notebooks.

    Args:
        *names: Names of the loggers.
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
