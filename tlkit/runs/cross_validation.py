"""Out-of-fold figures of a run's whole recipe: each image is predicted without having been seen."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlkit.data.folds import folds_of_images
from tlkit.data.images import ImageData
from tlkit.runs.config import RunConfig
from tlkit.runs.context import RunContext
from tlkit.runs.measuring import build_model, choose_shipped, measure, solve_head
from tlkit.runs.steps import at_inference_size, train_model
from tlkit.utils.files import written_aside
from tlkit.utils.progress import RunLog
from tlkit.utils.run_lock import FOLDS_FOLDER

if TYPE_CHECKING:
    from tlkit.continual.warm_start import AnchorPlan
    from tlkit.evaluation.reports import EvaluationReport


def cross_validate(
    data: ImageData, config: RunConfig, context: RunContext, *, anchor: "AnchorPlan | None"
) -> "EvaluationReport":
    """Makes the run's recipe once for each fold, and evaluates all images by the fold's model.

    The recipe of a fold is that of the run: its head, its fine-tuning, the choice between them and
    the calibration, with validation images from the rest of the images. The choices of backbone,
    mode and anchor are not made again. A finished fold is kept in the run directory, and not
    repeated when the run is resumed.

    The interval of the accuracy is that of independent predictions; models of different folds share
    training images, so that it is somewhat too narrow.

    Args:
        data: The images at the model's size.
        config: The config with the run's choices, and the number of `folds`.
        context: The context of the run.
        anchor: The anchor of the training; `None` if there is none.
    """
    from tlkit.evaluation.metrics import evaluate_probabilities

    if config.folds is None:
        raise RuntimeError("the run has no folds")
    everything = data.merged().train
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for number, (fold, positions) in enumerate(folds_of_images(data, config.folds), start=1):
        folder = context.out / FOLDS_FOLDER / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "probabilities.npy"
        if not file.is_file():
            probabilities = _probabilities(fold, config, folder, anchor=anchor)
            with written_aside(file) as aside, aside.open("wb") as opened:
                np.save(opened, probabilities)
            context.log(f"fold {number} of {config.folds} is finished")
        parts.append((positions, np.load(file)))
    order = np.argsort(np.concatenate([positions for positions, _ in parts]))
    return evaluate_probabilities(
        np.concatenate([probabilities for _, probabilities in parts])[order],
        everything.labels,
        data.class_names,
        kind="multi_label" if data.is_multi_label else "softmax",
        paths=everything.paths,
    )


def _probabilities(
    fold: ImageData, config: RunConfig, folder: Path, *, anchor: "AnchorPlan | None"
) -> np.ndarray:
    """Returns the probabilities of the fold's test images, `(n, num_classes)`."""
    from tlkit.evaluation.outputs import collect_outputs, probabilities_from
    from tlkit.models.heads import head_kind, outputs_logits

    quiet = RunLog(lambda text: None)
    model = build_model(config, None, fold)
    trained = train_model(model, fold, config, folder, old=None, plan=anchor)
    model, used = at_inference_size(model, fold, config)
    chosen = measure(dataclasses.replace(trained, model=model), used, config, quiet)
    if config.mode == "fine-tune":
        head = solve_head(build_model(config, None, fold), fold, config, quiet)
        if choose_shipped(head, chosen, config.weighting_for(fold.class_names)).is_head:
            chosen = head
    served = chosen.served
    (outputs,), _ = collect_outputs([served], chosen.data.test)
    return probabilities_from(outputs, head_kind(served), outputs_logits(served))
