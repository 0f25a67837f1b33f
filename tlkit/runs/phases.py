"""The phases of a run, as they are announced: each is timed under its name."""

from collections.abc import Mapping
from typing import Any

from tlkit.utils.tensorflow_logging import LOADING

AUTO = "auto"
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


def phases_of(
    arguments: Mapping[str, Any], settled: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Returns the names of the phases that a run with these arguments has, in their order.

    Where what trains is still to be chosen, all are named that there may be.

    Args:
        arguments: Those that the run was given.
        settled: Those that it goes by, once it has chosen.
    """
    settled = arguments if settled is None else settled
    is_there = {
        LOADING: True,
        "data": True,
        "old photographs": arguments["from_run"] is not None,
        "choosing the backbone": arguments["backbone"] == AUTO,
        "model": True,
        "choosing what trains": arguments["mode"] == AUTO,
        "projecting the cost": True,
        "planning the anchor": settled["anchor"] is not None,
        "training": True,
        "calibration": True,
        "evaluation": True,
        "comparison with a linear probe": settled["mode"] != "head",
        "rejection of unknown pictures": arguments["reject_unknown"],
        "export": True,
        "explaining mistakes": True,
        REPORT: True,
    }
    return tuple(name for name, is_one in is_there.items() if is_one)
