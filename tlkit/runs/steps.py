"""What a run does to its model: what that will cost, the training, and whether it was worth it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.data.images import ImageData
from tlkit.runs.config import AUTO
from tlkit.runs.directory import REJECTION_FILE
from tlkit.runs.record import settled_arguments
from tlkit.runs.team import Team
from tlkit.utils.files import write_json

if TYPE_CHECKING:
    import keras

    from tlkit.advice.cost import CostReport
    from tlkit.advice.rejection import RejectionReport
    from tlkit.continual.going_on import AnchorPlan, ForgettingReport, OldTask
    from tlkit.evaluation.calibration import CalibrationReport
    from tlkit.evaluation.comparison import ComparisonReport
    from tlkit.evaluation.rejection import Rejection
    from tlkit.evaluation.reports import EvaluationReport
    from tlkit.training.reports import TrainingReport

NUM_VIEWS = 4
"""Versions of each training image that an augmented head alone is solved on."""
_GIVEN_TO_TRIALS = ("learning_rate", "class_weight", "seed", "unfreeze", "layer_decay")
"""Not epochs and augmentation: trials of a strength are few epochs on stored activations."""


def planned_cost(model: "keras.Model", data: ImageData, arguments: dict[str, Any]) -> "CostReport":
    """Returns what training will cost, measured here.

    Args:
        model: As it is before training; it stays so.
        data: The pictures in its size.
        arguments: Those that the run goes by.
    """
    from tlkit.advice.cost import estimate_cost

    given = {} if arguments["augment"] is None else {"augment": arguments["augment"]}
    if arguments["mode"] == "head":
        views = _views_of_head(arguments)
        return estimate_cost(model, data, unfreeze="head", views=views, **given)
    return estimate_cost(
        model, data, unfreeze=arguments["unfreeze"], epochs=arguments["epochs"], **given
    )


def plan_anchor(
    model: "keras.Model",
    data: ImageData,
    record: dict[str, Any],
    out: Path,
    team: Team,
    *,
    old: "OldTask | None",
    say: Callable[[str], None],
) -> "AnchorPlan":
    """Returns how the model is to be held while it trains.

    What is to be worked out for it is the chief's work, on one device.

    Args:
        model: As it is before training, on one device; it stays so.
        data: The pictures in its size.
        record: What `run.json` holds; a strength chosen by trying is written into it and into the
            file, before the run goes by it.
        out: The run directory.
        team: Who takes part.
        old: What an earlier run learned, where there was one.
        say: Is told the trials.
    """
    from tlkit.continual.going_on import AnchorPlan, choose_strength, importance_of_old

    arguments = settled_arguments(record)
    method, importance = arguments["importance"], {}
    if method is not None:
        importance = team.agreed_arrays(lambda: importance_of_old(model, data, method, old))
    choices = record["choices"]
    if arguments["anchor"] == AUTO:

        def choice() -> dict[str, Any]:
            given = _named(arguments, *_GIVEN_TO_TRIALS)
            report = choose_strength(model, data, importance, old, **given)
            return {"arguments": {"anchor": report.chosen}, "reasons": str(report).splitlines()}

        choices["anchor"] = team.agreed(choice)
        say("strength of the anchor:\n  " + "\n  ".join(choices["anchor"]["reasons"]))
        if team.is_chief:
            write_json(out / "run.json", record)
    trials = choices["anchor"]["reasons"] if "anchor" in choices else []
    strength = settled_arguments(record)["anchor"]
    return AnchorPlan(float(strength), method, importance, tuple(trials))


def train_model(
    model: "keras.Model",
    data: ImageData,
    record: dict[str, Any],
    out: Path,
    *,
    old: "OldTask | None",
    plan: "AnchorPlan | None",
    at_epoch_end: Callable[[], None] = lambda: None,
) -> "tuple[TrainingReport, ForgettingReport | None]":
    """Trains the model as the run's record says, and measures what was forgotten.

    Args:
        model: Changed in place.
        data: The pictures in its size.
        record: What `run.json` holds.
        out: The run directory, where training is resumed from.
        old: What an earlier run learned, where there was one.
        plan: How the model is to be held, see `plan_anchor`; `None` where it goes freely.
        at_epoch_end: Called when an epoch has ended.
    """
    import keras

    from tlkit.continual.going_on import forgetting_of, measure_old_task
    from tlkit.training.fine_tuning import fine_tune
    from tlkit.training.head import train_head

    arguments = settled_arguments(record)
    before = measure_old_task(model, old)
    given = _named(arguments, "epochs", "learning_rate", "augment", "class_weight", "seed")
    if arguments["mode"] == "head":
        report = train_head(model, data, views=_views_of_head(arguments), **given)
        return report, forgetting_of(model, old, before)
    given |= _named(arguments, "unfreeze", "layer_decay")
    anchor = plan.anchor(model) if plan is not None else None
    said = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: at_epoch_end())
    report = fine_tune(model, data, run_directory=out, anchor=anchor, callbacks=[said], **given)
    return report, forgetting_of(model, old, before, plan)


def calibrate_on_validation(model: "keras.Model", data: ImageData) -> "CalibrationReport | str":
    """Calibrates the model where that can be done, else says why it is left as it is.

    Args:
        model: Changed in place: the temperature goes into its last layer.
        data: Whose validation pictures the temperature is chosen on.
    """
    from tlkit.evaluation.calibration import calibrate, can_calibrate
    from tlkit.evaluation.reliability import MIN_IMAGES

    num_images = 0 if data.validation is None else data.validation.num_images
    if data.validation is None or num_images < MIN_IMAGES:
        return (
            f"probabilities are not calibrated: that takes {MIN_IMAGES} validation images, and "
            f"there are {num_images}"
        )
    if not can_calibrate(model):
        return "probabilities are not calibrated: the model does not end in one plain Dense layer"
    return calibrate(model, data.validation)


def check_can_reject(data: ImageData) -> None:
    """Raises `DataError` where the pictures are too few to tell unknown ones by."""
    from tlkit.advice.rejection import DEFAULT_KEEP
    from tlkit.evaluation.rejection import check_enough

    num_images = 0 if data.validation is None else data.validation.num_images
    remedy = "Add photographs, or leave `reject_unknown` out (--reject-unknown)."
    check_enough(num_images, DEFAULT_KEEP, remedy)


def fit_run_rejection(
    model: "keras.Model", data: ImageData, out: Path
) -> "tuple[Rejection, RejectionReport | None]":
    """Chooses when a picture is unknown, and writes that down where a later export finds it.

    Args:
        model: After training.
        data: Whose training pictures are compared with, and on whose validation pictures the
            threshold is chosen.
        out: The run directory.

    Returns:
        The threshold, and how many of the test pictures it rejects wrongly; `None` without any.
    """
    from tlkit.advice.rejection import fit_rejection, measure_rejection

    rejection = fit_rejection(model, data, seed=data.seed)
    rejection.save(out / REJECTION_FILE)
    tested = None if data.test is None else measure_rejection(model, data.test, rejection)
    return rejection, tested


def compare_with_probe(
    probe: "keras.Model",
    data: ImageData,
    evaluations: "dict[str, EvaluationReport | None]",
    arguments: dict[str, Any],
) -> "ComparisonReport | None":
    """Holds a fine-tuned model against a linear probe on the same images, by McNemar's test.

    What was trained with `class_weight` is compared by the balanced accuracy, as its epochs were.

    Args:
        probe: The model as it was before training; its head is solved here, on stored features.
        data: The pictures in its size.
        evaluations: The fine-tuned model on validation and test.
        arguments: Those that the run goes by.

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
    class_weight = arguments["class_weight"]
    train_head(probe, data, class_weight=class_weight, seed=arguments["seed"])
    solved = evaluate(probe, split, data.class_names)
    labels = None if class_weight is None else split.labels
    return compare_outcomes(solved.is_right, tuned.is_right, labels)


def seen_as(arguments: dict[str, Any]) -> str:
    """How training pictures are augmented, by name."""
    if arguments["augment"] is not None:
        return str(arguments["augment"])
    from tlkit.training.recipe import DEFAULT_AUGMENTATION

    return "none" if arguments["mode"] == "head" else DEFAULT_AUGMENTATION


def _named(arguments: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those of them that were given."""
    return {name: arguments[name] for name in names if arguments[name] is not None}


def _views_of_head(arguments: dict[str, Any]) -> int:
    return 1 if arguments["augment"] in (None, "none") else NUM_VIEWS
