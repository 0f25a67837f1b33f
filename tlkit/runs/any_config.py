"""The config of any kind of run, and how it is read from `run.json`."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from tlkit.runs.add_classes_config import ADD_CLASSES, AddClassesConfig
from tlkit.runs.config import RunConfig, check_type
from tlkit.runs.forget_config import FORGET, ForgetConfig

Config: TypeAlias = RunConfig | AddClassesConfig | ForgetConfig


def config_from_json(content: Mapping[str, Any]) -> Config:
    """Reads the "arguments" of a `run.json` of any command.

    Raises:
        KeyError: An entry is missing.
        TypeError: An entry has the wrong type.
        ArgumentError: A value is invalid.
    """
    check_type(content, dict)
    command = content.get("command", ADD_CLASSES if "exemplars" in content else None)
    if command == FORGET:
        return ForgetConfig.from_json(content)
    if command == ADD_CLASSES:
        return AddClassesConfig.from_json(content)
    return RunConfig.from_json(content)
