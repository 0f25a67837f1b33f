"""The phases of a run, as they are announced: each is timed under its name."""

from tlkit.runs.config import AUTO, RunConfig
from tlkit.utils.tensorflow_logging import LOADING

REPORT = "report"
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
"""Those of a run to which classes are added."""


def phases_of(config: RunConfig, resolved: RunConfig | None = None) -> tuple[str, ...]:
    """Returns the names of the phases that a run has, in their order.

    Where what trains is still to be chosen, all are named that there may be.

    Args:
        config: As it was given.
        resolved: The one that the run goes by, once it has chosen.
    """
    resolved = resolved or config
    is_there = {
        LOADING: True,
        "data": True,
        "old images": config.from_run is not None,
        "choosing the backbone": config.backbone == AUTO,
        "model": True,
        "choosing what trains": config.mode == AUTO,
        "projecting the cost": True,
        "planning the anchor": resolved.anchor is not None,
        "training": True,
        "calibration": True,
        "evaluation": True,
        "comparison with a linear probe": resolved.mode != "head",
        "rejection of unknown images": config.reject_unknown,
        "export": True,
        "explaining mistakes": True,
        REPORT: True,
    }
    return tuple(name for name, is_one in is_there.items() if is_one)
