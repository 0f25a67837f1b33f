"""A run that adds classes to a finished one: from its model and new images to a run directory."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlkit.continual.exemplars import DEFAULT_NUM_EXEMPLARS
from tlkit.data.listing import Listing
from tlkit.data.manifests import list_images
from tlkit.data.merging import Joined, check_new_classes, find_known, load_joined
from tlkit.data.missing_files import missing_files_named
from tlkit.data.settings import check_settings
from tlkit.errors import ArgumentError
from tlkit.runs.add_classes_config import AddClassesConfig
from tlkit.runs.clock import Clock
from tlkit.runs.config import SPLITS
from tlkit.runs.context import RunContext
from tlkit.runs.directory import (
    REJECTION_FILE,
    Run,
    check_apart,
    check_same_images,
    chosen_place,
    default_out,
    left_as_it_is,
    load_run,
    split_rows_of,
    state_of,
)
from tlkit.runs.outputs import evaluate_splits, export_into, leave, maps_of, training_images
from tlkit.runs.phases import GROWING
from tlkit.runs.record import not_whole, record_of
from tlkit.runs.results import CalibrationDecision, RunResults
from tlkit.runs.team import Team
from tlkit.utils.progress import phase, phases
from tlkit.utils.renamed import renamed_argument
from tlkit.utils.run_lock import RECORD_FILE
from tlkit.utils.tensorflow_logging import load_tensorflow_quietly

if TYPE_CHECKING:
    import keras

    from tlkit.continual.adding_classes import LearnedClasses
    from tlkit.continual.exemplars import Exemplars
    from tlkit.continual.growth_report import GrowthReport
    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.training.reports import TrainingReport

EXEMPLARS_FILE = "exemplars.npz"
_STRICTEST_FIRST = ("train", "validation", "test")


@renamed_argument("say", "log")
def add_classes_run(
    run: str | os.PathLike[str],
    photos: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    exemplars: int = DEFAULT_NUM_EXEMPLARS,
    align: bool = False,
    batch_size: int = 32,
    max_pixels: int | None = None,
    resume: bool = True,
    log: Callable[[str], None] | None = None,
) -> Run:
    """Adds the classes of a folder to a finished run's model and leaves a run directory of its own.

    What the run has learned stays as it is: the network, and the old classes' logits to the bit.
    The new classes are solved beside them, on features that each image passes the network once
    for; `exemplars` stored features of each old class keep the old classes' place against the new
    ones. They are chosen from the images that the run was trained on, where these still lie in
    its folder, else from those that the run kept itself.

    The folder may hold images of old classes too. Those that the run knows keep the split that
    they had in it; others are divided like those of new classes, in their old class. Those to
    train on only keep their class's place against the new ones: the old outputs are fixed, and
    learn nothing from further images (`tlkit train --from` does that). Old and new accuracy are
    measured on images that no training has seen, those of the earlier run and the new folder's.

    The directory holds what `train_run` leaves, and `exemplars.npz`, the features kept of old and
    new classes; `run.json` has under "growth" what the old classes lost. The probabilities are not
    calibrated anew, which would change the old logits, and a run that told unknown images apart
    does so no longer: its threshold knows no image of the new classes. Both are said.

    Args:
        run: A finished run directory.
        photos: A folder or a CSV file as `train_run` takes it; one new class is enough.
        out: The new run directory; by default `runs/NAME-N`, see `train_run`.
        exemplars: Stored features of each old class that are replayed, and kept of each class.
            With 0 nothing is replayed; the report says what that cost.
        align: Whether the new classes' weights are scaled to the mean norm of the old ones' at the
            end, see `align_new_classes`. The report has the accuracies before it too.
        batch_size: Images in a batch.
        max_pixels: Images with more pixels are left out; the run's own bound by default.
        resume: Whether a directory that exists may be continued.
        log: Is told, in words, what is done.

    Raises:
        ArgumentError: An argument breaks its rule.
        DataError: The folder has no new class, or one without usable images; or an old class has
            neither images nor stored exemplars, and `exemplars` is not 0.
        RunError: There is no finished run at `run`, it is not whole, or `out` cannot be used.

    Example:
        >>> from tlkit.runs.add_classes import add_classes_run
        >>> grown = add_classes_run("run", "cows", out="run2")  # doctest: +SKIP
        >>> grown.record["growth"]["old_after"]                 # doctest: +SKIP
        0.94
    """
    parent = load_run(run)
    if out is not None and Path(out).resolve() == parent.path.resolve():
        raise ArgumentError(
            "`out` must be another folder than that of the run, which stays as it is. "
            f"Received: out={str(out)!r}. Name a new folder."
        )
    config = AddClassesConfig(
        from_run=str(parent.path),
        photos=os.fspath(photos),
        exemplars=exemplars,
        align=align,
        batch_size=batch_size,
        max_pixels=parent.max_pixels if max_pixels is None else max_pixels,
        damaged=parent.run_record.config.damaged,
    )
    place = Path(out) if out is not None else default_out(config, resume)
    check_apart(place, photos)
    team = Team(None)
    log = team.chief_log(log)
    if (finished := state_of(place, config, resume)) is not None:
        log(left_as_it_is(place), "")
        return finished
    with phase("listing files"):
        listing = list_images(photos, argument="photos")
    check_new_classes(listing, parent.class_names)
    if out is None:
        log(chosen_place(place))
    with phases(GROWING):
        return _made(config, listing, parent, RunContext(place, team, parent, Clock(), log))


def _made(config: AddClassesConfig, listing: Listing, parent: Run, context: RunContext) -> Run:
    """Makes the run, or continues it, once its config is checked and its files are found."""
    load_tensorflow_quietly()
    from tlkit.continual.adding_classes import Replay, check_can_learn, learn_classes

    timer, log, out = context.timer, context.log, context.out
    with timer.timed("data"):
        joined = _load(listing, parent, config)
    data = joined.data
    log(str(data.report), data.report.headlines)
    lost = _lost(parent)
    for note in lost.notes:
        log(note)
    with timer.timed("model"):
        old_model = parent.load_model()
        given = (old_model, data.train, joined.new_names, parent.class_names)
        stored = _stored_exemplars(parent, old_model, config.exemplars)
        replay = Replay(config.exemplars, joined.replayed, stored)
        check_can_learn(*given, replay=replay)  # before anything is written
    record = record_of(config, data)
    check_same_images(out, record)
    with context.taken(record):
        with missing_files_named((data.train, data.validation, data.test, joined.replayed)):
            with timer.timed("training"):
                learned = learn_classes(*given, replay=replay, seed=data.seed)
            with timer.timed("evaluation"):
                model, evaluations, growth = _measured(old_model, learned, joined, config)
            log(str(growth), "")
            with timer.timed("export"):
                export_into(model, data, out, config.max_pixels)
            with timer.timed("explaining mistakes"):
                maps = maps_of(model, evaluations, config.max_pixels)
            images = training_images(data, "none")
        if learned.exemplars.features:
            learned.exemplars.save(out / EXEMPLARS_FILE)
        results = RunResults(
            training=_training(learned, evaluations, growth, lost.rejection),
            evaluations=evaluations,
            calibration=CalibrationDecision(None, lost.calibration),
            maps=maps,
            images=images,
        )
        record = dataclasses.replace(record, growth=growth.as_dict())
        return leave(context, data, record, results)


def _load(listing: Listing, parent: Run, config: AddClassesConfig) -> Joined:
    """Returns the new folder's images, divided as the run's were, with the old ones beside."""
    places = _places(parent)
    max_pixels = config.max_pixels
    known = find_known(_photo_folders(parent), places, max_pixels=max_pixels)
    settings = check_settings(
        parent.image_size,
        config.batch_size,
        SPLITS,
        parent.run_record.seed,
        max_pixels=max_pixels,
        damaged=config.damaged,
    )
    return load_joined(
        listing,
        settings,
        class_names=parent.class_names,
        known=known,
        places=places,
    )


def _places(run: Run) -> dict[str, tuple[str, str]]:
    """Class and split of each image that a run or one before it has used, by its digest.

    What was trained on once has been seen, whatever a later run did with it.
    """
    places: dict[str, tuple[str, str]] = {}
    for row in split_rows_of(run):
        class_name, split = row.class_name, row.split
        if class_name not in run.class_names or split not in _STRICTEST_FIRST:
            raise not_whole(run.path, "split.csv", f"damaged ({split!r} of {class_name!r})")
        _, earlier = places.get(row.digest, (class_name, split))
        places[row.digest] = (class_name, min(split, earlier, key=_STRICTEST_FIRST.index))
    return places


def _photo_folders(run: Run) -> Iterator[str]:
    """The folders of a run and of those it goes on from, as far back as these still are."""
    earlier: Run | None = run
    while earlier is not None:
        config = earlier.run_record.config
        yield config.photos
        before, earlier = config.from_run, None
        if before is not None and (Path(before) / RECORD_FILE).is_file():
            earlier = load_run(before, "from_run")


def _stored_exemplars(run: Run, model: "keras.Model", exemplars: int) -> "Exemplars | None":
    from tlkit.continual.adding_classes import signature_of_features
    from tlkit.continual.exemplars import Exemplars

    if not exemplars or not (run.path / EXEMPLARS_FILE).is_file():
        return None
    return Exemplars.load(run.path / EXEMPLARS_FILE, signature_of_features(model))


def _measured(
    old_model: "keras.Model",
    learned: "LearnedClasses",
    joined: Joined,
    config: AddClassesConfig,
) -> "tuple[keras.Model, dict[str, EvaluationReport | None], GrowthReport]":
    """Returns the model, aligned where that is wanted, its figures, and what the old classes lost.

    Accuracies are those of the last split there is, test or validation.
    """
    from tlkit.continual.adding_classes import shares_right
    from tlkit.continual.growth_report import GrowthReport
    from tlkit.evaluation.metrics import evaluate
    from tlkit.models.surgery import align_new_classes

    data, model = joined.data, learned.model
    num_old = data.num_classes - len(joined.new_names)
    evaluations = evaluate_splits(model, data)
    report = GrowthReport(
        data.class_names[:num_old],
        joined.new_names,
        config.exemplars,
        learned.num_replayed,
        num_further=learned.num_further,
        from_stored=learned.from_stored,
    )
    measured = data.test or data.validation
    after = evaluations["test"] or evaluations["validation"]
    unaligned = None
    if config.align:
        unaligned = None if after is None else shares_right(after, num_old)
        model = align_new_classes(model)
        evaluations = evaluate_splits(model, data)
        after = evaluations["test"] or evaluations["validation"]
    if measured is None or after is None:
        return model, evaluations, report
    is_old = measured.labels < num_old
    before = None
    if is_old.any():
        known = measured.subset(np.flatnonzero(is_old))
        before = evaluate(old_model, known, data.class_names[:num_old]).accuracy
    old, new = shares_right(after, num_old)
    report = dataclasses.replace(
        report,
        split=measured.name,
        num_old=int(is_old.sum()),
        num_new=int((~is_old).sum()),
        old_before=before,
        old_after=old,
        new_before=None if new is None else 0.0,
        new_after=new,
        unaligned=unaligned,
    )
    return model, evaluations, report


@dataclass(frozen=True)
class _Lost:
    """What a grown run does not have of what its parent had, in words.

    Attributes:
        calibration: Why its probabilities are not calibrated.
        rejection: Why it tells no unknown images; `None` where its parent did not either.
    """

    calibration: str
    rejection: str | None

    @property
    def notes(self) -> tuple[str, ...]:
        """All of it."""
        return (self.calibration, *(() if self.rejection is None else (self.rejection,)))


def _lost(parent: Run) -> _Lost:
    calibration = (
        "probabilities of old and new classes together are not calibrated: a temperature would "
        "change the old logits. tlkit.calibrate does it where these may change"
    )
    if not (parent.path / REJECTION_FILE).is_file():
        return _Lost(calibration, None)
    return _Lost(
        calibration,
        "unknown images are no longer told apart: the run's threshold knows no image of the "
        "new classes. tlkit.fit_rejection fits one to images of all classes",
    )


def _training(
    learned: "LearnedClasses",
    evaluations: "dict[str, EvaluationReport | None]",
    growth: "GrowthReport",
    note: str | None,
) -> "TrainingReport":
    from tlkit.training.reports import TrainingReport

    validation = evaluations["validation"]
    notes = (*learned.stage.notes, *(line.strip() for line in str(growth).splitlines()))
    if note is not None:
        notes = (*notes, note)
    return TrainingReport(
        stages=(dataclasses.replace(learned.stage, notes=notes),),
        accuracy_before=None,
        accuracy_after=validation.accuracy if validation else None,
        num_validation=validation.num_images if validation else 0,
    )
