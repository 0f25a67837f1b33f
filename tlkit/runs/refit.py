"""The last training of a run, on all labelled images, after all measurements."""

import dataclasses
import time
from typing import TYPE_CHECKING

from tlkit.data.images import ImageData
from tlkit.runs.config import RunConfig
from tlkit.runs.context import RunContext
from tlkit.runs.kept_statistics import statistics_to_update
from tlkit.runs.measuring import Measured, build_model
from tlkit.runs.results import Refit
from tlkit.runs.steps import at_inference_size, train_model
from tlkit.utils.run_lock import REFIT_FOLDER

if TYPE_CHECKING:
    from tlkit.continual.warm_start import AnchorPlan

REFIT_STAGE = "refit"
"""Name of the training on all images for experiment trackers."""


def refit(
    measured: Measured,
    data: ImageData,
    config: RunConfig,
    context: RunContext,
    *,
    anchor: "AnchorPlan | None",
) -> tuple[Measured, Refit]:
    """Trains the recipe of a measured model once more, on all images.

    It starts from the same initial weights, makes as many steps, keeps the same fraction of the
    weight change, and has the same form of the head and the same temperature: what validation
    images have decided is not decided again, as no images are left for it.

    Args:
        measured: The model whose recipe and figures are kept.
        data: The images at the size of training.
        config: The config with the run's choices.
        context: The context of the run.
        anchor: The anchor of the training; `None` if there is none.

    Returns:
        The refitted model with the figures of the one before, and a description.
    """
    from tlkit.evaluation.calibration import scale_logits
    from tlkit.models.flip_views import average_flips
    from tlkit.models.kernel_head import has_kernel_head
    from tlkit.training.head import train_head
    from tlkit.training.head_forms import CLOSED_FORM, LINEAR
    from tlkit.training.sources import steps_in_epoch

    started = time.perf_counter()
    everything = data.merged()
    model = build_model(config, context.parent, data)
    last = measured.training.stages[-1]
    epochs, statistics = None, None
    if last.name == "head" or (context.parent is None and not last.kept_fraction):
        form = CLOSED_FORM if has_kernel_head(measured.model) else LINEAR
        if config.mode == "head":
            config = dataclasses.replace(config, kept=True, head=form)
            earlier = statistics_to_update(config, context.parent, model)
            trained = train_model(
                model, everything, config, context.out, old=None, plan=None, statistics=earlier
            )
            model, report, statistics = trained.model, trained.training, trained.statistics
        else:  # the head alone of a run that fine-tunes
            report = train_head(
                model,
                everything,
                head=form,
                class_weight=config.weighting_for(data.class_names).for_solving(),
                seed=config.seed,
            )
    else:
        steps = len(last.history) * steps_in_epoch(data.train)
        epochs = max(round(steps / steps_in_epoch(everything.train)), 1)
        config = dataclasses.replace(config, kept=True, epochs=epochs)
        folder = context.out / REFIT_FOLDER
        folder.mkdir(exist_ok=True)
        report = train_model(
            model,
            everything,
            config,
            folder,
            old=None,
            plan=anchor,
            kept_fraction=last.kept_fraction,
            at_epoch_end=context.at_epoch_end(REFIT_STAGE),
        ).training
        context.tracking.log_epochs(REFIT_STAGE, report.stages[-1].history)
        model, _ = at_inference_size(model, data, config)
    context.log(str(report), "")
    if measured.calibration.report is not None:
        scale_logits(model, measured.calibration.report.temperature)
    done = Refit(
        everything.train.num_images, data.train.num_images, epochs, time.perf_counter() - started
    )
    served = model if measured.served is measured.model else average_flips(model)
    statistics = measured.calibration.put_into(statistics)
    refitted = dataclasses.replace(measured, model=model, served=served, statistics=statistics)
    return refitted, done
