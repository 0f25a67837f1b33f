"""The use of finished runs: evaluation and further exports."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.data.measuring import load_for_measuring
from tlkit.data.missing_files import missing_files_named
from tlkit.data.settings import DAMAGED
from tlkit.distribution.cluster import KINDS
from tlkit.errors import ArgumentError, DataError, check_choice
from tlkit.export.formats import EXPORT_FORMATS, check_needs_images, check_packages
from tlkit.export.tensorflow_serving import version_folder, write_batching_file
from tlkit.runs.directory import (
    REJECTION_FILE,
    check_writable,
    exclude_images,
    load_run,
    seen_digests,
)
from tlkit.runs.export_images import check_image_folder, find_export_images
from tlkit.runs.team import Team
from tlkit.utils.tensorflow_logging import load_tensorflow_quietly

if TYPE_CHECKING:
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
    """Evaluates a run's model on images of its classes that it has not seen.

    Of a folder that is already split, the images in `test` are used (else those in `val`), else
    all images. Images that the run used for training or selection are recognised by their content
    and left out. Classes may be missing, and one image is enough.

    Args:
        run: A run directory.
        photos: Images as for `train_run`; `train` may be missing.
        max_pixels: Images with more pixels are left out; the run's own bound by default.
        damaged: "keep" or "skip", see `load_folder`; the run's own setting by default.
        distribute: "auto", "mirrored" or "multi-worker", see `distribution_strategy`; one device by
            default. With several machines, each makes the same call with access to the run and
            the images, evaluates its shard, and returns the same report.

    Raises:
        ArgumentError: `distribute` or `damaged` is invalid or not available.
        RunError: There is no finished run at `run`, or it is incomplete.
        DataError: The folder has other classes, or the run has seen all its images.
    """
    if distribute is not None:
        check_choice("distribute", distribute, KINDS)
    if damaged is not None:
        check_choice("damaged", damaged, DAMAGED)
    finished = load_run(run)
    seen = seen_digests(finished)
    team = Team(distribute)
    load_tensorflow_quietly()
    from tlkit.evaluation.metrics import evaluate

    with team.scope():
        model = finished.load_served_model()
    images = load_for_measuring(
        photos,
        finished.class_names,
        image_size=finished.image_size,
        resize=finished.resize,
        channels=finished.channels,
        max_pixels=finished.max_pixels if max_pixels is None else max_pixels,
        damaged=finished.run_record.config.damaged if damaged is None else damaged,
        argument="photos",
        multi_label=finished.is_multi_label,
    )
    unseen = exclude_images(images, seen)
    if not unseen.num_images:
        raise DataError(
            f"`photos` must contain images that the run did not use for training or selection. "
            f"Received: {str(photos)!r}, whose images were all used. Give other images."
        )
    with missing_files_named([unseen]):
        return evaluate(model, unseen, finished.class_names, threshold=finished.threshold)


def export_run(
    run: str | os.PathLike[str],
    to: str | os.PathLike[str],
    file_format: str,
    *,
    version: int | None = None,
    calibrate: str | os.PathLike[str] | None = None,
) -> "ExportReport":
    """Exports a run's model again, to another folder or in another format.

    The export is also loaded in a fresh process, which measures its loading and prediction times.
    If the run rejects out-of-distribution images, so does its SavedModel; other formats hold the
    classifier alone.

    "litert_full_int8" is calibrated on training images of the run, which are recognised by their
    content in the folders of the run, and its accuracy is compared with that of the model in memory
    on the test images, or on validation images without them. If none of these exist any longer, the
    loss of accuracy is estimated on images to calibrate.

    Args:
        run: A run directory.
        to: The folder to write.
        file_format: See `export_model`.
        version: For a SavedModel: the version number; the export goes to `to`/`version`, as
            TensorFlow Serving expects it, beside a file that makes it answer waiting requests in
            one batch. See `tlkit.export.tensorflow_serving` for requests.
        calibrate: For "litert_full_int8": a folder with other images to calibrate, of any layout,
            labelled or not.

    Raises:
        RunError: There is no finished run at `run`, it is incomplete, or `to` is not writable.
        ArgumentError: `to` is not empty, the format does not exist, its packages are not installed,
            or `calibrate` is given for another one.
        DataError: There are no images to calibrate.
        ExportError: The export does not agree with the model in memory, or loses too much accuracy.
    """
    finished = load_run(run)
    check_choice("format", file_format, EXPORT_FORMATS)
    check_packages([file_format])
    needs_images = EXPORT_FORMATS[file_format].needs_images
    if calibrate is not None:
        check_needs_images([file_format], calibrate)
        check_image_folder(calibrate, "calibrate")
    if version is not None:
        if file_format != "saved_model":
            raise ArgumentError(
                "`version` must be left out unless `format` is 'saved_model'. "
                f"Received: version={version}, format={file_format!r}. Leave one of them out."
            )
        to = version_folder(Path(to), version)
    _check_target(Path(to))
    load_tensorflow_quietly()
    from tlkit.evaluation.rejection import Rejection
    from tlkit.export.exporting import export_model

    stored = finished.path / REJECTION_FILE
    has_rejection = file_format == "saved_model" and stored.is_file()
    images = find_export_images(finished, calibrate) if needs_images else None
    report = export_model(
        finished.load_served_model(),
        to,
        finished.class_names,
        formats=(file_format,),
        samples=None if images is None else images.samples,
        max_pixels=finished.max_pixels,
        rejection=Rejection.load(stored) if has_rejection else None,
        resize=finished.resize,
        threshold=finished.threshold,
        calibrate=None if images is None else images.calibrate,
        test=None if images is None else images.test,
    )
    if version is not None:
        write_batching_file(Path(to).parent)
    return report


def _check_target(to: Path) -> None:
    """Checks the folder as `export_model` does, but before TensorFlow is loaded."""
    check_writable(to, "to")
    if to.exists() and any(to.iterdir()):
        raise ArgumentError(
            "`to` must be a folder that does not exist or is empty. "
            f"Received: to={str(to)!r}. Choose another folder, or remove its content."
        )
