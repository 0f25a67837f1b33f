"""The config of a run that adds classes to a finished one, and of a run whatever it does."""

import dataclasses
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar, TypeAlias

from tlkit.continual.exemplars import DEFAULT_NUM_EXEMPLARS
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.settings import DAMAGED, KEEP
from tlkit.errors import ArgumentError, check_choice, check_count
from tlkit.runs.config import Choice, RunConfig, absolute, check_kind

ADD_CLASSES = "add-classes"
"""What `run.json` calls the command."""


@dataclass(frozen=True, kw_only=True)
class AddClassesConfig:
    """The config of a run of `add_classes_run`: its arguments, with what its parent decides.

    Attributes:
        from_run: The run that classes are added to; an absolute path.
        photos: The folder of the new classes, or a CSV file; an absolute path.
        exemplars: Stored features of each old class that are replayed; 0 or more.
        align: Whether the new weights are scaled to the size of the old ones.
        batch_size: Images in a batch.
        max_pixels: Images with more pixels are left out.
        damaged: "keep" or "skip", see `load_folder`; as the parent did.

    Args:
        kept: Whether the values were settled before: paths are taken as they are.

    Raises:
        ArgumentError: A value breaks its rule.

    Example:
        >>> from tlkit.runs.add_classes_config import AddClassesConfig
        >>> config = AddClassesConfig(from_run="/runs/1", photos="/data/cows", exemplars=5)
        >>> AddClassesConfig.from_json(config.to_json()) == config
        True
    """

    backbone: ClassVar[None] = None
    weights: ClassVar[str] = "those of the run"

    from_run: str
    photos: str
    exemplars: int = DEFAULT_NUM_EXEMPLARS
    align: bool = False
    batch_size: int = 32
    max_pixels: int = MAX_PIXELS
    damaged: str = KEEP
    kept: InitVar[bool] = False

    def __post_init__(self, kept: bool) -> None:
        for name in () if kept else ("from_run", "photos"):
            object.__setattr__(self, name, absolute(getattr(self, name)))
        check_count("exemplars", self.exemplars, minimum=0)
        check_count("batch_size", self.batch_size)
        if not isinstance(self.align, bool):
            raise ArgumentError(f"`align` must be True or False. Received: align={self.align!r}.")
        check_count("max_pixels", self.max_pixels)
        check_choice("damaged", self.damaged, DAMAGED)

    def resolve(self, choices: Mapping[str, Choice]) -> "AddClassesConfig":
        """Returns the config itself, which leaves nothing to the run.

        Args:
            choices: As of `RunConfig.resolve`; there are none.
        """
        del choices
        return self

    def to_json(self) -> dict[str, Any]:
        """Returns it as `run.json` holds it under "arguments"."""
        damaged = {} if self.damaged == KEEP else {"damaged": self.damaged}
        return {
            **damaged,
            "command": ADD_CLASSES,
            "from_run": self.from_run,
            "photos": self.photos,
            "backbone": self.backbone,
            "weights": self.weights,
            "exemplars": int(self.exemplars),
            "align": self.align,
            "batch_size": int(self.batch_size),
            "max_pixels": int(self.max_pixels),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "AddClassesConfig":
        """Reads what `to_json` gave, of this version or an earlier one, which had fewer arguments.

        Raises:
            KeyError: Something is missing.
            TypeError: Something is of another kind.
            ArgumentError: A value breaks its rule.
        """
        for name in ("from_run", "photos"):
            check_kind(content[name], str)
        _ = content["max_pixels"]
        known = [one.name for one in dataclasses.fields(cls) if one.name in content]
        return cls(**{name: content[name] for name in known}, kept=True)


Config: TypeAlias = RunConfig | AddClassesConfig


def config_from_json(content: Mapping[str, Any]) -> Config:
    """Reads the "arguments" of a `run.json`, whatever command they are of.

    Raises:
        KeyError: Something is missing.
        TypeError: Something is of another kind.
        ArgumentError: A value breaks its rule.
    """
    check_kind(content, dict)
    is_growing = content.get("command") == ADD_CLASSES or "exemplars" in content
    return AddClassesConfig.from_json(content) if is_growing else RunConfig.from_json(content)
