"""Every error that tlkit raises on purpose, in one tree, and the checks that raise them.

    TlkitError
    ├── ArgumentError (ValueError)    an argument breaks its rule
    ├── DataError (ValueError)        the images cannot be used as asked
    ├── WeightsError (OSError)        weights cannot be had, or do not fit
    ├── TrainingError (RuntimeError)  training cannot go on
    ├── RunError (RuntimeError)       a run directory cannot be used as asked
    ├── ExportError (RuntimeError)    what was exported is not what is in memory
    ├── StorageError (OSError)        a disk is full, or cannot be written to
    └── KerasSettingsError (RuntimeError)  Keras is set to what nothing here can work with

A message reads: `argument` must be RULE. Received: argument=VALUE. WHAT TO DO.
"""

import difflib
import math
import os
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any


class TlkitError(Exception):
    """The root of the tree; the command line shows its message as one plain line."""


class ArgumentError(TlkitError, ValueError):
    """An argument breaks its rule."""


class DataError(TlkitError, ValueError):
    """The images cannot be used as asked."""


class WeightsError(TlkitError, OSError):
    """Weights cannot be had, or do not fit the network."""


class TrainingError(TlkitError, RuntimeError):
    """Training cannot go on."""


class RunError(TlkitError, RuntimeError):
    """A run directory cannot be used as asked."""


class ExportError(TlkitError, RuntimeError):
    """What was exported does not compute what the model in memory computes."""


class StorageError(TlkitError, OSError):
    """A disk is full, or cannot be written to."""


class KerasSettingsError(TlkitError, RuntimeError):
    """Keras is set, for the whole process, to what nothing here can work with."""


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
            "Give 0, say."
        )


def check_unit(argument: str, value: float) -> None:
    """Raises `ArgumentError` unless `value` is a number from 0 to 1, both included."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise ArgumentError(
            f"`{argument}` must be a number from 0 to 1. Received: {argument}={value!r}. "
            "Give 0.5, say."
        )


def check_fraction(argument: str, value: float, example: float = 0.1) -> None:
    """Raises `ArgumentError` unless `value` is a number from 0 up to, not including, 1.

    Args:
        argument: What errors call it.
        value: What was received.
        example: A sensible one.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 1:
        raise ArgumentError(
            f"`{argument}` must be a number from 0 to less than 1. Received: {argument}={value!r}. "
            f"Give {example:g}, say."
        )


def check_share(argument: str, value: float) -> None:
    """Raises `ArgumentError` unless `value` is a number above 0 and not above 1."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 < value <= 1:
        raise ArgumentError(
            f"`{argument}` must be a number above 0 and at most 1. Received: {argument}={value!r}. "
            "Give 0.5, say."
        )


def check_count(argument: str, value: int, minimum: int = 1) -> None:
    """Raises `ArgumentError` unless `value` is a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ArgumentError(
            f"`{argument}` must be a whole number of at least {minimum}. "
            f"Received: {argument}={value!r}. Give {minimum} or more."
        )


def check_seed(value: int, argument: str = "seed") -> None:
    """Raises `ArgumentError` unless `value` is a whole number that every generator takes.

    That is 0 to 2**32 - 1, what NumPy's and scikit-learn's generators have in common.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or not 0 <= value < 2**32:
        raise ArgumentError(
            f"`{argument}` must be a whole number of at least 0, below {2**32}. "
            f"Received: {argument}={value!r}. Give 0, say."
        )


def is_unicode(name: str) -> bool:
    """Whether a file's name can be written down: names in other encodings hold lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def check_path(argument: str, path: str | os.PathLike[str]) -> None:
    """Raises for what is no path (`ArgumentError`), or one that no record of ours can name.

    That is one with a name that is not valid Unicode, wherever it is relative to (`DataError`).
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
    """Returns several things as a tuple; a string, and what cannot be gone through, is one thing.

    Example:
        >>> from tlkit.errors import as_tuple, quoted, some_of
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
