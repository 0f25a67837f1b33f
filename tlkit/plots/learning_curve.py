"""Figure of a learning curve."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from tlkit.advice.learning_curve import LearningCurveReport
from tlkit.plots.drawing import (
    BLUE,
    ORANGE,
    axes_for,
    check_shown,
    figure_of,
    legend_for,
    message,
    without_frame,
)


def plot_learning_curve(report: LearningCurveReport, *, ax: Axes | None = None) -> Figure:
    """Draws the accuracy against the number of training images, up to twice as many.

    Measured accuracies have bars of one standard error; the extrapolated ones are a line in their
    80 % interval. A dotted line marks the number of images there are.

    Args:
        report: The result of `learning_curve`.
        ax: The axes to draw in; a new figure by default.

    Example:
        >>> from tlkit.advice.learning_curve import LearningCurveReport
        >>> from tlkit.plots.learning_curve import plot_learning_curve
        >>> plot_learning_curve(LearningCurveReport(9, why_not="too few images")).axes[0].texts[0]
        Text(0.5, 0.5, 'too few images')
    """
    check_shown("report", report, "measured", "a result of learning_curve")
    if not report.measured:
        return message(report.why_not, ax)
    axes = axes_for(ax, (4.6, 3.4), title="Learning curve of a head")
    numbers = [point.num_images for point in report.forecast]
    bands = [point.interval or (point.accuracy,) * 2 for point in report.forecast]
    low, high = 100 * np.array(bands).T
    axes.fill_between(numbers, low, high, color=BLUE, alpha=0.2, linewidth=0, label="80 % interval")
    accuracies = [100 * point.accuracy for point in report.forecast]
    axes.plot(numbers, accuracies, "--", color=BLUE, label="fitted")
    axes.errorbar(
        [point.num_images for point in report.measured],
        [100 * point.accuracy for point in report.measured],
        yerr=[100 * (point.error or 0.0) for point in report.measured],
        fmt="o",
        color=ORANGE,
        markersize=5,
        label="measured",
    )
    axes.axvline(report.num_images, color="grey", linestyle=":")
    axes.set_xscale("log")
    ticks = [report.measured[0].num_images, report.num_images, 2 * report.num_images]
    axes.set_xticks(ticks, [f"{number:,}" for number in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="training images (log scale)", ylabel=f"{report.metric} in %")
    without_frame(axes)
    legend_for(axes, ax, "outside lower center", ncols=3)
    return figure_of(axes)
