"""Figures of backbone comparisons."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from tlkit.advice.backbones import BackboneComparison
from tlkit.errors import check_choice
from tlkit.plots.drawing import (
    BLUE,
    GREEN,
    ORANGE,
    axes_for,
    check_shown,
    figure_of,
    legend_for,
    message,
)
from tlkit.plots.fonts import printable
from tlkit.plots.labels import label_points

_COSTS = {
    "milliseconds": "milliseconds for one image",
    "milliseconds_in_batches": "milliseconds for one image of a batch",
    "megabytes": "megabytes of the file",
    "memory_megabytes": "megabytes in memory",
    "multiply_adds": "multiply-adds for one image",
    "num_parameters": "parameters",
}


def plot_backbones(
    comparison: BackboneComparison, *, cost: str = "milliseconds", ax: Axes | None = None
) -> Figure:
    """Draws each backbone's accuracy with its 95 % interval against its cost.

    With class weights it is the balanced accuracy. The best backbone is a diamond, those too close
    to it to call are circles, the others squares.

    Args:
        comparison: The result of `compare_backbones`.
        cost: An attribute of `BackboneScore`: "milliseconds", "milliseconds_in_batches",
            "megabytes", "memory_megabytes", "multiply_adds" or "num_parameters".
        ax: The axes to draw in; a new figure by default.

    Raises:
        ArgumentError: `cost` is none of these.

    Example:
        >>> from tlkit.advice.backbones import BackboneComparison
        >>> from tlkit.plots.backbones import plot_backbones
        >>> plot_backbones(BackboneComparison((), {}, 100, 2)).axes[0].texts[0].get_text()
        'no backbone was measured'
    """
    check_shown("comparison", comparison, "scores", "a result of compare_backbones")
    check_choice("cost", cost, _COSTS)
    if not comparison.scores:
        return message("no backbone was measured", ax)
    size = (6.4, max(4.2, 1.7 + 0.2 * len(comparison.scores)))  # room for every name
    axes = axes_for(ax, size, title=f"Backbones: {comparison.metric} against cost")
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
            yerr=np.stack([accuracy - ends[:, 0], ends[:, 1] - accuracy]).tolist(),
            fmt=marker,
            color=colour,
            capsize=3,
            linewidth=1,
            label=label,
        )
    axes.set_xscale("log")
    values = [getattr(score, cost) for score in comparison.scores]
    axes.set_xlim(min(values) / 1.6, max(values) * 2.5)
    if max(values) < 30 * min(values):  # ticks at 1, 2 and 5: powers of ten are too few
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if max(values) < 1e5:
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set(xlabel=_COSTS[cost], ylabel=f"{comparison.metric} of a linear head in %")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    legend_for(axes, ax, "outside lower center", ncols=3)
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
    return figure_of(axes)
