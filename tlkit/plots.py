"""Records as figures: readable in print and without telling colours apart, in any script.

The functions draw on matplotlib's figures and leave pyplot alone; notebooks show what they return.
The public names of most begin with `plot_`: `tlkit.plot_batch` is `batch_grid`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tlkit.canvas import Figure
from tlkit.lettering import dress, printable

# Colours that all kinds of colour vision tell apart, by Okabe and Ito:
# https://jfly.uni-koeln.de/color/
ORANGE, GREEN, BLUE = "#E69F00", "#009E73", "#0072B2"
_SPLITS = {"train": (BLUE, ""), "validation": (ORANGE, "////"), "test": (GREEN, "....")}
_SERIES = ((BLUE, "o", ""), (ORANGE, "s", "////"), (GREEN, "^", "...."))

MAX_CLASSES_IN_MATRIX = 40
MAX_CLASSES_IN_BARS = 100
MAX_IMAGES = 24
_IMAGES_IN_A_ROW = 6
_COLUMNS_UNDER_IMAGE = 22


class HasConfusion(Protocol):
    """What `confusion` reads of an evaluation."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the matrix."""

    @property
    def confusion(self) -> np.ndarray | None:
        """`(num_classes, num_classes)`, rows are the truth."""


class HasMistakes(Protocol):
    """What `mistakes` reads of an evaluation."""

    @property
    def mistakes(self) -> tuple[Any, ...]:
        """Each with `truth`, `predicted` and `probability`, the worst first."""


class HasPairs(Protocol):
    """What `near_duplicates` reads of an audit."""

    @property
    def pairs(self) -> tuple[Any, ...]:
        """Each with `paths`, `num_differing`, `splits` and `classes`, what matters most first."""


class HasCounts(Protocol):
    """What `class_counts` reads of a report on data."""

    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Images of each class in each split."""


class HasStages(Protocol):
    """What `training` reads of a training."""

    @property
    def stages(self) -> Sequence[Any]:
        """Each with `history`, and what trained in it: `trainable.groups`."""


class HasSweep(Protocol):
    """What `learning_rates` reads of a sweep."""

    @property
    def rates(self) -> np.ndarray:
        """`(n,)`, rising."""

    @property
    def losses(self) -> np.ndarray:
        """`(n,)`."""

    @property
    def smoothed(self) -> np.ndarray:
        """`(n,)`."""

    @property
    def suggestion(self) -> float:
        """A rate."""


class HasReliability(Protocol):
    """What `reliability` reads of a measurement of reliability."""

    @property
    def edges(self) -> np.ndarray:
        """Of the bins, `(num_bins + 1,)`, 0...1."""

    @property
    def counts(self) -> np.ndarray:
        """Decisions in each bin, `(num_bins,)`."""

    @property
    def confidence(self) -> np.ndarray:
        """Mean confidence in each bin, NaN in an empty one."""

    @property
    def accuracy(self) -> np.ndarray:
        """Share of right decisions in each bin, NaN in an empty one."""

    @property
    def accuracy_interval(self) -> np.ndarray:
        """Its 95 % interval, `(num_bins, 2)`."""

    @property
    def error(self) -> float:
        """Mean distance between both, over all decisions."""


def curves(
    history: Sequence[Mapping[str, float]], *, stages: Sequence[tuple[str, int]] = ()
) -> Figure:
    """Draws every metric over the epochs, training and validation in one panel.

    Args:
        history: One mapping per epoch from Keras's names ("loss", "val_loss") to values.
        stages: Name and number of epochs of each stage of training, when there were several.

    Example:
        >>> from tlkit.plots import curves
        >>> figure = curves([{"loss": 0.9, "val_loss": 1.0}, {"loss": 0.5, "val_loss": 0.8}])
        >>> [panel.get_ylabel() for panel in figure.axes]
        ['loss']
    """
    metrics = list(dict.fromkeys(key.removeprefix("val_") for epoch in history for key in epoch))
    if not metrics:
        return _message("no epochs: the head was solved, not trained")
    figure = Figure(figsize=(4.6 * min(len(metrics), 2), 3.3 * -(-len(metrics) // 2)))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(-(-len(metrics) // 2), min(len(metrics), 2), squeeze=False)
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
        panel.ticklabel_format(axis="y", scilimits=(-3, 5))
        lines |= {str(line.get_label()): line for line in panel.lines}
        dress(panel.yaxis.label)
        _mark_stages(panel, stages)
        _without_frame(panel)
    for panel in panels.flat[len(metrics) :]:
        panel.remove()
    figure.legend(handles=lines.values(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def training(report: HasStages) -> Figure:
    """Draws the metrics of all epochs of all stages; each stage is named by its first group.

    An anchor's penalty is drawn as one share of the loss, not group by group.

    Args:
        report: A `TrainingReport`.

    Example:
        >>> from types import SimpleNamespace
        >>> from tlkit.plots import training
        >>> history = ({"loss": 0.9, "anchor_conv5": 0.1, "anchor_share": 0.1},)
        >>> stage = SimpleNamespace(history=history, trainable=SimpleNamespace(groups=("conv5",)))
        >>> [panel.get_ylabel() for panel in training(SimpleNamespace(stages=[stage])).axes]
        ['loss', 'anchor share']
    """
    history = [
        {name: value for name, value in epoch.items() if not _is_of_one_group(name)}
        for stage in report.stages
        for epoch in stage.history
    ]
    stages = [(stage.trainable.groups[0], len(stage.history)) for stage in report.stages]
    return curves(history, stages=stages)


def learning_rates(report: HasSweep) -> Figure:
    """Draws the losses of a sweep over its rates, and the rate that is suggested.

    Args:
        report: What `find_learning_rate` returned.
    """
    figure = Figure(figsize=(6.0, 3.6))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.plot(report.rates, report.losses, ".", color="0.75", label="loss of each step")
    axes.plot(report.rates, report.smoothed, color=BLUE, linewidth=2, label="running mean")
    axes.axvline(report.suggestion, color=ORANGE, linestyle="--", label="suggested")
    low, high = float(report.smoothed.min()), float(report.smoothed.max())
    margin = 0.2 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.set_title(f"learning_rate={report.suggestion:.1e}")
    axes.legend(loc="best", frameon=False)
    _without_frame(axes)
    return figure


def confusion(evaluation: HasConfusion) -> Figure:
    """Draws how many images of each class were called what; shades are shares of a row.

    Of more than 40 classes those 40 with the most mistakes are shown, and the title says so.

    Args:
        evaluation: An `EvaluationReport`; one with several labels has no matrix, which is said.
    """
    matrix = evaluation.confusion
    if matrix is None:
        return _message("a model that gives several labels has no confusion matrix")
    chosen = most_confused(matrix, MAX_CLASSES_IN_MATRIX)
    shares = (matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))[np.ix_(chosen, chosen)]
    counts = matrix[np.ix_(chosen, chosen)]
    names = [printable(evaluation.class_names[index], limit=24) for index in chosen]
    size = max(2.4, 0.36 * len(chosen)) + 0.09 * max(map(len, names)) + 0.6
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = _short_count(int(count))
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(len(chosen)), names, rotation=90)
    axes.set_yticks(range(len(chosen)), names)
    dress(*axes.get_xticklabels(), *axes.get_yticklabels())
    axes.set(xlabel="predicted", ylabel="truth")
    axes.set_xticks(np.arange(len(chosen) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(chosen) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    if len(chosen) < len(matrix):
        axes.set_title(
            f"the {len(chosen)} of {len(matrix)} classes with the most mistakes", fontsize=10
        )
    return figure


def most_confused(matrix: np.ndarray, limit: int) -> np.ndarray:
    """Returns the numbers of the classes with the most mistakes, ascending, at most `limit`.

    A mistake counts for the class it belongs to and for the class it was taken for.
    """
    mistakes = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    return np.sort(np.argsort(-mistakes, kind="stable")[:limit])


def reliability(
    measured: HasReliability | Mapping[str, HasReliability], *, title: str = ""
) -> Figure:
    """Draws how often a model is right against how sure it says it is.

    Each point is one bin of confidence; on the diagonal confidence is what it says, below it the
    model is too sure. Bars through the points are 95 % intervals; below stands how many decisions
    fall into each bin.

    Args:
        measured: `report.reliability`; or several by name, at most 3, such as
            `{"before": calibration.before, "after": calibration.after}`.
        title: Stands above.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.reliability import measure_reliability
        >>> from tlkit.plots import reliability
        >>> measured = measure_reliability(np.linspace(0.5, 1, 50), np.arange(50) % 4 > 0)
        >>> [axes.get_ylabel() for axes in reliability(measured).axes]
        ['share that is right', 'decisions']
    """
    several = measured if isinstance(measured, Mapping) else {"": measured}
    figure = Figure(figsize=(4.8, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    handles: list[Any] = upper.plot([0, 1], [0, 1], color="0.4", linewidth=1, linestyle=":")
    labels = ["as sure as right"]
    for (name, one), (colour, marker, hatch) in zip(several.items(), _SERIES, strict=False):
        filled = one.counts > 0
        low, high = one.accuracy_interval[filled].T
        points = upper.errorbar(
            one.confidence[filled],
            one.accuracy[filled],
            yerr=(one.accuracy[filled] - low, high - one.accuracy[filled]),
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=2,
        )
        handles.append(points)
        labels.append(f"{printable(name, 24)}: " * bool(name) + f"error {100 * one.error:.1f} %")
        widths = np.diff(one.edges) * 0.9 / len(several)
        left = one.edges[:-1] + np.diff(one.edges) * 0.05 + list(several).index(name) * widths
        lower.bar(
            left, one.counts, widths, align="edge", color=colour, hatch=hatch, edgecolor="white"
        )
    upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="share that is right")
    upper.grid(color="#dddddd", linewidth=0.6)
    lower.set(xlabel="confidence", ylabel="decisions")
    lower.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    # given by hand: names with a leading underscore would be left out
    legend = figure.legend(handles, labels, loc="outside upper center", frameon=False)
    dress(*legend.get_texts())
    if title:
        dress(upper.set_title(printable(title, 48), fontsize=10))
    for axes in (upper, lower):
        _without_frame(axes)
    return figure


def mistakes(evaluation: HasMistakes, read_image: Callable[[Any], np.ndarray]) -> Figure:
    """Draws the worst mistakes, at most 24, with truth, prediction and probability.

    Args:
        evaluation: An `EvaluationReport`.
        read_image: Gives the pixels 0...255, `(height, width, 3)`, of one of its mistakes.
    """
    shown = evaluation.mistakes[:MAX_IMAGES]
    if not shown:
        return _message("no mistakes")
    texts = [
        f"said {printable(one.predicted or 'no label', _COLUMNS_UNDER_IMAGE - 5)}\n"
        f"is {printable(one.truth or 'no label', _COLUMNS_UNDER_IMAGE - 3)}\n"
        f"{100 * one.probability:.0f} % sure"
        for one in shown
    ]
    return _grid([read_image(one) for one in shown], texts)


def near_duplicates(report: HasPairs, read_image: Callable[[str], np.ndarray]) -> Figure:
    r"""Draws pairs of pictures that look alike side by side, at most 12.

    Above each stand the number of its pair and its split, its class, and its file's name.

    Args:
        report: A `NearDuplicateReport`.
        read_image: Gives the pixels 0...255, `(height, width, 3)`, of a path.

    Example:
        >>> import numpy as np
        >>> from tlkit.data.near_duplicate_reports import NearDuplicate, NearDuplicateReport
        >>> from tlkit.plots import near_duplicates
        >>> pair = NearDuplicate(("a.jpg", "b.jpg"), 5, ("train", "test"), ("cat", "dog"))
        >>> report = NearDuplicateReport((pair,), 1, 20, 64)
        >>> figure = near_duplicates(report, lambda path: np.zeros((8, 8, 3)))
        >>> [axes.get_title() for axes in figure.axes]
        ['1: train\ncat\na.jpg', '1: test\ndog\nb.jpg']
    """
    shown = report.pairs[: MAX_IMAGES // 2]
    if not shown:
        return _message("no near-duplicates")
    images = [read_image(path) for pair in shown for path in pair.paths]
    texts = [
        f"{number}: {printable(split, _COLUMNS_UNDER_IMAGE - 4)}\n"
        f"{printable(label or 'no label', _COLUMNS_UNDER_IMAGE)}\n"
        f"{printable(Path(path).name, _COLUMNS_UNDER_IMAGE)}"
        for number, pair in enumerate(shown, start=1)
        for path, split, label in zip(pair.paths, pair.splits, pair.classes, strict=True)
    ]
    return _grid(images, texts)


def class_counts(report: HasCounts) -> Figure:
    """Draws how many images each class has in each split.

    Of more than 100 classes the 50 largest and the 50 smallest are shown, and the title says so.

    Args:
        report: A `DataReport`.
    """
    totals = {name: sum(counts.values()) for name, counts in report.counts.items()}
    if not totals:
        return _message("no classes")
    names = list(totals)
    if len(names) > MAX_CLASSES_IN_BARS:
        by_size = sorted(names, key=lambda name: -totals[name])
        names = by_size[: MAX_CLASSES_IN_BARS // 2] + by_size[-MAX_CLASSES_IN_BARS // 2 :]
    figure = Figure(figsize=(6.4, 1.1 + 0.24 * len(names)), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(names))
    left = np.zeros(len(names))
    for split, (colour, hatch) in _SPLITS.items():
        widths = np.array([report.counts[name].get(split, 0) for name in names])
        if widths.any():
            bars = axes.barh(positions, widths, left=left, height=0.72, label=split, color=colour)
            for bar in bars:
                bar.set(hatch=hatch, edgecolor="white", linewidth=0.4)
            left += widths
    for position, name in enumerate(names):
        axes.annotate(
            f"{totals[name]:,}",
            (left[position], position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(positions, [printable(name) for name in names], fontsize=9)
    dress(*axes.get_yticklabels())
    axes.set(xlabel="images", ylim=(len(names) - 0.4, -0.6))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.margins(x=0.1)
    axes.tick_params(axis="y", length=0)
    if left.any():
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
    if len(names) < len(totals):
        half = MAX_CLASSES_IN_BARS // 2
        axes.set_title(f"the {half} largest and {half} smallest of {len(totals)} classes")
    _without_frame(axes)
    return figure


def batch_grid(images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draws the first images of a batch, at most 24, with their names.

    Args:
        images: `(batch, height, width, 3)`, 0...255.
        labels: Whole numbers `(batch,)`, or rows of 0/1 `(batch, num_classes)`.
        class_names: In the order of the labels.
    """
    texts = []
    for label in np.asarray(labels)[:MAX_IMAGES]:
        given = [int(label)] if label.ndim == 0 else np.flatnonzero(label).tolist()
        name = ", ".join(class_names[index] for index in given)
        texts.append(printable(name or "no label", _COLUMNS_UNDER_IMAGE))
    return _grid(list(np.asarray(images)[:MAX_IMAGES]), texts)


def _is_of_one_group(name: str) -> bool:
    """Whether a metric is an anchor's penalty of one group."""
    return name.startswith("anchor_") and name != "anchor_share"


def _grid(images: Sequence[np.ndarray], texts: Sequence[str]) -> Figure:
    num_columns = min(len(images), _IMAGES_IN_A_ROW)
    num_rows = -(-len(images) // num_columns)
    num_lines = 1 + max(text.count("\n") for text in texts)
    size = (1.75 * num_columns, (1.85 + 0.15 * num_lines) * num_rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
        panel.set_anchor("N")
    for panel, image, text in zip(panels.flat, images, texts, strict=False):
        panel.imshow(np.clip(np.round(image), 0, 255).astype(np.uint8))
        dress(panel.set_title(text, fontsize=8))
    return figure


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


def _message(text: str) -> Figure:
    figure = Figure(figsize=(5, 1.2), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    return figure


def _short_count(count: int) -> str:
    """Four characters at most: 999, 1.2k, 12k."""
    if count < 1000:
        return str(count)
    return f"{count / 1000:.1f}k" if count < 9950 else f"{count / 1000:.0f}k"


def _without_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
