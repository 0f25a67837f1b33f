"""Former public names, which still work with a warning that gives the new name."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from tlkit.errors import ArgumentError

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def renamed_argument(
    old: str, new: str
) -> Callable[[Callable[_Parameters, _Result]], Callable[_Parameters, _Result]]:
    """Returns a decorator that lets a function also accept a keyword argument by its old name.

    Raises:
        ArgumentError: From the function, if both names are given.

    Example:
        >>> from tlkit.utils.renamed import renamed_argument
        >>> @renamed_argument("say", "log")
        ... def run(log=None):
        ...     return log
        >>> run(log="new")
        'new'
    """

    def decorate(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        @wraps(function)
        def renamed(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            given: dict[str, Any] = kwargs
            if old in given:
                if new in given:
                    raise ArgumentError(
                        f"`{new}` must be given once. Received: `{new}` and its old name `{old}`. "
                        f"Leave out `{old}`."
                    )
                _warn(old, new)
                given[new] = given.pop(old)
            return function(*args, **kwargs)

        return renamed

    return decorate


def renamed_attribute(old: str, new: str) -> property:
    """Returns a property that reads another attribute, with a warning.

    Example:
        >>> from tlkit.utils.renamed import renamed_attribute
        >>> class Report:
        ...     weight_change = 0.5
        ...     moved = renamed_attribute("moved", "weight_change")
    """

    def read(self: object) -> Any:
        _warn(old, new)
        return getattr(self, new)

    return property(read, doc=f"The old name of `{new}`.")


def _warn(old: str, new: str) -> None:
    warnings.warn(
        f"`{old}` was renamed to `{new}`; the old name will be removed in the next major version.",
        DeprecationWarning,
        stacklevel=3,
    )
