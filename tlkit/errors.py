"""The errors that tlkit raises, in one tree, and checks of arguments.

    TlkitError
    ├── ArgumentError (ValueError)    an argument is invalid
    ├── DataError (ValueError)        the images cannot be used as requested
    ├── WeightsError (OSError)        weights are not available or do not fit
    ├── TrainingError (RuntimeError)  training cannot continue
    ├── RunError (RuntimeError)       a run directory cannot be used as requested
    ├── ExportError (RuntimeError)    an export differs from the model in memory
    ├── StorageError (OSError)        a disk is full or not writable
    └── KerasSettingsError (RuntimeError)  tlkit does not work with a setting of Keras

A message reads: `argument` must be RULE. Received: argument=VALUE. WHAT TO DO.
"""

import difflib
import math
import os
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any


class TlkitError(Exception):
    """The base class of all errors; the command line prints its message as one line."""


class ArgumentError(TlkitError, ValueError):
    """An argument is invalid."""


class DataError(TlkitError, ValueError):
    """The images cannot be used as requested."""


class WeightsError(TlkitError, OSError):
    """Weights are not available or do not fit the network."""


class TrainingError(TlkitError, RuntimeError):
    """Training cannot continue."""


class RunError(TlkitError, RuntimeError):
    """A run directory cannot be used as requested."""


class ExportError(TlkitError, RuntimeError):
    """An export is damaged, or differs from the model in memory."""


class StorageError(TlkitError, OSError):
    """A disk is full or not writable."""


class KerasSettingsError(TlkitError, RuntimeError):
    """Tlkit does not work with a process-wide setting of Keras."""


def check_choice(argument: str, value: object, choices: Iterable[str]) -> None:
    """Raises `ArgumentError`, with near matches, unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ArgumentError(
            f"`{argument}` must be one of {listed}. Received: {argument}={value!r}."
            f"{did_you_mean(value, choices)}"
        )


def check_positive(argument: str, value: float) -> None:
    """Raises `ArgumentError` unless `value` is a finite number above zero."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ArgumentError(
            f"`{argument}` must be a positive number. Received: {argument}={value!r}. "
            "Give a number above zero."
        )


def check_not_negative(argument: str, value: float) -> None:
    """Raises `ArgumentError` unless `value` is a finite number, 0 or more."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise ArgumentError(
            f"`{argument}` must be a number, 0 or more. Received: {argument}={value!r}. "
            "Give 0, for example."
        )


def check_unit(argument: str, value: float) -> None:
    """Raises `ArgumentError` unless `value` is a number from 0 to 1, both included."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise ArgumentError(
            f"`{argument}` must be a number from 0 to 1. Received: {argument}={value!r}. "
            "Give 0.5, for example."
        )


def check_fraction(argument: str, value: float, example: float = 0.1) -> None:
    """Raises `ArgumentError` unless `value` is a number from 0 up to but not including 1.

    Args:
        argument: Name of the argument in error messages.
        value: The value.
        example: A valid value for the message.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 1:
        raise ArgumentError(
            f"`{argument}` must be a number from 0 to less than 1. Received: {argument}={value!r}. "
            f"Give {example:g}, for example."
        )


def check_positive_fraction(argument: str, value: float) -> None:
    """Raises `ArgumentError` unless `value` is a number above 0 and at most 1."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 < value <= 1:
        raise ArgumentError(
            f"`{argument}` must be a number above 0 and at most 1. Received: {argument}={value!r}. "
            "Give 0.5, for example."
        )


MAX_SIDE = 4096
"""Largest height or width of a model's images: 200 MB for one in float32."""


def check_side(argument: str, value: int) -> None:
    """Raises `ArgumentError` unless `value` is a whole number from 1 to `MAX_SIDE`."""
    check_count(argument, value)
    if value > MAX_SIDE:
        raise ArgumentError(
            f"`{argument}` must be at most {MAX_SIDE:,} pixels. "
            f"Received: {argument}={value!r}. Use the backbone's size, such as 224."
        )


def check_count(argument: str, value: int, minimum: int = 1) -> None:
    """Raises `ArgumentError` unless `value` is a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ArgumentError(
            f"`{argument}` must be a whole number of at least {minimum}. "
            f"Received: {argument}={value!r}. Give {minimum} or more."
        )


def check_image_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns `(height, width)`; one number means a square.

    Raises:
        ArgumentError: A side is not a whole number from 1 to `MAX_SIDE`.
    """
    sides = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size,) * 2
    is_whole = all(isinstance(side, Integral) and not isinstance(side, bool) for side in sides)
    if len(sides) != 2 or not is_whole or min(sides) < 1 or max(sides) > MAX_SIDE:
        raise ArgumentError(
            f"`image_size` must be a positive number of pixels, at most {MAX_SIDE:,}, or two: "
            f"(height, width). Received: image_size={image_size!r}. Use the backbone's size, such "
            "as 224."
        )
    return int(sides[0]), int(sides[1])


def check_seed(value: int, argument: str = "seed") -> None:
    """Raises `ArgumentError` unless `value` is a whole number from 0 to 2**32 - 1.

    All random generators, including those of NumPy and scikit-learn, accept these seeds.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or not 0 <= value < 2**32:
        raise ArgumentError(
            f"`{argument}` must be a whole number of at least 0, below {2**32}. "
            f"Received: {argument}={value!r}. Give 0, for example."
        )


def is_unicode(name: str) -> bool:
    """Whether a file's name is valid Unicode: names in other encodings hold lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def check_path(argument: str, path: str | os.PathLike[str]) -> None:
    """Checks that an argument is a path in valid Unicode, which tlkit's records can hold.

    Raises:
        ArgumentError: The argument is not a path.
        DataError: The absolute path is not valid Unicode.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise ArgumentError(
            f"`{argument}` must be a path, a string or a pathlib.Path. "
            f"Received: {argument}={path!r}. Give the name of one file or folder."
        )
    whole = os.path.abspath(path)
    if not is_unicode(whole):
        raise DataError(
            f"`{argument}` must have a path in valid Unicode. Received: {whole!r}. Rename the file "
            "or the folder whose name is not in UTF-8."
        )


def as_tuple(value: Any) -> tuple[Any, ...]:
    """Returns an iterable as a tuple; a string or a value that is not iterable is one item.

    Example:
        >>> from tlkit.errors import as_tuple
        >>> as_tuple(["cat", "dog"]), as_tuple("cat"), as_tuple(None)
        (('cat', 'dog'), ('cat',), (None,))
    """
    return (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)


def some_of(items: Sequence[str], limit: int = 5, separator: str = ", ") -> str:
    """Returns the first of the items for a message: "a, b and 3 more"."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return separator.join(items[:limit]) + more


def quoted(names: Iterable[object], limit: int = 5) -> str:
    """Returns the first of the names between quotes for a message: "'a', 'b' and 3 more"."""
    return some_of(list(map(repr, names)), limit)


def did_you_mean(name: object, choices: Iterable[str]) -> str:
    """Returns " Did you mean 'a' or 'b'?" with up to three near matches, or ""."""
    near = difflib.get_close_matches(str(name), list(choices), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
