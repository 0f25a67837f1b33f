"""What the configs of runs that change a finished run's classes have in common."""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar, TypeVar

from tlkit.data.limits import MAX_PIXELS
from tlkit.data.settings import DAMAGED, KEEP
from tlkit.errors import check_choice, check_count
from tlkit.models.test_time_views import NONE
from tlkit.runs.config import Choice, absolute, check_type

Self = TypeVar("Self", bound="FollowUpConfig")


@dataclass(frozen=True, kw_only=True)
class FollowUpConfig:
    """The arguments of a run on the model of a finished one, which decides all others.

    Attributes:
        from_run: Absolute path of the finished run.
        photos: Absolute path of the folder or CSV file with images.
        batch_size: Images in a batch.
        max_pixels: Images with more pixels are left out.
        damaged: "keep" or "skip", see `load_folder`; the same as in the finished run.
        decisions: Absolute path of a CSV file of decisions about the labels of `photos`, or `None`.

    Args:
        kept: Whether the values come from a finished config: paths are not made absolute again.

    Raises:
        ArgumentError: A value is invalid.
    """

    backbone: ClassVar[None] = None
    weights: ClassVar[str] = "those of the run"
    tta: ClassVar[str] = NONE

    from_run: str
    photos: str
    batch_size: int = 32
    max_pixels: int = MAX_PIXELS
    damaged: str = KEEP
    decisions: str | None = None
    kept: InitVar[bool] = False

    def __post_init__(self, kept: bool) -> None:
        for name in () if kept else ("from_run", "photos", "decisions"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, absolute(path))
        check_count("batch_size", self.batch_size)
        check_count("max_pixels", self.max_pixels)
        check_choice("damaged", self.damaged, DAMAGED)

    def resolve(self: Self, choices: Mapping[str, Choice]) -> Self:
        """Returns the config itself, as this kind of run makes no choices.

        Args:
            choices: Not used; see `RunConfig.resolve`.
        """
        del choices
        return self

    def shared_json(self, command: str) -> dict[str, object]:
        """Returns the part of the "arguments" of `run.json` that all such runs have."""
        damaged = {} if self.damaged == KEEP else {"damaged": self.damaged}
        decisions = {} if self.decisions is None else {"decisions": self.decisions}
        return {
            **damaged,
            **decisions,
            "command": command,
            "from_run": self.from_run,
            "photos": self.photos,
            "backbone": self.backbone,
            "weights": self.weights,
        }

    @staticmethod
    def check_paths(content: Mapping[str, Any]) -> None:
        """Raises `KeyError` or `TypeError` unless the paths in a `run.json` are strings."""
        for name in ("from_run", "photos"):
            check_type(content[name], str)
        check_type(content.get("decisions"), str | None)
