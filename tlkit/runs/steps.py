"""The steps of a run: projected cost, training, calibration, and test-time views."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import ArgumentError, DataError
from tlkit.models.test_time_views import NONE
from tlkit.runs.choices import anchor_choice
from tlkit.runs.config import AUTO, Choice, RunConfig
from tlkit.runs.context import RunContext
from tlkit.runs.directory import REJECTION_FILE, Run
from tlkit.runs.results import CalibrationDecision, FittedRejection, TestTimeViews

if TYPE_CHECKING:
    import keras

    from tlkit.advice.cost import CostReport
    from tlkit.advice.learning_curve import LearningCurveReport
    from tlkit.continual.head_statistics import HeadStatistics
    from tlkit.continual.warm_start import AnchorPlan, ForgettingReport, OldTask
    from tlkit.evaluation.rejection import Rejection
    from tlkit.training.reports import TrainingReport

NUM_VIEWS = 4
"""Augmented versions of each training image on which the head alone is solved."""

_OF_BOTH = ("epochs", "learning_rate", "augment", "seed")
_OF_FINE_TUNING = ("unfreeze", "layer_decay", "views", "train", "adapters")


@dataclass(frozen=True, eq=False)
class Trained:
    """A model after training.

    Attributes:
        model: The model.
        training: The report of the training.
        forgotten: Forgetting of an earlier task; `None` if there is none.
        statistics: The statistics that its head was solved from; `None` if it was trained
            otherwise.
    """

    model: "keras.Model"
    training: "TrainingReport"
    forgotten: "ForgettingReport | None" = None
    statistics: "HeadStatistics | None" = None


def project_cost(model: "keras.Model", data: ImageData, config: RunConfig) -> "CostReport":
    """Projects the cost of training from measurements on this machine.

    Args:
        model: The model before training; it is left unchanged.
        data: The images at the model's size.
        config: The config with the run's choices.
    """
    from tlkit.advice.cost import estimate_cost

    augment = config.given_values("augment")
    if config.mode == "head":
        views = _num_views(config)
        return estimate_cost(model, data, unfreeze="head", views=views, **augment)
    return estimate_cost(
        model,
        data,
        unfreeze=config.unfreeze,
        epochs=config.epochs,
        views=config.views,
        **augment,
        **config.given_values("train", "adapters"),
    )


def plan_anchor(
    model: "keras.Model",
    data: ImageData,
    config: RunConfig,
    context: RunContext,
    *,
    old: "OldTask | None",
    previous: Choice | None = None,
) -> "tuple[AnchorPlan, Choice | None]":
    """Returns the anchor for training, and the choice of its strength if the run made one.

    Importance and strength are computed by the chief, on one device.

    Args:
        model: The model before training, on one device; it is left unchanged.
        data: The images at the model's size.
        config: The config with the choices so far; its `anchor` is a number, or "auto" if the
            strength is still to be chosen.
        context: The context of the run.
        old: The task of the earlier run, if there is one.
        previous: The choice of the strength in an interrupted attempt at this run.
    """
    from tlkit.continual.warm_start import AnchorPlan, estimate_old_importance

    method, importance = config.importance, {}
    if method is not None:
        importance = context.team.broadcast_arrays(
            lambda: estimate_old_importance(model, data, method, old)
        )
    if config.anchor == AUTO:
        previous = context.broadcast(lambda: anchor_choice(config, model, data, importance, old))
        context.log("strength of the anchor:\n  " + "\n  ".join(previous.reasons))
        config = config.resolve({"anchor": previous})
    if config.anchor is None:
        raise RuntimeError("the run has no anchor to plan")
    trials = () if previous is None else tuple(previous.reasons)
    return AnchorPlan(float(config.anchor), method, importance, trials), previous


def train_model(
    model: "keras.Model",
    data: ImageData,
    config: RunConfig,
    out: Path,
    *,
    old: "OldTask | None",
    plan: "AnchorPlan | None",
    statistics: "HeadStatistics | None" = None,
    kept_fraction: float | None = None,
    at_epoch_end: Callable[[int, Mapping[str, float]], None] = lambda epoch, figures: None,
) -> Trained:
    """Trains the model according to the config and measures forgetting.

    Args:
        model: The model; changed in place, unless its head is solved from statistics.
        data: The images at the model's size.
        config: The config with the run's choices.
        out: The run directory, from which training is resumed.
        old: The task of the earlier run, if there is one.
        plan: The anchor, see `plan_anchor`; `None` for training without one.
        statistics: Statistics of the model's head, to which the images are added; `None` to train
            it otherwise.
        kept_fraction: See `fine_tune`.
        at_epoch_end: Called at the end of each epoch with its number, from 1 on, and its figures:
            those of Keras, and "learning_rate".
    """
    from tlkit.continual.warm_start import measure_old_task, report_forgetting
    from tlkit.training.epoch_end import EpochEnd
    from tlkit.training.fine_tuning import fine_tune
    from tlkit.training.head import train_head

    before = measure_old_task(model, old)
    if statistics is not None:
        updated = _update_head(model, data, config, statistics)
        return replace(updated, forgotten=report_forgetting(updated.model, old, before))
    if config.mode == "head":
        arguments = config.training_values(data.class_names, *_OF_BOTH, "head")
        report = train_head(model, data, views=_num_views(config), **arguments)
        return Trained(model, report, report_forgetting(model, old, before))
    anchor = plan.anchor(model) if plan is not None else None
    report = fine_tune(
        model,
        data,
        run_directory=out,
        anchor=anchor,
        kept_fraction=kept_fraction,
        callbacks=[EpochEnd(at_epoch_end)],
        **config.training_values(data.class_names, *_OF_BOTH, *_OF_FINE_TUNING),
    )
    return Trained(model, report, report_forgetting(model, old, before, plan))


def check_fine_tuning_of(model: "keras.Model", data: ImageData, config: RunConfig) -> None:
    """Makes the checks of a fine-tuning that need the model, before the run is written.

    Raises:
        ArgumentError: See `fine_tune`.
    """
    from tlkit.training.fine_tuning import check_fine_tuning

    arguments = config.training_values(data.class_names, *_OF_BOTH, *_OF_FINE_TUNING)
    check_fine_tuning(model, data, **arguments)


def _update_head(
    model: "keras.Model", data: ImageData, config: RunConfig, statistics: "HeadStatistics"
) -> Trained:
    """Adds the training images to statistics of the head, and solves it for all images."""
    from tlkit.continual.exact import train_exact_head
    from tlkit.evaluation.metrics import evaluate
    from tlkit.training.reports import TrainingReport

    names, validation = data.class_names, data.validation
    updated = train_exact_head(
        model,
        statistics,
        data.train,
        names,
        class_weight=config.weighting_for(data.class_names),
        fits_temperature=len({*data.train.labels.tolist()}) == len(names),
    )
    before, after = (
        None if validation is None else evaluate(one, validation, names).accuracy
        for one in (model, updated.model)
    )
    report = TrainingReport(
        stages=(updated.stage,),
        accuracy_before=before,
        accuracy_after=after,
        num_validation=0 if validation is None else validation.num_images,
    )
    return Trained(updated.model, report, statistics=updated.statistics)


def at_inference_size(
    model: "keras.Model", data: ImageData, config: RunConfig
) -> "tuple[keras.Model, ImageData]":
    """Returns a fine-tuned model and the images, both at the size at which it is used.

    Args:
        model: The trained model; its layers are shared with the returned one.
        data: The images at the size of training.
        config: The config with the run's choices.

    Raises:
        ArgumentError: The model takes no images of that size.
    """
    size = config.inference_size
    if not isinstance(size, int) or data.image_size == (size, size):
        return model, data
    from tlkit.models.input_size import resized_input

    return resized_input(model, (size, size), "inference_size"), data.at_size(size)


def calibrate_on_validation(
    model: "keras.Model", data: ImageData, *, is_exact: bool = False
) -> CalibrationDecision:
    """Calibrates the model if that is possible; otherwise the decision's reason says why not.

    Args:
        model: The model; the temperature is applied to its last layer, in place.
        data: The images; the temperature is chosen on validation images.
        is_exact: Whether the head was solved from statistics, with a temperature of its own, which
            is kept where validation images do not tell all classes.
    """
    from tlkit.evaluation.calibration import calibrate, can_calibrate
    from tlkit.evaluation.reliability import MIN_IMAGES

    num_images = 0 if data.validation is None else data.validation.num_images
    if is_exact and not _has_all_classes(data.validation, data.num_classes):
        return CalibrationDecision(
            None,
            "the temperature is that of the statistics, fitted out of fold, as there are no "
            "validation images of all classes",
        )
    if data.validation is None or num_images < MIN_IMAGES:
        return CalibrationDecision(
            None,
            f"probabilities are not calibrated: calibration needs {MIN_IMAGES} validation images, "
            f"and there are {num_images}",
        )
    if not can_calibrate(model):
        return CalibrationDecision(
            None,
            "probabilities are not calibrated: the model does not end in one plain Dense layer",
        )
    return CalibrationDecision(calibrate(model, data.validation))


def _has_all_classes(images: ImageSplit | None, num_classes: int) -> bool:
    return images is not None and len({*images.labels.tolist()}) == num_classes


def with_test_time_views(
    model: "keras.Model", data: ImageData, config: RunConfig
) -> "tuple[keras.Model, TestTimeViews | None]":
    """Returns the model that predicts, and the gain and cost of its test-time views, if any.

    Args:
        model: The calibrated model.
        data: The images; the gain is measured on validation images.
        config: The config with the run's choices.
    """
    if config.tta == NONE:
        return model, None
    from tlkit.advice.timing import seconds_per_image
    from tlkit.evaluation.comparison import compare_models
    from tlkit.evaluation.forward import forward_of
    from tlkit.models.flip_views import average_flips

    served = average_flips(model)
    comparison = None
    if data.validation is not None:
        comparison = compare_models(model, served, data.validation)
    shape, dtype = model.input_shape[1:], model.inputs[0].dtype
    one, both = (
        1000 * seconds_per_image(forward_of(some), shape, dtype, batch_size=config.batch_size)
        for some in (model, served)
    )
    return served, TestTimeViews(config.tta, comparison, (one, both))


def check_can_reject(data: ImageData) -> None:
    """Raises `DataError` if there are too few validation images to choose a rejection threshold."""
    from tlkit.advice.rejection import DEFAULT_KEEP
    from tlkit.evaluation.rejection import check_enough

    num_images = 0 if data.validation is None else data.validation.num_images
    remedy = "Add images, or leave out `reject_unknown` (--reject-unknown)."
    check_enough(num_images, DEFAULT_KEEP, remedy)


def fit_run_rejection(
    model: "keras.Model", data: ImageData, known: "Rejection | None" = None
) -> FittedRejection:
    """Fits the rejection of out-of-distribution images.

    Args:
        model: The model after training.
        data: The images: OOD scores are distances to training images, and the threshold is chosen
            on validation images.
        known: See `fit_rejection`.
    """
    from tlkit.advice.rejection import fit_rejection, measure_rejection

    rejection = fit_rejection(model, data, known=known, seed=data.seed)
    tested = None if data.test is None else measure_rejection(model, data.test, rejection)
    return FittedRejection(rejection, tested)


def load_run_rejection(run: Run) -> "Rejection | None":
    """Returns the rejection of out-of-distribution images of a run; `None` if it has none.

    Raises:
        RunError: Its file is damaged.
    """
    from tlkit.evaluation.rejection import Rejection

    path = run.path / REJECTION_FILE
    return Rejection.load(path) if path.is_file() else None


def refit_rejection(
    known: "Rejection | None", model: "keras.Model", data: ImageData, *, keeps_images: bool
) -> tuple[FittedRejection | None, str]:
    """Fits the rejection of an earlier run once more, for its model with other classes.

    Args:
        known: The rejection of the earlier run, if it has one.
        model: The model with other classes.
        data: Its images.
        keeps_images: Whether the earlier run's training images remain neighbours.

    Returns:
        The rejection, `None` without one, and why there is no longer one, "" if there was none.
    """
    from tlkit.advice.rejection import DEFAULT_KEEP
    from tlkit.evaluation.rejection import check_enough, check_rejection

    if known is None:
        return None, ""
    try:
        check_enough(0 if data.validation is None else data.validation.num_images, DEFAULT_KEEP)
        check_rejection(known, model)
    except (ArgumentError, DataError) as error:
        return None, f"unknown images are no longer rejected: {error}"
    return fit_run_rejection(model, data, known if keeps_images else None), ""


def measure_learning_curve(
    model: "keras.Model", data: ImageData, config: RunConfig
) -> "LearningCurveReport":
    """Estimates what twice as many training images would bring, if that is possible.

    Args:
        model: A model whose backbone is as before training: the training images would be separated
            too well by one that was trained on them.
        data: The images at the model's size.
        config: The config with the run's choices.
    """
    from tlkit.advice.learning_curve import LearningCurveReport, learning_curve

    if config.from_run is not None:
        return LearningCurveReport(
            data.train.num_images,
            why_not="the backbone of the earlier run may have been trained on these images",
        )
    weighting = config.weighting_for(data.class_names).for_solving()
    return learning_curve(model, data, class_weight=weighting, seed=config.seed)


def augmentation_of(config: RunConfig) -> str:
    """Returns the name of the augmentation of training images."""
    if config.augment is not None:
        return config.augment
    from tlkit.training.recipe import DEFAULT_AUGMENTATION

    return "none" if config.mode == "head" else DEFAULT_AUGMENTATION


def _num_views(config: RunConfig) -> int:
    return 1 if config.augment in (None, "none") else NUM_VIEWS
