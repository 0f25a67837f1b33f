"""Runs in Weights & Biases."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlkit.errors import ArgumentError
from tlkit.tracking.packages import import_package
from tlkit.tracking.tracker import FAILED, FINISHED, KILLED, Setting, Tracker

_ONLINE = "online"
_NOT_IN_PROJECTS = r"/\#?%:"
_MAX_LENGTH = 128
"""What W&B does not take in the name of a project; see
https://docs.wandb.ai/models/ref/python/functions/init"""

_EXIT_CODES = {FINISHED: 0, FAILED: 1, KILLED: 130}


class WandbTracker(Tracker):
    """Records a run in a project of Weights & Biases.

    Settings are its config, figures are charts over the epochs of their stage, metrics its summary,
    files artifacts. W&B shows an interrupted run as failed, as it has no status of its own for
    that. Environment variables such as `WANDB_MODE`, `WANDB_ENTITY` and `WANDB_DIR` are W&B's own.

    Args:
        project: Name of the project.

    Raises:
        ArgumentError: W&B is not installed, or cannot have a project of that name.

    Example:
        >>> from tlkit.tracking.wandb import WandbTracker
        >>> tracker = WandbTracker("flowers")  # doctest: +SKIP
    """

    def __init__(self, project: str) -> None:
        self._project = project
        self._run: Any = None
        self._stages: set[str] = set()
        if len(project) > _MAX_LENGTH or set(project) & set(_NOT_IN_PROJECTS):
            raise ArgumentError(
                "`trackers` must have a name of a project of Weights & Biases, of at most "
                f"{_MAX_LENGTH} characters, none of {' '.join(_NOT_IN_PROJECTS)} among them. "
                f"Received: trackers={str(self)!r}. Choose another name; WANDB_ENTITY names a team."
            )
        self._wandb = import_package("wandb", str(self), extra="wandb")

    def check(self) -> None:
        """Logs in, unless W&B is to work offline, so that an error comes before any work."""
        if os.environ.get("WANDB_MODE", _ONLINE) == _ONLINE:
            self._wandb.login()

    def start(self, name: str, settings: Mapping[str, Setting]) -> None:
        """Begins a new run of the project."""
        self._run = self._wandb.init(
            project=self._project,
            name=name,
            config=dict(settings),
            reinit="create_new",  # another run of this process is left alone
            settings=self._wandb.Settings(console="off"),  # it would catch the progress bars
        )

    def log_epoch(self, stage: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Logs `STAGE/loss` and so on over `STAGE/epoch`."""
        steps = f"{stage}/epoch"
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/*", step_metric=steps)
        values = {f"{stage}/{name}": float(value) for name, value in figures.items()}
        self._run.log({steps: epoch, **values})

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Puts the metrics into the summary of the run."""
        self._run.summary.update(dict(metrics))

    def log_artifact(self, path: Path) -> None:
        """Logs the file as an artifact of type "report"."""
        self._run.log_artifact(str(path), type="report")

    def finish(self, status: str) -> None:
        """Waits until all is uploaded, and sets the exit code: 0, 1 or, if interrupted, 130."""
        if self._run is not None:
            self._run.finish(exit_code=_EXIT_CODES[status])

    def __str__(self) -> str:
        return f"wandb:{self._project}"
