"""TensorFlow without its chatter, for the command line."""

import os


def load_tensorflow_quietly() -> None:
    """Imports TensorFlow; the lines its libraries print while they load are not shown.

    They go to the process's standard error before TensorFlow reads how much it should log, so that
    descriptor points elsewhere for as long as the import lasts.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    shown = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow  # noqa: F401 - loading it is the purpose
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        os.close(nowhere)
