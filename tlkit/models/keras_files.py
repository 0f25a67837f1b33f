"""Loading of `.keras` files, which may be damaged, without running code from them."""

import os

import keras

from tlkit.models.backbone_files import config_in
from tlkit.utils.formatting import reason_of


class KerasFileError(Exception):
    """A `.keras` file cannot be loaded; the text is the reason, in one line.

    Attributes:
        is_damaged: Whether its layers can be created, so that the rest of the file is damaged.
    """

    def __init__(self, error: Exception, *, is_damaged: bool) -> None:
        super().__init__(f"{type(error).__name__}: {reason_of(error)}")
        self.is_damaged = is_damaged


def load_keras_file(path: str | os.PathLike[str]) -> keras.Model:
    """Returns the model in a `.keras` file, not compiled.

    Args:
        path: The file. Classes of other packages must be imported before.

    Raises:
        KerasFileError: The file is damaged, contains code, or classes that are unknown.

    Example:
        >>> import pathlib, tempfile, tlkit
        >>> from tlkit.models.keras_files import load_keras_file
        >>> model = tlkit.build_classifier("resnet20", ["ant", "bee"], weights=None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "model.keras")
        ...     model.save(path)
        ...     load_keras_file(path).name
        'resnet20'
    """
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for damaged files
        raise KerasFileError(error, is_damaged=_has_known_layers(path)) from error


def _has_known_layers(path: str | os.PathLike[str]) -> bool:
    try:
        keras.saving.deserialize_keras_object(config_in(path), safe_mode=True)
    except Exception:  # as above: whatever it is, layers cannot be created
        return False
    return True
