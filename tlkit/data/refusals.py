"""Keeps the error of a check inside a `tf.data` pipeline, which TensorFlow's own error hides."""

import weakref
from dataclasses import dataclass
from typing import Any

from tlkit.errors import TlkitError


@dataclass(eq=False)
class Refusal:
    """The error raised by a check inside a data set; `None` while all batches have passed."""

    error: TlkitError | None = None


_REFUSALS: "weakref.WeakKeyDictionary[Any, Refusal]" = weakref.WeakKeyDictionary()


def register_refusal(dataset: Any, refusal: Refusal) -> None:
    """Registers the record to which checks inside a data set write their error."""
    _REFUSALS[dataset] = refusal


def take_refusal(dataset: Any) -> TlkitError | None:
    """Returns and clears the last error of a registered data set; `None` for any other object."""
    try:
        refusal = _REFUSALS.get(dataset)
    except TypeError:  # not weakly referenceable, so not a data set
        return None
    if refusal is None:
        return None
    error, refusal.error = refusal.error, None
    return error
