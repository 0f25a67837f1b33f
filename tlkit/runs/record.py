"""The record of a run: the content of `run.json`, and how it is written and read."""

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
from tlkit.data.settings import RESIZES, RGB, STRETCH, check_channels_of_files
from tlkit.errors import RunError, check_choice
from tlkit.evaluation.thresholds import LabelThresholds
from tlkit.runs.add_classes_config import AddClassesConfig
from tlkit.runs.any_config import Config, config_from_json
from tlkit.runs.config import Choice, RunConfig, check_type
from tlkit.runs.split_table import FORMAT
from tlkit.utils.files import write_json
from tlkit.utils.run_lock import RECORD_FILE

Content = TypeVar("Content")

_PACKAGES = ("tensorflow", "keras", "scikit-learn")


@dataclass(frozen=True)
class DataRecord:
    """The images of a run in brief.

    Attributes:
        fingerprint: Fingerprint of their contents, classes and splits.
        num_images: Number of images in each split, by its name.
    """

    fingerprint: str
    num_images: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The content of `run.json`. Changes make a new record with `dataclasses.replace`.

    Attributes:
        config: The arguments as given, including "auto".
        seed: Seed of the split, the initial weights, the order of images and augmentation.
        image_size: Height and width in pixels of the exported model's input images.
        data: The images.
        choices: The choices that the run made itself, by name.
        versions: Versions of Python and the packages, by name.
        seconds: Seconds of each part, summed over all processes that worked on it.
        cost: Output of `CostReport.as_dict` before training; `None` without a projection.
        growth: Output of `GrowthReport.as_dict` for a run that adds classes.
        removal: Output of `RemovalReport.as_dict` for a run that forgets images.
        split_table: The format of `split.csv`; `None` for that of earlier versions.
        provisional: The model that the directory holds as a usable result while the run is still
            training, such as "the head alone"; "" if there is none.
        is_finished: Whether the run is complete.
        resize: "stretch", "crop" or "pad": how images are brought to that size.
        channels: Number of channels of the images, 3 or 1.
        thresholds: The probability from which each label is assigned, for several labels per image;
            `None` with one class per image, or before there is a model.
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
    removal: Mapping[str, Any] | None = None
    split_table: int | None = FORMAT
    provisional: str = ""
    is_finished: bool = False
    resize: str = STRETCH
    channels: int = RGB
    thresholds: LabelThresholds | None = None

    @property
    def state(self) -> str:
        """What is said of a run with a provisional result; "" for others."""
        if not self.provisional:
            return ""
        return (
            f"provisional: {self.provisional}; the run is not finished, and the same command "
            "resumes it"
        )

    @property
    def resolved(self) -> Config:
        """The config with the run's choices in place of "auto"."""
        return self.config.resolve(self.choices)

    @property
    def is_growing(self) -> bool:
        """Whether the run adds classes to an earlier run."""
        return isinstance(self.config, AddClassesConfig)

    def with_choice(self, name: str, choice: Choice) -> "RunRecord":
        """Returns the record with one more choice."""
        return dataclasses.replace(self, choices={**self.choices, name: choice})

    def to_json(self) -> dict[str, object]:
        """Returns the content of `run.json`."""
        content: dict[str, object] = {
            "finished": self.is_finished,
            **({"provisional": self.provisional} if self.provisional else {}),
            "arguments": self.config.to_json(),
            "versions": dict(self.versions),
            "seed": self.seed,
            "image_size": list(self.image_size),
        }
        if self.resize != STRETCH:
            content["resize"] = self.resize
        if self.channels != RGB:
            content["channels"] = self.channels
        if self.thresholds is not None:
            content["thresholds"] = self.thresholds.to_json()
        if self.split_table is not None:
            content["split_table"] = self.split_table
        content["data"] = dataclasses.asdict(self.data)
        if isinstance(self.config, RunConfig):
            content["choices"] = {name: choice.to_json() for name, choice in self.choices.items()}
        content["seconds"] = dict(self.seconds)
        for name, report in (
            ("cost", self.cost),
            ("growth", self.growth),
            ("removal", self.removal),
        ):
            if report is not None:
                content[name] = dict(report)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RunRecord":
        """Reads the output of `to_json`, of this version or an earlier one.

        Raises:
            KeyError: An entry is missing.
            TypeError: An entry has the wrong type.
            ValueError: A value is invalid.
        """
        height, width = content["image_size"]
        choices, seconds = content.get("choices", {}), content.get("seconds", {})
        versions, data = content.get("versions", {}), content["data"]
        check_type(data, dict)
        num_images = data.get("num_images", {})
        for mapping in (choices, seconds, versions, num_images):
            check_type(mapping, dict)
        for value in seconds.values():
            check_type(value, float | int)
        check_type(data["fingerprint"], str)
        for number in (content["seed"], height, width, *num_images.values()):
            check_type(number, int)
        check_type(content["finished"], bool)
        check_type(content.get("provisional", ""), str)
        for name in ("cost", "growth", "removal"):
            check_type(content.get(name), dict | None)
        check_type(content.get("split_table"), int | None)
        resize = content.get("resize", STRETCH)
        check_choice("resize", resize, RESIZES)
        channels = content.get("channels", RGB)
        check_channels_of_files(channels)
        thresholds = content.get("thresholds")
        check_type(thresholds, dict | None)
        record = cls(
            config=config_from_json(content["arguments"]),
            seed=content["seed"],
            image_size=(height, width),
            data=DataRecord(data["fingerprint"], num_images),
            choices={name: Choice.from_json(choice) for name, choice in choices.items()},
            versions=versions,
            seconds=seconds,
            cost=content.get("cost"),
            growth=content.get("growth"),
            removal=content.get("removal"),
            split_table=content.get("split_table"),
            provisional=content.get("provisional", ""),
            is_finished=content["finished"],
            resize=resize,
            channels=channels,
            thresholds=None if thresholds is None else LabelThresholds.from_json(thresholds),
        )
        _ = record.resolved  # raises if the choices do not fit the config
        return record


def record_of(config: Config, data: ImageData) -> RunRecord:
    """Returns the record of a new run."""
    return RunRecord(
        config=config,
        seed=data.seed,
        image_size=data.image_size,
        resize=data.resize,
        channels=data.channels,
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
    """Writes `run.json` atomically."""
    write_json(out / RECORD_FILE, record.to_json())


def read_record(path: Path, argument: str = "run") -> RunRecord | None:
    """Returns the record of the run in a folder, or `None` if there is no run.

    Args:
        path: The folder.
        argument: Name of the argument in error messages.

    Raises:
        RunError: `run.json` is damaged; the message says how.
    """
    if not (path / RECORD_FILE).is_file():
        return None
    return read_file(path, RECORD_FILE, _parse_record, argument)


def _parse_record(text: str) -> RunRecord | None:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    if not {"arguments", "finished"} & content.keys():  # written by another program
        return None
    return RunRecord.from_json(content)


def read_file(
    path: Path, name: str, parse: Callable[[str], Content], argument: str = "run"
) -> Content:
    """Returns the parsed content of a file of a run.

    Args:
        path: The run directory.
        name: Name of the file.
        parse: Parses the text; raises an exception if no run has written it.
        argument: Name of the argument in error messages.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        return parse((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise damaged_run_error(path, name, "missing", argument) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        problem = f"damaged ({_first_line(error)})"
        raise damaged_run_error(path, name, problem, argument) from error


def damaged_run_error(path: Path, name: str, problem: str, argument: str = "run") -> RunError:
    """Returns the error for a file of a run that is "missing" or "damaged"."""
    return RunError(
        f"`{argument}` must be a complete run. Received: {str(path)!r}, whose {name} is {problem}. "
        "Train it again in another folder."
    )


def _first_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error}"
    return next(iter(str(error).splitlines()), type(error).__name__)
