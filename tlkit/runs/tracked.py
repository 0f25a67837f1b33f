"""What experiment trackers get of a run: its settings, its metrics and some of its files."""

import os
from collections.abc import Mapping
from pathlib import Path

from tlkit import __version__
from tlkit.runs.config import RunConfig
from tlkit.runs.directory import Run
from tlkit.runs.record import RunRecord
from tlkit.runs.settings_file import NONE
from tlkit.tracking.tracker import Setting

ARTIFACTS = ("report.html", "model_card.md")
"""Files of a run directory that are recorded."""

_SPLITS = ("validation", "test")


def settings_of(record: RunRecord, out: Path) -> dict[str, Setting]:
    """Returns the settings of a run, with the choices so far; those without a value are left out.

    Args:
        record: The record of the run before its training.
        out: The run directory.
    """
    arguments: Mapping[str, object] = {}
    if isinstance(record.config, RunConfig):
        arguments = record.config.resolve(record.choices).to_json()
    settings: dict[str, Setting] = {"out": os.path.abspath(out), "tlkit": __version__}
    for name, value in arguments.items():
        if isinstance(value, str | int | float):
            settings[name] = value
        elif isinstance(value, list):
            settings[name] = ",".join(map(str, value))
        elif name == "weights":
            settings[name] = NONE
    return settings


def metrics_of(run: Run) -> dict[str, float]:
    """Returns the numbers of `metrics.json`, by names such as "test/accuracy", and the seconds."""
    metrics = {
        f"{split}/{name}": float(value)
        for split in _SPLITS
        for name, value in _flat(run.metrics[split] or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {**metrics, "seconds": sum(run.run_record.seconds.values())}


def _flat(scores: Mapping[str, object]) -> dict[str, object]:
    """Returns the figures of a split, those over several labels among them."""
    of_labels = scores.get("labels")
    return {**scores, **(of_labels if isinstance(of_labels, Mapping) else {})}
