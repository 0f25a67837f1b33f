"""The run directory: its files, how they are loaded, and when a run may be resumed."""

import dataclasses
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.data.image_places import place_name
from tlkit.data.images import ImageSplit
from tlkit.errors import RunError, StorageError
from tlkit.evaluation.thresholds import THRESHOLD, Threshold
from tlkit.export.formats import EXPORT_FORMATS, IN_EVERY_RUN
from tlkit.models.test_time_views import NONE
from tlkit.runs.any_config import Config
from tlkit.runs.config import RunConfig, check_type
from tlkit.runs.history_table import History, read_history_table
from tlkit.runs.record import RunRecord, damaged_run_error, read_file, read_record
from tlkit.runs.split_table import SplitRow, read_split_table
from tlkit.utils.dataframes import dataframe_of
from tlkit.utils.files import storage_named
from tlkit.utils.formatting import fraction_text
from tlkit.utils.keras_settings import check_images
from tlkit.utils.run_lock import holds_only_leftovers, sweep_run, tidy_finished
from tlkit.utils.text_repr import ShownAsText

if TYPE_CHECKING:
    import keras
    import pandas

RUNS = "runs"
"""Default folder of runs."""

LOG_FILE = "log.txt"
"""Log of a run, over all its sessions."""

SETTINGS_FILE = "run.toml"
"""The settings that repeat a run."""

STATISTICS_FILE = "statistics.npz"
"""Sums from which the head is solved, for later runs that add, update and forget exactly."""

EXEMPLARS_FILE = "exemplars.npz"
"""Stored features of some images of each class, for later runs that replay them."""

REJECTION_FILE = "rejection.npz"
"""Rejection of out-of-distribution images, for later exports; only if the run was asked for it."""

_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RecursionError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What Keras raises for damaged model files."""

_RESULTS = (
    "metrics.json",
    "class_names.json",
    "model.keras",
    "saved_model",
    "history.csv",
    SETTINGS_FILE,
    "split.csv",
    "report.html",
    "model_card.md",
    EXEMPLARS_FILE,
    STATISTICS_FILE,
    REJECTION_FILE,
    "export",
    *(spec.path for name, spec in EXPORT_FORMATS.items() if name not in IN_EVERY_RUN),
)


@dataclass(frozen=True)
class Run(ShownAsText):
    """A finished run, or an unfinished one with a provisional result that can be used.

    Attributes:
        path: The run directory.
        class_names: The classes, in output order.
        metrics: Content of `metrics.json`: "validation" and "test" with "accuracy", "loss" and
            "num_images", and "stages".
        run_record: Content of `run.json` as a record.
    """

    _left_out = ("run_record",)
    _derived = ("record",)

    path: Path
    class_names: tuple[str, ...]
    metrics: dict[str, Any]
    run_record: RunRecord

    @property
    def record(self) -> dict[str, Any]:
        """Content of `run.json`."""
        return self.run_record.to_json()

    @property
    def history(self) -> dict[str, list[float]]:
        """The figures of every epoch over all stages, from `history.csv`.

        Maps each of "loss", "accuracy", "val_loss" and "val_accuracy" that was measured to one
        value per epoch, as `TrainingReport.history` does. Empty for a head that was solved.

        Raises:
            RunError: `history.csv` is missing or damaged.
        """
        return self._read_history().figures

    def to_dataframe(self) -> "pandas.DataFrame":
        """Returns `history.csv` as a data frame with one row per epoch.

        Its columns are "stage", "epoch" (from 1 on in each stage), and the names of `history`.

        Raises:
            ArgumentError: pandas is not installed.
            RunError: `history.csv` is missing or damaged.
        """
        history = self._read_history()
        return dataframe_of({"stage": history.stages, "epoch": history.epochs, **history.figures})

    def _read_history(self) -> History:
        return read_file(self.path, "history.csv", read_history_table)

    @property
    def max_pixels(self) -> int:
        """Largest number of pixels of an image of this run."""
        return self.run_record.config.max_pixels

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the model's input images."""
        return self.run_record.image_size

    @property
    def resize(self) -> str:
        """How images are brought to that size: "stretch", "crop" or "pad"."""
        return self.run_record.resize

    @property
    def channels(self) -> int:
        """Number of channels of its images, 3 or 1."""
        return self.run_record.channels

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.run_record.thresholds is not None

    @property
    def threshold(self) -> Threshold:
        """The probability from which a label is assigned: one for each, or 0.5."""
        thresholds = self.run_record.thresholds
        return THRESHOLD if thresholds is None else thresholds.values

    def load_served_model(self) -> "keras.Model":
        """Returns the model that the run's figures and its SavedModel are of.

        It is the mean over test-time views if the run has some, else the trained model.

        Raises:
            RunError: See `load_model`.
        """
        from tlkit.models.flip_views import average_flips

        model = self.load_model()
        return model if self.run_record.config.tta == NONE else average_flips(model)

    def load_model(self) -> "keras.Model":
        """Returns the trained model; it outputs logits.

        Its random layers, such as dropout, are seeded with the run's seed, as Keras gives them a
        different state at each loading.

        Raises:
            RunError: `model.keras` is missing or damaged.
            KerasSettingsError: Keras uses another backend or channels first.
        """
        check_images()
        import keras

        from tlkit.models.random_state import seed_random_layers
        from tlkit.models.trainable import record_flags

        file = self.path / "model.keras"
        if not file.is_file():
            raise damaged_run_error(self.path, file.name, "missing")
        try:
            with storage_named():  # Keras unpacks it
                model = keras.saving.load_model(file, compile=False)
        except StorageError:
            raise
        except _DAMAGE as error:
            raise damaged_run_error(self.path, file.name, "damaged") from error
        seed_random_layers(model, self.run_record.seed)
        record_flags(model)
        return model

    def __str__(self) -> str:
        lines = [f"run in {self.path}: {len(self.class_names)} classes"]
        if state := self.run_record.state:
            lines.append(state)
        for split in ("validation", "test"):
            if scores := self.metrics[split]:
                lines.append(f"{split} accuracy {accuracy_of(scores)}")
        return "\n".join(lines)


def accuracy_of(scores: Mapping[str, Any]) -> str:
    """Returns the accuracy of a split in `metrics.json`, with its number of images and interval."""
    return fraction_text(scores["accuracy"], scores["num_images"], scores.get("interval"))


def load_run(path: str | os.PathLike[str], argument: str = "run") -> Run:
    """Loads a finished run, or an unfinished one with a provisional result that can be used.

    Args:
        path: The run directory.
        argument: Name of the argument in error messages.

    Raises:
        RunError: There is no run at `path`, or it has no result yet, or is incomplete.

    Example:
        >>> import tlkit
        >>> tlkit.load_run("run").metrics["validation"]["accuracy"]  # doctest: +SKIP
        0.95
    """
    path = Path(path)
    record = read_record(path, argument)
    if record is None:
        raise RunError(
            f"`{argument}` must be the folder of a finished run. Received: {str(path)!r}, which "
            "has no run.json. Make a run with tlkit train PHOTOS --out RUN."
        )
    if not record.is_finished and not record.provisional:
        raise RunError(
            f"`{argument}` must be the folder of a finished run. Received: {str(path)!r}, which is "
            "unfinished. Resume it with the command that started it."
        )
    for name in ("model.keras", "split.csv"):
        if not (path / name).is_file():
            raise damaged_run_error(path, name, "missing", argument)
    class_names = read_file(path, "class_names.json", _parse_class_names, argument)
    return Run(path, class_names, read_file(path, "metrics.json", _parse_metrics, argument), record)


def finished_message(out: Path) -> str:
    """Returns the message for a command whose run is already finished."""
    return f"{out} is already finished; nothing was changed."


def is_finished(path: Path) -> bool:
    """Whether there is a finished run at `path`; a damaged one does not count."""
    try:
        record = read_record(path)
    except RunError:
        return False
    return record is not None and record.is_finished


def location_message(out: Path) -> str:
    """Returns the message about a run directory that `default_out` has chosen."""
    return f"resuming the unfinished run in {out}" if out.exists() else f"run directory: {out}"


def default_out(config: Config, resume: bool = True) -> Path:
    """Returns the default run directory, `runs/NAME-N` for a folder or file called NAME.

    It is the latest unfinished run with the same config, else a new folder whose N is one more
    than the highest so far.

    Args:
        config: The run's config.
        resume: Whether an unfinished run may be resumed.
    """
    name = place_name(config.photos) or "run"
    pattern = re.compile(rf"{re.escape(name)}-([1-9][0-9]*)")
    paths = Path(RUNS).iterdir() if Path(RUNS).is_dir() else ()
    numbered = {int(match[1]): path for path in paths if (match := pattern.fullmatch(path.name))}
    for _, path in sorted(numbered.items(), reverse=True) if resume else ():
        try:
            record = read_record(path) if path.is_dir() else None
        except RunError:  # damaged, or not a run of tlkit: it is not touched
            continue
        if record and not record.is_finished and not _differences(record.config, config):
            return path
    return Path(RUNS) / f"{name}-{max(numbered, default=0) + 1}"


def load_if_finished(out: Path, config: Config, resume: bool) -> Run | None:
    """Returns the run at `out` if it is finished, `None` if it is to be made or resumed.

    Raises:
        RunError: `out` holds something else or a run that cannot be resumed, or it is not
            writable.
    """
    if not out.exists() or (out.is_dir() and holds_only_leftovers(out)):
        check_writable(out, "out")
        return None
    record = record_in(out)
    if record is None:
        raise RunError(
            f"`out` must be a new folder or a run to resume. Received: {str(out)!r}, which "
            "exists and holds no run. Choose another folder."
        )
    if not resume:
        raise RunError(
            f"`out` must be a new folder with --no-resume. Received: {str(out)!r}, which holds a "
            "run. Choose another folder, or remove this one."
        )
    if differences := _differences(record.config, config):
        raise RunError(
            f"`out` must be a new folder or a run with the same arguments. Received: {str(out)!r}, "
            f"a run with {differences}. Choose another folder."
        )
    if record.is_finished:
        run = load_run(out, "out")
        tidy_finished(out, _RESULTS)
        return run
    check_writable(out, "out")
    return None


def check_outside_images(out: Path, photos: str | os.PathLike[str], argument: str = "out") -> None:
    """Raises `RunError` if a folder to write lies inside that of images, as if it were a class.

    Args:
        out: The folder to write.
        photos: The images.
        argument: Name of the argument in the message.
    """
    folder = Path(photos).resolve()
    if folder.is_dir() and folder in (out.resolve(), *out.resolve().parents):
        raise RunError(
            f"`{argument}` must lie outside `photos`, where it would count as a class. Received: "
            f"{argument}={str(out)!r} in photos={str(photos)!r}. Choose a folder outside."
        )


def check_writable(path: Path, argument: str) -> None:
    """Raises `RunError` unless the folder `path` is writable or can be made."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    problem = ""
    if not existing.is_dir():
        problem = "is a file"
    elif not os.access(existing, os.W_OK | os.X_OK):
        problem = "is not writable"
    if problem:
        raise RunError(
            f"`{argument}` must be a folder that can be made or written to. "
            f"Received: {str(path)!r}, where {str(existing)!r} {problem}. Choose another folder."
        )


def _differences(unfinished: Config, config: Config) -> str:
    old, new = unfinished.to_json(), config.to_json()
    return ", ".join(
        f"{name}={old.get(name)!r} instead of {new.get(name)!r}"
        for name in (*new, *(name for name in old if name not in new))
        if old.get(name) != new.get(name)
    )


def _parse_class_names(text: str) -> tuple[str, ...]:
    names = json.loads(text)
    check_type(names, list)
    for name in names:
        check_type(name, str)
    return tuple(names)


def _parse_metrics(text: str) -> dict[str, Any]:
    metrics = json.loads(text)
    check_type(metrics, dict)
    check_type(metrics["stages"], list)
    for split in ("validation", "test"):
        if metrics[split] is not None:
            for name in ("accuracy", "num_images"):
                check_type(metrics[split][name], float | int)
    return metrics


def check_same_images(out: Path, record: RunRecord) -> None:
    """Raises `RunError` if an unfinished run at `out` was started with other images."""
    unfinished = record_in(out)
    if unfinished is not None and unfinished.data.fingerprint != record.data.fingerprint:
        raise RunError(
            f"`photos` must contain the images with which the unfinished run in {str(out)!r} was "
            f"started. Received: {record.config.photos!r}, whose images have changed since. "
            "Choose another folder for the run."
        )


def record_in(out: Path) -> RunRecord | None:
    """Returns the record of the run in a folder; `None` without a run or a folder."""
    return read_record(out, "out") if out.is_dir() else None


def clear_results(out: Path, *, keep: bool) -> None:
    """Removes the results of an interrupted run, whose directory is locked, and nothing else.

    Args:
        out: The run directory.
        keep: Whether complete results are kept, and only temporary files are removed.
    """
    sweep_run(out, _RESULTS)
    for path in () if keep else (out / name for name in _RESULTS):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def seen_digests(run: Run) -> frozenset[str]:
    """Returns digests of all images that a run or an earlier one used for training or selection.

    After a refit these are all of the run's images.

    Raises:
        RunError: `split.csv` is missing or damaged.
    """
    return frozenset(row.digest for row in split_rows_of(run) if row.split != "test")


def split_rows_of(run: Run) -> list[SplitRow]:
    """Returns the images of a run and of the earlier runs that it builds on, with their splits.

    After a refit all of the run's images count as training images.

    Raises:
        RunError: `split.csv` is missing or damaged.
    """
    number = run.run_record.split_table
    rows = read_file(run.path, "split.csv", lambda text: read_split_table(text, number))
    config = run.run_record.config
    if isinstance(config, RunConfig) and config.refit:
        return [dataclasses.replace(row, split="train") for row in rows]
    return rows


def exclude_images(split: ImageSplit, seen: frozenset[str]) -> ImageSplit:
    """Returns the images of a split whose digests are not in `seen`.

    If images have groups, the whole group of an image in `seen` is excluded.
    """
    pairs = zip(split.group_keys, split.digests, strict=True)
    seen_keys = {key for key, digest in pairs if digest in seen}
    return split.subset(np.flatnonzero([key not in seen_keys for key in split.group_keys]))
