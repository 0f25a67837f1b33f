"""The checkpoint of a training: its full state in one file, to resume from."""

import dataclasses
import io
import json
import math
import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np

from tlkit.distribution.workers import Workers
from tlkit.errors import RunError
from tlkit.training.saved_state import TrainingState
from tlkit.utils.files import plain, sweep_asides, written_aside
from tlkit.utils.run_lock import CHECKPOINT_FILE

FILE_NAME = CHECKPOINT_FILE
SAVE_SECONDS = 300.0
"""Longer epochs are also saved before their end, about this often."""

STEPS_BETWEEN_CHECKS = 20
"""Number of steps after which the workers ask the chief whether a save is due."""

ESTIMATE, SAME_ESTIMATE = "estimate", 1e-4
"""The key in an identity whose numbers are estimated anew by a resumed run, and the relative
difference up to which they count as equal."""

_RECORD = "record"


@dataclass(frozen=True)
class Position:
    """The next step of a training.

    Attributes:
        stage: Index of the stage, from 0.
        epoch: Index of the epoch in that stage.
        step: Index of the step in that epoch.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Saved:
    """The content of a checkpoint.

    Attributes:
        position: The next step.
        state: The state of the training.
        arrays: The arrays that were passed to `Checkpoint.save`, by name.
    """

    position: Position
    state: TrainingState
    arrays: dict[str, list[np.ndarray]] = field(repr=False)


class Checkpoint:
    """The file that a run is resumed from, written atomically by each save.

    With several workers only the chief reads and writes it, and sends its content to the others,
    which need no access to the folder.

    Args:
        folder: The folder of the file; created if it is missing.
        identity: The values that identify the run, from names such as "learning_rate" to plain
            values. The file of another run is refused.
        workers: The workers that take part; this process alone by default.

    Raises:
        RunError: The file belongs to another run, or cannot be read.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        identity: Mapping[str, Any],
        workers: Workers | None = None,
    ) -> None:
        self.path = Path(folder) / FILE_NAME
        self._identity = json.loads(json.dumps(identity, default=plain))
        self._workers = workers
        self._last_save = time.monotonic()
        if self._is_writer:
            sweep_asides(self.path.parent, [FILE_NAME], is_alone=True)
        self.saved = self._read()

    def is_due(self) -> bool:
        """Whether enough time has passed to save before the end of an epoch."""
        return time.monotonic() - self._last_save >= SAVE_SECONDS

    def save(
        self,
        position: Position,
        state: TrainingState,
        arrays: Mapping[str, Sequence[np.ndarray]],
    ) -> None:
        """Replaces the file atomically, on the chief only."""
        self._last_save = time.monotonic()
        if not self._is_writer:
            return
        text = json.dumps(
            {
                "identity": self._identity,
                "position": dataclasses.asdict(position),
                "record": state.to_json(),
                "sizes": {name: len(values) for name, values in arrays.items()},
            },
            default=plain,
        )
        named: dict[str, Any] = {
            f"{name}/{i}": value
            for name, values in arrays.items()
            for i, value in enumerate(values)
        }
        named[_RECORD] = np.frombuffer(text.encode(), np.uint8)
        with written_aside(self.path) as aside, aside.open("wb") as file:
            np.savez(file, **named)

    @property
    def num_bytes(self) -> int | None:
        """Size of the file; `None` if there is none."""
        return self.path.stat().st_size if self.path.is_file() else None

    @property
    def _is_writer(self) -> bool:
        return self._workers is None or self._workers.is_chief

    def _opened(self) -> BinaryIO | None:
        """Returns the open file, or the content that the chief read; `None` if there is none."""
        if self._workers is None or self._workers.num_workers == 1:
            return self.path.open("rb") if self.path.is_file() else None
        content = None
        if self._is_writer and self.path.is_file():
            content = self.path.read_bytes()
        content = self._workers.bytes_from_chief(content)
        return None if content is None else io.BytesIO(content)

    def _read(self) -> Saved | None:
        opened = self._opened()
        if opened is None:
            return None
        try:
            with opened, np.load(opened) as file:
                content = json.loads(file[_RECORD].tobytes())
                state = TrainingState.from_json(content["record"])
                arrays = {
                    name: [file[f"{name}/{i}"] for i in range(size)]
                    for name, size in content["sizes"].items()
                }
        except (
            ValueError,
            RecursionError,
            KeyError,
            OSError,
            EOFError,
            zipfile.BadZipFile,
        ) as error:
            raise RunError(
                f"`run_directory` must contain a readable {FILE_NAME}, or none. Received: "
                f"{str(self.path)!r} ({error}). Remove it to start over."
            ) from error
        if differing := _differences(content["identity"], self._identity):
            raise RunError(
                "`run_directory` must be new, or hold the unfinished training of the same model, "
                f"data and arguments. Received: {str(self.path)!r}, started with {differing}. "
                "Choose another folder."
            )
        return Saved(Position(**content["position"]), state, arrays)


@dataclass(frozen=True)
class StageCheckpoint:
    """The checkpoint of one stage of training.

    Attributes:
        checkpoint: The checkpoint file.
        number: Index of this stage, from 0.
        state: The state of the training at the start of the stage.
        start: The whole model's weights at the start of the stage.
        saved: The state in which this stage was stopped, or `None` if it starts.
        seconds: Returns the duration so far in seconds, over all processes.
    """

    checkpoint: Checkpoint
    number: int
    state: TrainingState
    start: Sequence[np.ndarray]
    saved: Saved | None
    seconds: Callable[[], float]


class SaveProgress(keras.callbacks.Callback):
    """Saves at the end of each epoch, and within long epochs.

    Args:
        stage: The checkpoint of the stage.
        save: Called with the position of the next step.
        num_steps: Number of steps in an epoch.
        workers: The workers, which must save at the same step, as their states are summed.
    """

    def __init__(
        self,
        stage: StageCheckpoint,
        save: Callable[[Position], None],
        num_steps: int,
        workers: Workers,
    ) -> None:
        super().__init__()
        self._stage, self._save, self._num_steps = stage, save, num_steps
        self._workers = workers
        self._epoch = 0
        self.first_step = 0
        """Number of steps of the current epoch that an earlier process has made."""

    def save_now(self, epoch: int, step: int) -> None:
        """Saves the state, with this step of this epoch as the next one."""
        self._save(Position(self._stage.number, epoch, step))

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Stores the epoch's number."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Saves if a save is due, except at the end of an epoch."""
        done = self.first_step + batch + 1
        if done < self._num_steps and _is_finite(logs) and self._is_due(done):
            self.save_now(self._epoch, done)

    def _is_due(self, done: int) -> bool:
        is_due = self._stage.checkpoint.is_due()
        if self._workers.num_workers == 1:
            return is_due
        return done % STEPS_BETWEEN_CHECKS == 0 and self._workers.chief_says(is_due)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Saves, unless the loss is not finite."""
        self.first_step = 0
        if _is_finite(logs):
            self.save_now(epoch + 1, 0)


def _is_finite(logs: Mapping[str, float] | None) -> bool:
    logs = logs or {}
    return all(math.isfinite(float(logs.get(name, 0.0))) for name in ("loss", "val_loss"))


def values_of(variables: Sequence[Any]) -> list[np.ndarray]:
    """Returns the values of variables."""
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def assign_all(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    """Assigns values to variables."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={old.get(name)!r} instead of {new.get(name)!r}"
        for name in (*old, *(name for name in new if name not in old))
        if not _is_same(old.get(name), new.get(name))
    )


def _is_same(old: Any, new: Any, *, is_estimate: bool = False) -> bool:
    """Whether plain values are equal; those under `ESTIMATE` within `SAME_ESTIMATE`."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(
            _is_same(old[name], new[name], is_estimate=is_estimate or name == ESTIMATE)
            for name in old
        )
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_is_same, old, new))
    if is_estimate and isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=SAME_ESTIMATE)
    return bool(old == new)
