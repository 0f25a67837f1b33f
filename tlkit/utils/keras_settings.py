"""What Keras is set to for the whole process, and which of it nothing here can work with.

Keras takes it from the environment and from `keras.json` when it is loaded, and from calls of
`keras.config` afterwards. Wherever it came from, it is named here, before something else is blamed.
"""

import json
import os
import sys
from pathlib import Path

from tlkit.errors import KerasSettingsError

BACKEND = "tensorflow"
DTYPE_POLICIES = ("float32", "mixed_float16", "mixed_bfloat16")
"""Those that keep weights in float32."""

_FILE_RULES: dict[str, tuple[str, ...]] = {
    "floatx": ("float16", "float32", "float64"),
    "image_data_format": ("channels_last", "channels_first"),
    "epsilon": (),  # any float
}
"""What Keras itself refuses when it is loaded."""


def check_backend() -> None:
    """Raises where Keras runs, or would run when it is loaded, on anything but TensorFlow.

    Loads neither.

    Raises:
        KerasSettingsError: The variable KERAS_BACKEND or `keras.json` names another backend, Keras
            is loaded with another, or `keras.json` holds what Keras cannot be loaded with.
    """
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "config"):
        if keras.config.backend() != BACKEND:
            raise KerasSettingsError(
                f"Keras must run on {BACKEND!r}. Received: keras.config.backend()="
                f"{keras.config.backend()!r}, with which it is loaded already. "
                f"Start Python with KERAS_BACKEND={BACKEND}."
            )
        return
    settings = _settings_in(_settings_file())
    if chosen := os.environ.get("KERAS_BACKEND"):
        if chosen != BACKEND:
            raise KerasSettingsError(
                f"`KERAS_BACKEND` must be {BACKEND!r} or not set. Received: KERAS_BACKEND="
                f"{chosen!r} in the environment. Unset it, or set KERAS_BACKEND={BACKEND} before "
                "Keras is loaded."
            )
    elif settings.get("backend", BACKEND) != BACKEND:
        raise KerasSettingsError(
            f"`backend` in {str(_settings_file())!r} must be {BACKEND!r}. Received: "
            f"backend={settings['backend']!r}. Change it there, or set KERAS_BACKEND={BACKEND} in "
            "the environment."
        )


def check_images() -> None:
    """Raises where Keras takes channels for the first axis of an image; loads Keras.

    Its layers read that when they are made, and some (`Rescaling`) whenever they are called.

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
    """Raises where process-wide settings make of a network another one; loads Keras.

    Raises:
        KerasSettingsError: See `check_images`; or weights would not be kept in float32,
            TensorFlow does not compute at once, so that weights cannot be loaded, or a
            `keras.StatelessScope` is open, in which there are no weights.
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
            "TensorFlow must compute at once where a network is built. Received: "
            "tf.executing_eagerly()=False. Call it outside tf.Graph and tf.function, and without "
            "tf.compat.v1.disable_eager_execution()."
        )
    try:  # there is no public way to ask
        keras.Variable(0.0, dtype="float32", name="asked")
    except ValueError as error:
        raise KerasSettingsError(
            "Keras must be able to make weights where a network is built. Received: an open "
            "keras.StatelessScope, in which it makes none. Build the network before the `with` "
            "block, and call it within."
        ) from error


def _from_file(name: str, value: object) -> str:
    """Says where a setting came from, where that is known."""
    path = _settings_file()
    return f" (from {str(path)!r})" if _settings_in(path).get(name) == value else ""


def _settings_file() -> Path:
    """Where Keras looks for its file."""
    home = os.environ.get("KERAS_HOME")
    if home is None:
        user = os.path.expanduser("~")
        home = os.path.join(user if os.access(user, os.W_OK) else "/tmp", ".keras")
    return Path(os.path.expanduser(os.path.join(home, "keras.json")))


def _settings_in(path: Path) -> dict[str, object]:
    """What `keras.json` holds: nothing where there is none, or where Keras ignores it."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise KerasSettingsError(
            f"{str(path)!r} must be readable, or not be there: Keras reads it when it is loaded. "
            f"Received: {error.strerror}. Correct it, or name another folder with KERAS_HOME."
        ) from error
    except ValueError:
        return {}
    if not isinstance(settings, dict):
        raise KerasSettingsError(
            f"{str(path)!r} must hold a JSON object: Keras reads it when it is loaded. "
            f"Received: {type(settings).__name__}. Correct it, or remove it."
        )
    for name, rule in _FILE_RULES.items():
        if name not in settings:
            continue
        value = settings[name]
        is_kept = value in rule if rule else isinstance(value, float)
        if not is_kept:
            wanted = " or ".join(map(repr, rule)) if rule else "a number with a point"
            raise KerasSettingsError(
                f"`{name}` in {str(path)!r} must be {wanted}: Keras is not loaded otherwise. "
                f"Received: {name}={value!r}. Correct it there."
            )
    return settings
