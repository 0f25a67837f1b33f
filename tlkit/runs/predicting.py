"""Predictions with a finished run: for a few images, and for whole folders into a table."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tlkit.data.given_images import GivenImage, find_images
from tlkit.errors import ArgumentError, ExportError, check_count
from tlkit.evaluation.exported import SAVED_MODEL_FILE, saved_model_in
from tlkit.export.tensorflow_serving import check_no_versions
from tlkit.runs.directory import check_writable, load_run
from tlkit.runs.record import damaged_run_error
from tlkit.runs.sorted_files import SortedFiles
from tlkit.utils.files import written_aside
from tlkit.utils.formatting import counted, percent
from tlkit.utils.progress import bar
from tlkit.utils.tensorflow_logging import load_tensorflow_quietly
from tlkit.utils.text_repr import ShownAsText, aligned, in_line

if TYPE_CHECKING:
    from tlkit.evaluation.prediction import Prediction
    from tlkit.evaluation.prediction_stream import FileClassifier

Images: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""Files, folders, patterns, archives and addresses, see `find_images`; one or several."""

TOP = 3
"""Number of classes in a table by default."""
_MAX_NAMED = 10


@dataclass(frozen=True)
class PredictionReport(ShownAsText):
    """What `predict_run` found.

    Attributes:
        num_files: Number of files.
        unusable: The files that cannot be used, each with the reason.
        num_unknown: Number of images that are out-of-distribution; `None` if the run does not
            reject any.
        counts: Number of images of each label, most first; of several labels each counts.
        seconds: Time for reading and predicting.
        csv: The table that was written, if any.
        sorted_into: The folder that was written, if any.
    """

    num_files: int
    unusable: tuple[tuple[str, str], ...]
    num_unknown: int | None
    counts: dict[str, int]
    seconds: float
    csv: str | None
    sorted_into: str | None

    def __str__(self) -> str:
        num_usable = self.num_files - len(self.unusable)
        rate = num_usable / max(self.seconds, 1e-9)
        lines = [
            f"{counted(num_usable, 'image')} predicted in {self.seconds:.1f} s, "
            f"{rate:,.0f} images a second"
        ]
        rows = [
            (in_line(name) or "no label", f"{number:,}", percent(number / max(num_usable, 1)))
            for name, number in self.counts.items()
        ]
        lines += [f"  {line}" for line in aligned(rows)]
        if self.num_unknown is not None:
            share = percent(self.num_unknown / max(num_usable, 1))
            lines.append(f"none of these: {self.num_unknown:,} ({share}), counted above, too")
        if self.unusable:
            lines.append(f"{counted(len(self.unusable), 'file')} cannot be used:")
            shown = self.unusable[:_MAX_NAMED]
            lines += [f"  {in_line(path)}: {in_line(reason)}" for path, reason in shown]
            if len(self.unusable) > _MAX_NAMED:
                lines.append(f"  and {len(self.unusable) - _MAX_NAMED:,} more")
        lines += [f"table: {in_line(self.csv)}"] if self.csv else []
        lines += [f"images by class: {in_line(self.sorted_into)}"] if self.sorted_into else []
        return "\n".join(lines)


def predict_run(
    run: str | os.PathLike[str],
    images: Images,
    *,
    csv: str | os.PathLike[str] | None = None,
    sort_into: str | os.PathLike[str] | None = None,
    copy: bool = False,
    top: int = TOP,
    batch_size: int = 32,
    safe: bool = False,
    at_prediction: "Callable[[Prediction], None] | None" = None,
) -> PredictionReport:
    """Predicts the classes of many images with a run or an exported SavedModel.

    Images are read and predicted in batches, so that memory does not grow with their number. A
    file that cannot be used is reported with the reason, and does not end the work.

    Args:
        run: Folder of a run, or of a SavedModel that `export_model` wrote.
        images: Files, folders with all files in them, patterns such as "photos/*.jpg", ZIP or tar
            archives, and addresses of folders or archives; one or several.
        csv: A table to write atomically, with a row for each file: `file`; `label` and
            `probability` of the most probable class, and `label_2`, `probability_2` and so on of
            the next ones; `known`, for a run that rejects out-of-distribution images: "no" means
            none of these; `warning` about a damaged file; `error`, why a file cannot be used. For
            several labels per image, `label` joins those that are assigned by "|".
        sort_into: A new or empty folder, into which each image is linked below a folder of its
            class: those that are none of these into `none_of_these`, those without a label into
            `no_label`; with several labels, an image is in several folders. Members of archives
            are copied.
        copy: Copy the images into `sort_into`, in place of symbolic links.
        top: Number of classes of each image in `csv`, most probable first, at least 1.
        batch_size: Images per forward pass.
        safe: Use `model.keras` in Keras's safe mode, see `SafeModel`, which needs
            `class_names.json` beside it. Out-of-distribution images are not detected then.
        at_prediction: Called with each prediction, in the order of the files.

    Returns:
        A report, whose text counts the images of each class.

    Raises:
        ArgumentError: `run` is neither, `sort_into` is not empty, or another argument is invalid.
        RunError: The run is incomplete or damaged, or a file to write is in a folder that cannot
            be made.
        ExportError: The SavedModel is damaged.
        DataError: A folder, pattern or archive holds no file, or no file can be used; then nothing
            is written.

    Example:
        >>> import tlkit
        >>> report = tlkit.predict_run("run", "new", csv="new.csv")  # doctest: +SKIP
        >>> report.counts                                            # doctest: +SKIP
        {'ant': 120, 'bee': 80}
    """
    check_count("top", top)
    check_count("batch_size", batch_size)
    table = None if csv is None else Path(csv)
    folder = None if sort_into is None else Path(sort_into)
    _check_targets(table, folder, copy=copy)
    given = find_images(images, "images")
    model = open_classifier(run, safe=safe)
    load_tensorflow_quietly()
    from tlkit.evaluation.image_files import unusable_files_error
    from tlkit.evaluation.prediction_stream import classify_files
    from tlkit.evaluation.prediction_table import PredictionTable

    started = time.perf_counter()
    unusable: list[tuple[str, str]] = []
    counts: Counter[str] = Counter()
    known: Counter[bool | None] = Counter()
    with ExitStack() as stack:
        advance = stack.enter_context(bar("prediction", len(given), "images"))
        sinks: list[PredictionTable | SortedFiles] = []
        if table is not None:
            sinks.append(stack.enter_context(PredictionTable.written_to(table, model, top)))
        if folder is not None:
            aside = stack.enter_context(written_aside(folder))
            sinks.append(SortedFiles(aside, model.class_names, copy=copy))
        for classified in classify_files(model, given, batch_size=batch_size):
            prediction = classified.prediction
            for sink in sinks:
                sink.add(classified)
            if prediction.reason:
                unusable.append((prediction.path or "", prediction.reason))
            else:
                counts.update(prediction.labels or ("",))
                known[prediction.known] += 1
            if at_prediction is not None:
                at_prediction(prediction)
            advance(1)
        if len(unusable) == len(given):
            raise unusable_files_error(unusable, "images")
    return PredictionReport(
        num_files=len(given),
        unusable=tuple(unusable),
        num_unknown=None if known[None] else known[False],
        counts=dict(counts.most_common()),
        seconds=time.perf_counter() - started,
        csv=None if table is None else str(table),
        sorted_into=None if folder is None else str(folder),
    )


def predict_files(
    run: str | os.PathLike[str], images: Images, *, batch_size: int = 32, safe: bool = False
) -> "Iterator[Prediction]":
    """Returns an iterator over the predictions for many images, which are made as it is read.

    Args:
        run: See `predict_run`.
        images: See `predict_run`.
        batch_size: Images per forward pass.
        safe: See `predict_run`.

    Raises:
        ArgumentError: See `predict_run`; errors are raised by the call itself.
        RunError: See `predict_run`.
        ExportError: See `predict_run`.
        DataError: A folder, pattern or archive holds no file.

    Example:
        >>> import tlkit
        >>> for prediction in tlkit.predict_files("run", "new"):  # doctest: +SKIP
        ...     print(prediction.path, prediction.label)
    """
    check_count("batch_size", batch_size)
    given = find_images(images, "images")
    return _predictions(open_classifier(run, safe=safe), given, batch_size)


def _predictions(
    model: "FileClassifier", given: Sequence[GivenImage], batch_size: int
) -> "Iterator[Prediction]":
    from tlkit.evaluation.prediction_stream import classify_files

    for classified in classify_files(model, given, batch_size=batch_size):
        yield classified.prediction


def predict_with(
    folder: str | os.PathLike[str], images: Images, *, safe: bool = False
) -> "tuple[Prediction, ...]":
    """Returns the predictions of a run or an exported SavedModel for some images.

    Args:
        folder: Folder of the run or the export.
        images: See `predict_run`.
        safe: See `predict_run`.

    Raises:
        DataError: None of the files can be used; otherwise see `predict_run`.
    """
    given = find_images(images, "images")
    model = open_classifier(folder, safe=safe)
    from tlkit.evaluation.prediction_stream import classify_all

    return classify_all(model, given, argument="images")


def open_classifier(folder: str | os.PathLike[str], *, safe: bool = False) -> "FileClassifier":
    """Returns what classifies image files with a run or an export, loaded.

    A SavedModel is a program that TensorFlow executes and can do anything. Set `safe` for one from
    an untrusted source.

    Args:
        folder: Folder of the run or the export.
        safe: Use `model.keras` in Keras's safe mode.

    Raises:
        ArgumentError: `folder` holds numbered versions of a SavedModel, or a SavedModel that tlkit
            has not exported.
        RunError: There is no finished run at `folder`, or it is incomplete.
        ExportError: The SavedModel at `folder` is damaged.
    """
    folder = Path(folder)
    if safe:
        load_tensorflow_quietly()
        from tlkit.evaluation.safe_model import SafeModel

        return SafeModel(folder)
    is_run = (folder / "run.json").is_file()
    root = saved_model_in(folder)
    if is_run:
        load_run(folder)
        if root is None:
            raise damaged_run_error(folder, "saved_model", "missing")
    elif root is None:
        if not (folder / SAVED_MODEL_FILE).is_file():
            check_no_versions(folder)
            load_run(folder)  # raises with what is missing
        raise ArgumentError(
            "`run` must be a run, or a SavedModel that `export_model` wrote. "
            f"Received: run={str(folder)!r}. Export one with `formats=('saved_model',)`."
        )
    load_tensorflow_quietly()
    from tlkit.evaluation.exported import ExportedModel

    try:
        model = ExportedModel(root)
        _ = model.predict  # loads the network
    except ExportError as error:
        if is_run:
            raise damaged_run_error(folder, "saved_model", "damaged") from error
        raise
    return model


def _check_targets(table: Path | None, folder: Path | None, *, copy: bool) -> None:
    """Checks the paths to write, before anything is read."""
    if table is not None:
        if table.is_dir():
            raise ArgumentError(
                f"`csv` must be a file. Received: csv={str(table)!r}, which is a folder. Name a "
                "file in it, such as predictions.csv."
            )
        check_writable(table.absolute().parent, "csv")
    if folder is not None:
        check_writable(folder, "sort_into")
        if folder.exists() and any(folder.iterdir()):
            raise ArgumentError(
                "`sort_into` must be a folder that does not exist or is empty. Received: "
                f"sort_into={str(folder)!r}. Choose another folder, or remove its content."
            )
    elif copy:
        raise ArgumentError(
            "`copy` must be left out without `sort_into`. Received: copy=True. Name the folder "
            "into which images are copied."
        )
