"""Names of the phases of a run; each is announced and timed under its name."""

from tlkit.runs.config import AUTO, RunConfig
from tlkit.utils.tensorflow_logging import LOADING

REPORT = "report"
HEAD_ALONE, BUDGET = "head alone", "planning the minutes"
INFERENCE_SIZE = "choosing the size of images in use"
STATISTICS = "statistics of the head"
FOLDS, REFIT = "cross-validation", "training on all images"
GROWING = (
    LOADING,
    "data",
    "model",
    "training",
    "evaluation",
    "export",
    "explaining mistakes",
    REPORT,
)
"""Phases of a run that adds classes."""

FORGETTING = (LOADING, "model", "data", *GROWING[3:])
"""Phases of a run that forgets images."""


def phases_of(config: RunConfig, resolved: RunConfig | None = None) -> tuple[str, ...]:
    """Returns the names of a run's phases in order.

    With `mode="auto"` still undecided, all possible phases are named.

    Args:
        config: The config as it was given.
        resolved: The config with the run's choices, as soon as they are made.
    """
    resolved = resolved or config
    is_included = {
        LOADING: True,
        "data": True,
        "old images": config.from_run is not None,
        "choosing the backbone": config.backbone == AUTO,
        "choosing the image size": config.chooses_image_size,
        "model": True,
        "choosing what trains": config.mode == AUTO,
        "projecting the cost": True,
        HEAD_ALONE: resolved.mode != "head",
        BUDGET: config.minutes is not None and resolved.mode != "head",
        "planning the anchor": resolved.anchor is not None,
        "training": True,
        INFERENCE_SIZE: resolved.mode != "head" and config.chooses_inference_size,
        "evaluation": True,
        "learning curve": True,
        "explaining mistakes": True,
        FOLDS: config.folds is not None,
        REFIT: config.refit,
        "export": True,
        STATISTICS: resolved.keep_statistics is not False,
        REPORT: True,
    }
    return tuple(name for name, included in is_included.items() if included)
