"""The last steps of every run: evaluation, export, and writing the run's files."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlkit.data.augmentation import augmentation_of
from tlkit.data.class_weighting import ClassWeighting
from tlkit.data.images import ImageData
from tlkit.data.settings import RESIZES, RGB, STRETCH
from tlkit.evaluation.thresholds import THRESHOLD, LabelThresholds, Threshold
from tlkit.export.formats import EXPORT_FORMATS
from tlkit.runs.any_config import Config
from tlkit.runs.config import RunConfig
from tlkit.runs.context import RunContext
from tlkit.runs.directory import (
    REJECTION_FILE,
    SETTINGS_FILE,
    STATISTICS_FILE,
    Run,
    load_run,
    split_rows_of,
)
from tlkit.runs.history_table import history_table
from tlkit.runs.phases import REPORT
from tlkit.runs.record import RunRecord, write_record
from tlkit.runs.results import FittedRejection, RunResults
from tlkit.runs.settings_file import write_settings
from tlkit.runs.split_table import split_rows, split_table
from tlkit.utils.files import staging_beside, write_json, written_aside
from tlkit.utils.formatting import percent
from tlkit.utils.progress import phase
from tlkit.utils.run_lock import remove_checkpoints

if TYPE_CHECKING:
    import keras

    from tlkit.evaluation.explanation import Explanation
    from tlkit.evaluation.reports import EvaluationReport

_NUM_SAMPLES = 8
_NUM_IN_TITLE = 5
_NUM_TRAINING_IMAGES = 12


def evaluate_splits(
    model: "keras.Model", data: ImageData, threshold: Threshold = THRESHOLD
) -> dict[str, "EvaluationReport | None"]:
    """Evaluates the model on validation and test; `None` for a split without images.

    Args:
        model: The model.
        data: The images at the model's size.
        threshold: The probability from which a multi-label head assigns a label.
    """
    from tlkit.evaluation.metrics import evaluate

    return {
        name: None
        if split is None
        else evaluate(model, split, data.class_names, threshold=threshold)
        for name, split in (("validation", data.validation), ("test", data.test))
    }


def export_into(
    model: "keras.Model",
    data: ImageData,
    out: Path,
    max_pixels: int,
    *,
    rejection: "FittedRejection | None" = None,
    served: "keras.Model | None" = None,
    thresholds: LabelThresholds | None = None,
    before_replacing: Callable[[], None] = lambda: None,
) -> None:
    """Writes `saved_model/` and `model.keras`; both are compared with the model on some images.

    They replace those of a provisional result.

    Args:
        model: The model that can be trained further, for `model.keras`.
        data: The images to compare on, resized as the model's images are.
        out: The run directory.
        max_pixels: Largest number of pixels of an image file.
        rejection: The rejection in the SavedModel; it is also saved in a file, for later exports.
        served: The model that predicts, for the SavedModel; `model` if not given.
        thresholds: The probability from which each label is assigned; `None` with one class per
            image.
        before_replacing: Called when both are complete, before they are moved to `out`.
    """
    from tlkit.export.exporting import export_model

    split = data.test or data.validation or data.train
    served_rejection = None if rejection is None else rejection.rejection
    parts: list[tuple[keras.Model, tuple[str, ...]]] = [(model, ("saved_model", "keras"))]
    if served is not None and served is not model:
        parts = [(served, ("saved_model",)), (model, ("keras",))]
    with staging_beside(out / "export") as aside:
        for number, (one, names) in enumerate(parts):
            folder = aside / f"export{number}"
            export_model(
                one,
                folder if "keras" in names else folder / EXPORT_FORMATS["saved_model"].path,
                data.class_names,
                formats=names,
                samples=split.paths[:_NUM_SAMPLES],
                max_pixels=max_pixels,
                rejection=served_rejection if "saved_model" in names else None,
                resize=data.resize,
                threshold=THRESHOLD if thresholds is None else thresholds.values,
                fresh_process=False,  # would add some seconds to every run; `tlkit export` does it
            )
            for file in (EXPORT_FORMATS[name].path for name in names):
                (folder / file).replace(aside / file)
        before_replacing()
        if rejection is not None:
            rejection.rejection.save(out / REJECTION_FILE)
        for file in (EXPORT_FORMATS[name].path for _, names in parts for name in names):
            if (out / file).is_dir():  # a folder cannot be replaced by another one
                (out / file).replace(aside / f"earlier {file}")
            (aside / file).replace(out / file)


def explain_worst_mistakes(
    model: "keras.Model",
    evaluations: "Mapping[str, EvaluationReport | None]",
    max_pixels: int,
    resize: str,
) -> "dict[int, Explanation]":
    """Returns Grad-CAM maps of the predicted class for the most confident mistakes.

    They are those on test images, or on validation images without a test split.
    """
    from tlkit.evaluation.explanation import explain_mistakes
    from tlkit.plots.drawing import MAX_IMAGES

    evaluation = evaluations["test"] or evaluations["validation"]
    if evaluation is None:
        return {}
    return explain_mistakes(
        model, evaluation, limit=MAX_IMAGES, max_pixels=max_pixels, resize=resize
    )


def sample_training_images(data: ImageData, augment: str) -> "list[tuple[np.ndarray, str]]":
    """Returns some training images after augmentation, each with the names of its classes.

    Those of mixed images have their shares.
    """
    split, augmentation = data.train, augmentation_of(augment)
    rows = np.random.default_rng(data.seed).permutation(split.num_images)[:_NUM_TRAINING_IMAGES]
    ((images, labels),) = split.dataset(
        shuffle=False,
        augment=augmentation.by_image,
        indices=np.sort(rows),
        batch_size=len(rows),
        epochs=range(1),
    )
    if augmentation.mixing:
        return _mixed_images(augmentation.mixing, images.numpy(), labels.numpy(), data)
    pixels = np.clip(np.round(images.numpy()), 0, 255).astype(np.uint8)
    return [
        (image, ", ".join(data.class_names[index] for index in np.flatnonzero(label)))
        if labels.ndim == 2
        else (image, data.class_names[int(label)])
        for image, label in zip(pixels, labels.numpy(), strict=True)
    ]


def _mixed_images(
    mixing: str, images: np.ndarray, labels: np.ndarray, data: ImageData
) -> "list[tuple[np.ndarray, str]]":
    import tensorflow as tf

    from tlkit.data.mixing import mix

    targets = labels if labels.ndim == 2 else np.eye(data.num_classes)[labels]
    seed = tf.constant([data.seed, 0], tf.int64)
    mixed, shares = (one.numpy() for one in mix(mixing, images, targets, seed))
    pixels = np.clip(np.round(mixed), 0, 255).astype(np.uint8)
    names = [
        ", ".join(f"{percent(row[one], 0)} {data.class_names[one]}" for one in np.flatnonzero(row))
        for row in shares
    ]
    return [*zip(pixels, names, strict=True)]


def finish_run(context: RunContext, data: ImageData, record: RunRecord, results: RunResults) -> Run:
    """Writes the results, marks the run as finished in `run.json` last, and returns it."""
    record = context.with_seconds(record)
    record = dataclasses.replace(record, provisional="", is_finished=True)
    with phase(REPORT):
        write_files(context, data, record, results)
    write_record(context.out, record)
    remove_checkpoints(context.out)
    return load_run(context.out)


def write_files(
    context: RunContext, data: ImageData, record: RunRecord, results: RunResults
) -> None:
    """Writes all files of a run except for its models and `run.json`."""
    write_results(context, data, results)
    if isinstance(record.config, RunConfig):
        write_settings(record.config, context.out / SETTINGS_FILE)
    write_card(context, data, record, results)
    write_page(context, data, record, results)


def write_results(context: RunContext, data: ImageData, results: RunResults) -> None:
    """Writes the class names, metrics, split table and history of a run."""
    out, parent = context.out, context.parent
    write_json(out / "class_names.json", list(data.class_names))
    write_json(out / "metrics.json", results.as_metrics())
    with written_aside(out / "split.csv") as aside:
        own = split_rows(data)
        known = {(row.split, row.digest) for row in own}  # images of the earlier run among them
        earlier = [] if parent is None else split_rows_of(parent)
        others = [
            row
            for row in earlier
            if row.digest not in results.removed and (row.split, row.digest) not in known
        ]
        aside.write_text(split_table([*own, *others]), encoding="utf-8")
    with written_aside(out / "history.csv") as aside:
        aside.write_text(history_table(results.training), encoding="utf-8")


def write_page(
    context: RunContext, data: ImageData, record: RunRecord, results: RunResults
) -> None:
    """Writes `report.html`."""
    from tlkit.runs.html_report import Page, write_report
    from tlkit.runs.page_summary import summary_of

    config = record.resolved
    facts = {
        "images": config.photos,
        "backbone": config.backbone or f"as in {config.from_run}",
        "weights": str(config.weights),
        "image size": " × ".join(map(str, record.image_size)),
        **(
            {}
            if data.image_size == record.image_size
            else {"image size in training": " × ".join(map(str, data.image_size))}
        ),
        **({} if data.resize == STRETCH else {"resize": f"{data.resize}: {RESIZES[data.resize]}"}),
        **({} if data.channels == RGB else {"channels": str(data.channels)}),
        "seed": str(data.seed),
        **_how_classes_count(config),
        **({} if results.thresholds is None else {"thresholds": str(results.thresholds)}),
        **({} if results.views is None else {"test-time views": str(results.views)}),
        **{f"export to {one.name}": str(one) for one in results.exports},
        **record.versions,
    }
    page = Page(
        title=f"{', '.join(data.class_names[:_NUM_IN_TITLE])}"
        + (", …" if data.num_classes > _NUM_IN_TITLE else ""),
        folder=str(context.out),
        data=data.report,
        training=results.training,
        evaluations=results.evaluations,
        seconds=record.seconds,
        facts=facts,
        forgotten=results.forgotten,
        choices=record.choices,
        cost=record.cost,
        calibration=str(results.calibration),
        is_calibrated=results.calibration.is_calibrated,
        shipped="" if results.shipped is None else str(results.shipped),
        cross_validation=results.cross_validation,
        refit="" if results.refit is None else str(results.refit),
        against_probe=results.against_probe,
        learning_curve=results.learning_curve,
        rejection=() if results.rejection is None else results.rejection.lines,
        maps=results.maps,
        training_images=results.images,
        augmentation=results.augmentation,
        summary=summary_of(record, context.out),
    )
    write_report(context.out / "report.html", page)


def _how_classes_count(config: Config) -> dict[str, str]:
    if not isinstance(config, RunConfig) or config.weighting == ClassWeighting():
        return {}
    return {"how classes count": str(config.weighting)}


def write_card(
    context: RunContext, data: ImageData, record: RunRecord, results: RunResults
) -> None:
    """Writes `model_card.md`."""
    from tlkit.models.needed_packages import needed_packages
    from tlkit.runs.model_card import write_model_card

    write_model_card(
        context.out / "model_card.md",
        class_names=data.class_names,
        metrics=results.as_metrics(),
        record=record,
        counts=data.report.counts,
        packages=needed_packages(context.out / "model.keras"),
        has_statistics=(context.out / STATISTICS_FILE).exists(),
    )
