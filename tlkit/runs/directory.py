"""The run directory: what a run leaves, how it is read again, and when it may be continued."""

import csv
import io
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import RunError, StorageError
from tlkit.runs.split_table import SplitRow, read_split_table, split_rows, split_table
from tlkit.utils.files import as_cell, storage_named, write_json, written_aside
from tlkit.utils.keras_settings import check_images
from tlkit.utils.run_lock import is_as_new, sweep_run, tidy_finished
from tlkit.utils.text_repr import ShownAsText

if TYPE_CHECKING:
    import keras

    from tlkit.advice.rejection import RejectionReport
    from tlkit.continual.going_on import ForgettingReport
    from tlkit.evaluation.calibration import CalibrationReport
    from tlkit.evaluation.comparison import ComparisonReport
    from tlkit.evaluation.rejection import Rejection
    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.training.reports import StageReport, TrainingReport

Content = TypeVar("Content")

RUNS = "runs"
"""Folder of the runs that are given no other."""

LOG_FILE = "log.txt"
"""What a run said, over all its sessions."""

REJECTION_FILE = "rejection.npz"
"""What tells unknown pictures, for exports of the run; only there where that was asked for."""

_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RecursionError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What Keras raises for files of models that are not what was written."""

_RESULTS = (
    "metrics.json",
    "class_names.json",
    "model.keras",
    "saved_model",
    "history.csv",
    "split.csv",
    "report.html",
    "model_card.md",
    "exemplars.npz",
    REJECTION_FILE,
    "export",
)


@dataclass(frozen=True)
class Run(ShownAsText):
    """A finished run.

    Attributes:
        path: The run directory.
        class_names: The classes, in output order.
        metrics: Content of `metrics.json`: "validation" and "test" with "accuracy", "loss" and
            "num_images", and "stages".
        record: Content of `run.json`.
    """

    path: Path
    class_names: tuple[str, ...]
    metrics: dict[str, Any]
    record: dict[str, Any]

    @property
    def max_pixels(self) -> int:
        """The most pixels that a picture of this run may have."""
        return int(self.record["arguments"]["max_pixels"])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images that the model takes."""
        height, width = self.record["image_size"]
        return height, width

    def load_model(self) -> "keras.Model":
        """Returns the trained model; it outputs logits.

        Its random layers, such as dropout, are seeded with the run's seed: Keras gives them another
        state at each loading.

        Raises:
            RunError: `model.keras` is missing or damaged.
            KerasSettingsError: Keras runs on another backend, or takes channels first.
        """
        check_images()
        import keras

        from tlkit.models.random_state import seed_random_layers
        from tlkit.models.trainable import note_as_left

        file = self.path / "model.keras"
        if not file.is_file():
            raise not_whole(self.path, file.name, "missing")
        try:
            with storage_named():  # Keras unpacks it
                model = keras.saving.load_model(file, compile=False)
        except StorageError:
            raise
        except _DAMAGE as error:
            raise not_whole(self.path, file.name, "damaged") from error
        seed_random_layers(model, self.record["seed"])
        note_as_left(model)
        return model

    def __str__(self) -> str:
        lines = [f"run in {self.path}: {len(self.class_names)} classes"]
        for split in ("validation", "test"):
            if figures := self.metrics[split]:
                lines.append(
                    f"{split} accuracy {100 * figures['accuracy']:.1f} % "
                    f"({figures['num_images']} images)"
                )
        return "\n".join(lines)


def load_run(path: str | os.PathLike[str], argument: str = "run") -> Run:
    """Reads a finished run.

    Args:
        path: The run directory.
        argument: What errors call `path`.

    Raises:
        RunError: There is no run at `path`, it is unfinished, or not whole.

    Example:
        >>> import tlkit
        >>> tlkit.load_run("run").metrics["validation"]["accuracy"]  # doctest: +SKIP
        0.95
    """
    path = Path(path)
    record = _read_record(path, argument)
    if record is None:
        raise RunError(
            f"`{argument}` must be the folder of a finished run. Received: {str(path)!r}, which "
            "has no run.json. Make one with tlkit train PHOTOS --out RUN."
        )
    if not record["finished"]:
        raise RunError(
            f"`{argument}` must be the folder of a finished run. Received: {str(path)!r}, which is "
            "unfinished. Finish it with the command that began it."
        )
    for name in ("model.keras", "split.csv"):
        if not (path / name).is_file():
            raise not_whole(path, name, "missing", argument)
    class_names = _read(path, "class_names.json", _class_names_from, argument)
    return Run(path, class_names, _read(path, "metrics.json", _metrics_from, argument), record)


def left_as_it_is(out: Path) -> str:
    """What is said of a finished run that the same command finds."""
    return f"{out} is finished already and left as it is."


def is_finished(path: Path) -> bool:
    """Whether there is a finished run; what cannot be read is none."""
    try:
        record = _read_record(path)
    except RunError:
        return False
    return record is not None and bool(record["finished"])


def chosen_place(out: Path) -> str:
    """What is said of a run directory that `default_out` has chosen."""
    return f"resumes the unfinished run in {out}" if out.exists() else f"leaves the run in {out}"


def default_out(
    photos: str | os.PathLike[str], arguments: dict[str, Any], resume: bool = True
) -> Path:
    """Returns `runs/NAME-N` for pictures called NAME.

    That is the latest unfinished run with the same arguments, else a new folder: N is one more
    than the highest that is there.

    Args:
        photos: The folder or CSV file that gives the name.
        arguments: Those that make a run what it is.
        resume: Whether an unfinished run may be continued.
    """
    place = Path(photos).resolve()
    name = (place.name if place.is_dir() else place.stem) or "run"
    pattern = re.compile(rf"{re.escape(name)}-([1-9][0-9]*)")
    there = Path(RUNS).iterdir() if Path(RUNS).is_dir() else ()
    numbered = {int(found[1]): path for path in there if (found := pattern.fullmatch(path.name))}
    for _, path in sorted(numbered.items(), reverse=True) if resume else ():
        try:
            record = _read_record(path) if path.is_dir() else None
        except RunError:  # another's, or damaged: it is left alone
            continue
        if record and not record["finished"] and not _differences(record["arguments"], arguments):
            return path
    return Path(RUNS) / f"{name}-{max(numbered, default=0) + 1}"


def state_of(out: Path, arguments: dict[str, Any], resume: bool) -> Run | None:
    """Returns a finished run with these arguments, `None` where there is work to do.

    Raises:
        RunError: What lies at `out` is not to be continued, or nothing can be written there.
    """
    if not out.exists() or (out.is_dir() and is_as_new(out)):
        check_writable(out, "out")
        return None
    record = _read_record(out, "out") if out.is_dir() else None
    if record is None:
        raise RunError(
            f"`out` must be a new folder or a run to continue. Received: {str(out)!r}, which "
            "exists and holds no run. Name another folder."
        )
    if not resume:
        raise RunError(
            f"`out` must be a new folder with --no-resume. Received: {str(out)!r}, which holds a "
            "run. Name another folder, or remove this one."
        )
    if differing := _differences(record["arguments"], arguments):
        raise RunError(
            f"`out` must be a new folder or a run with the same arguments. Received: {str(out)!r}, "
            f"a run with {differing}. Name another folder."
        )
    if record["finished"]:
        run = load_run(out, "out")
        tidy_finished(out, _RESULTS)
        return run
    check_writable(out, "out")
    return None


def check_apart(out: Path, photos: str | os.PathLike[str]) -> None:
    """Raises `RunError` where the run would lie among the pictures, and count as a class later."""
    folder = Path(photos).resolve()
    if folder.is_dir() and folder in (out.resolve(), *out.resolve().parents):
        raise RunError(
            f"`out` must lie outside `photos`, where it would be taken for a class. Received: "
            f"out={str(out)!r} in photos={str(photos)!r}. Name a folder beside it."
        )


def check_writable(path: Path, argument: str) -> None:
    """Raises `RunError` unless a folder can be made at `path`, or be written to if it is there."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    problem = ""
    if not there.is_dir():
        problem = "is a file"
    elif not os.access(there, os.W_OK | os.X_OK):
        problem = "cannot be written to"
    if problem:
        raise RunError(
            f"`{argument}` must be a place where a folder can be written. "
            f"Received: {str(path)!r}, where {str(there)!r} {problem}. Name another folder."
        )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}={old.get(name)!r} instead of {value!r}"
        for name, value in new.items()
        if old.get(name) != value
    )


def _read(path: Path, name: str, parse: Callable[[str], Content], argument: str = "run") -> Content:
    """Returns what a file of a run holds; `parse` raises where it is not what a run leaves."""
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


def _read_record(path: Path, argument: str = "run") -> dict[str, Any] | None:
    """Returns the content of `run.json`, or `None` where there is no run."""
    return (
        _read(path, "run.json", _record_from, argument) if (path / "run.json").is_file() else None
    )


def _record_from(text: str) -> dict[str, Any] | None:
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("no object")
    if not {"arguments", "finished"} & record.keys():  # another program's
        return None
    height, width = record["image_size"]
    choices, seconds = record.get("choices", {}), record.get("seconds", {})
    _check_types([(choices, dict), (seconds, dict)])
    _check_types((value, float | int) for value in seconds.values())
    expected = (
        *((choice["arguments"], dict) for choice in choices.values()),
        *((choice["reasons"], list) for choice in choices.values()),
        (record["finished"], bool),
        (record["seed"], int),
        (record["arguments"], dict),
        (record["arguments"]["max_pixels"], int),
        (record["data"]["fingerprint"], str),
        (height, int),
        (width, int),
    )
    _check_types(expected)
    return record


def _class_names_from(text: str) -> tuple[str, ...]:
    names = json.loads(text)
    _check_types([(names, list), *((name, str) for name in names)])
    return tuple(names)


def _metrics_from(text: str) -> dict[str, Any]:
    metrics = json.loads(text)
    _check_types([(metrics, dict), (metrics["stages"], list)])
    for split in ("validation", "test"):
        if metrics[split] is not None:
            _check_types((metrics[split][name], float | int) for name in ("accuracy", "num_images"))
    return metrics


def _check_types(expected: Iterable[tuple[object, type | UnionType]]) -> None:
    for value, kind in expected:
        if not isinstance(value, kind):
            raise TypeError(f"{value!r} where a run has another kind of value")


def refuse_other_pictures(out: Path, record: dict[str, Any]) -> None:
    """Raises `RunError` if an unfinished run at `out` began with other pictures."""
    begun = _read_record(out, "out") if out.is_dir() else None
    if begun is not None and begun["data"]["fingerprint"] != record["data"]["fingerprint"]:
        raise RunError(
            f"`photos` must hold the pictures that the unfinished run in {str(out)!r} began with. "
            f"Received: {record['arguments']['photos']!r}, whose pictures have changed since. "
            "Name another folder for the run."
        )


def choices_of(out: Path) -> dict[str, Any]:
    """Returns what an unfinished run at `out` has chosen already: it must be the same again."""
    begun = _read_record(out, "out") if out.is_dir() else None
    return {} if begun is None else begun.get("choices", {})


def seconds_of(out: Path) -> dict[str, float]:
    """Returns how long each part of an unfinished run at `out` has lasted until now."""
    begun = _read_record(out, "out") if out.is_dir() else None
    return {} if begun is None else begun.get("seconds", {})


def clear_results(out: Path) -> None:
    """Removes what an interrupted run, now locked, had already left; nothing else."""
    sweep_run(out, _RESULTS)
    for path in (out / name for name in _RESULTS):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def seen_by(run: Run) -> frozenset[str]:
    """Contents of the pictures that a run, or one before it, trained on or chose by.

    Raises:
        RunError: `split.csv`, which says it, is missing or damaged.
    """
    return frozenset(row.digest for row in split_rows_of(run) if row.split != "test")


def split_rows_of(run: Run) -> list[SplitRow]:
    """The pictures of a run and of those before it, each with its split.

    Raises:
        RunError: `split.csv`, which says it, is missing or damaged.
    """
    number = run.record.get("split_table")
    return _read(run.path, "split.csv", lambda text: read_split_table(text, number))


def unseen(split: ImageSplit, seen: frozenset[str]) -> ImageSplit:
    """Returns the pictures of a split whose contents are not among those `seen`.

    Where pictures have groups, one that was seen gives away all of its group.
    """
    both = zip(split.units, split.digests, strict=True)
    given_away = {unit for unit, digest in both if digest in seen}
    return split.subset(np.flatnonzero([unit not in given_away for unit in split.units]))


def write_results(
    out: Path,
    data: ImageData,
    training: "TrainingReport",
    evaluations: dict[str, "EvaluationReport | None"],
    *,
    forgotten: "ForgettingReport | None" = None,
    calibration: "CalibrationReport | str | None" = None,
    against_probe: "ComparisonReport | None" = None,
    rejection: "tuple[Rejection, RejectionReport | None] | None" = None,
    parent: Run | None,
) -> None:
    """Writes what a run found, but for its model, its page and `run.json`.

    In `metrics.json` stands under "calibration" the temperature that the probabilities hold, and
    under "against_probe" how a linear probe (first) and the model (second) fare on the same images;
    `null` where there is none.
    """
    write_json(out / "class_names.json", list(data.class_names))
    figures: dict[str, Any] = {
        name: None if report is None else report.as_dict() for name, report in evaluations.items()
    }
    stages = [_stage(stage) for stage in training.stages]
    if forgotten is not None:
        figures["old_task"] = forgotten.as_dict()
    if isinstance(calibration, str):
        figures["calibration"] = {"temperature": 1.0, "notes": [calibration]}
    else:
        figures["calibration"] = None if calibration is None else calibration.as_dict()
    figures["against_probe"] = None if against_probe is None else against_probe.as_dict()
    figures["rejection"] = None
    if rejection is not None:
        fitted, tested = rejection
        figures["rejection"] = {**fitted.as_dict(), "test": tested and tested.as_dict()}
    write_json(out / "metrics.json", {**figures, "stages": stages})
    with written_aside(out / "split.csv") as aside:
        earlier = [] if parent is None else split_rows_of(parent)
        aside.write_text(split_table([*split_rows(data), *earlier]), encoding="utf-8")
    with written_aside(out / "history.csv") as aside:
        aside.write_text(_history(training), encoding="utf-8")


def _stage(stage: "StageReport") -> dict[str, Any]:
    return {
        "name": stage.name,
        "seconds": round(stage.seconds, 3),
        "num_trainable": stage.trainable.num_trainable,
        "num_forward_passes": stage.num_forward_passes,
        "moved": stage.moved,
        "notes": list(stage.notes),
    }


def _history(training: "TrainingReport") -> str:
    columns = ("stage", "epoch", "loss", "accuracy", "val_loss", "val_accuracy")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for stage in training.stages:
        for epoch, values in enumerate(stage.history, start=1):
            writer.writerow({"stage": as_cell(stage.name), "epoch": epoch, **values})
    return text.getvalue()
