"""The settings of a run as a TOML file: written by each run, read by `tlkit train --config`."""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from tlkit import __version__
from tlkit.errors import ArgumentError, did_you_mean
from tlkit.runs.config import RunConfig, arguments_of
from tlkit.runs.directory import SETTINGS_FILE
from tlkit.runs.options import option_of
from tlkit.utils.files import written_aside

NONE = "none"
"""The weights of a network that is not pretrained, in a file and on the command line."""


def write_settings(config: RunConfig, path: Path) -> None:
    """Writes the settings that repeat a run, by the names of the options, atomically."""
    lines = [
        f"# Made by tlkit {__version__}. The same run again:",
        f"# tlkit train --config {SETTINGS_FILE} --out DIR",
        "",
    ]
    for name, value in config.to_json().items():
        if value is not None or name == "weights":
            lines.append(f"{_key_of(name)} = {_in_toml(NONE if value is None else value)}")
    with written_aside(path) as aside:
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_settings(path: str | os.PathLike[str]) -> Mapping[str, object]:
    """Returns the settings in a file, by the names of the arguments of `train_run`.

    Args:
        path: A TOML file; each key is an argument of `train_run`, or an option of `tlkit train`
            without its dashes.

    Raises:
        ArgumentError: It is no such file, or has a key or a value that is none.
    """
    try:
        content = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"`config` must be a TOML file in UTF-8. Received: {os.fspath(path)!r} ({error}). Give "
            f"the {SETTINGS_FILE} of a run, for example."
        ) from error
    names = {
        _plain(key): field.name
        for field in arguments_of(RunConfig)
        for key in (field.name, _key_of(field.name))
    }
    settings: dict[str, object] = {}
    for key, value in content.items():
        if (name := names.get(_plain(key))) is None:
            near = did_you_mean(key.replace("_", "-"), map(_key_of, names.values()))
            raise ArgumentError(
                f"`config` must hold options of tlkit train. Received: {key!r} in "
                f"{os.fspath(path)!r}.{near} tlkit train --help lists them."
            )
        is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if not is_list and not isinstance(value, str | int | float):
            raise ArgumentError(
                "`config` must hold texts, numbers, true, false and lists of texts. Received: "
                f"{key} = {value!r} in {os.fspath(path)!r}. Write it as on the command line."
            )
        settings[name] = None if (name, value) == ("weights", NONE) else value
    return settings


def as_options(settings: Mapping[str, object]) -> dict[str, object]:
    """Returns settings as the command line gets them: numbers and lists as text."""
    return {
        name: value if isinstance(value, bool) else _as_text(value)
        for name, value in settings.items()
    }


def _as_text(value: object) -> str:
    if value is None:
        return NONE
    return ",".join(value) if isinstance(value, list) else str(value)


def _key_of(name: str) -> str:
    """Returns the option of an argument, without its dashes."""
    (field,) = (field for field in arguments_of(RunConfig) if field.name == name)
    return option_of(field).name or name.replace("_", "-")


def _plain(key: str) -> str:
    return key.replace("-", "_")


def _in_toml(value: object) -> str:
    """Returns a value as TOML, whose texts are those of JSON but for one character."""
    if isinstance(value, list):
        return f"[{', '.join(map(_in_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
