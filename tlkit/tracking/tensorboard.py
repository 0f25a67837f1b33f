"""Runs in TensorBoard's event files."""

import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlkit.errors import ArgumentError
from tlkit.tracking.packages import import_package
from tlkit.tracking.tracker import FINISHED, Setting, Tracker


class TensorBoardTracker(Tracker):
    """Writes event files to a new folder `FOLDER/NAME` for a run called NAME.

    If that exists, of an earlier run or an interrupted process, it is `FOLDER/NAME-2` and so on.
    Figures are scalars whose step is the epoch; settings are a text and hyperparameters; files are
    texts.

    Args:
        folder: The folder that TensorBoard shows (`tensorboard --logdir FOLDER`).

    Raises:
        ArgumentError: TensorBoard is not installed.

    Example:
        >>> from tlkit.tracking.tensorboard import TensorBoardTracker
        >>> str(TensorBoardTracker("logs"))
        'tensorboard:logs'
    """

    def __init__(self, folder: str) -> None:
        self._destination = f"tensorboard:{folder}"
        self.folder = Path(folder)
        self._writer: Any = None
        import_package("tensorboard", self._destination, extra="tensorboard")

    def check(self) -> None:
        """Checks that the folder can be made or written to.

        Raises:
            ArgumentError: It cannot.
        """
        parents = self.folder.absolute().parents
        existing = next(path for path in (self.folder, *parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise ArgumentError(
                "`trackers` must have a folder for TensorBoard that can be made or written to. "
                f"Received: trackers={self._destination!r}, where {str(existing)!r} cannot be "
                "written to. Choose another folder."
            )

    def start(self, name: str, settings: Mapping[str, Setting]) -> None:
        """Opens the event file and writes the settings."""
        import tensorflow as tf
        from tensorboard.plugins.hparams import api as hparams

        self._writer = tf.summary.create_file_writer(str(_make_new_folder(self.folder, name)))
        with self._writer.as_default():
            hparams.hparams(dict(settings))
        self._write_text("settings", _as_table(settings))

    def log_epoch(self, stage: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Writes `STAGE/loss` and so on; the step is the epoch."""
        self._write({f"{stage}/{name}": value for name, value in figures.items()}, step=epoch)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Writes the metrics as scalars of step 0."""
        self._write(metrics, step=0)

    def log_artifact(self, path: Path) -> None:
        """Writes a Markdown file as a text; of others, whose code is not shown, the path."""
        is_markdown = path.suffix == ".md"
        text = path.read_text(encoding="utf-8") if is_markdown else f"`{path.absolute()}`"
        self._write_text(path.name, text)

    def finish(self, status: str) -> None:
        """Writes how the run ended, and closes the event file."""
        if self._writer is None:
            return
        try:
            if status != FINISHED:
                self._write_text("status", status)
        finally:
            self._writer.close()

    def __str__(self) -> str:
        return self._destination

    def _write(self, values: Mapping[str, float], *, step: int) -> None:
        import tensorflow as tf

        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=step)
        self._writer.flush()

    def _write_text(self, name: str, text: str) -> None:
        import tensorflow as tf

        with self._writer.as_default():
            tf.summary.text(name, text, step=0)
        self._writer.flush()


def _make_new_folder(parent: Path, name: str) -> Path:
    """Makes `PARENT/NAME`, or `PARENT/NAME-2` and so on if it exists."""
    parent.mkdir(parents=True, exist_ok=True)
    number, folder = 1, parent / name
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            folder = parent / f"{name}-{number}"
        else:
            return folder


def _as_table(settings: Mapping[str, Setting]) -> str:
    """Returns the settings as a table in Markdown."""
    rows = [
        f"| {name} | {html.escape(str(value)).replace('|', '&#124;')} |"
        for name, value in settings.items()
    ]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])
