"""The record of a run: what `run.json` holds, and how it is read back."""

import csv
import dataclasses
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import tlkit
from tlkit.data.images import ImageData
from tlkit.errors import RunError
from tlkit.runs.add_classes_config import AddClassesConfig, Config, config_from_json
from tlkit.runs.config import Choice, RunConfig, check_kind
from tlkit.runs.split_table import FORMAT
from tlkit.utils.files import write_json
from tlkit.utils.run_lock import RECORD_FILE

Content = TypeVar("Content")

_PACKAGES = ("tensorflow", "keras", "scikit-learn")


@dataclass(frozen=True)
class DataRecord:
    """What a run remembers of its images.

    Attributes:
        fingerprint: Of their contents, classes and splits.
        num_images: In each split, by its name.
    """

    fingerprint: str
    num_images: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What `run.json` holds. It is replaced and never changed: `dataclasses.replace`.

    Attributes:
        config: The arguments, "auto" among them.
        seed: Of the split, the initial weights, orders and augmentation.
        image_size: Height and width in pixels of the images that the model takes.
        data: The images.
        choices: What was left to the run, as it has decided it, by name.
        versions: Of Python and the packages, by name.
        seconds: Time that each part has taken, in all processes that worked on it.
        cost: What `CostReport.as_dict` returned before training; `None` where nothing was
            projected.
        growth: What `GrowthReport.as_dict` returned of a run to which classes were added.
        split_table: The format of `split.csv`; `None` for that of earlier versions.
        is_finished: Whether all of the run is there.
    """

    config: Config
    seed: int
    image_size: tuple[int, int]
    data: DataRecord
    choices: Mapping[str, Choice] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, Any] | None = None
    growth: Mapping[str, Any] | None = None
    split_table: int | None = FORMAT
    is_finished: bool = False

    @property
    def resolved(self) -> Config:
        """The config that the run goes by: what was left to it is what it has chosen."""
        return self.config.resolve(self.choices)

    @property
    def is_growing(self) -> bool:
        """Whether classes are added to an earlier run's."""
        return isinstance(self.config, AddClassesConfig)

    def with_choice(self, name: str, choice: Choice) -> "RunRecord":
        """Returns the record with one decision more."""
        return dataclasses.replace(self, choices={**self.choices, name: choice})

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `run.json`."""
        content: dict[str, Any] = {
            "finished": self.is_finished,
            "arguments": self.config.to_json(),
            "versions": dict(self.versions),
            "seed": self.seed,
            "image_size": list(self.image_size),
        }
        if self.split_table is not None:
            content["split_table"] = self.split_table
        content["data"] = dataclasses.asdict(self.data)
        if isinstance(self.config, RunConfig):
            content["choices"] = {name: one.to_json() for name, one in self.choices.items()}
        content["seconds"] = dict(self.seconds)
        for name, figures in (("cost", self.cost), ("growth", self.growth)):
            if figures is not None:
                content[name] = dict(figures)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RunRecord":
        """Reads what `to_json` gave, of this version or an earlier one.

        Raises:
            KeyError: Something is missing.
            TypeError: Something is of another kind.
            ValueError: A value breaks its rule.
        """
        height, width = content["image_size"]
        choices, seconds = content.get("choices", {}), content.get("seconds", {})
        versions, data = content.get("versions", {}), content["data"]
        check_kind(data, dict)
        num_images = data.get("num_images", {})
        for one in (choices, seconds, versions, num_images):
            check_kind(one, dict)
        for one in seconds.values():
            check_kind(one, float | int)
        check_kind(data["fingerprint"], str)
        for one in (content["seed"], height, width, *num_images.values()):
            check_kind(one, int)
        check_kind(content["finished"], bool)
        for figures in (content.get("cost"), content.get("growth")):
            check_kind(figures, dict | None)
        check_kind(content.get("split_table"), int | None)
        record = cls(
            config=config_from_json(content["arguments"]),
            seed=content["seed"],
            image_size=(height, width),
            data=DataRecord(data["fingerprint"], num_images),
            choices={name: Choice.from_json(one) for name, one in choices.items()},
            versions=versions,
            seconds=seconds,
            cost=content.get("cost"),
            growth=content.get("growth"),
            split_table=content.get("split_table"),
            is_finished=content["finished"],
        )
        _ = record.resolved  # where choices do not fit the config, it says so
        return record


def record_of(config: Config, data: ImageData) -> RunRecord:
    """Returns the record of a run that begins."""
    return RunRecord(
        config=config,
        seed=data.seed,
        image_size=data.image_size,
        data=DataRecord(
            data.fingerprint,
            {
                name: split.num_images if (split := getattr(data, name)) else 0
                for name in ("train", "validation", "test")
            },
        ),
        versions={
            "tlkit": tlkit.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _PACKAGES},
        },
    )


def write_record(out: Path, record: RunRecord) -> None:
    """Writes `run.json`, which appears whole."""
    write_json(out / RECORD_FILE, record.to_json())


def read_record(path: Path, argument: str = "run") -> RunRecord | None:
    """Returns the record of the run in a folder, or `None` where there is none.

    Args:
        path: The folder.
        argument: What errors call it.

    Raises:
        RunError: `run.json` is damaged; the message says what is wrong with it.
    """
    if not (path / RECORD_FILE).is_file():
        return None
    return read_file(path, RECORD_FILE, _record_from, argument)


def _record_from(text: str) -> RunRecord | None:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("no object")
    if not {"arguments", "finished"} & content.keys():  # another program's
        return None
    return RunRecord.from_json(content)


def read_file(
    path: Path, name: str, parse: Callable[[str], Content], argument: str = "run"
) -> Content:
    """Returns what a file of a run holds.

    Args:
        path: The run directory.
        name: The file.
        parse: Returns it; raises where it is not what a run leaves.
        argument: What errors call `path`.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        return parse((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise not_whole(path, name, "missing", argument) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        problem = f"damaged ({_first_line(error)})"
        raise not_whole(path, name, problem, argument) from error


def not_whole(path: Path, name: str, problem: str, argument: str = "run") -> RunError:
    """The error that a file of a run is "missing" or "damaged"."""
    return RunError(
        f"`{argument}` must be whole. Received: {str(path)!r}, whose {name} is {problem}. "
        "Train it again, in another folder."
    )


def _first_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error}"
    return next(iter(str(error).splitlines()), type(error).__name__)
