"""Names of the command line: help without Python types, messages without Python arguments."""

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
        """Returns its parameters, including the help option."""
        return _without_types(super().get_params(ctx))


class Interruption(BaseException):
    """Takes a `KeyboardInterrupt` with its notes through Typer, which replaces it by a status.

    Attributes:
        error: The interrupt.
    """

    def __init__(self, error: KeyboardInterrupt) -> None:
        super().__init__(error)
        self.error = error


class Commands(TyperGroup):
    """The commands, in a help that shows no Python types."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command.

        Raises:
            Interruption: It was interrupted.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interruption(error) from error

    def get_params(self, ctx: Any) -> Any:
        """Returns the parameters before the command, including the help option."""
        return _without_types(super().get_params(ctx))


def _without_types(params: Iterable[Any]) -> list[Any]:
    """Hides the types that Typer shows for parameters without a placeholder."""
    shown = list(params)
    for param in shown:
        if param.param_type_name == "argument":  # its name is shown already
            param.display_type_rich = lambda ctx: None
        elif param.metavar is None:
            param.metavar = ""
    return shown


@dataclass(frozen=True)
class Parameter:
    """A parameter of a command.

    Attributes:
        shown: Its name on the command line: "--image-size", or "PHOTOS" for an argument.
        off: The option that switches it off, if there is one.
        words: Its placeholder in the help, such as "FILE|none".
        is_option: Whether it is an option, not a positional argument.
    """

    shown: str
    off: str = ""
    words: str = ""
    is_option: bool = True

    def with_value(self, value: Any) -> str:
        """Returns the text that sets it to a Python value on the command line."""
        if value is None and "none" not in self.words.split("|"):
            return f"no {self.shown}"
        if isinstance(value, bool):
            return self.shown if value else self.off or f"no {self.shown}"
        values = value if isinstance(value, list | tuple) else [value]
        text = ",".join("none" if item is None else str(item) for item in values)
        return f"{self.shown} {shlex.quote(text)}"


def parameters_of(params: Iterable[Any]) -> dict[str, Parameter]:
    """Returns the parameters of a command, by their names in Python and on the command line.

    Args:
        params: Typer's parameters of the command.
    """
    by_name: dict[str, Parameter] = {}
    for param in params:
        is_option = param.param_type_name == "option"
        shown = max(param.opts, key=len) if is_option else param.metavar or param.name.upper()
        off = max(param.secondary_opts, key=len, default="")
        parameter = Parameter(shown.removesuffix("..."), off, param.metavar or "", is_option)
        own = shown.lstrip("-").replace("-", "_").lower().removesuffix("...")
        by_name |= {own: parameter, param.name: parameter}
    if "backbones" in by_name:  # one of them may be wrong
        by_name.setdefault("backbone", by_name["backbones"])
    return by_name


def names_in_options(text: str, parameters: Mapping[str, Parameter]) -> str:
    """Returns a report with the command's option names instead of Python's argument names.

    Only names in backticks are replaced, as names of files and classes have no quotes in a report
    and may look like `seed=1`.

    Example:
        >>> from tlkit.utils.option_names import Parameter, names_in_options
        >>> known = {"max_pixels": Parameter("--max-pixels")}
        >>> names_in_options("max_pixels=9/a.jpg: too large (raise `max_pixels`)", known)
        'max_pixels=9/a.jpg: too large (raise --max-pixels)'
    """

    def replace(match: re.Match[str]) -> str:
        parameter = parameters.get(match["named"])
        return match[0] if parameter is None else parameter.shown

    return _TWICE.sub(r"\g<option>\g<word>", _NAMED.sub(replace, text))


def in_options(message: str, parameters: Mapping[str, Parameter]) -> str:
    """Returns a message with the command's option names instead of Python's argument names.

    Names in backticks and before an equals sign are replaced, except within quotes.

    Example:
        >>> from tlkit.utils.option_names import Parameter, in_options
        >>> known = {"layer_decay": Parameter("--layer-decay"), "photos": Parameter("PHOTOS")}
        >>> in_options("`layer_decay` must be 1. Received: layer_decay=2.0. Give 1.", known)
        '--layer-decay must be 1. Received: --layer-decay 2.0. Give 1.'
        >>> in_options("`photos` must be a folder. Received: photos='my own'.", known)
        "PHOTOS must be a folder. Received: PHOTOS 'my own'."
    """

    def replace(match: re.Match[str]) -> str:
        parameter = parameters.get(match["named"] or match["set"] or "")
        if parameter is None:
            return match[0]
        if match["named"]:
            return parameter.shown
        return parameter.with_value(_parse_value(match["value"]))

    return _TWICE.sub(r"\g<option>\g<word>", _PARTS.sub(replace, message))


def _parse_value(text: str) -> Any:
    """Returns the Python value of a literal; other text, such as a word in capitals, itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
