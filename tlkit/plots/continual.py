"""Figures of continual learning: forgetting, strengths of an anchor, and interpolation."""

from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tlkit.continual.forgetting import ForgettingMatrix
from tlkit.continual.strength_reports import StrengthReport
from tlkit.plots.drawing import (
    BLUE,
    GREEN,
    ORANGE,
    axes_for,
    check_shown,
    figure_of,
    legend_for,
)
from tlkit.plots.fonts import dress, printable
from tlkit.plots.labels import label_points

_MARKERS = "osD^vPX*<>"
_LIGHT = 0.6


class HasInterpolation(Protocol):
    """The attributes of a sweep that `plot_interpolation` reads."""

    @property
    def alphas(self) -> tuple[float, ...]:
        """Fractions of the new model."""

    @property
    def accuracies(self) -> dict[str, tuple[float, ...]]:
        """Accuracy at each fraction, for each split."""


def plot_forgetting(matrix: ForgettingMatrix, *, ax: Axes | None = None) -> Figure:
    """Draws the accuracies R[i, j] as a heat map in per cent, one row per training.

    Args:
        matrix: The matrix, with at least one row.
        ax: The axes to draw in; a new figure by default.

    Example:
        >>> import tlkit
        >>> from tlkit.plots.continual import plot_forgetting
        >>> matrix = tlkit.ForgettingMatrix(["cats", "dogs"], scenario="domain-incremental")
        >>> matrix.record([0.5, 0.5])
        >>> matrix.record([0.9, 0.6])
        >>> plot_forgetting(matrix).axes[0].get_xlabel()
        'accuracy on'
    """
    check_shown("matrix", matrix, "task_names", "a tlkit.ForgettingMatrix")
    values = matrix.accuracy
    rows, columns = values.shape
    title = f"Accuracy in %,\n{matrix.scenario}"
    names = [printable(name) for name in matrix.task_names]
    width = 1.2 + 0.09 * max(map(len, names)) + max(0.7 * columns, 2.2)
    axes = axes_for(ax, (width, 1.8 + 0.45 * rows), title=title)
    axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(columns), names, rotation=45, ha="right")
    axes.set_yticks(range(rows), ["(none)", *names][:rows])
    axes.set(xlabel="accuracy on", ylabel="after training on")
    for (i, j), value in np.ndenumerate(values):
        colour = "black" if value > _LIGHT else "white"
        axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", color=colour)
    dress(*axes.get_xticklabels(), *axes.get_yticklabels())
    return figure_of(axes)


def plot_strengths(report: StrengthReport, *, ax: Axes | None = None) -> Figure:
    """Draws the gain in accuracy on the new task against its cost, one point per strength.

    The cost is the loss of accuracy on the old task if it was measured, else the drift of the
    weights.

    Args:
        report: The `report` of the anchor that `choose_anchor` returned.
        ax: The axes to draw in; a new figure by default.

    Example:
        >>> from tlkit.plots.continual import plot_strengths
        >>> from tlkit.continual.strength_reports import StrengthReport, StrengthTrial
        >>> before = StrengthTrial(0.0, accuracy=0.5, loss=1.0, drift=0.0)
        >>> free = StrengthTrial(0.0, accuracy=0.9, loss=0.2, drift=3.0)
        >>> held = StrengthTrial(0.4, accuracy=0.88, loss=0.3, drift=1.0)
        >>> report = StrengthReport(before, (free, held), 0.4, 0.05, 50, "domain-incremental")
        >>> plot_strengths(report).axes[0].get_xlabel()
        'drift of the weights'
    """
    check_shown("report", report, "trials", "the report of a result of choose_anchor")
    axes = axes_for(ax, (5.2, 3.8))
    before = report.before
    has_old_accuracy = before.old_accuracy is not None
    points, texts = [], []
    for trial in report.trials:
        lost = 100 * ((before.old_accuracy or 0.0) - (trial.old_accuracy or 0.0))
        cost = lost if has_old_accuracy else trial.drift
        gain = 100 * (trial.accuracy - before.accuracy)
        is_chosen = trial.strength == report.chosen
        colour = GREEN if is_chosen else BLUE if trial.strength else ORANGE
        marker = "D" if is_chosen else "o" if trial.strength else "s"
        axes.plot(cost, gain, marker, color=colour)
        points.append((cost, gain))
        texts.append(f"{trial.strength:.2g}" if trial.strength else "no anchor")
    title = f"Gain and cost of each strength\nchosen: {report.chosen:.3g} (diamond)"
    if not has_old_accuracy:
        required = (1 - report.tolerance) * report.trials[0].accuracy
        axes.axhline(100 * (required - before.accuracy), color="grey", linestyle=":")
        title += "; dotted: required gain"
    axes.set(
        xlabel="loss on the old task (points)" if has_old_accuracy else "drift of the weights",
        ylabel="gain on the new task (points)",
    )
    axes.set_title(title, fontsize=10)
    axes.margins(0.15)
    label_points(axes, points, texts)
    return figure_of(axes)


def plot_interpolation(report: HasInterpolation, *, ax: Axes | None = None) -> Figure:
    """Draws the accuracy on each split against the fraction of the new model.

    Args:
        report: The result of `sweep_interpolation`.
        ax: The axes to draw in; a new figure by default.

    Example:
        >>> from tlkit.plots.continual import plot_interpolation
        >>> from tlkit.continual.interpolation import InterpolationReport
        >>> report = InterpolationReport((0.0, 1.0), {"old": (0.9, 0.5)}, {"old": 100}, "")
        >>> plot_interpolation(report).axes[0].get_ylabel()
        'accuracy in %'
    """
    check_shown("report", report, "alphas", "a result of sweep_interpolation")
    title = "Interpolation between the old and the new model"
    axes = axes_for(ax, (5.2, 3.4), title=title)
    for i, (name, values) in enumerate(report.accuracies.items()):
        marker = _MARKERS[i % len(_MARKERS)]
        axes.plot(report.alphas, 100 * np.array(values), marker=marker, label=printable(name))
    axes.set(xlabel="fraction of the new model (alpha)", ylabel="accuracy in %")
    legend_for(axes, ax, "outside right upper")
    return figure_of(axes)
