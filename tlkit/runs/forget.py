"""A run that makes the head of a finished run forget images or classes, exactly."""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.continual.removal_report import RemovalReport
from tlkit.data.images import ImageData, ImageSplit
from tlkit.data.merging import find_known_images, load_known
from tlkit.data.missing_files import missing_files_named
from tlkit.data.reading import content_digest, read_image
from tlkit.data.splits import ImageRecord
from tlkit.errors import ArgumentError, DataError, RunError, quoted, some_of
from tlkit.runs.clock import Clock
from tlkit.runs.context import RunContext
from tlkit.runs.directory import (
    STATISTICS_FILE,
    Run,
    check_outside_images,
    default_out,
    finished_message,
    load_if_finished,
    load_run,
    location_message,
    split_rows_of,
)
from tlkit.runs.forget_config import ForgetConfig, fingerprint_of
from tlkit.runs.kept_statistics import load_run_statistics, write_statistics
from tlkit.runs.known_images import (
    image_folders,
    places_of,
    seen_by_network,
    settings_of,
    weighting_of_run,
)
from tlkit.runs.outputs import (
    evaluate_splits,
    explain_worst_mistakes,
    export_into,
    finish_run,
    sample_training_images,
)
from tlkit.runs.phases import FORGETTING
from tlkit.runs.record import record_of
from tlkit.runs.results import CalibrationDecision, RunResults
from tlkit.runs.steps import load_run_rejection, refit_rejection
from tlkit.runs.team import Team
from tlkit.utils.progress import phase, phases
from tlkit.utils.tensorflow_logging import load_tensorflow_quietly

if TYPE_CHECKING:
    import keras

    from tlkit.continual.head_statistics import HeadStatistics
    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.training.reports import StageReport, TrainingReport

_DIGEST = re.compile(r"[0-9a-f]{32,}")


@dataclass(frozen=True)
class _Forgotten:
    """What is to be forgotten.

    Attributes:
        images: What was given for each image, by its digest: a file or the digest itself.
        class_names: The classes to forget as a whole.
    """

    images: Mapping[str, str]
    class_names: tuple[str, ...]

    def files(self) -> list[ImageRecord]:
        """Returns the images that were given as files, without a class."""
        return [
            ImageRecord(given, "", digest)
            for digest, given in self.images.items()
            if given != digest
        ]


def forget_run(
    run: str | os.PathLike[str],
    *,
    images: Sequence[str | os.PathLike[str]] = (),
    class_names: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    max_pixels: int | None = None,
    resume: bool = True,
    log: Callable[[str], None] | None = None,
) -> Run:
    """Makes a finished run's head forget images or classes, and writes a new run directory.

    The features of these images are computed again, and subtracted from the statistics of the run
    (`statistics.npz`); the head that is solved from what is left equals that of a run that never
    saw them, up to rounding. Nothing is subtracted that was not counted. The old run is not
    changed: remove it to forget them there too.

    Only the head forgets. A network below it that was fine-tuned on these images has still seen
    them; the report says whether it was. Two things do not follow the images exactly: the mean and
    deviation of the first features, by which the map of features is scaled, and the temperature.
    The new directory names neither the images nor their digests, except for those that the network
    was trained on: they still count as seen in `split.csv`, so that they are never test images.

    Args:
        run: A finished run directory that keeps statistics of its head.
        images: Training images of the run, as files or as digests of their content, such as those
            in `split.csv`.
        class_names: Classes to forget with all their images; two others must remain.
        out: The new run directory; by default `runs/NAME-N`, see `train_run`.
        batch_size: Images in a batch.
        max_pixels: Images with more pixels are left out; the run's own bound by default.
        resume: Whether a run in an existing directory may be resumed.
        log: Gets messages about the progress.

    Raises:
        ArgumentError: Nothing is to be forgotten, a class is not there, or fewer than two classes
            or a class without images would remain.
        DataError: An image was never counted, or its file is missing.
        RunError: There is no finished run at `run`, it keeps no statistics, it is incomplete, or
            `out` cannot be used.

    Example:
        >>> from tlkit.runs.forget import forget_run
        >>> smaller = forget_run("run", class_names=["cow"], out="run2")  # doctest: +SKIP
        >>> smaller.record["removal"]["num_images"]                       # doctest: +SKIP
        40
    """
    parent = load_run(run)
    if out is not None and Path(out).resolve() == parent.path.resolve():
        raise ArgumentError(
            "`out` must be another folder than that of the run, which is not changed. "
            f"Received: out={str(out)!r}. Choose a new folder."
        )
    if not (parent.path / STATISTICS_FILE).exists():
        raise RunError(
            "`run` must keep statistics of its head, from which images can be subtracted. "
            f"Received: {str(parent.path)!r}, which has no {STATISTICS_FILE}. Train it again "
            "without these images, and with `keep_statistics`."
        )
    forgotten = _Forgotten(_digests_of(images), _checked_classes(class_names, parent))
    if not forgotten.images and not forgotten.class_names:
        raise ArgumentError(
            "`images` or `class_names` must say what is to be forgotten. Received: neither. Name "
            "images (--images LIST) or a class (--class NAME)."
        )
    config = ForgetConfig(
        from_run=str(parent.path),
        photos=parent.run_record.config.photos,
        decisions=parent.run_record.config.decisions,
        num_images=len(forgotten.images),
        fingerprint=fingerprint_of(forgotten.images),
        class_names=forgotten.class_names,
        batch_size=batch_size,
        max_pixels=parent.max_pixels if max_pixels is None else max_pixels,
        damaged=parent.run_record.config.damaged,
    )
    directory = Path(out) if out is not None else default_out(config, resume)
    check_outside_images(directory, config.photos)
    team = Team(None)
    log = team.chief_log(log)
    if (finished := load_if_finished(directory, config, resume)) is not None:
        log(finished_message(directory), "")
        return finished
    if out is None:
        log(location_message(directory))
    with phases(FORGETTING):
        context = RunContext(directory, team, parent, Clock(), log)
        return _make(config, forgotten, parent, context)


def read_image_list(path: str | os.PathLike[str]) -> list[str]:
    """Returns the images that a text file names, one per line; empty lines are left out.

    Paths are relative to the working directory.

    Raises:
        ArgumentError: The file cannot be read as text.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(
            "`images` must be a text file with one image per line: a path, or a digest. "
            f"Received: {os.fspath(path)!r} ({error}). Write such a file."
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _make(config: ForgetConfig, forgotten: _Forgotten, parent: Run, context: RunContext) -> Run:
    """Makes or resumes the run after its config was checked."""
    load_tensorflow_quietly()
    from tlkit.continual.exact import remove_from_statistics, solve_exact_head

    clock, log, out = context.clock, context.log, context.out
    with clock.timed("model"):
        old_model = parent.load_model()
        statistics = _load_statistics(parent, old_model)
        labels = _labels_of(forgotten, statistics, parent)
        rejection = load_run_rejection(parent)
    with clock.timed("data"), phase("listing files"):
        removed, data = _load(labels, forgotten, parent, config)
    log(str(data.report), data.report.headlines)
    record = record_of(config, data)
    with context.lock_directory(record), missing_files_named((removed, data.train)):
        with clock.timed("training"):
            smaller = remove_from_statistics(statistics, old_model, removed, parent.class_names)
            if forgotten.class_names:
                smaller = smaller.without_classes(forgotten.class_names)
            weighting = weighting_of_run(parent, smaller.class_names)
            solved = solve_exact_head(old_model, smaller, class_weight=weighting)
        seen = frozenset(seen_by_network(parent) & labels.keys())
        with clock.timed("evaluation"):
            evaluations = evaluate_splits(solved.model, data)
            report = RemovalReport(
                len(labels), len(smaller.images), forgotten.class_names, len(seen)
            )
            report = _with_accuracies(report, old_model, parent, data, evaluations)
        log(str(report), "")
        with clock.timed("export"):
            fitted, why_none = refit_rejection(rejection, solved.model, data, keeps_images=False)
            if why_none:
                log(why_none)
            export_into(solved.model, data, out, config.max_pixels, rejection=fitted)
            write_statistics(solved.statistics, out, log)
        with clock.timed("explaining mistakes"):
            maps = explain_worst_mistakes(solved.model, evaluations, config.max_pixels, data.resize)
        results = RunResults(
            training=_training_report(solved.stage, report, evaluations["validation"]),
            evaluations=evaluations,
            calibration=CalibrationDecision(None, "the temperature is that fitted last"),
            maps=maps,
            rejection=fitted,
            images=sample_training_images(data, "none"),
            removed=_left_out_of_table(labels, parent, forgotten, seen),
        )
        record = dataclasses.replace(record, removal=report.as_dict())
        return finish_run(context, data, record, results)


def _load(
    labels: Mapping[str, int], forgotten: _Forgotten, parent: Run, config: ForgetConfig
) -> tuple[ImageSplit, ImageData]:
    """Returns the images to forget, and the other images of the run in their splits.

    Raises:
        DataError: An image to forget is missing, or no training image is left.
    """
    known = find_known_images(
        image_folders(parent), places_of(parent), max_pixels=config.max_pixels
    )
    removed = _removed_split(labels, known, forgotten, parent, config)
    names = [name for name in parent.class_names if name not in forgotten.class_names]
    left = [one for one in known if one.digest not in labels and one.class_name in names]
    return removed, load_known(left, settings_of(parent, config), names)


def _training_report(
    stage: "StageReport", report: RemovalReport, validation: "EvaluationReport | None"
) -> "TrainingReport":
    from tlkit.training.reports import TrainingReport

    notes = (*stage.notes, *str(report).splitlines())
    return TrainingReport(
        stages=(dataclasses.replace(stage, notes=notes),),
        accuracy_before=None,
        accuracy_after=validation.accuracy if validation else None,
        num_validation=validation.num_images if validation else 0,
    )


def _digests_of(images: Sequence[str | os.PathLike[str]]) -> dict[str, str]:
    """Returns what was given for each image, by its digest."""
    found: dict[str, str] = {}
    for image in (os.fspath(one) for one in images):
        if _DIGEST.fullmatch(image):
            found.setdefault(image, image)
        elif Path(image).is_file():
            found[content_digest(read_image(image))] = image
        else:
            raise ArgumentError(
                "`images` must be image files, or digests as in split.csv. "
                f"Received: {image!r}, which is neither. Correct it, or leave it out."
            )
    return found


def _checked_classes(class_names: Sequence[str], parent: Run) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(class_names))
    if unknown := [name for name in names if name not in parent.class_names]:
        raise ArgumentError(
            f"`class_names` must be classes of the run. Received: {quoted(unknown)}. Use "
            f"{quoted(parent.class_names)}."
        )
    if len(parent.class_names) - len(names) < 2:
        raise ArgumentError(
            f"`class_names` must leave two classes or more. Received: {quoted(names)} of "
            f"{quoted(parent.class_names)}. Forget fewer of them."
        )
    return names


def _load_statistics(parent: Run, model: "keras.Model") -> "HeadStatistics":
    statistics = load_run_statistics(parent, model)
    if statistics is None:
        raise RuntimeError("the statistics of the run have been removed meanwhile")
    return statistics


def _labels_of(forgotten: _Forgotten, statistics: "HeadStatistics", parent: Run) -> dict[str, int]:
    """Returns the class of each image to forget, by its digest.

    Raises:
        ArgumentError: A class would be left without images.
        DataError: An image was never counted.
    """
    counted = statistics.images
    if never := [given for digest, given in forgotten.images.items() if digest not in counted]:
        raise DataError(
            "`images` must be images that the run's head was trained on. "
            f"Received: {some_of([repr(one) for one in never])}, which {str(parent.path)!r} never "
            "counted: other images, or ones of validation or test. Leave them out."
        )
    names = statistics.class_names
    gone = {names.index(name) for name in forgotten.class_names}
    labels = {
        digest: label
        for digest, label in counted.items()
        if digest in forgotten.images or label in gone
    }
    left = {label for digest, label in counted.items() if digest not in labels}
    if empty := [name for label, name in enumerate(names) if label not in left | gone]:
        raise ArgumentError(
            f"`images` must leave an image of each class. Received: all images of {quoted(empty)}. "
            "Forget the class as a whole (--class NAME)."
        )
    return labels


def _removed_split(
    labels: Mapping[str, int],
    known: Sequence[ImageRecord],
    forgotten: _Forgotten,
    parent: Run,
    config: ForgetConfig,
) -> ImageSplit:
    """Returns the images to forget, from the files that were named or the run's folders."""
    found = {one.digest: one for one in (*forgotten.files(), *known) if one.digest in labels}
    if missing := [digest for digest in labels if digest not in found]:
        raise DataError(
            "`images` must still exist, as their features are computed again. "
            f"Received: {len(missing):,} of {len(labels):,} that are not in the folders of the "
            f"run, such as {missing[0]} of the class {parent.class_names[labels[missing[0]]]!r}. "
            "Restore them, or name their files."
        )
    records = [
        dataclasses.replace(found[digest], class_name=parent.class_names[label], split="train")
        for digest, label in labels.items()
    ]
    return load_known(records, settings_of(parent, config), parent.class_names).train


def _with_accuracies(
    report: RemovalReport,
    old_model: "keras.Model",
    parent: Run,
    data: ImageData,
    evaluations: "Mapping[str, EvaluationReport | None]",
) -> RemovalReport:
    """Returns the report with accuracies on the test split, or on validation without one."""
    from tlkit.evaluation.metrics import evaluate

    split = data.test or data.validation
    after = evaluations["test"] or evaluations["validation"]
    if split is None or after is None:
        return report
    numbers = [parent.class_names.index(name) for name in data.class_names]
    old = dataclasses.replace(split, labels=split.labels.copy())
    old.labels[:] = [numbers[label] for label in split.labels]
    return dataclasses.replace(
        report,
        split=split.name,
        num_measured=split.num_images,
        before=evaluate(old_model, old, parent.class_names).accuracy,
        after=after.accuracy,
    )


def _left_out_of_table(
    labels: Mapping[str, int],
    parent: Run,
    forgotten: _Forgotten,
    seen: frozenset[str],
) -> frozenset[str]:
    """Returns the digests that `split.csv` leaves out."""
    of_classes = {
        row.digest for row in split_rows_of(parent) if row.class_name in forgotten.class_names
    }
    return frozenset(of_classes | (labels.keys() - seen))
