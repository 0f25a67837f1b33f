"""A run: from a folder of photographs to a run directory, in one call.

Bad input is found before the run directory is made; what it then holds appears file by file, each
whole or not at all, and `run.json` says last that the run is finished.
"""

import dataclasses
import inspect
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.data.folders import load_listing
from tlkit.data.images import ImageData
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.listing import Listing
from tlkit.data.manifests import list_pictures
from tlkit.data.missing_files import lost_pictures_named
from tlkit.data.settings import KEEP, Settings, check_settings
from tlkit.errors import ArgumentError, DataError
from tlkit.runs.choices import backbone_choice, first_image_size, mode_choice
from tlkit.runs.config import AUTO, SPLITS, checked
from tlkit.runs.directory import (
    LOG_FILE,
    REJECTION_FILE,
    Run,
    check_apart,
    choices_of,
    chosen_place,
    clear_results,
    default_out,
    left_as_it_is,
    load_run,
    refuse_other_pictures,
    seconds_of,
    seen_by,
    state_of,
    unseen,
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
from tlkit.runs.phases import REPORT, phases_of
from tlkit.runs.record import settled_arguments
from tlkit.runs.steps import (
    calibrate_on_validation,
    check_can_reject,
    compare_with_probe,
    fit_run_rejection,
    plan_anchor,
    planned_cost,
    seen_as,
    train_model,
)
from tlkit.runs.team import Team
from tlkit.utils.files import write_json
from tlkit.utils.keras_settings import check_building
from tlkit.utils.progress import Teller, keep_log, phase, phases, plan
from tlkit.utils.run_lock import CHECKPOINT_FILE, locked
from tlkit.utils.tensorflow_logging import load_tensorflow_quietly

if TYPE_CHECKING:
    import keras

    from tlkit.continual.going_on import OldTask
    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.training.reports import TrainingReport


@dataclass(frozen=True)
class _Work:
    """What was trained, how good it is, what else was found, and what the page alone shows."""

    training: "TrainingReport"
    evaluations: "dict[str, EvaluationReport | None]"
    found: dict[str, Any]
    shown: dict[str, Any]


def train_run(
    photos: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    from_run: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    backbones: str | Sequence[str] | None = None,
    max_milliseconds: float | None = None,
    max_megabytes: float | None = None,
    weights: str | None = "pretrained",
    image_size: int | None = None,
    mode: str = "auto",
    unfreeze: str | int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    layer_decay: float | None = None,
    anchor: float | str | None = None,
    importance: str | None = None,
    old_photos: str | os.PathLike[str] | None = None,
    augment: str | None = None,
    class_weight: str | None = None,
    reject_unknown: bool = False,
    batch_size: int = 32,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    damaged: str = KEEP,
    resume: bool = True,
    distribute: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Run:
    """Trains a classifier on photographs and leaves everything in a run directory.

    What is left to the run ("auto") is chosen by measurements on training pictures, said, and kept
    in `run.json` with its reasons. What training will cost is said before it starts. Afterwards the
    probabilities are calibrated on validation pictures, see `calibrate`, and what was fine-tuned is
    held against the head alone by McNemar's test.

    The directory holds `model.keras`, `saved_model/`, `class_names.json`, `metrics.json`,
    `history.csv`, `report.html` and `run.json`. A directory that holds the same run, unfinished,
    is continued; the same run, finished, is returned as it is.

    Args:
        photos: A folder as `load_folder` takes it, or a CSV file as `load_manifest` does.
        out: The run directory; by default `runs/NAME-N` for pictures called NAME: an unfinished
            run with the same arguments, else a new one with the next number.
        from_run: A finished run to go on from: its model, on new pictures of the same classes.
        backbone: A name of `list_backbones()`; "mobilenet_v2" by default. "auto" compares
            `backbones` on the training pictures and takes the best of them, or the cheapest of
            those too close to it to call, see `compare_backbones` and `choose_backbone`.
        backbones: What `backbone="auto"` chooses among: "NAME", or "NAME=WEIGHTS_FILE", a list or
            one string with commas; `tlkit.advice.candidates.DEFAULT_BACKBONES` by default.
        max_milliseconds: With `backbone="auto"`: those that take longer for one image, decoding not
            included, are left out.
        max_megabytes: With `backbone="auto"`: those whose `.keras` file is larger, in 10⁶ bytes,
            are left out.
        weights: See `build_classifier`: "pretrained", `None` for random ones, or a file.
        image_size: Side of the images in pixels; the backbone's own by default.
        mode: "head" (feature extraction), "fine-tune" (the head, then `unfreeze` too), or "auto":
            measures how near the pictures are to what the network knows, and does as `recommend`
            says, the anchor included. With "auto" and `unfreeze` it is "fine-tune"; where `epochs`,
            `learning_rate`, `layer_decay` or `anchor` is named, the head alone is not chosen.
        unfreeze: See `fine_tune`.
        epochs: See `fine_tune`; the head alone is solved and has none.
        learning_rate: See `fine_tune`.
        layer_decay: See `fine_tune`.
        anchor: With `from_run`: how strongly the weights are held near those of that run, a number
            or "auto", see `choose_anchor`.
        importance: With `anchor`: a method of `estimate_importance` that tells weights apart.
        old_photos: With `from_run`: pictures of what that run learned, to measure what is
            forgotten and to estimate importance; those it was trained on by default, where they
            still are.
        augment: See `fine_tune`; with mode="head", the features of four augmented versions of each
            training image are stored.
        class_weight: "balanced" or `None`.
        reject_unknown: Whether the SavedModel shall also say which pictures are none of the
            classes, see `fit_rejection`; takes 19 validation pictures.
        batch_size: Images per step.
        seed: Of the split, the initial weights, orders and augmentation; 0 to 2**32 - 1.
        max_pixels: Pictures with more pixels are left out.
        damaged: "keep" or "skip", see `load_folder`.
        resume: Whether a directory that exists may be continued.
        distribute: "auto", "mirrored" or "multi-worker", see `distribution_strategy`; one device by
            default. Several machines make the same call; the chief alone writes, and may continue
            with others what was begun without.
        say: Is told, in words, what is done.

    Returns:
        The finished run; on every worker, though its files are with the chief.

    Raises:
        ArgumentError: An argument breaks its rule.
        DataError: The pictures cannot be used.
        WeightsError: The weights cannot be had, or do not fit.
        RunError: `out` cannot be continued, or `from_run` cannot be gone on from.

    Example:
        >>> import tlkit
        >>> run = tlkit.train_run("photos", out="run", backbone="resnet50")  # doctest: +SKIP
        >>> tlkit.predict(run.load_model(), "new.jpg", run.class_names)      # doctest: +SKIP
    """
    arguments = checked(dict(locals()))
    place = _place(photos, out, arguments, resume, distribute)
    check_apart(place, arguments["photos"])
    team = Team(distribute)
    tell = team.chiefs(say)
    finished = team.told(state_of(place, arguments, resume) if team.is_chief else None)
    if finished is not None:
        tell(left_as_it_is(place), "")
        return finished
    parent = load_run(from_run, "from_run") if from_run is not None else None
    with phase("listing files"):
        listing = list_pictures(photos, argument="photos")
    if out is None:
        tell(chosen_place(place))
    with phases(phases_of(arguments)):
        return _made(arguments, listing, place, team, parent=parent, say=tell)


def _made(
    arguments: dict[str, Any],
    listing: Listing,
    out: Path,
    team: Team,
    *,
    parent: Run | None,
    say: Teller,
) -> Run:
    """Makes the run, or continues it, once its arguments are checked and its files are found."""
    load_tensorflow_quietly()
    check_building()
    clock = Clock()
    with clock.timed("data"):
        data = load_listing(
            listing,
            _settings(arguments, parent),
            class_names=parent.class_names if parent else None,
            max_pixels=arguments["max_pixels"],
            cache=None,
        )
    if parent:
        data = _without_seen(data, parent)
    old = None
    if parent:
        with clock.timed("old photographs"):
            old = _old_task(arguments, parent, data, say)
    say(str(data.report), data.report.headlines)
    record = record_of(arguments, data)
    if team.is_chief:
        refuse_other_pictures(out, record)
    record["choices"] = team.agreed(lambda: choices_of(out))
    if arguments["reject_unknown"]:
        check_can_reject(data)
    elif parent and (parent.path / REJECTION_FILE).is_file():
        say(
            f"{parent.path} says which pictures are none of its classes, and this run will not: "
            "--reject-unknown lets it say so too"
        )
    with ExitStack() as held:
        with lost_pictures_named((data.train, data.validation, data.test)):
            shared: dict[str, Any] = {"parent": parent, "clock": clock, "say": say}
            data, model = _starting_point(record, data, team, **shared)
            plan(phases_of(arguments, settled_arguments(record)))
            if team.is_chief:
                out.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(out))
                keep_log(out / LOG_FILE)
                clock.go_on_from(seconds_of(out), lambda: write_record(out, record, clock))
                write_record(out, record, clock)
                clear_results(out)
            work = _worked(model, data, record, out, team, old=old, **shared)
        if work is None:
            return team.end(None)
        record["seconds"] = clock.as_dict()
        training, evaluations = work.training, work.evaluations
        with phase(REPORT):
            write_results(out, data, training, evaluations, parent=parent, **work.found)
            write_card(out, data, record)
            write_page(out, data, training, evaluations, record=record, **work.shown, **work.found)
        write_json(out / "run.json", {**record, "finished": True})
        (out / CHECKPOINT_FILE).unlink(missing_ok=True)
        return team.end(load_run(out))


def check_run(
    photos: str | os.PathLike[str], *, out: str | os.PathLike[str], **others: Any
) -> None:
    """Raises what `train_run` with these arguments would raise before it looks at `photos`.

    For whoever makes the photographs first.

    Raises:
        ArgumentError: An argument breaks its rule.
        RunError: `out` cannot be continued or written to.
    """
    bound = inspect.signature(train_run).bind(photos, out=out, **others)
    bound.apply_defaults()
    resume = bound.arguments["resume"]
    check_apart(Path(out), photos)
    state_of(Path(out), checked(dict(bound.arguments)), resume)


def _place(
    photos: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    arguments: dict[str, Any],
    resume: bool,
    distribute: str | None,
) -> Path:
    """The run directory that was named, or the default one."""
    if out is not None:
        return Path(out)
    if distribute is not None and "TF_CONFIG" in os.environ:
        raise ArgumentError(
            "`out` must be given where several machines make one run. Received: out=None. Name "
            "the same folder on each of them."
        )
    return default_out(photos, arguments, resume)


def _settings(arguments: dict[str, Any], parent: Run | None) -> Settings:
    image_size = parent.image_size if parent else first_image_size(arguments)
    return check_settings(
        image_size,
        arguments["batch_size"],
        SPLITS,
        arguments["seed"],
        damaged=arguments.get("damaged", KEEP),
    )


def _starting_point(
    record: dict[str, Any],
    data: ImageData,
    team: Team,
    *,
    parent: Run | None,
    clock: Clock,
    say: Callable[[str], None],
) -> "tuple[ImageData, keras.Model]":
    """Returns the pictures in the model's size and the model; writes choices into `record`.

    The model is on one device, and choices are the chief's.
    """
    arguments, choices = record["arguments"], record["choices"]
    if arguments["backbone"] == AUTO:
        with clock.timed("choosing the backbone"):
            choices["backbone"] = team.agreed(
                lambda: backbone_choice(arguments, data, choices, say)
            )
        data = data.at_size((settled_arguments(record)["image_size"],) * 2)
        record["image_size"] = list(data.image_size)
    with clock.timed("model"):
        model = _model(settled_arguments(record), parent, data)
    if arguments["mode"] == AUTO:
        with clock.timed("choosing what trains"):
            choices["mode"] = team.agreed(
                lambda: mode_choice(settled_arguments(record), model, data, choices, say)
            )
    return data, model


def _worked(
    model: "keras.Model",
    data: ImageData,
    record: dict[str, Any],
    out: Path,
    team: Team,
    *,
    old: "OldTask | None",
    parent: Run | None,
    clock: Clock,
    say: Teller,
) -> _Work | None:
    """Says what it will cost, then trains, calibrates, measures and exports the model.

    All workers train; what comes then is the chief's, and `None` elsewhere.
    """
    settled = settled_arguments(record)
    if team.is_chief:
        with clock.timed("projecting the cost"):
            cost = planned_cost(model, data, settled)
        record["cost"] = cost.as_dict()
        say(f"before training:\n{cost}", cost.headline)
    plan = None
    if settled["anchor"] is not None:
        with clock.timed("planning the anchor"):
            plan = plan_anchor(model, data, record, out, team, old=old, say=say)
    if team.is_spread:
        with clock.timed("model"), team.scope():
            model = _model(settled, parent, data)
    with clock.timed("training"), team.scope():
        training, forgotten = train_model(
            model, data, record, out, old=old, plan=plan, at_epoch_end=clock.keep_now
        )
    say(str(training), "")
    if forgotten is not None:
        say(str(forgotten))
    if not team.is_chief:
        return None
    model = team.on_one_device(model)
    with clock.timed("calibration"):
        calibration = calibrate_on_validation(model, data)
    say(str(calibration), "")
    with clock.timed("evaluation"):
        evaluations = evaluate_splits(model, data)
    against_probe = None
    if settled["mode"] == "fine-tune":
        with clock.timed("comparison with a linear probe"):
            probe = _model(settled, parent, data)
            against_probe = compare_with_probe(probe, data, evaluations, settled)
    if against_probe is not None:
        say(f"a linear probe (the first) and what was fine-tuned (the second): {against_probe}", "")
    rejection = tested = None
    if settled["reject_unknown"]:
        with clock.timed("rejection of unknown pictures"):
            rejection, tested = fit_run_rejection(model, data, out)
        say(str(rejection), "")
        if tested is not None:
            say(f"of the test split, whose classes are known: {tested}", "")
    with clock.timed("export"):
        export_into(model, data, out, settled["max_pixels"], rejection=rejection)
    with clock.timed("explaining mistakes"):
        maps = maps_of(model, evaluations, settled["max_pixels"])
    augment = seen_as(settled)
    shown = {"maps": maps, "pictures": training_pictures(data, augment), "augment": augment}
    found = {
        "forgotten": forgotten,
        "calibration": calibration,
        "against_probe": against_probe,
        "rejection": None if rejection is None else (rejection, tested),
    }
    return _Work(training, evaluations, found, shown)


def _model(arguments: dict[str, Any], parent: Run | None, data: ImageData) -> "keras.Model":
    from tlkit.models.assembly import build_classifier
    from tlkit.models.groups import resolve_group

    if parent is not None:
        model = parent.load_model()
    else:
        model = build_classifier(
            arguments["backbone"],
            data.class_names,
            image_size=arguments["image_size"],
            weights=arguments["weights"],
            seed=arguments["seed"],
        )
    if arguments["unfreeze"] is not None:
        resolve_group(model, arguments["unfreeze"])
    return model


def _without_seen(data: ImageData, parent: Run) -> ImageData:
    """Keeps out of validation and test what an earlier run has seen: another seed splits anew."""
    seen = seen_by(parent)
    validation, test = (
        unseen(split, seen) if split is not None else None for split in (data.validation, data.test)
    )
    if validation is not None and not validation.num_images:
        raise DataError(
            "`photos` must hold pictures that the earlier run has not seen, to measure on. "
            f"Received: pictures whose whole validation split was seen by {str(parent.path)!r}. "
            "Add new pictures."
        )
    if test is not None and not test.num_images:
        test = None
    return dataclasses.replace(data, validation=validation, test=test)


def _old_task(
    arguments: dict[str, Any], parent: Run | None, data: ImageData, say: Callable[[str], None]
) -> "OldTask | None":
    """The pictures of what a run to go on from has learned, where they are.

    What this run trains on, or chooses by, is not among those that are measured.
    """
    from tlkit.continual.going_on import OldTask

    if parent is None:
        return None
    folder = arguments["old_photos"] or parent.record["arguments"]["photos"]
    is_given = arguments["old_photos"] is not None
    if not is_given and ("growth" in parent.record or not Path(folder).exists()):
        say(
            "Forgetting is not measured: the pictures of all old classes are not where the earlier "
            "run found them. Name their folder (--old-photos DIR)."
        )
        return None
    try:
        old = load_listing(
            list_pictures(folder, argument="old_photos"),
            check_settings(
                parent.image_size,
                arguments["batch_size"],
                SPLITS,
                parent.record["seed"],
                damaged=arguments.get("damaged", KEEP),
            ),
            class_names=parent.class_names,
            max_pixels=arguments["max_pixels"],
            cache=None,
        )
    except DataError as error:
        if is_given:
            raise
        say(
            "Forgetting is not measured: where the earlier run found its pictures there are others "
            f"now. Name their folder (--old-photos DIR). {error}"
        )
        return None
    trained = frozenset(data.train.digests)
    chosen = frozenset(data.validation.digests if data.validation is not None else ())
    decided = unseen(old.validation, trained) if old.validation is not None else None
    if decided is not None and not decided.num_images:
        decided = None
    seen = seen_by(parent) | trained | chosen
    for split in (old.test, old.validation):
        measured = unseen(split, seen) if split is not None else None
        if measured is not None and measured.num_images:
            decided_on = None if split is old.validation else decided
            return OldTask(old.train, decided_on, measured)
    say(
        "Forgetting is not measured: the earlier run or this one trains on every old picture that "
        "is held out, or decides on it. Name others (--old-photos DIR)."
    )
    return OldTask(old.train, decided, None)
