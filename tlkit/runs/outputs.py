"""What every run does, whatever it trains: measuring, exporting, writing down."""

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tlkit
from tlkit.data.images import ImageData
from tlkit.runs.record import settled_arguments
from tlkit.runs.split_table import FORMAT
from tlkit.utils.files import staging_beside, write_json
from tlkit.utils.progress import phase

if TYPE_CHECKING:
    import keras

    from tlkit.advice.rejection import RejectionReport
    from tlkit.continual.going_on import ForgettingReport
    from tlkit.evaluation.calibration import CalibrationReport
    from tlkit.evaluation.comparison import ComparisonReport
    from tlkit.evaluation.explanation import Explanation
    from tlkit.evaluation.rejection import Rejection
    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.training.reports import TrainingReport

_NUM_SAMPLES = 8
_NUM_IN_TITLE = 5
_NUM_TRAINING_PICTURES = 12


def record_of(arguments: dict[str, Any], data: ImageData) -> dict[str, Any]:
    """Returns what `run.json` holds while a run is made."""
    return {
        "finished": False,
        "arguments": arguments,
        "versions": {
            "tlkit": tlkit.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("tensorflow", "keras", "scikit-learn")},
        },
        "seed": data.seed,
        "image_size": list(data.image_size),
        "split_table": FORMAT,
        "data": {
            "fingerprint": data.fingerprint,
            "num_images": {
                name: split.num_images if (split := getattr(data, name)) else 0
                for name in ("train", "validation", "test")
            },
        },
    }


def evaluate_splits(model: "keras.Model", data: ImageData) -> dict[str, "EvaluationReport | None"]:
    """Measures the model on the splits that it was not trained on."""
    from tlkit.evaluation.metrics import evaluate

    return {
        name: None if split is None else evaluate(model, split, data.class_names)
        for name, split in (("validation", data.validation), ("test", data.test))
    }


def export_into(
    model: "keras.Model",
    data: ImageData,
    out: Path,
    max_pixels: int,
    rejection: "Rejection | None" = None,
) -> None:
    """Writes `saved_model/` and `model.keras`, proven on pictures of the data."""
    from tlkit.export.exporting import export_model

    measured = data.test or data.validation or data.train
    with staging_beside(out / "export") as aside:
        export_model(
            model,
            aside / "export",
            data.class_names,
            formats=("saved_model", "keras"),
            samples=measured.paths[:_NUM_SAMPLES],
            max_pixels=max_pixels,
            rejection=rejection,
            fresh_process=False,  # some seconds that every run would pay; `tlkit export` does ask
        )
        for name in ("saved_model", "model.keras"):
            (aside / "export" / name).replace(out / name)


def maps_of(
    model: "keras.Model",
    evaluations: "dict[str, EvaluationReport | None]",
    max_pixels: int,
) -> "dict[int, Explanation]":
    """Returns what speaks for the wrong class in the worst mistakes of the last split measured."""
    from tlkit.evaluation.explanation import explain_mistakes
    from tlkit.plots.drawing import MAX_IMAGES

    evaluation = evaluations["test"] or evaluations["validation"]
    if evaluation is None:
        return {}
    return explain_mistakes(model, evaluation, limit=MAX_IMAGES, max_pixels=max_pixels)


def training_pictures(data: ImageData, augment: str) -> "list[tuple[np.ndarray, str]]":
    """Returns some training pictures as training sees them, each with the names of its classes."""
    split = data.train
    rows = np.random.default_rng(data.seed).permutation(split.num_images)[:_NUM_TRAINING_PICTURES]
    ((images, labels),) = split.dataset(
        shuffle=False,
        augment=augment,
        indices=np.sort(rows),
        batch_size=len(rows),
        epochs=range(1),
    )
    pixels = np.clip(np.round(images.numpy()), 0, 255).astype(np.uint8)
    return [
        (image, ", ".join(data.class_names[index] for index in np.flatnonzero(label)))
        if labels.ndim == 2
        else (image, data.class_names[int(label)])
        for image, label in zip(pixels, labels.numpy(), strict=True)
    ]


def write_page(
    out: Path,
    data: ImageData,
    training: "TrainingReport",
    evaluations: dict[str, "EvaluationReport | None"],
    *,
    record: dict[str, Any],
    forgotten: "ForgettingReport | None" = None,
    calibration: "CalibrationReport | str | None" = None,
    against_probe: "ComparisonReport | None" = None,
    rejection: "tuple[Rejection, RejectionReport | None] | None" = None,
    maps: "dict[int, Explanation] | None" = None,
    pictures: "Sequence[tuple[np.ndarray, str]]" = (),
    augment: str = "none",
) -> None:
    """Writes `report.html`; `maps` and `pictures` come from the functions above."""
    from tlkit.runs.html_report import Page, write_report
    from tlkit.runs.page_summary import summary_of

    arguments = settled_arguments(record)
    facts = {
        "photographs": arguments["photos"],
        "backbone": arguments["backbone"] or f"that of {arguments['from_run']}",
        "weights": str(arguments["weights"]),
        "image size": " × ".join(map(str, data.image_size)),
        "seed": str(data.seed),
        **record["versions"],
    }
    page = Page(
        title=f"{', '.join(data.class_names[:_NUM_IN_TITLE])}"
        + (", …" if data.num_classes > _NUM_IN_TITLE else ""),
        folder=str(out),
        data=data.report,
        training=training,
        evaluations=evaluations,
        seconds=record["seconds"],
        facts=facts,
        forgotten=forgotten,
        choices=record.get("choices", {}),
        cost=record.get("cost"),
        calibration="" if calibration is None else str(calibration),
        is_calibrated=getattr(calibration, "temperature", 1.0) != 1,
        against_probe=against_probe,
        rejection=_rejection_in_words(rejection),
        maps=maps or {},
        training_pictures=pictures,
        augmentation=augment,
        summary=summary_of(record, out),
    )
    write_report(out / "report.html", page)


def _rejection_in_words(
    rejection: "tuple[Rejection, RejectionReport | None] | None",
) -> tuple[str, ...]:
    if rejection is None:
        return ()
    fitted, tested = rejection
    lines = str(fitted).splitlines()
    if tested is not None:
        lines.append(f"of the test split, whose classes are known, {tested}")
    return tuple(lines)


def write_card(out: Path, data: ImageData, record: dict[str, Any]) -> None:
    """Writes `model_card.md` from what `metrics.json` holds."""
    from tlkit.runs.model_card import write_model_card

    write_model_card(
        out / "model_card.md",
        class_names=data.class_names,
        metrics=json.loads((out / "metrics.json").read_text(encoding="utf-8")),
        record=record,
        counts=data.report.counts,
    )


def write_record(out: Path, record: dict[str, Any], clock: "Clock") -> None:
    """Writes `run.json` of a run that is being made, with the seconds until now."""
    record["seconds"] = clock.as_dict()
    write_json(out / "run.json", record)


class Clock:
    """How long each part of a run has lasted, in all processes that have worked on it together.

    Attributes:
        seconds: By the part's name; those of earlier processes once `go_on_from` was called.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: tuple[str, float] | None = None
        self._keep: Callable[[], None] = lambda: None

    def go_on_from(self, earlier: Mapping[str, float], keep: Callable[[], None]) -> None:
        """Adds what earlier processes took; from now on `keep` is called when a part has ended."""
        for name, value in earlier.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        self._keep = keep

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Makes the block a phase, and adds how long it takes, also where it is interrupted."""
        self._running = (name, time.perf_counter())
        try:
            with phase(name):
                yield
        finally:
            self._add()
            self._running = None
            self._keep()

    def keep_now(self) -> None:
        """Keeps what the part that is running has taken until now, for a process may be killed."""
        self._add()
        self._keep()

    def as_dict(self) -> dict[str, float]:
        """Returns the seconds as `run.json` holds them."""
        return {name: round(value, 3) for name, value in self.seconds.items()}

    def _add(self) -> None:
        if self._running is not None:
            name, since = self._running
            now = time.perf_counter()
            self.seconds[name] = self.seconds.get(name, 0.0) + now - since
            self._running = (name, now)
