"""The command line's own names: no Python types in help, no Python arguments in messages."""

import ast
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from typer.core import TyperCommand, TyperGroup

_QUOTED = r"(?<![\w`])(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")(?!\w)"
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_VALUE = rf"{_QUOTED}|\[[^\]]*\]|\([^)]*\)|{_NUMBER}|-?inf|nan|None|True|False|[A-Z][A-Z_]*"
_PARTS = re.compile(
    rf"`(?P<named>[a-z_]\w*)`|(?<![\w.`'\"-])(?P<set>[a-z_]\w*)=(?P<value>{_VALUE})|{_QUOTED}"
)
_NAMED = re.compile(r"`(?P<named>[a-z_]\w*)`")
_TWICE = re.compile(r"(?P<option>--[\w-]+)(?P<word> \w+)? \((?P=option)(?: [A-Z]+)?\)")


class Command(TyperCommand):
    """A command whose help shows no Python types."""

    def get_params(self, ctx: Any) -> Any:
        """Returns its parameters, and that of its help."""
        return _without_types(super().get_params(ctx))


class Commands(TyperGroup):
    """The commands, in a help that shows no Python types."""

    def get_params(self, ctx: Any) -> Any:
        """Returns the parameters before the command, and that of its help."""
        return _without_types(super().get_params(ctx))


def _without_types(params: Iterable[Any]) -> list[Any]:
    """Typer shows the type of a parameter where no other word is given."""
    shown = list(params)
    for param in shown:
        if param.param_type_name == "argument":  # its name is shown already
            param.display_type_rich = lambda ctx: None
        elif param.metavar is None:
            param.metavar = ""
    return shown


@dataclass(frozen=True)
class Parameter:
    """What a command takes.

    Attributes:
        shown: What the command line calls it: "--image-size", or "PHOTOS" for an argument.
        off: The option that says no to it, where it has one.
        words: What its help shows for a value: "FILE|none".
        is_option: Whether its value stands behind a name.
    """

    shown: str
    off: str = ""
    words: str = ""
    is_option: bool = True

    def with_value(self, value: Any) -> str:
        """How the command line sets it to a value of Python's."""
        if value is None and "none" not in self.words.split("|"):
            return f"no {self.shown}"
        if isinstance(value, bool):
            return self.shown if value else self.off or f"no {self.shown}"
        several = value if isinstance(value, list | tuple) else [value]
        text = ",".join("none" if one is None else str(one) for one in several)
        return f"{self.shown} {shlex.quote(text)}"


def parameters_of(params: Iterable[Any]) -> dict[str, Parameter]:
    """Returns what a command takes, by Python's names and by its own.

    Args:
        params: Typer's parameters of the command.
    """
    found: dict[str, Parameter] = {}
    for param in params:
        is_option = param.param_type_name == "option"
        shown = max(param.opts, key=len) if is_option else param.metavar or param.name.upper()
        off = max(param.secondary_opts, key=len, default="")
        parameter = Parameter(shown.removesuffix("..."), off, param.metavar or "", is_option)
        own = shown.lstrip("-").replace("-", "_").lower().removesuffix("...")
        found |= {own: parameter, param.name: parameter}
    return found


def names_in_options(text: str, parameters: Mapping[str, Parameter]) -> str:
    """Returns a report in which a command's own names stand for those of Python's arguments.

    Only names in backticks are replaced: files and classes stand in a report without quotes, and
    may be called `seed=1`.

    Example:
        >>> from tlkit.utils.option_names import Parameter, names_in_options
        >>> known = {"max_pixels": Parameter("--max-pixels")}
        >>> names_in_options("max_pixels=9/a.jpg: too large (raise `max_pixels`)", known)
        'max_pixels=9/a.jpg: too large (raise --max-pixels)'
    """

    def replaced(found: re.Match[str]) -> str:
        parameter = parameters.get(found["named"])
        return found[0] if parameter is None else parameter.shown

    return _TWICE.sub(r"\g<option>\g<word>", _NAMED.sub(replaced, text))


def in_options(message: str, parameters: Mapping[str, Parameter]) -> str:
    """Returns a message in which a command's own names stand for those of Python's arguments.

    Only names in backticks and before an equals sign are replaced, and none within quotes.

    Example:
        >>> from tlkit.utils.option_names import Parameter, in_options
        >>> known = {"layer_decay": Parameter("--layer-decay"), "photos": Parameter("PHOTOS")}
        >>> in_options("`layer_decay` must be 1. Received: layer_decay=2.0. Give 1.", known)
        '--layer-decay must be 1. Received: --layer-decay 2.0. Give 1.'
        >>> in_options("`photos` must be a folder. Received: photos='my own'.", known)
        "PHOTOS must be a folder. Received: PHOTOS 'my own'."
    """

    def replaced(found: re.Match[str]) -> str:
        parameter = parameters.get(found["named"] or found["set"] or "")
        if parameter is None:
            return found[0]
        if found["named"]:
            return parameter.shown
        return parameter.with_value(_value_in(found["value"]))

    return _TWICE.sub(r"\g<option>\g<word>", _PARTS.sub(replaced, message))


def _value_in(text: str) -> Any:
    """The value that Python writes so; a word in capitals stands for itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
