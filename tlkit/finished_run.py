"""What a finished run is good for: measuring, predicting, exporting once more."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.data.folders import load_folder
from tlkit.errors import DataError
from tlkit.quiet import load_tensorflow_quietly
from tlkit.run_directory import load_run, seen_by, unseen

if TYPE_CHECKING:
    from tlkit.evaluation.prediction import Prediction
    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.export import ExportReport


def evaluate_run(run: str | os.PathLike[str], photos: str | os.PathLike[str]) -> "EvaluationReport":
    """Measures a run's model on pictures of the same classes that it has not seen.

    Of a folder with a split of its own that is `test` (else `val`), else all of it; pictures that
    the run trained on or chose by are recognised by their content and left out.

    Raises:
        RunError: There is no finished run at `run`.
        DataError: The folder's classes are others, or the run has seen all its pictures.
    """
    finished = load_run(run)
    load_tensorflow_quietly()
    from tlkit.evaluation.metrics import evaluate

    height, width = finished.record["image_size"]
    data = load_folder(
        photos,
        image_size=(height, width),
        splits=(1.0, 0.0, 0.0),
        class_names=finished.class_names,
        max_pixels=finished.record["arguments"]["max_pixels"],
    )
    measured = unseen(data.test or data.validation or data.train, seen_by(finished))
    if not measured.num_images:
        raise DataError(
            f"`photos` must hold pictures that the run was not trained or chosen on. Received: "
            f"{str(photos)!r}, all of whose pictures were. Give other pictures."
        )
    return evaluate(finished.load_model(), measured, finished.class_names)


def predict_with(
    folder: str | os.PathLike[str], images: Sequence[str | os.PathLike[str]]
) -> "tuple[Prediction, ...]":
    """Predicts with a run, or with an exported SavedModel that knows nothing of its run."""
    folder = Path(folder)
    if not (folder / "saved_model.pb").is_file():
        load_run(folder)
        folder = folder / "saved_model"
    load_tensorflow_quietly()
    from tlkit.evaluation.prediction import predict_exported

    return predict_exported(folder, images)


def export_run(
    run: str | os.PathLike[str], to: str | os.PathLike[str], file_format: str
) -> "ExportReport":
    """Exports a run's model once more, elsewhere or in another format."""
    finished = load_run(run)
    load_tensorflow_quietly()
    from tlkit.export import export_model

    return export_model(finished.load_model(), to, finished.class_names, formats=(file_format,))
