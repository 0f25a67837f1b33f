"""The run directory: what a run leaves, how it is read again, and when it may be continued."""

import json
import os
import re
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.data.images import ImageSplit
from tlkit.errors import RunError, StorageError
from tlkit.runs.add_classes_config import Config
from tlkit.runs.config import check_kind
from tlkit.runs.record import RunRecord, not_whole, read_file, read_record
from tlkit.runs.split_table import SplitRow, read_split_table
from tlkit.utils.files import storage_named
from tlkit.utils.keras_settings import check_images
from tlkit.utils.run_lock import is_as_new, sweep_run, tidy_finished
from tlkit.utils.text_repr import ShownAsText

if TYPE_CHECKING:
    import keras

RUNS = "runs"
"""Folder of the runs that are given no other."""

LOG_FILE = "log.txt"
"""What a run said, over all its sessions."""

REJECTION_FILE = "rejection.npz"
"""What tells unknown images, for exports of the run; only there where that was asked for."""

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
        run_record: What `run.json` holds.
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
    def max_pixels(self) -> int:
        """The most pixels that an image of this run may have."""
        return self.run_record.config.max_pixels

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images that the model takes."""
        return self.run_record.image_size

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
        seed_random_layers(model, self.run_record.seed)
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
    record = read_record(path, argument)
    if record is None:
        raise RunError(
            f"`{argument}` must be the folder of a finished run. Received: {str(path)!r}, which "
            "has no run.json. Make one with tlkit train PHOTOS --out RUN."
        )
    if not record.is_finished:
        raise RunError(
            f"`{argument}` must be the folder of a finished run. Received: {str(path)!r}, which is "
            "unfinished. Finish it with the command that began it."
        )
    for name in ("model.keras", "split.csv"):
        if not (path / name).is_file():
            raise not_whole(path, name, "missing", argument)
    class_names = read_file(path, "class_names.json", _class_names_from, argument)
    return Run(path, class_names, read_file(path, "metrics.json", _metrics_from, argument), record)


def left_as_it_is(out: Path) -> str:
    """What is said of a finished run that the same command finds."""
    return f"{out} is finished already and left as it is."


def is_finished(path: Path) -> bool:
    """Whether there is a finished run; what cannot be read is none."""
    try:
        record = read_record(path)
    except RunError:
        return False
    return record is not None and record.is_finished


def chosen_place(out: Path) -> str:
    """What is said of a run directory that `default_out` has chosen."""
    return f"resumes the unfinished run in {out}" if out.exists() else f"leaves the run in {out}"


def default_out(config: Config, resume: bool = True) -> Path:
    """Returns `runs/NAME-N` for images called NAME.

    That is the latest unfinished run with the same config, else a new folder: N is one more than
    the highest that is there.

    Args:
        config: That of the run.
        resume: Whether an unfinished run may be continued.
    """
    place = Path(config.photos)
    name = (place.name if place.is_dir() else place.stem) or "run"
    pattern = re.compile(rf"{re.escape(name)}-([1-9][0-9]*)")
    there = Path(RUNS).iterdir() if Path(RUNS).is_dir() else ()
    numbered = {int(found[1]): path for path in there if (found := pattern.fullmatch(path.name))}
    for _, path in sorted(numbered.items(), reverse=True) if resume else ():
        try:
            record = read_record(path) if path.is_dir() else None
        except RunError:  # another's, or damaged: it is left alone
            continue
        if record and not record.is_finished and not _differences(record.config, config):
            return path
    return Path(RUNS) / f"{name}-{max(numbered, default=0) + 1}"


def state_of(out: Path, config: Config, resume: bool) -> Run | None:
    """Returns a finished run with this config, `None` where there is work to do.

    Raises:
        RunError: What lies at `out` is not to be continued, or nothing can be written there.
    """
    if not out.exists() or (out.is_dir() and is_as_new(out)):
        check_writable(out, "out")
        return None
    record = record_in(out)
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
    if differing := _differences(record.config, config):
        raise RunError(
            f"`out` must be a new folder or a run with the same arguments. Received: {str(out)!r}, "
            f"a run with {differing}. Name another folder."
        )
    if record.is_finished:
        run = load_run(out, "out")
        tidy_finished(out, _RESULTS)
        return run
    check_writable(out, "out")
    return None


def check_apart(out: Path, photos: str | os.PathLike[str]) -> None:
    """Raises `RunError` where the run would lie among the images, and count as a class later."""
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


def _differences(begun: Config, config: Config) -> str:
    old, new = begun.to_json(), config.to_json()
    return ", ".join(
        f"{name}={old.get(name)!r} instead of {new.get(name)!r}"
        for name in (*new, *(name for name in old if name not in new))
        if old.get(name) != new.get(name)
    )


def _class_names_from(text: str) -> tuple[str, ...]:
    names = json.loads(text)
    check_kind(names, list)
    for name in names:
        check_kind(name, str)
    return tuple(names)


def _metrics_from(text: str) -> dict[str, Any]:
    metrics = json.loads(text)
    check_kind(metrics, dict)
    check_kind(metrics["stages"], list)
    for split in ("validation", "test"):
        if metrics[split] is not None:
            for name in ("accuracy", "num_images"):
                check_kind(metrics[split][name], float | int)
    return metrics


def check_same_images(out: Path, record: RunRecord) -> None:
    """Raises `RunError` if an unfinished run at `out` began with other images."""
    begun = record_in(out)
    if begun is not None and begun.data.fingerprint != record.data.fingerprint:
        raise RunError(
            f"`photos` must hold the images that the unfinished run in {str(out)!r} began with. "
            f"Received: {record.config.photos!r}, whose images have changed since. "
            "Name another folder for the run."
        )


def record_in(out: Path) -> RunRecord | None:
    """Returns the record of a run that may lie in a folder, which may not be there."""
    return read_record(out, "out") if out.is_dir() else None


def clear_results(out: Path) -> None:
    """Removes what an interrupted run, now locked, had already left; nothing else."""
    sweep_run(out, _RESULTS)
    for path in (out / name for name in _RESULTS):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def seen_by(run: Run) -> frozenset[str]:
    """Contents of the images that a run, or one before it, trained on or chose by.

    Raises:
        RunError: `split.csv`, which says it, is missing or damaged.
    """
    return frozenset(row.digest for row in split_rows_of(run) if row.split != "test")


def split_rows_of(run: Run) -> list[SplitRow]:
    """The images of a run and of those before it, each with its split.

    Raises:
        RunError: `split.csv`, which says it, is missing or damaged.
    """
    number = run.run_record.split_table
    return read_file(run.path, "split.csv", lambda text: read_split_table(text, number))


def unseen(split: ImageSplit, seen: frozenset[str]) -> ImageSplit:
    """Returns the images of a split whose contents are not among those `seen`.

    Where images have groups, one that was seen gives away all of its group.
    """
    both = zip(split.units, split.digests, strict=True)
    given_away = {unit for unit, digest in both if digest in seen}
    return split.subset(np.flatnonzero([unit not in given_away for unit in split.units]))
