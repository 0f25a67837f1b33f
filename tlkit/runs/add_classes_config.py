"""The config of a run that adds classes to a finished run, and the type of any run's config."""

import dataclasses
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar, TypeAlias

from tlkit.continual.exemplars import DEFAULT_NUM_EXEMPLARS
from tlkit.continual.growth_report import EXACT, ISOLATED, METHODS, REPLAY
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.settings import DAMAGED, KEEP
from tlkit.errors import ArgumentError, check_choice, check_count
from tlkit.models.test_time_views import NONE
from tlkit.runs.config import AUTO, Choice, RunConfig, absolute, check_type

ADD_CLASSES = "add-classes"
"""Name of the command in `run.json`."""


@dataclass(frozen=True, kw_only=True)
class AddClassesConfig:
    """The arguments of an `add_classes_run`, including those that its parent run decides.

    Attributes:
        from_run: Absolute path of the run that classes are added to.
        photos: Absolute path of the folder or CSV file with images of the new classes.
        method: A name of `METHODS`.
        exemplars: Number of stored features of each old class that are replayed: at least 1 with
            "replay", else 0.
        align: Whether the new weights are scaled to the norm of the old ones.
        batch_size: Images in a batch.
        max_pixels: Images with more pixels are left out.
        damaged: "keep" or "skip", see `load_folder`; the same as in the parent run.

    Args:
        kept: Whether the values come from a finished config: paths are not made absolute again.

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

    backbone: ClassVar[None] = None
    weights: ClassVar[str] = "those of the run"
    tta: ClassVar[str] = NONE

    from_run: str
    photos: str
    method: str = REPLAY
    exemplars: int = DEFAULT_NUM_EXEMPLARS
    align: bool = False
    batch_size: int = 32
    max_pixels: int = MAX_PIXELS
    damaged: str = KEEP
    kept: InitVar[bool] = False

    def __post_init__(self, kept: bool) -> None:
        for name in () if kept else ("from_run", "photos"):
            object.__setattr__(self, name, absolute(getattr(self, name)))
        check_choice("method", self.method, METHODS)
        check_count("exemplars", self.exemplars, minimum=0)
        check_count("batch_size", self.batch_size)
        if not isinstance(self.align, bool):
            raise ArgumentError(f"`align` must be True or False. Received: align={self.align!r}.")
        check_count("max_pixels", self.max_pixels)
        check_choice("damaged", self.damaged, DAMAGED)

    def resolve(self, choices: Mapping[str, Choice]) -> "AddClassesConfig":
        """Returns the config itself, as this kind of run makes no choices.

        Args:
            choices: Not used; see `RunConfig.resolve`.
        """
        del choices
        return self

    def to_json(self) -> dict[str, object]:
        """Returns the "arguments" of `run.json`."""
        damaged = {} if self.damaged == KEEP else {"damaged": self.damaged}
        return {
            **damaged,
            "command": ADD_CLASSES,
            "from_run": self.from_run,
            "photos": self.photos,
            "backbone": self.backbone,
            "weights": self.weights,
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
        for name in ("from_run", "photos"):
            check_type(content[name], str)
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


Config: TypeAlias = RunConfig | AddClassesConfig


def config_from_json(content: Mapping[str, Any]) -> Config:
    """Reads the "arguments" of a `run.json` of either command.

    Raises:
        KeyError: An entry is missing.
        TypeError: An entry has the wrong type.
        ArgumentError: A value is invalid.
    """
    check_type(content, dict)
    is_growing = content.get("command") == ADD_CLASSES or "exemplars" in content
    return AddClassesConfig.from_json(content) if is_growing else RunConfig.from_json(content)
