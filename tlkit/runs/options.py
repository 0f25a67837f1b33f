"""How the command line offers the fields of a run's config: said beside each field, once."""

from dataclasses import Field, dataclass
from typing import Any

IMAGES, MODEL, TRAINING = "Images", "Model", "Training"
PARENT, RUN = "Going on from a run", "The run"
"""Panels of the help."""

_KEY = "option"


@dataclass(frozen=True)
class Option:
    """What the command line says of a field.

    Attributes:
        help: What it is for.
        panel: Where the help shows it; "" for what is no option but stands by its place.
        metavar: What stands for a value: "N", "keep|skip"; "" where the type has one of its own.
        name: What it is called behind the dashes, where that is not the field's name.
        is_path: Whether a value is a file or a folder.
    """

    help: str
    panel: str = ""
    metavar: str = ""
    name: str = ""
    is_path: bool = False


def option(
    text: str, panel: str = "", metavar: str = "", *, name: str = "", is_path: bool = False
) -> dict[str, Option]:
    """Returns the metadata of a field that the command line offers.

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
    """Returns what the command line says of a field."""
    found: Option = field.metadata[_KEY]
    return found
