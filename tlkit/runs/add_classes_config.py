"""The config of a run that adds classes to a finished run."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tlkit.continual.exemplars import DEFAULT_NUM_EXEMPLARS
from tlkit.continual.growth_report import EXACT, ISOLATED, METHODS, REPLAY
from tlkit.errors import ArgumentError, check_choice, check_count
from tlkit.runs.config import AUTO
from tlkit.runs.follow_up_config import FollowUpConfig

ADD_CLASSES = "add-classes"
"""Name of the command in `run.json`."""


@dataclass(frozen=True, kw_only=True)
class AddClassesConfig(FollowUpConfig):
    """The arguments of an `add_classes_run`, including those that its parent run decides.

    Attributes:
        method: A name of `METHODS`.
        exemplars: Number of stored features of each old class that are replayed: at least 1 with
            "replay", else 0.
        align: Whether the new weights are scaled to the norm of the old ones.

    Raises:
        ArgumentError: A value is invalid.

    Example:
        >>> from tlkit.runs.add_classes_config import AddClassesConfig
        >>> config = AddClassesConfig(
        ...     from_run="/runs/1", photos="/data/cows", method="replay", exemplars=5
        ... )
        >>> AddClassesConfig.from_json(config.to_json()) == config
        True
    """

    method: str = REPLAY
    exemplars: int = DEFAULT_NUM_EXEMPLARS
    align: bool = False

    def __post_init__(self, kept: bool) -> None:
        super().__post_init__(kept)
        check_choice("method", self.method, METHODS)
        check_count("exemplars", self.exemplars, minimum=0)
        if not isinstance(self.align, bool):
            raise ArgumentError(f"`align` must be True or False. Received: align={self.align!r}.")

    def to_json(self) -> dict[str, object]:
        """Returns the "arguments" of `run.json`."""
        return {
            **self.shared_json(ADD_CLASSES),
            **({"method": EXACT} if self.method == EXACT else {}),  # else exemplars tell it
            "exemplars": int(self.exemplars),
            "align": self.align,
            "batch_size": int(self.batch_size),
            "max_pixels": int(self.max_pixels),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "AddClassesConfig":
        """Reads the output of `to_json`; that of earlier versions has fewer arguments.

        Raises:
            KeyError: An entry is missing.
            TypeError: An entry has the wrong type.
            ArgumentError: A value is invalid.
        """
        cls.check_paths(content)
        _ = content["max_pixels"]
        known = [field.name for field in dataclasses.fields(cls) if field.name in content]
        arguments = {name: content[name] for name in known}
        arguments.setdefault("exemplars", DEFAULT_NUM_EXEMPLARS)
        arguments.setdefault("method", REPLAY if arguments["exemplars"] else ISOLATED)
        return cls(**arguments, kept=True)


def choose_method(
    method: str, *, exemplars: int | None, align: bool, has_statistics: bool
) -> tuple[str, int]:
    """Returns the method of adding classes and its number of exemplars.

    Args:
        method: A name of `METHODS`, or "auto": what the other arguments are for, else "exact" if
            the run keeps statistics of its head, else "replay".
        exemplars: The number that was given, if any.
        align: Whether the new weights are scaled to the norm of the old ones.
        has_statistics: Whether the run keeps statistics of its head.

    Raises:
        ArgumentError: An argument is invalid, or does not apply to the method.

    Example:
        >>> from tlkit.runs.add_classes_config import choose_method
        >>> choose_method("auto", exemplars=None, align=False, has_statistics=True)
        ('exact', 0)
    """
    check_choice("method", method, (AUTO, *METHODS))
    if exemplars is not None:
        check_count("exemplars", exemplars, minimum=0)
    if method == AUTO:
        is_exact = has_statistics and exemplars is None and not align
        method = EXACT if is_exact else ISOLATED if exemplars == 0 else REPLAY
    for name, is_given, methods in (
        ("exemplars", bool(exemplars), (REPLAY,)),
        ("align", align, (REPLAY, ISOLATED)),
    ):
        if is_given and method not in methods:
            raise ArgumentError(
                f"`{name}` must be left out with method={method!r}, to which it does not apply. "
                f"Received: {name}={exemplars if name == 'exemplars' else align!r}. Leave it out, "
                f"or use method={methods[0]!r}."
            )
    if method == REPLAY and exemplars == 0:
        raise ArgumentError(
            "`exemplars` must be at least 1 with method='replay'. Received: exemplars=0. Use "
            "method='isolated' to train the new classes without old images."
        )
    if method != REPLAY:
        return method, 0
    return method, DEFAULT_NUM_EXEMPLARS if exemplars is None else exemplars
