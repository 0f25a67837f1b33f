"""What every run does, whatever it trains: measuring, exporting, writing down."""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tlkit
from tlkit.data.images import ImageData

if TYPE_CHECKING:
    import keras

    from tlkit.continual.going_on import ForgettingReport
    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.training.reports import TrainingReport

_EXPORT_ASIDE = ".export"
_NUM_SAMPLES = 8
_NUM_IN_TITLE = 5


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


def export_into(model: "keras.Model", data: ImageData, out: Path, max_pixels: int) -> None:
    """Writes `saved_model/` and `model.keras`, proven on pictures of the data."""
    from tlkit.export import export_model

    measured = data.test or data.validation or data.train
    aside = out / _EXPORT_ASIDE
    export_model(
        model,
        aside,
        data.class_names,
        formats=("saved_model", "keras"),
        samples=measured.paths[:_NUM_SAMPLES],
        max_pixels=max_pixels,
    )
    for name in ("saved_model", "model.keras"):
        (aside / name).replace(out / name)
    aside.rmdir()


def write_page(
    out: Path,
    data: ImageData,
    training: "TrainingReport",
    evaluations: dict[str, "EvaluationReport | None"],
    *,
    record: dict[str, Any],
    forgotten: "ForgettingReport | None" = None,
) -> None:
    """Writes `report.html`."""
    from tlkit.report import Page, write_report

    arguments = record["arguments"]
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
    )
    write_report(out / "report.html", page)


def write_card(out: Path, data: ImageData, record: dict[str, Any]) -> None:
    """Writes `model_card.md` from what `metrics.json` holds."""
    from tlkit.model_card import write_model_card

    write_model_card(
        out / "model_card.md",
        class_names=data.class_names,
        metrics=json.loads((out / "metrics.json").read_text(encoding="utf-8")),
        record=record,
        counts=data.report.counts,
    )


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes how long the block takes."""
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started
