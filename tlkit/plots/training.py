"""Figures of training: curves, weight change and learning-rate sweeps."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tlkit.plots.drawing import (
    BLUE,
    GREEN,
    ORANGE,
    axes_for,
    check_shown,
    figure_of,
    legend_for,
    message,
    panels_in,
    without_frame,
)
from tlkit.plots.fonts import dress, printable
from tlkit.utils.formatting import relative_change

_STAGES_IN_A_ROW = 3


class HasStages(Protocol):
    """The attributes of a training report that `plot_training` and `plot_drift` read."""

    @property
    def stages(self) -> Sequence[Any]:
        """Stages with `name`, `history`, `weight_change` and `trainable.groups`."""


class HasSweep(Protocol):
    """The attributes of a sweep that `plot_learning_rates` reads."""

    @property
    def rates(self) -> np.ndarray:
        """Learning rates `(n,)`, increasing."""

    @property
    def losses(self) -> np.ndarray:
        """Losses `(n,)`."""

    @property
    def smoothed(self) -> np.ndarray:
        """Smoothed losses `(n,)`."""

    @property
    def suggestions(self) -> dict[str, float]:
        """A learning rate by each rule; empty for a flat curve."""

    @property
    def suggestion(self) -> float:
        """The suggested learning rate."""


def curves(
    history: Sequence[Mapping[str, float]],
    *,
    stages: Sequence[tuple[str, int]] = (),
    kept: Sequence[int] = (),
    ax: Axes | None = None,
) -> Figure:
    """Draws each metric over the epochs, with training and validation in one panel.

    Args:
        history: A mapping for each epoch from Keras's names ("loss", "val_loss") to values.
        stages: Name and number of epochs of each stage, if there are several.
        kept: Numbers, from 1, of the epochs whose weights were kept, at most one for each stage.
        ax: The axes to draw in; a new figure by default.

    Example:
        >>> from tlkit.plots.training import curves
        >>> figure = curves([{"loss": 0.9, "val_loss": 1.0}, {"loss": 0.5, "val_loss": 0.8}])
        >>> [panel.get_ylabel() for panel in figure.axes]
        ['loss']
    """
    metrics = list(dict.fromkeys(key.removeprefix("val_") for epoch in history for key in epoch))
    if not metrics:
        return message("no epochs: the head was solved without epochs", ax)
    shape = -(-len(metrics) // 2), min(len(metrics), 2)
    size = (4.6 * shape[1], 3.3 * shape[0] + 0.4)
    panels = panels_in(ax, size, shape, title="Training curves")
    epochs = np.arange(1, len(history) + 1)
    lines: dict[str, Line2D] = {}
    for panel, metric in zip(panels.flat, metrics, strict=False):
        for key, name, style in (
            (metric, "training", {"color": BLUE, "marker": "o", "linestyle": "-"}),
            (f"val_{metric}", "validation", {"color": ORANGE, "marker": "s", "linestyle": "--"}),
        ):
            if any(key in epoch for epoch in history):
                values = [epoch.get(key, np.nan) for epoch in history]
                marks = max(1, len(history) // 15)
                panel.plot(epochs, values, label=name, markersize=4, markevery=marks, **style)
        panel.set(xlabel="epoch", xlim=(0.5, len(history) + 0.5))
        panel.set_ylabel(metric.replace("_", " "))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.yaxis.set_major_formatter("{x:.4g}")  # a factor above the axis would overlap names
        for epoch in kept:
            panel.axvline(epoch, color=GREEN, linewidth=1.2, label="kept", zorder=1)
        lines |= {str(line.get_label()): line for line in panel.lines}
        dress(panel.yaxis.label)
        _mark_stages(panel, stages)
        without_frame(panel)
    for panel in panels.flat[len(metrics) :]:
        panel.remove()
    legend_for(panels, ax, "outside lower center", handles=[*lines.values()], ncols=3)
    return figure_of(panels)


def plot_training(report: HasStages, *, ax: Axes | None = None) -> Figure:
    """Draws the metrics over all epochs of all stages; each stage has the name of its first group.

    A vertical line marks the epoch whose weights were kept. An anchor's penalty is drawn as one
    fraction of the loss, not for each group.

    Args:
        report: A `TrainingReport`.
        ax: The axes to draw in; a new figure by default.

    Example:
        >>> from types import SimpleNamespace
        >>> from tlkit.plots.training import plot_training
        >>> history = ({"loss": 0.9, "anchor_conv5": 0.1, "anchor_share": 0.1},)
        >>> stage = SimpleNamespace(history=history, trainable=SimpleNamespace(groups=("conv5",)))
        >>> [panel.get_ylabel() for panel in plot_training(SimpleNamespace(stages=[stage])).axes]
        ['loss', 'anchor share']
    """
    check_shown("report", report, "stages", "a result of train_head or fine_tune")
    history = [
        {name: value for name, value in epoch.items() if not _is_penalty_of_group(name)}
        for stage in report.stages
        for epoch in stage.history
    ]
    stages = [(stage.trainable.groups[0], len(stage.history)) for stage in report.stages]
    kept, num_before = [], 0
    for stage in report.stages:
        if (epoch := getattr(stage, "kept_epoch", None)) is not None:
            kept.append(num_before + epoch)
        num_before += len(stage.history)
    return curves(history, stages=stages, kept=kept, ax=ax)


def plot_drift(report: HasStages, *, ax: Axes | None = None) -> Figure:
    """Draws the weight change of each group of layers, in one panel for each stage.

    The bars show |after - before| / |before| of a group's weights in per cent, on a logarithmic
    scale. A group without a bar is bit-identical: "frozen", or "unchanged" if it was trainable and
    the weights of its training were not kept.

    Args:
        report: A `TrainingReport`.
        ax: The axes to draw in; a new figure by default.

    Example:
        >>> from types import SimpleNamespace
        >>> from tlkit.plots.training import plot_drift
        >>> stage = SimpleNamespace(name="fine-tune", weight_change={"conv4": 0.0, "conv5": 0.02},
        ...                         trainable=SimpleNamespace(groups=("conv5",)))
        >>> [text.get_text() for text in plot_drift(SimpleNamespace(stages=[stage])).axes[0].texts]
        ['0, frozen', '2 %']
    """
    check_shown("report", report, "stages", "a result of train_head or fine_tune")
    stages = [stage for stage in report.stages if stage.weight_change]
    if not stages:
        return message("the weight change was not measured", ax)
    names = list(dict.fromkeys(name for stage in stages for name in stage.weight_change))
    num_columns = min(len(stages), _STAGES_IN_A_ROW)
    num_rows = -(-len(stages) // num_columns)
    size = (1.6 + 2.6 * num_columns, 0.4 + num_rows * (0.9 + 0.28 * len(names)))
    title = "Weight change of each group"
    shape = num_rows, num_columns
    panels = panels_in(ax, size, shape, title=title, gaps=(0.08, 0.3), sharey=True, sharex=True)
    changes = [
        100 * change for stage in stages for change in stage.weight_change.values() if change
    ]
    finite = [change for change in changes if np.isfinite(change)] or [1.0]
    low, high = min(finite) / 3, max(finite)
    for panel, stage in zip(panels.flat, stages, strict=False):
        for position, name in enumerate(names):
            change = stage.weight_change.get(name, 0.0)
            end = min(100 * change, high)
            panel.barh(position, max(end - low, 0), left=low, height=0.66, color=BLUE)
            state = "unchanged" if name in stage.trainable.groups else "frozen"
            panel.annotate(
                relative_change(change) if change else f"0, {state}",
                (max(end, low), position),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color="black" if change else "#555555",
            )
        panel.set_xscale("log")
        dress(panel.set_title(printable(stage.name, 24), fontsize=10))
        without_frame(panel)
    panel = panels.flat[0]
    # space for the text behind the longest bar, whatever the range
    panel.set_xlim(low, high * max(10.0, (high / low) ** 0.6))
    panel.set_yticks(range(len(names)), [printable(name, 20) for name in names])
    panel.set_ylim(len(names) - 0.5, -0.5)
    first = np.ceil(np.log10(low))
    decades = np.arange(first, max(np.log10(high), first) + 0.5)
    ticks = 10.0 ** decades[:: -(-len(decades) // 4)]
    panel.set_xticks(ticks, [f"{tick:,.4g}" for tick in ticks])
    panel.minorticks_off()
    for panel in panels[:, 0]:
        dress(*panel.get_yticklabels())
    for panel in panels.flat:
        panel.tick_params(axis="y", length=0, labelsize=9)
        panel.tick_params(axis="x", labelsize=8)
    for panel in panels.flat[len(stages) :]:
        panel.remove()
    for panel in panels.flat[max(len(stages) - num_columns, 0) : len(stages)]:
        panel.tick_params(axis="x", labelbottom=True)
    for panel in panels[:, 1:].flat:
        panel.tick_params(axis="y", labelleft=False)
    in_last_row = len(stages) - (num_rows - 1) * num_columns
    panels[-1, (in_last_row - 1) // 2].set_xlabel("weight change in %", fontsize=9)
    return figure_of(panels)


def plot_learning_rates(report: HasSweep, *, ax: Axes | None = None) -> Figure:
    """Draws the losses of a sweep against its learning rates, and the suggested learning rate.

    Args:
        report: The result of `find_learning_rate`.
        ax: The axes to draw in; a new figure by default.
    """
    check_shown("report", report, "suggestion", "a result of find_learning_rate")
    source = "suggested" if report.suggestions else "the default"
    title = f"Learning-rate sweep: learning_rate={report.suggestion:.1e} is {source}"
    axes = axes_for(ax, (6.0, 3.6), title=title)
    axes.plot(report.rates, report.losses, ".", color="0.75", label="loss of each step")
    axes.plot(report.rates, report.smoothed, color=BLUE, linewidth=2, label="running mean")
    label = "suggested" if report.suggestions else "default, as the curve is flat"
    axes.axvline(report.suggestion, color=ORANGE, linestyle="--", label=label)
    low, high = float(report.smoothed.min()), float(report.smoothed.max())
    margin = 0.2 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.legend(loc="best", frameon=False)
    without_frame(axes)
    return figure_of(axes)


def _is_penalty_of_group(name: str) -> bool:
    """Whether a metric is an anchor's penalty on a single group."""
    return name.startswith("anchor_") and name != "anchor_share"


def _mark_stages(panel: Axes, stages: Sequence[tuple[str, int]]) -> None:
    start = 0
    for name, num_epochs in stages if len(stages) > 1 else ():
        if start and num_epochs:
            panel.axvline(start + 0.5, color="#555555", linewidth=0.8, linestyle=":")
        if num_epochs:
            text = panel.annotate(
                printable(name, 16),
                (start + 0.5, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, 2),
                textcoords="offset points",
                fontsize=8,
                color="#555555",
            )
            dress(text)
        start += num_epochs
