"""A run: from a folder of images to a run directory, in one call.

Bad input is found before the run directory is made; what it then holds appears file by file, each
whole or not at all, and `run.json` says last that the run is finished.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.data.folders import load_listing
from tlkit.data.images import ImageData
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.listing import Listing
from tlkit.data.manifests import list_images
from tlkit.data.missing_files import missing_files_named
from tlkit.data.settings import KEEP, check_settings
from tlkit.distribution.cluster import KINDS
from tlkit.errors import ArgumentError, check_choice
from tlkit.runs.choices import backbone_choice, first_image_size, mode_choice
from tlkit.runs.clock import Clock
from tlkit.runs.config import AUTO, SPLITS, RunConfig
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
    state_of,
)
from tlkit.runs.old_images import old_task, without_seen
from tlkit.runs.outputs import evaluate_splits, export_into, leave, maps_of, training_images
from tlkit.runs.phases import phases_of
from tlkit.runs.record import RunRecord, record_of
from tlkit.runs.results import RunResults
from tlkit.runs.steps import (
    calibrate_on_validation,
    check_can_reject,
    compare_with_probe,
    fit_run_rejection,
    plan_anchor,
    planned_cost,
    train_model,
    with_features,
)
from tlkit.runs.team import Team
from tlkit.utils.keras_settings import check_building
from tlkit.utils.progress import phase, phases, plan
from tlkit.utils.renamed import renamed_argument
from tlkit.utils.tensorflow_logging import load_tensorflow_quietly

if TYPE_CHECKING:
    import keras

    from tlkit.continual.warm_start import AnchorPlan, ForgettingReport, OldTask
    from tlkit.training.reports import TrainingReport


@renamed_argument("say", "log")
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
    log: Callable[[str], None] | None = None,
) -> Run:
    """Trains a classifier on images and leaves everything in a run directory.

    What is left to the run ("auto") is chosen by measurements on training images, said, and kept
    in `run.json` with its reasons. What training will cost is said before it starts. Afterwards the
    probabilities are calibrated on validation images, see `calibrate`, and what was fine-tuned is
    held against the head alone by McNemar's test.

    The directory holds `model.keras`, `saved_model/`, `class_names.json`, `metrics.json`,
    `history.csv`, `report.html` and `run.json`. A directory that holds the same run, unfinished,
    is continued; the same run, finished, is returned as it is.

    Args:
        photos: A folder as `load_folder` takes it, or a CSV file as `load_manifest` does.
        out: The run directory; by default `runs/NAME-N` for images called NAME: an unfinished
            run with the same arguments, else a new one with the next number.
        from_run: A finished run to go on from: its model, on new images of the same classes.
        backbone: A name of `list_backbones()`; "mobilenet_v2" by default. "auto" compares
            `backbones` on the training images and takes the best of them, or the cheapest of
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
            measures how near the images are to what the network knows, and does as `recommend`
            says, the anchor included. With "auto" and `unfreeze` it is "fine-tune"; where `epochs`,
            `learning_rate`, `layer_decay` or `anchor` is named, the head alone is not chosen.
        unfreeze: See `fine_tune`.
        epochs: See `fine_tune`; the head alone is solved and has none.
        learning_rate: See `fine_tune`.
        layer_decay: See `fine_tune`.
        anchor: With `from_run`: how strongly the weights are held near those of that run, a number
            or "auto", see `choose_anchor`.
        importance: With `anchor`: a method of `estimate_importance` that tells weights apart.
        old_photos: With `from_run`: images of what that run learned, to measure what is
            forgotten and to estimate importance; those it was trained on by default, where they
            still are.
        augment: See `fine_tune`; with mode="head", the features of four augmented versions of each
            training image are stored.
        class_weight: "balanced" or `None`.
        reject_unknown: Whether the SavedModel shall also say which images are none of the
            classes, see `fit_rejection`; takes 19 validation images.
        batch_size: Images per step.
        seed: Of the split, the initial weights, orders and augmentation; 0 to 2**32 - 1.
        max_pixels: Images with more pixels are left out.
        damaged: "keep" or "skip", see `load_folder`.
        resume: Whether a directory that exists may be continued.
        distribute: "auto", "mirrored" or "multi-worker", see `distribution_strategy`; one device by
            default. Several machines make the same call; the chief alone writes, and may continue
            with others what was begun without.
        log: Is told, in words, what is done.

    Returns:
        The finished run; on every worker, though its files are with the chief.

    Raises:
        ArgumentError: An argument breaks its rule.
        DataError: The images cannot be used.
        WeightsError: The weights cannot be had, or do not fit.
        RunError: `out` cannot be continued, or `from_run` cannot be gone on from.

    Example:
        >>> import tlkit
        >>> run = tlkit.train_run("photos", out="run", backbone="resnet50")  # doctest: +SKIP
        >>> tlkit.predict(run.load_model(), "new.jpg", run.class_names)      # doctest: +SKIP
    """
    config = RunConfig(
        photos=os.fspath(photos),
        from_run=None if from_run is None else os.fspath(from_run),
        backbone=backbone,
        backbones=backbones,
        max_milliseconds=max_milliseconds,
        max_megabytes=max_megabytes,
        weights=weights,
        image_size=image_size,
        mode=mode,
        unfreeze=unfreeze,
        epochs=epochs,
        learning_rate=learning_rate,
        layer_decay=layer_decay,
        anchor=anchor,
        importance=importance,
        old_photos=None if old_photos is None else os.fspath(old_photos),
        augment=augment,
        class_weight=class_weight,
        reject_unknown=reject_unknown,
        batch_size=batch_size,
        seed=seed,
        max_pixels=max_pixels,
        damaged=damaged,
    )
    return make_run(config, out=out, resume=resume, distribute=distribute, log=log)


def make_run(
    config: RunConfig,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = True,
    distribute: str | None = None,
    log: Callable[[str], None] | None = None,
) -> Run:
    """Makes the run of a config, or continues it; all as `train_run` says.

    Args:
        config: What makes the run what it is.
        out: See `train_run`.
        resume: See `train_run`.
        distribute: See `train_run`.
        log: See `train_run`.

    Example:
        >>> from tlkit.runs.config import RunConfig
        >>> from tlkit.runs.train import make_run
        >>> run = make_run(RunConfig(photos="photos", mode="head"), out="run")  # doctest: +SKIP
    """
    if distribute is not None:
        check_choice("distribute", distribute, KINDS)
    photos = config.spelled("photos")
    place = _place(config, out, resume, distribute)
    check_apart(place, photos)
    team = Team(distribute)
    log = team.chief_log(log)
    finished = team.broadcast_run(state_of(place, config, resume) if team.is_chief else None)
    if finished is not None:
        log(left_as_it_is(place), "")
        return finished
    parent = None
    if config.from_run is not None:
        parent = load_run(config.spelled("from_run"), "from_run")
    with phase("listing files"):
        listing = list_images(photos, argument="photos")
    if out is None:
        log(chosen_place(place))
    with phases(phases_of(config)):
        return _made(config, listing, RunContext(place, team, parent, Clock(), log))


def check_run(config: RunConfig, out: str | os.PathLike[str]) -> None:
    """Raises what `make_run` with these arguments would raise before it looks at the images.

    For whoever makes the images first.

    Raises:
        RunError: `out` cannot be continued or written to.
    """
    check_apart(Path(out), config.spelled("photos"))
    state_of(Path(out), config, resume=True)


def _place(
    config: RunConfig,
    out: str | os.PathLike[str] | None,
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
    return default_out(config, resume)


def _made(config: RunConfig, listing: Listing, context: RunContext) -> Run:
    """Makes the run, or continues it, once its config is checked and its files are found."""
    load_tensorflow_quietly()
    check_building()
    team, parent = context.team, context.parent
    data = _load(config, listing, context)
    old = None
    if parent is not None:
        with context.timer.timed("old images"):
            old = old_task(config, context, data)
    context.log(str(data.report), data.report.headlines)
    record = record_of(config, data)
    if team.is_chief:
        check_same_images(context.out, record)
    record = dataclasses.replace(record, choices=context.chosen_before())
    if config.reject_unknown:
        check_can_reject(data)
    elif parent and (parent.path / REJECTION_FILE).is_file():
        context.log(
            f"{parent.path} says which images are none of its classes, and this run will not: "
            "--reject-unknown lets it say so too"
        )
    with ExitStack() as held:
        with missing_files_named((data.train, data.validation, data.test)):
            record, data, model = _starting_point(config, record, data, context)
            plan(phases_of(config, config.resolve(record.choices)))
            if team.is_chief:
                held.enter_context(context.taken(record))
            record, results = _worked(model, data, config, record, context, old=old)
        if results is None:
            return team.finished_run(None)
        return team.finished_run(leave(context, data, record, results))


def _load(config: RunConfig, listing: Listing, context: RunContext) -> ImageData:
    """The images; those that an earlier run has seen are in no split that measures."""
    parent = context.parent
    with context.timer.timed("data"):
        settings = check_settings(
            parent.image_size if parent else first_image_size(config),
            config.batch_size,
            SPLITS,
            config.seed,
            class_names=parent.class_names if parent else None,
            max_pixels=config.max_pixels,
            damaged=config.damaged,
        )
        data = load_listing(listing, settings)
    return without_seen(data, parent) if parent else data


def _starting_point(
    config: RunConfig, record: RunRecord, data: ImageData, context: RunContext
) -> "tuple[RunRecord, ImageData, keras.Model]":
    """Returns the record with what was chosen, the images in the model's size, and the model.

    The model is on one device, and choices are the chief's.
    """
    timer, log, kept = context.timer, context.log, record.choices
    resolved = config.resolve(kept)
    if config.backbone == AUTO:
        with timer.timed("choosing the backbone"):
            choice = context.broadcast(lambda: backbone_choice(config, data, kept, log))
        record = record.with_choice("backbone", choice)
        resolved = config.resolve(record.choices)
        data = data.at_size((first_image_size(resolved),) * 2)
        record = dataclasses.replace(record, image_size=data.image_size)
    with timer.timed("model"):
        model = _model(resolved, context.parent, data)
    if config.mode == AUTO:
        with timer.timed("choosing what trains"):
            choice = context.broadcast(lambda: mode_choice(resolved, model, data, kept, log))
        record = record.with_choice("mode", choice)
    return record, data, model


def _worked(
    model: "keras.Model",
    data: ImageData,
    config: RunConfig,
    record: RunRecord,
    context: RunContext,
    *,
    old: "OldTask | None",
) -> tuple[RunRecord, RunResults | None]:
    """Says what it will cost, then trains, calibrates, measures and exports the model.

    All workers train; what comes then is the chief's, and `None` elsewhere.
    """
    timer, team = context.timer, context.team
    resolved = config.resolve(record.choices)
    if team.is_chief:
        with timer.timed("projecting the cost"):
            cost = planned_cost(model, data, resolved)
        record = dataclasses.replace(record, cost=cost.as_dict())
        context.keep(record)
        context.log(f"before training:\n{cost}", cost.headline)
    anchor = None
    if resolved.anchor is not None:
        with timer.timed("planning the anchor"):
            decided = record.choices.get("anchor")
            anchor, chosen = plan_anchor(model, data, resolved, context, old=old, decided=decided)
            if chosen is not None:
                record = record.with_choice("anchor", chosen)
                context.keep(record)
    resolved = config.resolve(record.choices)
    model, training, forgotten = _trained(model, data, resolved, context, old=old, anchor=anchor)
    if not team.is_chief:
        return record, None
    return record, _measured(model, data, resolved, context, training=training, forgotten=forgotten)


def _trained(
    model: "keras.Model",
    data: ImageData,
    config: RunConfig,
    context: RunContext,
    *,
    old: "OldTask | None",
    anchor: "AnchorPlan | None",
) -> "tuple[keras.Model, TrainingReport, ForgettingReport | None]":
    """Trains on all devices; returns the model on one."""
    timer, team = context.timer, context.team
    if team.is_distributed:
        with timer.timed("model"), team.scope():
            model = _model(config, context.parent, data)
    with timer.timed("training"), team.scope():
        training, forgotten = train_model(
            model, data, config, context.out, old=old, plan=anchor, at_epoch_end=timer.keep_now
        )
    context.log(str(training), "")
    if forgotten is not None:
        context.log(str(forgotten))
    return team.on_one_device(model) if team.is_chief else model, training, forgotten


def _measured(
    model: "keras.Model",
    data: ImageData,
    config: RunConfig,
    context: RunContext,
    *,
    training: "TrainingReport",
    forgotten: "ForgettingReport | None",
) -> RunResults:
    """Calibrates, measures and exports what was trained."""
    timer, log = context.timer, context.log
    with timer.timed("calibration"):
        calibration = calibrate_on_validation(model, data)
    log(str(calibration), "")
    with timer.timed("evaluation"):
        evaluations = evaluate_splits(model, data)
    against_probe = None
    if config.mode == "fine-tune":
        with timer.timed("comparison with a linear probe"):
            probe = _model(config, context.parent, data)
            against_probe = compare_with_probe(probe, data, evaluations, config)
    if against_probe is not None:
        log(f"a linear probe (the first) and what was fine-tuned (the second): {against_probe}", "")
    rejection = None
    if config.reject_unknown:
        with timer.timed("rejection of unknown images"):
            rejection = fit_run_rejection(model, data, context.out)
        log(str(rejection.rejection), "")
        if rejection.tested is not None:
            log(f"of the test split, whose classes are known: {rejection.tested}", "")
    threshold = None if rejection is None else rejection.rejection
    with timer.timed("export"):
        export_into(model, data, context.out, config.max_pixels, rejection=threshold)
    with timer.timed("explaining mistakes"):
        maps = maps_of(model, evaluations, config.max_pixels)
    augmentation = with_features(config)
    return RunResults(
        training=training,
        evaluations=evaluations,
        calibration=calibration,
        against_probe=against_probe,
        rejection=rejection,
        forgotten=forgotten,
        maps=maps,
        images=training_images(data, augmentation),
        augmentation=augmentation,
    )


def _model(config: RunConfig, parent: Run | None, data: ImageData) -> "keras.Model":
    from tlkit.models.assembly import build_classifier
    from tlkit.models.groups import resolve_group

    if parent is not None:
        model = parent.load_model()
    elif config.backbone is not None:
        model = build_classifier(
            config.backbone,
            data.class_names,
            image_size=config.image_size,
            weights=config.weights,
            seed=config.seed,
        )
    else:
        raise RuntimeError("a config names neither a run nor a backbone")
    if config.unfreeze is not None:
        resolve_group(model, config.unfreeze)
    return model
