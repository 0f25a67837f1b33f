"""A run that adds classes to a finished run's model, from a folder of new images."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlkit.continual.growth_report import EXACT, GrowthReport
from tlkit.data.images import ImageData
from tlkit.data.listing import Listing
from tlkit.data.manifests import list_images
from tlkit.data.merging import Joined, check_new_classes, find_known_images, load_joined
from tlkit.data.missing_files import missing_files_named
from tlkit.errors import ArgumentError
from tlkit.runs.add_classes_config import AddClassesConfig, choose_method
from tlkit.runs.clock import Clock
from tlkit.runs.config import AUTO
from tlkit.runs.context import RunContext
from tlkit.runs.directory import (
    EXEMPLARS_FILE,
    STATISTICS_FILE,
    Run,
    check_outside_images,
    check_same_images,
    default_out,
    finished_message,
    load_if_finished,
    load_run,
    location_message,
)
from tlkit.runs.kept_statistics import write_statistics
from tlkit.runs.known_images import image_folders, places_of, settings_of
from tlkit.runs.learning_classes import Learned, OldImages, joint_accuracy, prepare_learning
from tlkit.runs.outputs import (
    evaluate_splits,
    explain_worst_mistakes,
    export_into,
    finish_run,
    sample_training_images,
)
from tlkit.runs.phases import GROWING
from tlkit.runs.record import record_of
from tlkit.runs.results import CalibrationDecision, RunResults
from tlkit.runs.steps import calibrate_on_validation, load_run_rejection, refit_rejection
from tlkit.runs.team import Team
from tlkit.utils.progress import phase, phases
from tlkit.utils.renamed import renamed_argument
from tlkit.utils.tensorflow_logging import load_tensorflow_quietly

if TYPE_CHECKING:
    import keras

    from tlkit.continual.growth_report import GrowthReport
    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.training.reports import TrainingReport


@renamed_argument("say", "log")
def add_classes_run(
    run: str | os.PathLike[str],
    photos: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    method: str = AUTO,
    exemplars: int | None = None,
    align: bool = False,
    batch_size: int = 32,
    max_pixels: int | None = None,
    decisions: str | os.PathLike[str] | None = None,
    resume: bool = True,
    log: Callable[[str], None] | None = None,
) -> Run:
    """Adds the classes of a folder to a finished run's model, and writes a new run directory.

    The network below the head stays bit-identical, and each new image takes one forward pass. The
    methods:

    - "exact": the new images are added to the statistics of the run, sums over the features of all
      its images (`statistics.npz`), and a head for all classes is solved from them. It equals the
      head of all images together, up to rounding, and needs no old image; old logits change. A run
      without statistics needs all images that it was trained on, from which they are made.
    - "replay": the logits of the old classes stay bit-identical. To balance the new classes against
      them, `exemplars` stored features of each old class are replayed. They are chosen from the
      images that the run was trained on if these still lie in its folder, else from the features
      that the run has stored itself.
    - "isolated": as "replay", without anything of the old images.

    The folder may also hold images of old classes. Images that the run knows keep their split;
    others are split like those of new classes. With "exact" the head learns from further training
    images of old classes too; otherwise they only balance these against the new ones, as the old
    outputs are fixed (use `tlkit train --from` for that). Old and new accuracy are measured on
    images that no training has seen, those of the earlier run and of the new folder.

    The directory holds the same files as one of `train_run`, and `exemplars.npz`, the stored
    features of old and new classes, if some were replayed. "growth" in `run.json` holds the loss of
    accuracy on old classes; where all old images are still there, also the accuracy of the exact
    head of all images together. With "exact" the probabilities are calibrated; otherwise they are
    not, as that would change the old logits. If the run rejects out-of-distribution images, so does
    the new one: its training images remain neighbours, and the threshold is chosen again on the
    validation images there are, 19 at least.

    Args:
        run: A finished run directory.
        photos: Images as for `train_run`; one new class is enough.
        out: The new run directory; by default `runs/NAME-N`, see `train_run`.
        method: "exact", "replay", "isolated", or "auto": "exact" if the run keeps statistics, else
            "replay"; with `exemplars` or `align`, "replay" or "isolated".
        exemplars: With "replay": number of stored features of each old class that are replayed, and
            of each class that are stored for later; 20 by default. 0 means "isolated".
        align: Whether the new classes' weights are scaled to the mean norm of the old ones at the
            end, see `align_new_classes`. The report also has the accuracies before alignment.
        batch_size: Images in a batch.
        max_pixels: Images with more pixels are left out; the run's own bound by default.
        decisions: CSV file of decisions about labels in the folder, see `load_folder`.
        resume: Whether a run in an existing directory may be resumed.
        log: Gets messages about the progress.

    Raises:
        ArgumentError: An argument is invalid.
        DataError: The folder has no new class, or one without usable images; with "replay", an old
            class has neither images nor stored exemplars; with "exact", the run keeps no statistics
            and some of its training images are missing.
        RunError: There is no finished run at `run`, it is incomplete, or `out` cannot be used.

    Example:
        >>> from tlkit.runs.add_classes import add_classes_run
        >>> grown = add_classes_run("run", "cows", out="run2")  # doctest: +SKIP
        >>> grown.record["growth"]["old_after"]                 # doctest: +SKIP
        0.94
    """
    parent = load_run(run)
    if out is not None and Path(out).resolve() == parent.path.resolve():
        raise ArgumentError(
            "`out` must be another folder than that of the run, which is not changed. "
            f"Received: out={str(out)!r}. Choose a new folder."
        )
    if parent.is_multi_label:
        raise ArgumentError(
            "`run` must have one class per image to add classes. "
            f"Received: {str(parent.path)!r}, with several labels per image. Train a new run with "
            "all labels: tlkit train --multi-label."
        )
    method, exemplars = choose_method(
        method,
        exemplars=exemplars,
        align=align,
        has_statistics=(parent.path / STATISTICS_FILE).exists(),
    )
    config = AddClassesConfig(
        from_run=str(parent.path),
        photos=os.fspath(photos),
        method=method,
        exemplars=exemplars,
        align=align,
        batch_size=batch_size,
        max_pixels=parent.max_pixels if max_pixels is None else max_pixels,
        damaged=parent.run_record.config.damaged,
        decisions=None if decisions is None else os.fspath(decisions),
    )
    directory = Path(out) if out is not None else default_out(config, resume)
    check_outside_images(directory, photos)
    team = Team(None)
    log = team.chief_log(log)
    if (finished := load_if_finished(directory, config, resume)) is not None:
        log(finished_message(directory), "")
        return finished
    with phase("listing files"):
        listing = list_images(
            photos, argument="photos", class_names=parent.class_names, decisions=decisions
        )
    check_new_classes(listing, parent.class_names)
    if out is None:
        log(location_message(directory))
    with phases(GROWING):
        return _make(config, listing, parent, RunContext(directory, team, parent, Clock(), log))


def _make(config: AddClassesConfig, listing: Listing, parent: Run, context: RunContext) -> Run:
    """Makes or resumes the run after its config was checked and its files were listed."""
    load_tensorflow_quietly()
    clock, log, out = context.clock, context.log, context.out
    with clock.timed("data"):
        joined = _load(listing, parent, config)
    data = joined.data
    log(str(data.report), data.report.headlines)
    with clock.timed("model"):
        places = places_of(parent)
        trained = [digest for digest, (_, split) in places.items() if split == "train"]
        old = OldImages(parent, parent.load_model(), trained)
        learn = prepare_learning(config, old, joined)  # raises before anything is written
        known = load_run_rejection(parent)
    record = record_of(config, data)
    check_same_images(out, record)
    with context.lock_directory(record):
        with missing_files_named((data.train, data.validation, data.test, joined.replayed)):
            with clock.timed("training"):
                learned = learn()
            with clock.timed("evaluation"):
                calibration = _calibrate(learned, data)
                log(str(calibration))
                model, evaluations, growth = _measure(old, learned, joined, config)
            log(str(growth), "")
            with clock.timed("export"):
                rejection, why_none = refit_rejection(known, model, data, keeps_images=True)
                if why_none:
                    log(why_none)
                export_into(model, data, out, config.max_pixels, rejection=rejection)
            with clock.timed("explaining mistakes"):
                maps = explain_worst_mistakes(model, evaluations, config.max_pixels, data.resize)
            images = sample_training_images(data, "none")
        if learned.exemplars is not None:
            learned.exemplars.save(out / EXEMPLARS_FILE)
        if (statistics := calibration.put_into(learned.statistics)) is not None:
            write_statistics(statistics, out, log)
        results = RunResults(
            training=_training_report(learned, evaluations, growth, why_none),
            evaluations=evaluations,
            calibration=calibration,
            rejection=rejection,
            maps=maps,
            images=images,
        )
        record = dataclasses.replace(record, growth=growth.as_dict())
        return finish_run(context, data, record, results)


def _load(listing: Listing, parent: Run, config: AddClassesConfig) -> Joined:
    """Loads the images of the new folder and of the earlier runs, split as the run's were."""
    places = places_of(parent)
    max_pixels = config.max_pixels
    known = find_known_images(image_folders(parent), places, max_pixels=max_pixels)
    return load_joined(
        listing,
        settings_of(parent, config),
        class_names=parent.class_names,
        known=known,
        known_images=places,
    )


def _calibrate(learned: Learned, data: ImageData) -> CalibrationDecision:
    """Calibrates a model whose old logits may change, on validation images of all classes."""
    if learned.growth.method != EXACT:
        return CalibrationDecision(
            None,
            "probabilities of old and new classes together are not calibrated: a temperature would "
            "change the old logits. tlkit.calibrate calibrates them if these may change",
        )
    return calibrate_on_validation(learned.model, data, is_exact=True)


def _measure(
    old: OldImages,
    learned: Learned,
    joined: Joined,
    config: AddClassesConfig,
) -> "tuple[keras.Model, dict[str, EvaluationReport | None], GrowthReport]":
    """Returns the model (aligned if the config says so), its evaluations, and the growth report.

    The growth report has accuracies on the test split, or on validation without a test split.
    """
    from tlkit.continual.adding_classes import old_and_new_accuracy
    from tlkit.evaluation.metrics import evaluate
    from tlkit.models.surgery import align_new_classes

    data, model = joined.data, learned.model
    num_old = data.num_classes - len(joined.new_names)
    evaluations = evaluate_splits(model, data)
    report = learned.growth
    measured = data.test or data.validation
    after = evaluations["test"] or evaluations["validation"]
    unaligned = None
    if config.align:
        unaligned = None if after is None else old_and_new_accuracy(after, num_old)
        model = align_new_classes(model)
        evaluations = evaluate_splits(model, data)
        after = evaluations["test"] or evaluations["validation"]
    if measured is None or after is None:
        return model, evaluations, report
    is_old = measured.labels < num_old
    before = None
    if is_old.any():
        known = measured.subset(np.flatnonzero(is_old))
        before = evaluate(old.model, known, data.class_names[:num_old]).accuracy
    joint = joint_accuracy(
        old,
        joined,
        lambda model: old_and_new_accuracy(evaluate(model, measured, data.class_names), num_old),
    )
    old_after, new = old_and_new_accuracy(after, num_old)
    report = dataclasses.replace(
        report,
        split=measured.name,
        num_old=int(is_old.sum()),
        num_new=int((~is_old).sum()),
        old_before=before,
        old_after=old_after,
        new_before=None if new is None else 0.0,
        new_after=new,
        joint=joint,
        unaligned=unaligned,
    )
    return model, evaluations, report


def _training_report(
    learned: Learned,
    evaluations: "dict[str, EvaluationReport | None]",
    growth: "GrowthReport",
    note: str,
) -> "TrainingReport":
    from tlkit.training.reports import TrainingReport

    validation = evaluations["validation"]
    notes = (*learned.stage.notes, *(line.strip() for line in str(growth).splitlines()))
    if note:
        notes = (*notes, note)
    return TrainingReport(
        stages=(dataclasses.replace(learned.stage, notes=notes),),
        accuracy_before=None,
        accuracy_after=validation.accuracy if validation else None,
        num_validation=validation.num_images if validation else 0,
    )
