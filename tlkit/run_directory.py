"""The run directory: what a run leaves, how it is read again, and when it may be continued."""

import csv
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import RunError
from tlkit.files import write_json, written_aside

if TYPE_CHECKING:
    import keras

    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.training.reports import StageReport, TrainingReport


_RESULTS = (
    "metrics.json",
    "class_names.json",
    "model.keras",
    "saved_model",
    "history.csv",
    "split.csv",
    "report.html",
    "export",
)


@dataclass(frozen=True)
class Run:
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

    def load_model(self) -> "keras.Model":
        """Returns the trained model; it outputs logits."""
        import keras

        return keras.saving.load_model(self.path / "model.keras", compile=False)

    def __str__(self) -> str:
        lines = [f"run in {self.path}: {len(self.class_names)} classes"]
        for split in ("validation", "test"):
            if figures := self.metrics[split]:
                lines.append(
                    f"{split} accuracy {100 * figures['accuracy']:.1f} % "
                    f"({figures['num_images']} images)"
                )
        return "\n".join(lines)


def load_run(path: str | os.PathLike[str]) -> Run:
    """Reads a finished run.

    Raises:
        RunError: There is no run at `path`, or it is unfinished.

    Example:
        >>> import tlkit
        >>> tlkit.load_run("run").metrics["validation"]["accuracy"]  # doctest: +SKIP
        0.95
    """
    path = Path(path)
    record = _read_record(path)
    if record is None:
        raise RunError(
            f"`run` must be the folder of a finished run. Received: {str(path)!r}, which has no "
            "run.json. Make one with tlkit train PHOTOS --out RUN."
        )
    if not record["finished"]:
        raise RunError(
            f"`run` must be the folder of a finished run. Received: {str(path)!r}, which is "
            "unfinished. Finish it with the command that began it."
        )
    class_names = json.loads((path / "class_names.json").read_text(encoding="utf-8"))
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    return Run(path, tuple(class_names), metrics, record)


def state_of(out: Path, arguments: dict[str, Any], resume: bool) -> Run | None:
    """Returns a finished run with these arguments, `None` where there is work to do.

    Raises:
        RunError: What lies at `out` is not to be continued.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    record = _read_record(out) if out.is_dir() else None
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
    return load_run(out) if record["finished"] else None


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}={old.get(name)!r} instead of {value!r}"
        for name, value in new.items()
        if old.get(name) != value
    )


def _read_record(path: Path) -> dict[str, Any] | None:
    file = path / "run.json"
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return record if {"arguments", "finished"} <= record.keys() else None
    except (ValueError, AttributeError) as error:
        raise RunError(
            f"`run` must hold a readable run.json. Received: {str(file)!r}, which is not one "
            f"({error}). Name another folder."
        ) from error


def refuse_other_pictures(out: Path, record: dict[str, Any]) -> None:
    """Raises `RunError` if an unfinished run at `out` began with other pictures."""
    begun = _read_record(out) if out.is_dir() else None
    if begun is not None and begun["data"]["fingerprint"] != record["data"]["fingerprint"]:
        raise RunError(
            f"`photos` must hold the pictures that the unfinished run in {str(out)!r} began with. "
            f"Received: {record['arguments']['photos']!r}, whose pictures have changed since. "
            "Name another folder for the run."
        )


def clear_results(out: Path) -> None:
    """Removes what an interrupted run had already left, half-made or whole; nothing else."""
    for name in _RESULTS:
        for path in (*out.glob(name), *out.glob(f".{name}*")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def seen_by(run: Run) -> frozenset[str]:
    """Contents of the pictures that a run, or one before it, trained on or chose by."""
    with (run.path / "split.csv").open(encoding="utf-8", newline="") as file:
        return frozenset(row["digest"] for row in csv.DictReader(file) if row["split"] != "test")


def unseen(split: ImageSplit, seen: frozenset[str]) -> ImageSplit:
    """Returns the pictures of a split whose contents are not among those `seen`."""
    return split.subset(np.flatnonzero([digest not in seen for digest in split.digests]))


def write_results(
    out: Path,
    data: ImageData,
    training: "TrainingReport",
    evaluations: dict[str, "EvaluationReport | None"],
    *,
    parent: Run | None,
) -> None:
    """Writes what a run found, but for its model, its page and `run.json`."""
    write_json(out / "class_names.json", list(data.class_names))
    figures = {
        name: None if report is None else report.as_dict() for name, report in evaluations.items()
    }
    stages = [_stage(stage) for stage in training.stages]
    write_json(out / "metrics.json", {**figures, "stages": stages})
    with written_aside(out / "split.csv") as aside:
        aside.write_text(_split_table(data, parent), encoding="utf-8")
    with written_aside(out / "history.csv") as aside:
        aside.write_text(_history(training), encoding="utf-8")


def _split_table(data: ImageData, parent: Run | None) -> str:
    """Which picture stands in which split, those of earlier runs after this run's own."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("split", "class", "digest", "path"))
    for split in filter(None, (data.train, data.validation, data.test)):
        for path, label, digest in zip(split.paths, split.labels, split.digests, strict=True):
            writer.writerow((split.name, data.class_names[label], digest, path))
    if parent:
        earlier = (parent.path / "split.csv").read_text(encoding="utf-8")
        text.write(earlier.partition("\n")[2])
    return text.getvalue()


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
            writer.writerow({"stage": stage.name, "epoch": epoch, **values})
    return text.getvalue()
