"""Trained models of a run with their figures, and which of them the run ships."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlkit.data.class_weighting import ClassWeighting
from tlkit.data.images import ImageData
from tlkit.evaluation.thresholds import THRESHOLD, LabelThresholds
from tlkit.runs.choices import initial_image_size
from tlkit.runs.config import RunConfig
from tlkit.runs.context import RunContext
from tlkit.runs.directory import Run
from tlkit.runs.outputs import evaluate_splits, export_into
from tlkit.runs.results import CalibrationDecision, RunResults, Shipped, TestTimeViews
from tlkit.runs.several_labels import choose_run_thresholds
from tlkit.runs.steps import (
    Trained,
    calibrate_on_validation,
    fit_run_rejection,
    with_test_time_views,
)
from tlkit.utils.formatting import percent
from tlkit.utils.progress import RunLog

if TYPE_CHECKING:
    import keras

    from tlkit.continual.head_statistics import HeadStatistics
    from tlkit.evaluation.comparison import ComparisonReport
    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.training.reports import TrainingReport


@dataclass(frozen=True, eq=False)
class Measured:
    """A trained model with its figures: what a run can ship.

    Attributes:
        model: The calibrated model, which can be trained further.
        data: The images at the model's size.
        served: The model that predicts: with test-time views, or `model` itself.
        training: Report of the training.
        calibration: Whether the probabilities were calibrated.
        views: The gain and cost of test-time views; `None` if there is one view.
        evaluations: Metrics of `served` on "validation" and "test"; `None` for a split without
            images.
        statistics: The statistics that its head was solved from; `None` if it was trained
            otherwise.
        thresholds: The probability from which each label is assigned; `None` with one class per
            image.
    """

    model: "keras.Model"
    data: ImageData
    served: "keras.Model"
    training: "TrainingReport"
    calibration: CalibrationDecision
    views: TestTimeViews | None
    evaluations: "Mapping[str, EvaluationReport | None]"
    statistics: "HeadStatistics | None" = None
    thresholds: LabelThresholds | None = None


def measure(trained: Trained, data: ImageData, config: RunConfig, log: RunLog) -> Measured:
    """Calibrates and evaluates a trained model; it is calibrated in place.

    Args:
        trained: The trained model, at the size at which it is used.
        data: The images at the model's size.
        config: The config with the run's choices.
        log: Gets the figures.
    """
    model = trained.model
    calibration = calibrate_on_validation(model, data, is_exact=trained.statistics is not None)
    log(str(calibration), "")
    served, views = with_test_time_views(model, data, config)
    if views is not None:
        log(str(views), "")
    thresholds = choose_run_thresholds(served, data, config)
    if thresholds is not None:
        log(str(thresholds), "")
    threshold = THRESHOLD if thresholds is None else thresholds.values
    evaluations = evaluate_splits(served, data, threshold)
    return Measured(
        model,
        data,
        served,
        trained.training,
        calibration,
        views,
        evaluations,
        calibration.put_into(trained.statistics),
        thresholds,
    )


def solve_head(model: "keras.Model", data: ImageData, config: RunConfig, log: RunLog) -> Measured:
    """Solves the head of a model alone, as a run with mode="head" does, and measures it.

    Args:
        model: The model before training; changed in place.
        data: The images at the model's size.
        config: The config with the run's choices.
        log: Gets the figures.
    """
    from tlkit.training.head import train_head

    weighting = config.weighting_for(data.class_names).for_solving()
    training = train_head(model, data, class_weight=weighting, seed=config.seed)
    log(str(training), "")
    return measure(Trained(model, training), data, config, log)


def export_measured(
    measured: Measured,
    config: RunConfig,
    context: RunContext,
    *,
    before_replacing: Callable[[], None] = lambda: None,
) -> RunResults:
    """Exports a measured model to the run directory and returns its results.

    Args:
        measured: The model.
        config: The config with the run's choices.
        context: The context of the run.
        before_replacing: See `export_into`.
    """
    rejection = None
    if config.reject_unknown:
        rejection = fit_run_rejection(measured.model, measured.data)
        for line in rejection.lines:
            context.log(line, "")
    export_into(
        measured.model,
        measured.data,
        context.out,
        config.max_pixels,
        rejection=rejection,
        served=measured.served,
        thresholds=measured.thresholds,
        before_replacing=before_replacing,
    )
    return RunResults(
        training=measured.training,
        evaluations=measured.evaluations,
        calibration=measured.calibration,
        views=measured.views,
        rejection=rejection,
        thresholds=measured.thresholds,
    )


def choose_shipped(head: Measured, tuned: Measured, weighting: ClassWeighting) -> Shipped:
    """Chooses between the head alone and the fine-tuned model by validation images.

    They are compared by their calibrated cross-entropy, see `evaluate_candidate`. The fine-tuned
    model ships unless the head alone is better by more than one standard error of the paired
    difference, or fine-tuning has kept the initial weights and is not better by as much.

    Args:
        head: The head alone.
        tuned: The fine-tuned model.
        weighting: How classes count.
    """
    from tlkit.training.candidates import evaluate_candidate, prefers_other
    from tlkit.training.criterion import criterion_for

    images = head.data.validation
    if images is None or tuned.data.validation is None:
        return Shipped(False, "there are no validation images to compare it with the head alone")
    one = evaluate_candidate(head.served, images, weighting)
    two = evaluate_candidate(tuned.served, tuned.data.validation, weighting)
    gain, error = two.gain_over(one)
    is_unchanged = not tuned.training.stages[-1].kept_fraction
    is_head = prefers_other(gain, error, is_unchanged=is_unchanged)
    what = f"its cross-entropy is lower by {abs(gain):.3f} ± {error:.3f} than that of the other"
    if abs(gain) <= error:
        what = (
            f"validation cannot tell them apart (cross-entropy differs by {gain:.3f} ± {error:.3f})"
        )
    if is_head and is_unchanged:
        what = f"fine-tuning has kept the initial weights; {what}"
    name = criterion_for(images, weighting).name
    more, spread = (100 * value for value in two.accuracy_gain_over(one))
    figures = (
        f"{name} {percent(one.score.value)} of the head alone, {percent(two.score.value)} "
        f"fine-tuned ({more:+.1f} ± {spread:.1f} points), on {one.score.num_images:,} validation "
        "images"
    )
    return Shipped(is_head, f"{what}; {figures}")


def compare_with_head(
    head: Measured, tuned: Measured, weighting: ClassWeighting
) -> "ComparisonReport | None":
    """Compares the head alone with a fine-tuned model on the same images, by McNemar's test.

    If all classes have the same weight, they are compared by balanced accuracy, as they were
    trained; otherwise by the plain accuracy.

    Returns:
        The comparison, the head alone first, on test images, or on validation images without a
        test split; `None` without either.
    """
    from tlkit.evaluation.comparison import compare_outcomes

    for name, split in (("test", head.data.test), ("validation", head.data.validation)):
        one, two = head.evaluations[name], tuned.evaluations[name]
        if split is not None and one is not None and two is not None:
            is_balanced = weighting.is_balanced and split.labels.ndim == 1
            labels = split.labels if is_balanced else None
            return compare_outcomes(one.is_right, two.is_right, labels)
    return None


def build_model(config: RunConfig, parent: Run | None, data: ImageData) -> "keras.Model":
    """Returns the model of a run before training.

    Args:
        config: The config with the run's choices.
        parent: The run that this one starts from; `None` if there is none.
        data: The images, for the names of the classes.
    """
    from tlkit.models.assembly import build_classifier
    from tlkit.models.groups import resolve_group

    if parent is not None:
        model = parent.load_model()
    elif config.backbone is not None:
        model = build_classifier(
            config.backbone,
            data.class_names,
            preprocessing=config.preprocessing,
            image_size=initial_image_size(config),
            channels=data.channels,
            weights=config.weights,
            seed=config.seed,
            multi_label=data.is_multi_label,
        )
    else:
        raise RuntimeError("a config names neither a run nor a backbone")
    if config.unfreeze is not None:
        resolve_group(model, config.unfreeze)
    return model
