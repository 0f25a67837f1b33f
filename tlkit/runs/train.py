"""A training run: from a folder of images to a run directory, in one call.

Invalid input is refused before the run directory is made. Each file in it is written atomically;
`run.json` is marked as finished last.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.data.class_weighting import ClassWeightLike, weighting_of
from tlkit.data.folders import load_listing
from tlkit.data.folds import check_folds
from tlkit.data.images import ImageData
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.listing import Listing, classes_of
from tlkit.data.manifests import list_images
from tlkit.data.missing_files import missing_files_named
from tlkit.data.settings import KEEP, RGB, STRETCH, check_settings
from tlkit.distribution.cluster import KINDS
from tlkit.errors import ArgumentError, check_choice
from tlkit.runs.budget import (
    budget_choice,
    check_minutes,
    check_minutes_for_any,
    sizes_within_minutes,
)
from tlkit.runs.choices import (
    SizePlan,
    backbone_choice,
    image_size_choice,
    inference_size_choice,
    initial_image_size,
    mode_choice,
)
from tlkit.runs.clock import Clock
from tlkit.runs.config import AUTO, SPLITS, Choice, RunConfig
from tlkit.runs.context import RunContext
from tlkit.runs.cross_validation import cross_validate
from tlkit.runs.directory import (
    REJECTION_FILE,
    Run,
    check_outside_images,
    check_same_images,
    default_out,
    finished_message,
    load_if_finished,
    load_run,
    location_message,
)
from tlkit.runs.further_exports import export_further
from tlkit.runs.kept_statistics import (
    check_room,
    check_update,
    keep_statistics,
    statistics_to_update,
    updates_exactly,
)
from tlkit.runs.measuring import (
    Measured,
    build_model,
    choose_shipped,
    compare_with_head,
    export_measured,
    measure,
    solve_head,
)
from tlkit.runs.old_images import exclude_seen, load_old_task
from tlkit.runs.outputs import (
    explain_worst_mistakes,
    finish_run,
    sample_training_images,
    write_files,
)
from tlkit.runs.phases import (
    BUDGET,
    FOLDS,
    HEAD_ALONE,
    INFERENCE_SIZE,
    REFIT,
    STATISTICS,
    phases_of,
)
from tlkit.runs.record import RunRecord, record_of
from tlkit.runs.refit import refit
from tlkit.runs.results import RunResults
from tlkit.runs.several_labels import check_labels, has_several_labels
from tlkit.runs.steps import (
    Trained,
    at_inference_size,
    augmentation_of,
    check_can_reject,
    check_fine_tuning_of,
    measure_learning_curve,
    plan_anchor,
    project_cost,
    train_model,
)
from tlkit.runs.team import Team
from tlkit.runs.tracked import ARTIFACTS, metrics_of, settings_of
from tlkit.tracking.destinations import trackers_of
from tlkit.tracking.tensorboard import TensorBoardTracker
from tlkit.tracking.tracker import Tracker
from tlkit.tracking.tracking import Tracking
from tlkit.utils.keras_settings import check_building
from tlkit.utils.progress import phase, phases, plan
from tlkit.utils.renamed import renamed_argument
from tlkit.utils.tensorflow_logging import LOADING, load_tensorflow_quietly

if TYPE_CHECKING:
    import keras

    from tlkit.advice.cost import CostReport
    from tlkit.continual.warm_start import AnchorPlan, OldTask

_HEAD_ALONE, _TRAINED = "the head alone", "the trained model"
"""Names of the provisional results of a run."""


@renamed_argument("say", "log")
def train_run(
    photos: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    multi_label: bool = False,
    from_run: str | os.PathLike[str] | None = None,
    backbone: str | os.PathLike[str] | None = None,
    preprocessing: str | None = None,
    backbones: str | Sequence[str] | None = None,
    max_milliseconds: float | None = None,
    max_megabytes: float | None = None,
    weights: str | None = "pretrained",
    image_size: int | str | None = None,
    inference_size: int | str | None = None,
    resize: str | None = None,
    channels: int | None = None,
    mode: str = "auto",
    head: str | None = None,
    unfreeze: str | int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    layer_decay: float | None = None,
    views: int | None = None,
    train: str | None = None,
    adapters: str | None = None,
    anchor: float | str | None = None,
    importance: str | None = None,
    old_photos: str | os.PathLike[str] | None = None,
    augment: str | None = None,
    class_weight: ClassWeightLike = None,
    sampling: str | None = None,
    loss: str | None = None,
    threshold: float | str | None = None,
    tta: str = "none",
    minutes: float | None = None,
    folds: int | None = None,
    refit: bool = False,
    keep_statistics: bool | None = None,
    statistics_width: int | None = None,
    reject_unknown: bool = False,
    formats: str | Sequence[str] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    damaged: str = KEEP,
    decisions: str | os.PathLike[str] | None = None,
    resume: bool = True,
    distribute: str | None = None,
    trackers: str | Tracker | Sequence[str | Tracker] | None = None,
    log: Callable[[str], None] | None = None,
) -> Run:
    """Trains a classifier on images and writes all results to a run directory.

    What is left to the run ("auto") is chosen by measurements on training images; the choices are
    logged, and kept in `run.json` with their reasons. The projected cost is logged before training
    starts. After training, the probabilities are calibrated on validation images, see `calibrate`.

    A run that fine-tunes solves the head alone first, and writes it as a result that can be used
    while fine-tuning goes on. In the end the fine-tuned model replaces it, unless the head alone is
    better on validation images by more than one standard error; the two are compared on test images
    by McNemar's test. If the run is interrupted before, the head alone can still be used, and the
    same call resumes the run.

    The directory holds `model.keras`, `saved_model/`, `class_names.json`, `metrics.json`,
    `history.csv`, `report.html` and `run.json`. If it holds the same run unfinished, the run is
    resumed; if it holds the same run finished, that is returned unchanged.

    Args:
        photos: A folder, an archive or an address as for `load_folder`, or a CSV file as for
            `load_manifest`.
        out: The run directory; by default `runs/NAME-N` for images called NAME: an unfinished
            run with the same arguments, else a new one with the next number.
        multi_label: Whether an image may have several labels, for a CSV file: with a column of
            labels such as `sea|sun`, `|` for none of them, or with one column of 0 and 1 for each
            label, see `load_manifest`. With `from_run`, the earlier run decides it.
        from_run: A finished run whose model is trained further, on new images of the same classes:
            of all of them, unless mode="head" adds the images to the statistics of that run.
        backbone: A name of `list_backbones()`, or the path of a `.keras` file with a model of your
            own, see `build_classifier`; "mobilenet_v2" by default. "auto" compares
            `backbones` on the training images and takes the best of them, or the cheapest of
            those that are too close to it to call, see `compare_backbones` and `choose_backbone`.
        preprocessing: "tf", "torch", "caffe", "none" or "MEAN,DEVIATION" of the backbone, see
            `build_classifier`; needed for a file in which none is found.
        backbones: Candidates for `backbone="auto"`: "NAME" or "NAME=WEIGHTS_FILE", as a list or as
            one string with commas; `tlkit.advice.candidates.DEFAULT_BACKBONES` by default.
        max_milliseconds: With `backbone="auto"`: candidates that take longer for one image,
            decoding not included, are left out.
        max_megabytes: With `backbone="auto"`: candidates whose `.keras` file is larger, in
            10⁶ bytes, are left out.
        weights: See `build_classifier`: "pretrained", `None` for random weights, or a file.
        image_size: Height and width of the images in pixels; the backbone's default if not given.
            "auto" compares that with larger ones on the training images and takes a larger one if
            the head is better there by more than a standard error, see `choose_image_size`; this
            is the default with `minutes`, as far as there is time.
        inference_size: Height and width of the images that a fine-tuned model is used on, in the
            exported models and all figures, if not those of training, see `at_image_size`. "auto",
            also the default with image_size="auto" and with `minutes`, tries larger ones on
            validation images and takes one if the cross-entropy is lower there by more than a
            standard error, see `choose_inference_size`.
        resize: "stretch" (the default), "crop" or "pad", see `load_folder`; with `from_run` that
            of the earlier run. Whatever uses the run resizes in the same way.
        channels: 1 for grey images and a model of them, see `load_folder` and `build_classifier`; 3
            by default, or with `from_run` those of the earlier run.
        mode: "head" (feature extraction), "fine-tune" (the head, then also `unfreeze`), or "auto":
            measures how similar the images are to the pretraining data and follows `recommend`.
            With `unfreeze`, "auto" means "fine-tune"; with `epochs`, `learning_rate`,
            `layer_decay` or `anchor`, the head alone is not chosen; with `head`, it is.
        head: With mode="head": see `train_head`; "auto" by default.
        unfreeze: See `fine_tune`.
        epochs: See `fine_tune`; the head alone is solved without epochs.
        learning_rate: See `fine_tune`.
        layer_decay: See `fine_tune`.
        views: See `fine_tune`.
        train: See `fine_tune`.
        adapters: "lora" or "lora:RANK", see `fine_tune`.
        anchor: With `from_run`: strength of the anchor to that run's weights, a number or "auto",
            see `choose_anchor`.
        importance: With `anchor`: the method of `estimate_importance` by which the anchor weighs
            each weight.
        old_photos: With `from_run`: images of that run's classes, to measure forgetting and to
            estimate importance; by default the images that the run was trained on, if they still
            exist.
        augment: See `fine_tune`; with mode="head", the features of four augmented versions of each
            training image are stored.
        class_weight: How classes count in training, and in the choices of penalties, of what is
            kept and of the model that is exported: see `fine_tune`.
        sampling: "shuffled" or "balanced", see `fine_tune`. A head that is solved uses balanced
            weights in its place.
        loss: "cross-entropy", "focal" or "focal:GAMMA", see `fine_tune`; not with mode="head".
        threshold: With several labels: the probability from which each is assigned; by default
            ("auto") the one with the highest F1 on the calibrated probabilities of validation
            images, see `tlkit.evaluation.thresholds.choose_thresholds`. The run's thresholds are
            part of its exports, and used by whatever predicts with it.
        tta: Test-time views: "flip" for predictions that are the mean over an image and its mirror
            image, in the SavedModel and all figures, see `average_flips`; they take twice as long,
            and the gain on validation images is reported. `model.keras` holds the plain model.
        minutes: Time within which the run is to finish, planned by projections on this machine:
            backbones are compared for a fifth of it, unless one is given; larger images, unless a
            size is given, if the usual training on them fits; then the head is solved, and
            fine-tuning is as long as the rest allows. What is left out is reported.
        folds: Number of folds in which the whole recipe is made once more, so that each image of
            the three splits is predicted by a model that has not seen it: figures on all images
            where a test split is small. On one device only.
        refit: Whether the recipe is trained once more in the end, on all labelled images, those of
            validation and test included, and that model is exported. All figures are those of the
            model before; on one device only.
        keep_statistics: Whether `statistics.npz` is written: sums over the features of the training
            images, from which `add_classes_run` and `forget_run` solve a head exactly, and which a
            run with mode="head" that starts from this one adds its images to. By default they are
            kept if the exported head is in closed form. `False` also lets a run that starts from
            another one train the head on the new images alone.
        statistics_width: Number of random directions, the landmarks, of these sums; by default four
            for each training image, 500 to 2,000. The file takes 20 bytes times its square.
        reject_unknown: Whether the SavedModel also reports images that are none of the classes,
            see `fit_rejection`; needs 19 validation images.
        formats: Formats of `export_model` that the model is exported to as well, beside "keras" and
            "saved_model", into the run directory: as a list or as one string with commas.
            "litert_full_int8" is calibrated on training images, and its accuracy compared on test
            images. One that the model cannot be exported to is left out, and reported.
        batch_size: Images per step.
        seed: Seed of the split, the initial weights, the order of images and augmentation; 0 to
            2**32 - 1.
        max_pixels: Images with more pixels are left out.
        damaged: "keep" or "skip", see `load_folder`.
        decisions: CSV file of decisions about labels, see `load_folder`.
        resume: Whether a run in an existing directory may be resumed.
        distribute: "auto", "mirrored" or "multi-worker", see `distribution_strategy`; one device by
            default. Several machines make the same call; only the chief writes. A run that was
            started on one device may be resumed on several.
        trackers: Experiment trackers that the run is recorded with: one or several of
            "tensorboard:DIR", "mlflow:URI", "wandb:PROJECT" and objects of `Tracker`. They do not
            belong to the run: it may be resumed with others. Only the chief uses them. One that
            fails during the run is reported and left out.
        log: Gets messages about the progress.

    Returns:
        The finished run; on every worker, although only the chief has its files.

    Raises:
        ArgumentError: An argument is invalid.
        DataError: The images cannot be used.
        WeightsError: The weights are not available or do not fit.
        RunError: The run at `out` cannot be resumed, or `from_run` is not a complete run.

    Example:
        >>> import tlkit
        >>> run = tlkit.train_run("photos", out="run", backbone="resnet50")  # doctest: +SKIP
        >>> tlkit.predict(run.load_model(), "new.jpg", run.class_names)      # doctest: +SKIP
    """
    weighting = weighting_of(class_weight, sampling=sampling, loss=loss)
    class_text, sampling, loss = weighting.texts()
    # fmt: off
    config = RunConfig(
        photos=os.fspath(photos), multi_label=multi_label, threshold=threshold,
        from_run=None if from_run is None else os.fspath(from_run),
        old_photos=None if old_photos is None else os.fspath(old_photos),
        anchor=anchor, importance=importance,
        backbone=None if backbone is None else os.fspath(backbone),
        preprocessing=preprocessing, weights=weights, channels=channels,
        backbones=backbones, max_milliseconds=max_milliseconds, max_megabytes=max_megabytes,
        image_size=image_size, inference_size=inference_size, resize=resize,
        mode=mode, head=head, unfreeze=unfreeze, train=train, adapters=adapters,
        epochs=epochs, learning_rate=learning_rate, layer_decay=layer_decay, views=views,
        augment=augment, tta=tta, class_weight=class_text, sampling=sampling, loss=loss,
        minutes=minutes, folds=folds, refit=refit, reject_unknown=reject_unknown,
        keep_statistics=keep_statistics, statistics_width=statistics_width, formats=formats,
        batch_size=batch_size, seed=seed, max_pixels=max_pixels, damaged=damaged,
        decisions=None if decisions is None else os.fspath(decisions),
    )
    # fmt: on
    return make_run(
        config, out=out, resume=resume, distribute=distribute, trackers=trackers, log=log
    )


def make_run(
    config: RunConfig,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = True,
    distribute: str | None = None,
    trackers: str | Tracker | Sequence[str | Tracker] | None = None,
    log: Callable[[str], None] | None = None,
) -> Run:
    """Makes or resumes the run of a config; see `train_run`.

    Args:
        config: The config of the run.
        out: See `train_run`.
        resume: See `train_run`.
        distribute: See `train_run`.
        trackers: See `train_run`.
        log: See `train_run`.

    Example:
        >>> from tlkit.runs.config import RunConfig
        >>> from tlkit.runs.train import make_run
        >>> run = make_run(RunConfig(photos="photos", mode="head"), out="run")  # doctest: +SKIP
    """
    if distribute is not None:
        check_choice("distribute", distribute, KINDS)
        for name in ("refit", "folds", "minutes"):
            if value := getattr(config, name):
                raise ArgumentError(
                    f"`{name}` must be left out with `distribute`: it runs on one device. "
                    f"Received: {name}={value!r}, distribute={distribute!r}. Leave one of them out."
                )
    made = trackers_of(trackers)
    photos = config.path_as_given("photos")
    directory = _run_directory(config, out, resume, distribute)
    check_outside_images(directory, photos)
    for tracker in made:
        if isinstance(tracker, TensorBoardTracker):
            check_outside_images(tracker.folder, photos, "trackers")
    team = Team(distribute)
    log = team.chief_log(log)
    finished = team.broadcast_run(
        load_if_finished(directory, config, resume) if team.is_chief else None
    )
    if finished is not None:
        log(finished_message(directory), "")
        if made:
            log(f"{', '.join(map(str, made))}: nothing is tracked, as the run is already finished")
        return finished
    tracking = Tracking(made if team.is_chief else (), log)
    tracking.check()
    parent = None
    if config.from_run is not None:
        parent = load_run(config.path_as_given("from_run"), "from_run")
    is_multi_label = has_several_labels(config, parent)
    with phase("listing files"):
        listing = list_images(
            photos,
            argument="photos",
            class_names=parent.class_names if parent else (),
            multi_label=is_multi_label,
            decisions=config.path_as_given("decisions"),
        )
    classes = parent.class_names if parent is not None else classes_of(listing)
    config.weighting_for(classes)  # raises before any image is read
    if out is None:
        log(location_message(directory))
    with phases(phases_of(config)):
        context = RunContext(directory, team, parent, Clock(), log, tracking)
        return _make(config, listing, context)


def check_run(config: RunConfig, out: str | os.PathLike[str]) -> None:
    """Makes the checks of `make_run` that need no images, before the images are written.

    Raises:
        RunError: The run at `out` cannot be resumed, or `out` is not writable.
    """
    check_outside_images(Path(out), config.path_as_given("photos"))
    load_if_finished(Path(out), config, resume=True)


def _run_directory(
    config: RunConfig,
    out: str | os.PathLike[str] | None,
    resume: bool,
    distribute: str | None,
) -> Path:
    """Returns the given run directory, or the default one."""
    if out is not None:
        return Path(out)
    if distribute is not None and "TF_CONFIG" in os.environ:
        raise ArgumentError(
            "`out` must be given when several machines make one run. Received: out=None. Give "
            "the same folder on each of them."
        )
    return default_out(config, resume)


def _make(config: RunConfig, listing: Listing, context: RunContext) -> Run:
    """Makes or resumes the run after its config was checked and its files were listed."""
    started = time.perf_counter()
    load_tensorflow_quietly()
    context.clock.add_earlier({LOADING: time.perf_counter() - started})
    check_building()
    team, parent = context.team, context.parent
    data = _load(config, listing, context)
    old = None
    if parent is not None:
        with context.clock.timed("old images"):
            old = load_old_task(config, context, data)
    context.log(str(data.report), data.report.headlines)
    check_labels(data, config)
    record = record_of(config, data)
    if team.is_chief:
        check_same_images(context.out, record)
    record = dataclasses.replace(record, choices=context.previous_choices())
    record = context.with_provisional(record)
    if config.folds is not None:
        check_folds(data, config.folds)
    if config.reject_unknown:
        check_can_reject(data)
    elif parent and (parent.path / REJECTION_FILE).is_file():
        context.log(
            f"{parent.path} rejects unknown images, and this run will not. Add --reject-unknown to "
            "reject them here too."
        )
    with ExitStack() as stack:
        with missing_files_named((data.train, data.validation, data.test)):
            record, data, model = _choose_and_build(config, record, data, context)
            plan(phases_of(config, config.resolve(record.choices)))
            if team.is_chief:
                stack.enter_context(context.lock_directory(record))
                settings = settings_of(record, context.out)
                stack.enter_context(context.tracking.recording(context.out.name, settings))
            record, results = _train_and_measure(model, data, config, record, context, old=old)
        if results is None:
            return team.finished_run(None)
        run = finish_run(context, data, record, results)
        context.tracking.log_results(metrics_of(run), [run.path / name for name in ARTIFACTS])
        return team.finished_run(run)


def _load(config: RunConfig, listing: Listing, context: RunContext) -> ImageData:
    """Loads the images; those that an earlier run has seen are left out of validation and test."""
    parent = context.parent
    with context.clock.timed("data"):
        settings = check_settings(
            parent.image_size if parent else initial_image_size(config),
            config.batch_size,
            SPLITS,
            config.seed,
            class_names=parent.class_names if parent else None,
            max_pixels=config.max_pixels,
            damaged=config.damaged,
            resize=parent.resize if parent else config.resize or STRETCH,
            channels=parent.channels if parent else config.channels or RGB,
        )
        is_exact = updates_exactly(config, parent)
        data = load_listing(listing, dataclasses.replace(settings, may_lack_classes=is_exact))
    return exclude_seen(data, parent, needs_validation=not is_exact) if parent else data


def _choose_and_build(
    config: RunConfig, record: RunRecord, data: ImageData, context: RunContext
) -> "tuple[RunRecord, ImageData, keras.Model]":
    """Returns the record with the run's choices, the images at the model's size, and the model.

    The model is on one device; the chief makes the choices.
    """
    clock, log, previous = context.clock, context.log, record.choices
    resolved = config.resolve(previous)
    if config.backbone == AUTO:
        if config.minutes is not None and "backbone" not in previous:
            check_minutes_for_any(data, config, seconds=sum(clock.seconds.values()))
        with clock.timed("choosing the backbone"):
            choice = context.broadcast(lambda: backbone_choice(config, data, previous, log))
        record = record.with_choice("backbone", choice)
    resolved = config.resolve(record.choices)
    if config.chooses_image_size:
        with clock.timed("choosing the image size"):
            choice = context.broadcast(lambda: _choose_size(resolved, data, previous, context))
        record = record.with_choice("image_size", choice)
        resolved = config.resolve(record.choices)
    if config.backbone == AUTO or config.chooses_image_size:
        data = data.at_size((initial_image_size(resolved),) * 2)
        if not record.provisional:
            record = dataclasses.replace(record, image_size=data.image_size)
    with clock.timed("model"):
        model = build_model(resolved, context.parent, data)
    if config.mode == AUTO:
        with clock.timed("choosing what trains"):
            choice = context.broadcast(lambda: mode_choice(resolved, model, data, previous, log))
        record = record.with_choice("mode", choice)
    resolved = config.resolve(record.choices)
    if resolved.mode == "fine-tune":
        at_inference_size(model, data, resolved)  # raises before training if that is not possible
        check_fine_tuning_of(model, data, resolved)
    check_update(resolved, context, model)
    if config.minutes is not None:
        check_minutes(model, data, resolved, seconds=sum(clock.seconds.values()))
    return record, data, model


def _choose_size(
    config: RunConfig, data: ImageData, previous: Mapping[str, Choice], context: RunContext
) -> Choice:
    """Chooses the image size for training, among those that the run's minutes allow."""
    from tlkit.advice.choosing import candidate_sizes

    own = initial_image_size(config)

    def plan_sizes() -> SizePlan:
        if config.weights is None:
            return SizePlan((own,), ("larger images, as random features do not compare sizes",))
        if config.minutes is None:
            return SizePlan(candidate_sizes(own))
        own_data = data.at_size((own, own))
        seconds = sum(context.clock.seconds.values())
        model = build_model(config, None, own_data)
        return sizes_within_minutes(model, own_data, config, seconds=seconds)

    return image_size_choice(config, data, previous, context.log, plan_sizes=plan_sizes)


def _train_and_measure(
    model: "keras.Model",
    data: ImageData,
    config: RunConfig,
    record: RunRecord,
    context: RunContext,
    *,
    old: "OldTask | None",
) -> tuple[RunRecord, RunResults | None]:
    """Projects the cost, then trains, calibrates, evaluates and exports the model.

    All workers train; the results are `None` except on the chief, which does the rest.
    """
    clock, team = context.clock, context.team
    resolved = config.resolve(record.choices)
    if team.is_chief:
        with clock.timed("projecting the cost"):
            cost = project_cost(model, data, resolved)
        record = dataclasses.replace(record, cost=cost.as_dict())
        context.save_record(record)
        context.log(f"projected cost:\n{cost}", cost.headline)
        check_room(model, data, resolved, context)
    head = None
    if resolved.mode == "fine-tune" and team.is_chief:
        with clock.timed(HEAD_ALONE):
            untrained = build_model(resolved, context.parent, data)
            head = solve_head(untrained, data, resolved, context.log)
            if context.parent is None and not record.provisional:
                record = _write_provisional(
                    head, _HEAD_ALONE, data, resolved, record, context=context
                )
        if config.minutes is not None:
            with clock.timed(BUDGET):
                record = _plan_minutes(model, data, resolved, record, context, cost=cost)
            resolved = config.resolve(record.choices)
        if resolved.mode == "head":  # the minutes allow no more
            return _choose_and_export(head, data, resolved, record, context, head=None, anchor=None)
    anchor = None
    if resolved.anchor is not None:
        with clock.timed("planning the anchor"):
            previous = record.choices.get("anchor")
            anchor, choice = plan_anchor(model, data, resolved, context, old=old, previous=previous)
            if choice is not None:
                record = record.with_choice("anchor", choice)
                context.save_record(record)
    resolved = config.resolve(record.choices)
    trained = _train(model, data, resolved, context, old=old, anchor=anchor)
    if not team.is_chief:
        return record, None
    if resolved.mode == "fine-tune" and config.chooses_inference_size:
        with clock.timed(INFERENCE_SIZE):
            choice = inference_size_choice(
                resolved, trained.model, data, record.choices, context.log
            )
        record = record.with_choice("inference_size", choice)
        context.save_record(record)
        resolved = config.resolve(record.choices)
    with clock.timed("evaluation"):
        model, used = at_inference_size(trained.model, data, resolved)
        trained = dataclasses.replace(trained, model=model)
        measured = measure(trained, used, resolved, context.log)
    record, results = _choose_and_export(
        measured, data, resolved, record, context, head=head, anchor=anchor
    )
    return record, dataclasses.replace(results, forgotten=trained.forgotten)


def _plan_minutes(
    model: "keras.Model",
    data: ImageData,
    config: RunConfig,
    record: RunRecord,
    context: RunContext,
    *,
    cost: "CostReport",
) -> RunRecord:
    """Returns the record with the choice of what fits into the run's minutes."""
    choice = record.choices.get("budget")
    if choice is None:
        seconds = sum(context.clock.seconds.values())
        choice = budget_choice(
            model,
            data,
            config,
            cost,
            seconds=seconds,
        )
        record = record.with_choice("budget", choice)
        context.save_record(record)
    context.log("\n  ".join(choice.reasons))
    return record


def _train(
    model: "keras.Model",
    data: ImageData,
    config: RunConfig,
    context: RunContext,
    *,
    old: "OldTask | None",
    anchor: "AnchorPlan | None",
) -> Trained:
    """Trains on all devices and returns the model on one."""
    clock, team = context.clock, context.team
    statistics = statistics_to_update(config, context.parent, model)
    if team.is_distributed:
        with clock.timed("model"), team.scope():
            model = build_model(config, context.parent, data)
    with clock.timed("training"), team.scope():
        trained = train_model(
            model,
            data,
            config,
            context.out,
            old=old,
            plan=anchor,
            statistics=statistics,
            at_epoch_end=context.at_epoch_end("fine-tune"),
        )
    for stage in trained.training.stages:
        context.tracking.log_epochs(stage.name, stage.history)
    context.log(str(trained.training), "")
    if trained.forgotten is not None:
        context.log(str(trained.forgotten))
    if not team.is_chief:
        return trained
    return dataclasses.replace(trained, model=team.on_one_device(trained.model))


def _write_provisional(
    measured: Measured,
    name: str,
    data: ImageData,
    config: RunConfig,
    record: RunRecord,
    *,
    context: RunContext,
) -> RunRecord:
    """Writes a model as a result that can be used so far; returns the record that says so."""
    final = _with_result(record, measured)
    results = export_measured(
        measured, config, context, before_replacing=lambda: context.save_record(final)
    )
    record = dataclasses.replace(final, provisional=name)
    write_files(context, data, record, results)
    context.save_record(record)
    validation = measured.evaluations["validation"]
    accuracy = "" if validation is None else f" (validation {validation.summary})"
    context.log(f"{context.out} holds {name}, which can be used now{accuracy}")
    return record


def _with_result(record: RunRecord, measured: Measured) -> RunRecord:
    """Returns the record of a run that exports a model."""
    return dataclasses.replace(
        record,
        provisional="",
        image_size=measured.data.image_size,
        thresholds=measured.thresholds,
    )


def _choose_and_export(
    trained: Measured,
    data: ImageData,
    config: RunConfig,
    record: RunRecord,
    context: RunContext,
    *,
    head: Measured | None,
    anchor: "AnchorPlan | None",
) -> tuple[RunRecord, RunResults]:
    """Exports the trained model, or the head alone if that is the better one.

    A run that starts from another one always exports the model that it has trained further.

    Args:
        trained: The trained model at the size at which it is used.
        data: The images at the size of training.
        config: The config with the run's choices.
        record: The record of the run.
        context: The context of the run.
        head: The head alone; `None` if the trained model is that.
        anchor: The anchor of the training; `None` if there is none.

    Returns:
        The record with the size of the exported model's images, and the results.
    """
    shipped, against_head, chosen, refitted = None, None, trained, None
    if head is not None:
        weighting = config.weighting_for(data.class_names)
        against_head = compare_with_head(head, trained, weighting)
        if against_head is not None:
            context.log(f"head alone (first) and fine-tuned model (second): {against_head}", "")
        if context.parent is None:
            shipped = choose_shipped(head, trained, weighting)
            context.log(f"exported is {shipped}")
            chosen = head if shipped.is_head else trained
    with context.clock.timed("learning curve"):
        curve = measure_learning_curve((head or trained).model, data, config)
    context.log(str(curve), "")
    with context.clock.timed("explaining mistakes"):
        maps = explain_worst_mistakes(
            chosen.model, chosen.evaluations, config.max_pixels, data.resize
        )
    further = config.refit or config.folds is not None
    if further and record.provisional != _TRAINED:
        record = _write_provisional(chosen, _TRAINED, data, config, record, context=context)
    cross_validation = None
    if config.folds is not None:
        with context.clock.timed(FOLDS):
            cross_validation = cross_validate(data, config, context, anchor=anchor)
        context.log(f"{config.folds}-fold cross-validation: {cross_validation.summary}")
    if config.refit:
        with context.clock.timed(REFIT):
            chosen, refitted = refit(chosen, data, config, context, anchor=anchor)
        context.log(str(refitted))
    augmentation = augmentation_of(config)
    images = sample_training_images(data, augmentation)
    final = _with_result(record, chosen)
    with context.clock.timed("export"):
        results = export_measured(
            chosen, config, context, before_replacing=lambda: context.save_record(final)
        )
        exports = export_further(chosen, config, context)
    with context.clock.timed(STATISTICS):
        learned = data.merged() if config.refit else data
        used = learned.at_size(chosen.data.image_size).train
        keep_statistics(chosen, used, config, context)
    return final, dataclasses.replace(
        results,
        training=trained.training,
        shipped=shipped,
        against_probe=against_head,
        learning_curve=curve,
        cross_validation=cross_validation,
        refit=refitted,
        maps=maps,
        images=images,
        augmentation=augmentation,
        exports=exports,
    )
