"""How the command line offers the fields of a run's config, described beside each field."""

from dataclasses import Field, dataclass
from typing import Any

IMAGES, MODEL, TRAINING = "Images", "Model", "Training"
PARENT, RUN = "Training from a run", "The run"
"""Titles of the help's panels."""

_KEY = "option"


@dataclass(frozen=True)
class Option:
    """How the command line offers a field.

    Attributes:
        help: The help text.
        panel: The panel of the help that shows it; "" for a positional argument.
        metavar: The placeholder for a value, such as "N" or "keep|skip"; "" for the default of
            the field's type.
        name: The option's name without dashes, if it is not the field's name.
        is_path: Whether the value is a file or a folder.
    """

    help: str
    panel: str = ""
    metavar: str = ""
    name: str = ""
    is_path: bool = False


def option(
    text: str, panel: str = "", metavar: str = "", *, name: str = "", is_path: bool = False
) -> dict[str, Option]:
    """Returns the metadata of a dataclass field that the command line offers.

    Example:
        >>> from dataclasses import dataclass, field, fields
        >>> from tlkit.runs.options import TRAINING, option, option_of
        >>> @dataclass
        ... class Config:
        ...     epochs: int = field(default=5, metadata=option("At most.", TRAINING))
        >>> option_of(fields(Config)[0]).panel
        'Training'
    """
    return {_KEY: Option(text, panel, metavar, name, is_path)}


def option_of(field: "Field[Any]") -> Option:
    """Returns how the command line offers a field."""
    described: Option = field.metadata[_KEY]
    return described
