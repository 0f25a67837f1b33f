"""What a finished run is good for: measuring, predicting, exporting once more."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.data.measuring import load_for_measuring
from tlkit.data.missing_files import missing_files_named
from tlkit.data.settings import DAMAGED
from tlkit.distribution.cluster import KINDS
from tlkit.errors import ArgumentError, DataError, ExportError, check_choice
from tlkit.evaluation.exported import SAVED_MODEL_FILE, saved_model_in
from tlkit.export.formats import EXPORT_FORMATS
from tlkit.export.tensorflow_serving import check_no_versions, version_folder
from tlkit.runs.directory import (
    REJECTION_FILE,
    check_writable,
    load_run,
    seen_by,
    unseen,
)
from tlkit.runs.record import not_whole
from tlkit.runs.team import Team
from tlkit.utils.tensorflow_logging import load_tensorflow_quietly

if TYPE_CHECKING:
    from tlkit.evaluation.prediction import Prediction
    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.export.exporting import ExportReport


def evaluate_run(
    run: str | os.PathLike[str],
    photos: str | os.PathLike[str],
    *,
    max_pixels: int | None = None,
    damaged: str | None = None,
    distribute: str | None = None,
) -> "EvaluationReport":
    """Measures a run's model on images of its classes that it has not seen.

    Of a folder with a split of its own that is `test` (else `val`), else all of it; images that
    the run trained on or chose by are recognised by their content and left out. Not every class
    needs to be there, nor more than one image.

    Args:
        run: A run directory.
        photos: A folder or a CSV file as `train_run` takes it; `train` may be missing.
        max_pixels: Images with more pixels are left out; the run's own bound by default.
        damaged: "keep" or "skip", see `load_folder`; as the run itself did by default.
        distribute: "auto", "mirrored" or "multi-worker", see `distribution_strategy`; one device by
            default. Several machines make the same call, each with the run and the images in
            reach, look at their shares and have the same figures.

    Raises:
        ArgumentError: `distribute` is a kind that cannot be had here, or `damaged` is neither.
        RunError: There is no finished run at `run`, or it is not whole.
        DataError: The folder has other classes, or the run has seen all its images.
    """
    if distribute is not None:
        check_choice("distribute", distribute, KINDS)
    if damaged is not None:
        check_choice("damaged", damaged, DAMAGED)
    finished = load_run(run)
    seen = seen_by(finished)
    team = Team(distribute)
    load_tensorflow_quietly()
    from tlkit.evaluation.metrics import evaluate

    with team.scope():
        model = finished.load_model()
    images = load_for_measuring(
        photos,
        finished.class_names,
        image_size=finished.image_size,
        max_pixels=finished.max_pixels if max_pixels is None else max_pixels,
        damaged=finished.run_record.config.damaged if damaged is None else damaged,
        argument="photos",
    )
    measured = unseen(images, seen)
    if not measured.num_images:
        raise DataError(
            f"`photos` must hold images that the run was not trained or chosen on. Received: "
            f"{str(photos)!r}, all of whose images were. Give other images."
        )
    with missing_files_named([measured]):
        return evaluate(model, measured, finished.class_names)


def predict_with(
    folder: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    *,
    safe: bool = False,
) -> "tuple[Prediction, ...]":
    """Predicts with a run, or with an exported SavedModel that knows nothing of its run.

    A SavedModel is a program that TensorFlow runs, and may do anything: use one from somebody you
    do not trust with `safe` alone.

    Args:
        folder: The run or the export.
        images: Image files.
        safe: Take `model.keras` in Keras's safe mode instead of the SavedModel, see `SafeModel`;
            `class_names.json` must lie beside it. Whether an image is known is not asked then.

    Raises:
        ArgumentError: `folder` holds numbered versions of a SavedModel, or one that is not ours.
        RunError: There is no finished run at `folder`, or it is not whole.
        ExportError: There is a SavedModel at `folder` that is damaged.
        DataError: No file is there that can be decoded; see `predict` for some that cannot.
    """
    folder = Path(folder)
    if safe:
        load_tensorflow_quietly()
        from tlkit.evaluation.safe_model import predict_safely

        return predict_safely(folder, tuple(map(str, images)))
    is_run = (folder / "run.json").is_file()
    root = saved_model_in(folder)
    if is_run:
        load_run(folder)
        if root is None:
            raise not_whole(folder, "saved_model", "missing")
    elif root is None and not (folder / SAVED_MODEL_FILE).is_file():
        check_no_versions(folder)
        load_run(folder)  # which says what is missing
    load_tensorflow_quietly()
    from tlkit.evaluation.prediction import predict_exported

    try:
        return predict_exported(folder, images)
    except ExportError as error:
        if is_run:
            raise not_whole(folder, "saved_model", "damaged") from error
        raise


def export_run(
    run: str | os.PathLike[str],
    to: str | os.PathLike[str],
    file_format: str,
    *,
    version: int | None = None,
) -> "ExportReport":
    """Exports a run's model once more, elsewhere or in another format.

    It is asked in a process of its own too, which measures how long it takes to load and to answer.
    A SavedModel of a run that tells unknown images tells them too; other formats hold the
    classifier alone.

    Args:
        run: A run directory.
        to: The folder to write.
        file_format: See `export_model`.
        version: For a SavedModel: written to `to`/`version`, as TensorFlow Serving wants it; see
            `tlkit.export.tensorflow_serving` for the request.

    Raises:
        RunError: There is no finished run at `run`, it is not whole, or nothing can be written
            at `to`.
        ArgumentError: `to` holds something already, or there is no such format.
    """
    finished = load_run(run)
    check_choice("format", file_format, EXPORT_FORMATS)
    if version is not None:
        if file_format != "saved_model":
            raise ArgumentError(
                "`version` must be left out but with the format saved_model. "
                f"Received: version={version}, format={file_format!r}. Leave one of them out."
            )
        to = version_folder(Path(to), version)
    _check_place(Path(to))
    load_tensorflow_quietly()
    from tlkit.evaluation.rejection import Rejection
    from tlkit.export.exporting import export_model

    stored = finished.path / REJECTION_FILE
    is_asked = file_format == "saved_model" and stored.is_file()
    return export_model(
        finished.load_model(),
        to,
        finished.class_names,
        formats=(file_format,),
        max_pixels=finished.max_pixels,
        rejection=Rejection.load(stored) if is_asked else None,
    )


def _check_place(to: Path) -> None:
    """Raises before TensorFlow is loaded what `export_model` would raise of its `path`."""
    check_writable(to, "to")
    if to.exists() and any(to.iterdir()):
        raise ArgumentError(
            "`to` must be a folder that does not exist yet or is empty. "
            f"Received: to={str(to)!r}. Give another, or remove what is there."
        )
