"""Strict loading of weights files: a weight that is not loaded is an error."""

import os
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlkit.errors import WeightsError, did_you_mean
from tlkit.models.variable_names import variable_names

PRETRAINED = ("pretrained", "imagenet")
_COUNTED = (
    "the names differ only in the numbers of Keras's automatic layer names: other layers were made "
    "before in this process"
)


def load_weights_file(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Loads every weight of `model` from a file, or raises.

    Args:
        model: A newly built network. After an error its weights are unusable.
        path: A file that `keras.Model.load_weights` reads (`.weights.h5`, `.h5` or `.keras`, such
            as Keras's own ImageNet files for networks without top), or an `.npz` file of arrays
            named by `variable.path` (see `variable_names` where paths repeat); the latter may be
            of lower precision.

    Raises:
        WeightsError: There is no such file, it is not a weights file, it belongs to another
            network, it lacks a weight, or it contains NaN.

    Example:
        >>> import keras, pathlib, tempfile
        >>> from tlkit.models.weights import load_weights_file
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "network.weights.h5")
        ...     model.save_weights(path)
        ...     load_weights_file(model, path)
    """
    path = check_weights_file(path)
    # NaN marks weights that the loader does not set
    floats = [weight for weight in model.weights if "float" in weight.dtype]
    for weight in floats:
        weight.assign(np.full(weight.shape, np.nan, np.float32))
    try:
        if path.suffix == ".npz":
            _load_arrays(model, path)
        else:
            with warnings.catch_warnings():
                # skipped weights are found by the marks above
                warnings.filterwarnings("ignore", "Skipping nested container", UserWarning)
                model.load_weights(path)
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise WeightsError(_describe_mismatch(model, path, error)) from error
    names = variable_names(model)
    unset = [names[id(weight)] for weight in floats if np.isnan(_to_numpy(weight)).any()]
    if unset:
        raise WeightsError(
            f"`weights` must be a file with all weights of {model.name!r}. "
            f"Received: weights={str(path)!r}, in which {len(unset)} of {len(floats)} are missing "
            f"or NaN, first {unset[0]!r}. Give a file saved from the same network."
        )


def check_weights_file(path: str | os.PathLike[str]) -> Path:
    """Returns `path`; raises `WeightsError` if there is no such file."""
    if not os.path.isfile(path):
        raise WeightsError(
            f"`weights` must be {' or '.join(map(repr, PRETRAINED))}, None or the path of an "
            f"existing file. Received: weights={os.fspath(path)!r}."
            f"{did_you_mean(path, PRETRAINED)} Check the path."
        )
    return Path(path)


def _load_arrays(model: keras.Model, path: Path) -> None:
    with np.load(path) as arrays:
        scope, names = _open_scope(), variable_names(model)
        weights = {names[id(weight)].removeprefix(scope): weight for weight in model.weights}
        missing = sorted(weights.keys() - arrays.keys())
        unknown = sorted(arrays.keys() - weights.keys())
        if missing or unknown:
            counted = _without_counters(missing) == _without_counters(unknown)
            raise ValueError(
                _COUNTED if counted else f"missing {missing[:3]}, unknown {unknown[:3]}"
            )
        for name, weight in weights.items():
            array = arrays[name]
            if array.shape != tuple(weight.shape):
                raise ValueError(f"{name!r} is {array.shape}, not {tuple(weight.shape)}")
            weight.assign(array.astype(weight.dtype))


def _open_scope() -> str:
    """Returns the prefix of the paths of new variables: the names of the current scopes.

    A newly built network has it in each of its paths, but a file has not.
    """
    return keras.Variable(0.0, name="probe").path.removesuffix("probe")


def _without_counters(paths: Sequence[str]) -> list[str]:
    """Returns the sorted paths without the numbers of Keras's automatic layer names."""
    return sorted(re.sub(r"_\d+(?=/)", "", path) for path in paths)


def _describe_mismatch(model: keras.Model, path: Path, error: Exception) -> str:
    """Returns a message of one line; Keras's own long message is kept in the chained error."""
    reason = re.sub(r"\s+", " ", str(error)).strip()[:160]
    remedy = "Give a file that was saved from this network with `model.save_weights`."
    if str(error) == _COUNTED:
        remedy = (
            "Call keras.utils.clear_session() before the network is built, or give its layers "
            "explicit names."
        )
    counts = re.search(r"expected (\d+) layers, found (\d+)", reason)
    if counts and int(counts[2]) > int(counts[1]):
        remedy = (
            f"It has {counts[2]} layers with weights and the network {counts[1]}: if it is the "
            "file with the classifier, use the file without it, whose name ends in "
            "'no_top.h5' or 'notop.h5'."
        )
    return (
        f"`weights` must be a weights file of {model.name!r} without its classifier. "
        f"Received: weights={str(path)!r} ({reason}). {remedy}"
    )


def _to_numpy(weight: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(weight), np.float32)
