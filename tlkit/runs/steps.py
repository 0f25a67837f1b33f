"""What a run does to its model: what that will cost, the training, and whether it was worth it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.data.images import ImageData
from tlkit.runs.choices import anchor_choice
from tlkit.runs.config import AUTO, Choice, RunConfig
from tlkit.runs.context import RunContext
from tlkit.runs.directory import REJECTION_FILE
from tlkit.runs.results import CalibrationDecision, FittedRejection

if TYPE_CHECKING:
    import keras

    from tlkit.advice.cost import CostReport
    from tlkit.continual.warm_start import AnchorPlan, ForgettingReport, OldTask
    from tlkit.evaluation.comparison import ComparisonReport
    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.training.reports import TrainingReport

NUM_VIEWS = 4
"""Versions of each training image that an augmented head alone is solved on."""


def planned_cost(model: "keras.Model", data: ImageData, config: RunConfig) -> "CostReport":
    """Returns what training will cost, measured here.

    Args:
        model: As it is before training; it stays so.
        data: The images in its size.
        config: The one that the run goes by.
    """
    from tlkit.advice.cost import estimate_cost

    given = config.named("augment")
    if config.mode == "head":
        views = _views_of_head(config)
        return estimate_cost(model, data, unfreeze="head", views=views, **given)
    return estimate_cost(model, data, unfreeze=config.unfreeze, epochs=config.epochs, **given)


def plan_anchor(
    model: "keras.Model",
    data: ImageData,
    config: RunConfig,
    context: RunContext,
    *,
    old: "OldTask | None",
    decided: Choice | None = None,
) -> "tuple[AnchorPlan, Choice | None]":
    """Returns how the model is to be held while it trains, and how its strength was chosen.

    What is to be worked out for it is the chief's work, on one device.

    Args:
        model: As it is before training, on one device; it stays so.
        data: The images in its size.
        config: The one that the run goes by; its `anchor` is a number, or "auto" where its
            strength is still to be chosen.
        context: Where the run is made.
        old: What an earlier run learned, where there was one.
        decided: How an interrupted start of this run has chosen the strength.
    """
    from tlkit.continual.warm_start import AnchorPlan, importance_of_old

    method, importance = config.importance, {}
    if method is not None:
        importance = context.team.broadcast_arrays(
            lambda: importance_of_old(model, data, method, old)
        )
    if config.anchor == AUTO:
        decided = context.broadcast(lambda: anchor_choice(config, model, data, importance, old))
        context.log("strength of the anchor:\n  " + "\n  ".join(decided.reasons))
        config = config.resolve({"anchor": decided})
    if config.anchor is None:
        raise RuntimeError("an anchor was planned for a run that has none")
    trials = () if decided is None else tuple(decided.reasons)
    return AnchorPlan(float(config.anchor), method, importance, trials), decided


def train_model(
    model: "keras.Model",
    data: ImageData,
    config: RunConfig,
    out: Path,
    *,
    old: "OldTask | None",
    plan: "AnchorPlan | None",
    at_epoch_end: Callable[[], None] = lambda: None,
) -> "tuple[TrainingReport, ForgettingReport | None]":
    """Trains the model as the config says, and measures what was forgotten.

    Args:
        model: Changed in place.
        data: The images in its size.
        config: The one that the run goes by.
        out: The run directory, where training is resumed from.
        old: What an earlier run learned, where there was one.
        plan: How the model is to be held, see `plan_anchor`; `None` where it goes freely.
        at_epoch_end: Called when an epoch has ended.
    """
    import keras

    from tlkit.continual.warm_start import forgetting_of, measure_old_task
    from tlkit.training.fine_tuning import fine_tune
    from tlkit.training.head import train_head

    before = measure_old_task(model, old)
    given = config.named("epochs", "learning_rate", "augment", "class_weight", "seed")
    if config.mode == "head":
        report = train_head(model, data, views=_views_of_head(config), **given)
        return report, forgetting_of(model, old, before)
    given |= config.named("unfreeze", "layer_decay")
    anchor = plan.anchor(model) if plan is not None else None
    said = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: at_epoch_end())
    report = fine_tune(model, data, run_directory=out, anchor=anchor, callbacks=[said], **given)
    return report, forgetting_of(model, old, before, plan)


def calibrate_on_validation(model: "keras.Model", data: ImageData) -> CalibrationDecision:
    """Calibrates the model where that can be done; else the reason says why it is left as it is.

    Args:
        model: Changed in place: the temperature goes into its last layer.
        data: Whose validation images the temperature is chosen on.
    """
    from tlkit.evaluation.calibration import calibrate, can_calibrate
    from tlkit.evaluation.reliability import MIN_IMAGES

    num_images = 0 if data.validation is None else data.validation.num_images
    if data.validation is None or num_images < MIN_IMAGES:
        return CalibrationDecision(
            None,
            f"probabilities are not calibrated: that takes {MIN_IMAGES} validation images, and "
            f"there are {num_images}",
        )
    if not can_calibrate(model):
        return CalibrationDecision(
            None,
            "probabilities are not calibrated: the model does not end in one plain Dense layer",
        )
    return CalibrationDecision(calibrate(model, data.validation))


def check_can_reject(data: ImageData) -> None:
    """Raises `DataError` where the images are too few to tell unknown ones by."""
    from tlkit.advice.rejection import DEFAULT_KEEP
    from tlkit.evaluation.rejection import check_enough

    num_images = 0 if data.validation is None else data.validation.num_images
    remedy = "Add images, or leave `reject_unknown` out (--reject-unknown)."
    check_enough(num_images, DEFAULT_KEEP, remedy)


def fit_run_rejection(model: "keras.Model", data: ImageData, out: Path) -> FittedRejection:
    """Chooses when an image is unknown, and writes that down where a later export finds it.

    Args:
        model: After training.
        data: Whose training images are compared with, and on whose validation images the
            threshold is chosen.
        out: The run directory.
    """
    from tlkit.advice.rejection import fit_rejection, measure_rejection

    rejection = fit_rejection(model, data, seed=data.seed)
    rejection.save(out / REJECTION_FILE)
    tested = None if data.test is None else measure_rejection(model, data.test, rejection)
    return FittedRejection(rejection, tested)


def compare_with_probe(
    probe: "keras.Model",
    data: ImageData,
    evaluations: "Mapping[str, EvaluationReport | None]",
    config: RunConfig,
) -> "ComparisonReport | None":
    """Holds a fine-tuned model against a linear probe on the same images, by McNemar's test.

    What was trained with `class_weight` is compared by the balanced accuracy, as its epochs were.

    Args:
        probe: The model as it was before training; its head is solved here, on stored features.
        data: The images in its size.
        evaluations: The fine-tuned model on validation and test.
        config: The one that the run goes by.

    Returns:
        The comparison, the probe first, on test images, or validation images where there are no
        others; `None` without either.
    """
    from tlkit.evaluation.comparison import compare_outcomes
    from tlkit.evaluation.metrics import evaluate
    from tlkit.training.head import train_head

    split = data.test or data.validation
    tuned = evaluations["test"] or evaluations["validation"]
    if split is None or tuned is None:
        return None
    class_weight = config.class_weight
    train_head(probe, data, class_weight=class_weight, seed=config.seed)
    solved = evaluate(probe, split, data.class_names)
    labels = None if class_weight is None else split.labels
    return compare_outcomes(solved.is_right, tuned.is_right, labels)


def with_features(config: RunConfig) -> str:
    """How training images are augmented, by name."""
    if config.augment is not None:
        return config.augment
    from tlkit.training.recipe import DEFAULT_AUGMENTATION

    return "none" if config.mode == "head" else DEFAULT_AUGMENTATION


def _views_of_head(config: RunConfig) -> int:
    return 1 if config.augment in (None, "none") else NUM_VIEWS
