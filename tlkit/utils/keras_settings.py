"""Checks of Keras's process-wide settings with which tlkit does not work.

Keras reads them from the environment and from `keras.json` when it is imported, and from calls of
`keras.config` afterwards. The errors name the setting and its source before a later error would
point elsewhere.
"""

import json
import os
import sys
from pathlib import Path

from tlkit.errors import KerasSettingsError

BACKEND = "tensorflow"
DTYPE_POLICIES = ("float32", "mixed_float16", "mixed_bfloat16")
"""Policies that keep weights in float32."""

_FILE_RULES: dict[str, tuple[str, ...]] = {
    "floatx": ("float16", "float32", "float64"),
    "image_data_format": ("channels_last", "channels_first"),
    "epsilon": (),  # any float
}
"""Valid values; Keras refuses others when it is imported."""


def check_backend() -> None:
    """Raises unless Keras uses, or would use, TensorFlow as its backend.

    Imports neither of them.

    Raises:
        KerasSettingsError: The variable KERAS_BACKEND or `keras.json` sets another backend, Keras
            was imported with another, or `keras.json` has values with which Keras cannot be
            imported.
    """
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "config"):
        if keras.config.backend() != BACKEND:
            raise KerasSettingsError(
                f"Keras must use the backend {BACKEND!r}. Received: keras.config.backend()="
                f"{keras.config.backend()!r}, with which it is already imported. "
                f"Start Python with KERAS_BACKEND={BACKEND}."
            )
        return
    settings = _settings_in(_settings_file())
    if chosen := os.environ.get("KERAS_BACKEND"):
        if chosen != BACKEND:
            raise KerasSettingsError(
                f"`KERAS_BACKEND` must be {BACKEND!r} or unset. Received: KERAS_BACKEND="
                f"{chosen!r} in the environment. Unset it, or set KERAS_BACKEND={BACKEND} before "
                "Keras is imported."
            )
    elif settings.get("backend", BACKEND) != BACKEND:
        raise KerasSettingsError(
            f"`backend` in {str(_settings_file())!r} must be {BACKEND!r}. Received: "
            f"backend={settings['backend']!r}. Change it there, or set KERAS_BACKEND={BACKEND} in "
            "the environment."
        )


def check_images() -> None:
    """Raises if the image data format is "channels_first"; imports Keras.

    Layers read the format when they are made, and some (`Rescaling`) whenever they are called.

    Raises:
        KerasSettingsError: See `check_backend`, or `image_data_format` is "channels_first".
    """
    check_backend()
    import keras

    received = keras.config.image_data_format()
    if received != "channels_last":
        raise KerasSettingsError(
            "Keras's `image_data_format` must be 'channels_last': images here are (height, width, "
            f"channels). Received: image_data_format={received!r}"
            f"{_from_file('image_data_format', received)}. Call "
            "keras.config.set_image_data_format('channels_last'), or change it in keras.json."
        )


def check_building() -> None:
    """Raises if process-wide settings would change a network that is built; imports Keras.

    Raises:
        KerasSettingsError: See `check_images`; or weights would not be kept in float32, eager
            execution is off, so that weights cannot be loaded, or a `keras.StatelessScope` is
            open, in which weights cannot be made.
    """
    check_images()
    import keras
    import tensorflow as tf

    policy = keras.config.dtype_policy().name
    if policy not in DTYPE_POLICIES:
        listed = ", ".join(map(repr, DTYPE_POLICIES))
        raise KerasSettingsError(
            f"Keras's `dtype_policy` must be one of {listed}, which keep weights in float32. "
            f"Received: dtype_policy={policy!r}{_from_file('floatx', policy)}. Call "
            "keras.config.set_dtype_policy('float32'), or set floatx to float32 in keras.json."
        )
    if not tf.executing_eagerly():
        raise KerasSettingsError(
            "TensorFlow must execute eagerly when a network is built. Received: "
            "tf.executing_eagerly()=False. Call it outside tf.Graph and tf.function, and without "
            "tf.compat.v1.disable_eager_execution()."
        )
    try:  # there is no public function for this check
        keras.Variable(0.0, dtype="float32", name="test")
    except ValueError as error:
        raise KerasSettingsError(
            "Keras must be able to make weights when a network is built. Received: an open "
            "keras.StatelessScope, in which it cannot. Build the network before the `with` "
            "block, and call it within."
        ) from error


def _from_file(name: str, value: object) -> str:
    """Returns the source of a setting for a message if it is the settings file, else ""."""
    path = _settings_file()
    return f" (from {str(path)!r})" if _settings_in(path).get(name) == value else ""


def _settings_file() -> Path:
    """Returns the path of Keras's settings file."""
    home = os.environ.get("KERAS_HOME")
    if home is None:
        user = os.path.expanduser("~")
        home = os.path.join(user if os.access(user, os.W_OK) else "/tmp", ".keras")
    return Path(os.path.expanduser(os.path.join(home, "keras.json")))


def _settings_in(path: Path) -> dict[str, object]:
    """Returns the content of `keras.json`; empty if there is none or Keras ignores it."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise KerasSettingsError(
            f"{str(path)!r} must be readable or absent, as Keras reads it when it is imported. "
            f"Received: {error.strerror}. Correct it, or set KERAS_HOME to another folder."
        ) from error
    except ValueError:
        return {}
    if not isinstance(settings, dict):
        raise KerasSettingsError(
            f"{str(path)!r} must contain a JSON object, as Keras reads it when it is imported. "
            f"Received: {type(settings).__name__}. Correct it, or remove it."
        )
    for name, rule in _FILE_RULES.items():
        if name not in settings:
            continue
        value = settings[name]
        is_valid = value in rule if rule else isinstance(value, float)
        if not is_valid:
            valid = " or ".join(map(repr, rule)) if rule else "a number with a decimal point"
            raise KerasSettingsError(
                f"`{name}` in {str(path)!r} must be {valid}, or Keras cannot be imported. "
                f"Received: {name}={value!r}. Correct it there."
            )
    return settings
