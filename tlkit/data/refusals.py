"""Why a pass over a data set ended: what refused a batch, where TensorFlow's error hides it."""

import weakref
from dataclasses import dataclass
from typing import Any

from tlkit.errors import TlkitError


@dataclass(eq=False)
class Refusal:
    """What a check within a data set refused; `None` as long as all has passed."""

    error: TlkitError | None = None


_KNOWN: "weakref.WeakKeyDictionary[Any, Refusal]" = weakref.WeakKeyDictionary()


def keep_refusals(dataset: Any, refusal: Refusal) -> None:
    """Says where what is refused while a data set is read will stand."""
    _KNOWN[dataset] = refusal


def refusal_within(dataset: Any) -> TlkitError | None:
    """Returns what a data set of `keep_refusals` last refused, once; `None` for any other."""
    try:
        known = _KNOWN.get(dataset)
    except TypeError:  # what cannot be referred to weakly is no data set
        return None
    if known is None:
        return None
    error, known.error = known.error, None
    return error
