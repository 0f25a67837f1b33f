"""A run that adds classes to a finished one: from its model and new pictures to a run directory."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlkit.continual.exemplars import DEFAULT_NUM_EXEMPLARS
from tlkit.data.listing import Listing
from tlkit.data.manifests import list_pictures
from tlkit.data.merging import Joined, check_new_classes, find_known, load_joined
from tlkit.data.missing_files import lost_pictures_named
from tlkit.data.settings import KEEP, check_settings
from tlkit.errors import ArgumentError, check_count
from tlkit.runs.config import SPLITS
from tlkit.runs.directory import (
    LOG_FILE,
    REJECTION_FILE,
    Run,
    check_apart,
    chosen_place,
    clear_results,
    default_out,
    left_as_it_is,
    load_run,
    not_whole,
    refuse_other_pictures,
    seconds_of,
    split_rows_of,
    state_of,
    write_results,
)
from tlkit.runs.outputs import (
    Clock,
    evaluate_splits,
    export_into,
    maps_of,
    record_of,
    training_pictures,
    write_card,
    write_page,
    write_record,
)
from tlkit.runs.phases import GROWING, REPORT
from tlkit.utils.files import write_json
from tlkit.utils.progress import Teller, keep_log, phase, phases
from tlkit.utils.run_lock import locked
from tlkit.utils.tensorflow_logging import load_tensorflow_quietly

if TYPE_CHECKING:
    import keras

    from tlkit.continual.adding_classes import LearnedClasses
    from tlkit.continual.exemplars import Exemplars
    from tlkit.continual.growth_report import GrowthReport
    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.training.reports import TrainingReport

COMMAND = "add-classes"
EXEMPLARS_FILE = "exemplars.npz"
_STRICTEST_FIRST = ("train", "validation", "test")


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
    say: Callable[[str], None] | None = None,
) -> Run:
    """Adds the classes of a folder to a finished run's model and leaves a run directory of its own.

    What the run has learned stays as it is: the network, and the old classes' logits to the bit.
    The new classes are solved beside them, on features that each picture passes the network once
    for; `exemplars` stored features of each old class keep the old classes' place against the new
    ones. They are chosen from the pictures that the run was trained on, where these still lie in
    its folder, else from those that the run kept itself.

    The folder may hold pictures of old classes too. Those that the run knows keep the split that
    they had in it; others are divided like those of new classes, in their old class. Those to
    train on only keep their class's place against the new ones: the old outputs are fixed, and
    learn nothing from further pictures (`tlkit train --from` does that). Old and new accuracy are
    measured on pictures that no training has seen, those of the earlier run and the new folder's.

    The directory holds what `train_run` leaves, and `exemplars.npz`, the features kept of old and
    new classes; `run.json` has under "growth" what the old classes lost. The probabilities are not
    calibrated anew, which would change the old logits, and a run that told unknown pictures apart
    does so no longer: its threshold knows no picture of the new classes. Both are said.

    Args:
        run: A finished run directory.
        photos: A folder or a CSV file as `train_run` takes it; one new class is enough.
        out: The new run directory; by default `runs/NAME-N`, see `train_run`.
        exemplars: Stored features of each old class that are replayed, and kept of each class.
            With 0 nothing is replayed; the report says what that cost.
        align: Whether the new classes' weights are scaled to the mean norm of the old ones' at the
            end, see `align_new_classes`. The report has the accuracies before it too.
        batch_size: Pictures in a batch.
        max_pixels: Pictures with more pixels are left out; the run's own bound by default.
        resume: Whether a directory that exists may be continued.
        say: Is told, in words, what is done.

    Raises:
        ArgumentError: An argument breaks its rule.
        DataError: The folder has no new class, or one without usable pictures; or an old class has
            neither pictures nor stored exemplars, and `exemplars` is not 0.
        RunError: There is no finished run at `run`, it is not whole, or `out` cannot be used.

    Example:
        >>> from tlkit.runs.add_classes import add_classes_run
        >>> grown = add_classes_run("run", "cows", out="run2")  # doctest: +SKIP
        >>> grown.record["growth"]["old_after"]                 # doctest: +SKIP
        0.94
    """
    tell = Teller(say)
    parent, arguments = _checked(dict(locals()))
    place = Path(out) if out is not None else default_out(photos, arguments, resume)
    check_apart(place, photos)
    if (finished := state_of(place, arguments, resume)) is not None:
        tell(left_as_it_is(place), "")
        return finished
    with phase("listing files"):
        listing = list_pictures(photos, argument="photos")
    check_new_classes(listing, parent.class_names)
    if out is None:
        tell(chosen_place(place))
    with phases(GROWING):
        return _made(parent, arguments, listing, place, tell)


def _made(parent: Run, arguments: dict[str, Any], listing: Listing, out: Path, say: Teller) -> Run:
    """Makes the run, or continues it, once its arguments are checked and its files are found."""
    exemplars, align = arguments["exemplars"], arguments["align"]
    load_tensorflow_quietly()
    from tlkit.continual.adding_classes import check_can_learn, learn_classes

    clock = Clock()
    with clock.timed("data"):
        joined = _load(listing, parent, arguments)
    data = joined.data
    say(str(data.report), data.report.headlines)
    lost = _lost(parent)
    for note in lost.values():
        say(note)
    with clock.timed("model"):
        old_model = parent.load_model()
        given = (old_model, data.train, joined.new_names, parent.class_names)
        memory: dict[str, Any] = {
            "exemplars": exemplars,
            "replayed": joined.replayed,
            "stored": _stored_exemplars(parent, old_model, exemplars),
        }
        check_can_learn(*given, **memory)  # before anything is written
    record = record_of(arguments, data)
    refuse_other_pictures(out, record)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        keep_log(out / LOG_FILE)
        clock.go_on_from(seconds_of(out), lambda: write_record(out, record, clock))
        write_record(out, record, clock)
        clear_results(out)
        with lost_pictures_named((data.train, data.validation, data.test, joined.replayed)):
            with clock.timed("training"):
                learned = learn_classes(*given, **memory, seed=data.seed)
            with clock.timed("evaluation"):
                model, evaluations, growth = _measured(old_model, learned, joined, exemplars, align)
            say(str(growth), "")
            with clock.timed("export"):
                export_into(model, data, out, arguments["max_pixels"])
            with clock.timed("explaining mistakes"):
                maps = maps_of(model, evaluations, arguments["max_pixels"])
            pictures = training_pictures(data, "none")
        training = _training(learned, evaluations, growth, lost.get("rejection"))
        record |= {"seconds": clock.as_dict(), "growth": growth.as_dict()}
        calibration = lost["calibration"]
        with phase(REPORT):
            write_results(out, data, training, evaluations, parent=parent, calibration=calibration)
            if learned.exemplars.features:
                learned.exemplars.save(out / EXEMPLARS_FILE)
            write_card(out, data, record)
            shown: dict[str, Any] = {"maps": maps, "pictures": pictures, "calibration": calibration}
            write_page(out, data, training, evaluations, record=record, **shown)
        write_json(out / "run.json", {**record, "finished": True})
        return load_run(out)


def _checked(given: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """Returns the run to grow, and the arguments that make the new one what it is."""
    check_count("exemplars", given["exemplars"], minimum=0)
    check_count("batch_size", given["batch_size"])
    if not isinstance(given["align"], bool):
        raise ArgumentError(f"`align` must be True or False. Received: align={given['align']!r}.")
    parent = load_run(given["run"])
    max_pixels = given["max_pixels"]
    if max_pixels is None:
        max_pixels = parent.max_pixels
    check_count("max_pixels", max_pixels)
    if given["out"] is not None and Path(given["out"]).resolve() == parent.path.resolve():
        raise ArgumentError(
            "`out` must be another folder than that of the run, which stays as it is. "
            f"Received: out={str(given['out'])!r}. Name a new folder."
        )
    own = parent.record["arguments"]
    kept = {"damaged": own["damaged"]} if "damaged" in own else {}  # as the run did
    return parent, {
        **kept,
        "command": COMMAND,
        "from_run": str(parent.path.resolve()),
        "photos": str(Path(given["photos"]).resolve()),
        "backbone": None,
        "weights": "those of the run",
        "exemplars": int(given["exemplars"]),
        "align": given["align"],
        "batch_size": int(given["batch_size"]),
        "max_pixels": int(max_pixels),
    }


def _load(listing: Listing, parent: Run, arguments: dict[str, Any]) -> Joined:
    """Returns the new folder's pictures, divided as the run's were, with the old ones beside."""
    places = _places(parent)
    max_pixels = arguments["max_pixels"]
    known = find_known(_photo_folders(parent), places, max_pixels=max_pixels)
    settings = check_settings(
        parent.image_size,
        arguments["batch_size"],
        SPLITS,
        parent.record["seed"],
        damaged=arguments.get("damaged", KEEP),
    )
    return load_joined(
        listing,
        settings,
        class_names=parent.class_names,
        known=known,
        places=places,
        max_pixels=max_pixels,
    )


def _places(run: Run) -> dict[str, tuple[str, str]]:
    """Class and split of each picture that a run or one before it has used, by its digest.

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
        arguments = earlier.record["arguments"]
        yield arguments["photos"]
        before = arguments.get("from_run")
        is_there = before is not None and (Path(before) / "run.json").is_file()
        earlier = load_run(before, "from_run") if is_there else None


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
    exemplars: int,
    align: bool,
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
        exemplars,
        learned.num_replayed,
        num_further=learned.num_further,
        from_stored=learned.from_stored,
    )
    measured = data.test or data.validation
    after = evaluations["test"] or evaluations["validation"]
    unaligned = None
    if align:
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


def _lost(parent: Run) -> dict[str, str]:
    """What a grown run does not have of what its parent had, in words."""
    lost = {
        "calibration": "probabilities of old and new classes together are not calibrated: a "
        "temperature would change the old logits. tlkit.calibrate does it where these may change"
    }
    if (parent.path / REJECTION_FILE).is_file():
        lost["rejection"] = (
            "unknown pictures are no longer told apart: the run's threshold knows no picture of "
            "the new classes. tlkit.fit_rejection fits one to pictures of all classes"
        )
    return lost


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
