"""Advice as figures."""

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from tlkit.advice.backbones import BackboneComparison
from tlkit.canvas import Figure
from tlkit.errors import check_choice
from tlkit.lettering import printable
from tlkit.plots.drawing import BLUE, GREEN, ORANGE, check_shown
from tlkit.plots.labels import label_points

_COSTS = {
    "milliseconds": "milliseconds for one image",
    "milliseconds_in_batches": "milliseconds for one image of a batch",
    "megabytes": "megabytes of the file",
    "memory_megabytes": "megabytes in memory",
    "multiply_adds": "multiply-adds for one image",
    "num_parameters": "parameters",
}


def plot_backbones(comparison: BackboneComparison, *, cost: str = "milliseconds") -> Figure:
    """Draws each backbone's accuracy against what it costs, with its 95 % interval.

    The best is a diamond, those too close to it to call are circles, the others squares.

    Args:
        comparison: What `compare_backbones` returned.
        cost: An attribute of `BackboneScore`: "milliseconds", "milliseconds_in_batches",
            "megabytes", "memory_megabytes", "multiply_adds" or "num_parameters".

    Raises:
        ArgumentError: `cost` is none of these.

    Example:
        >>> from tlkit.advice.backbones import BackboneComparison
        >>> from tlkit.advice.figures import plot_backbones
        >>> plot_backbones(BackboneComparison((), {}, 100, 2)).axes[0].texts[0].get_text()
        'no backbone was measured'
    """
    check_shown("comparison", comparison, "scores", "what compare_backbones returned")
    check_choice("cost", cost, _COSTS)
    size = (6.4, max(4.0, 1.5 + 0.2 * len(comparison.scores)))  # room for every name
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    if not comparison.scores:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no backbone was measured", ha="center", transform=axes.transAxes)
        return figure
    kinds = {
        "best": (GREEN, "D"),
        "too close to the best to call": (BLUE, "o"),
        "worse": (ORANGE, "s"),
    }
    best, *others = comparison.scores
    close = [score for score in others if score.is_close]
    worse = [score for score in others if not score.is_close]
    for (label, (colour, marker)), scores in zip(
        kinds.items(), ([best], close, worse), strict=True
    ):
        if not scores:
            continue
        accuracy = 100 * np.array([score.accuracy for score in scores])
        ends = 100 * np.array([score.interval or (score.accuracy,) * 2 for score in scores])
        axes.errorbar(
            [getattr(score, cost) for score in scores],
            accuracy,
            yerr=np.stack([accuracy - ends[:, 0], ends[:, 1] - accuracy]),
            fmt=marker,
            color=colour,
            capsize=3,
            linewidth=1,
            label=label,
        )
    axes.set_xscale("log")
    values = [getattr(score, cost) for score in comparison.scores]
    axes.set_xlim(min(values) / 1.6, max(values) * 2.5)
    if max(values) < 30 * min(values):  # ticks at 1, 2 and 5: powers of ten would be too few
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if max(values) < 1e5:
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set(xlabel=_COSTS[cost], ylabel="accuracy of a linear head in %")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    label_points(
        axes,
        [(getattr(score, cost), 100 * score.accuracy) for score in comparison.scores],
        [printable(score.label) for score in comparison.scores],
        spans=[
            (100 * low, 100 * high)
            for low, high in (
                score.interval or (score.accuracy,) * 2 for score in comparison.scores
            )
        ],
    )
    return figure
