"""The folder in which Keras keeps downloaded weights; importing this module loads no Keras."""

import os
from pathlib import Path


def keras_folder() -> Path:
    """Returns the folder in which Keras stores downloaded weights, and looks for them.

    Example:
        >>> from tlkit.utils.keras_folder import keras_folder
        >>> keras_folder().name
        'models'
    """
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras").expanduser()
    if not os.access(home if home.exists() else home.parent, os.W_OK):
        home = Path("/tmp/.keras")  # as Keras chooses
    return home / "models"
