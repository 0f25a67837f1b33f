"""Figures of evaluations: confusion matrix, calibration and mistakes."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tlkit.errors import ArgumentError
from tlkit.plots.drawing import (
    BLUE,
    COLUMNS_UNDER_IMAGE,
    GREEN,
    MAX_IMAGES,
    ORANGE,
    axes_for,
    check_shown,
    figure_of,
    grid,
    legend_for,
    message,
    panels_in,
    read_file,
    without_frame,
)
from tlkit.plots.fonts import dress, printable
from tlkit.utils.formatting import counted, percent

MAX_CLASSES_IN_MATRIX = 40
_SERIES = ((BLUE, "o", ""), (ORANGE, "s", "////"), (GREEN, "^", "...."))


class HasConfusion(Protocol):
    """The attributes of an evaluation that `plot_confusion` reads."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the matrix."""

    @property
    def confusion(self) -> np.ndarray | None:
        """Counts `(num_classes, num_classes)`; rows are true classes."""


class HasMistakes(Protocol):
    """The attributes of an evaluation that `plot_mistakes` reads."""

    @property
    def mistakes(self) -> tuple[Any, ...]:
        """Mistakes with `truth`, `predicted`, `probability` and `source`, the worst first."""


class HasReliability(Protocol):
    """The attributes of a reliability measurement that `plot_reliability` reads."""

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins, `(num_bins + 1,)`, 0...1."""

    @property
    def counts(self) -> np.ndarray:
        """Number of predictions in each bin, `(num_bins,)`."""

    @property
    def confidence(self) -> np.ndarray:
        """Mean confidence in each bin, NaN in an empty one."""

    @property
    def accuracy(self) -> np.ndarray:
        """Fraction of correct predictions in each bin, NaN in an empty one."""

    @property
    def accuracy_interval(self) -> np.ndarray:
        """Its 95 % interval, `(num_bins, 2)`."""

    @property
    def error(self) -> float:
        """Mean difference between confidence and accuracy over all predictions."""


class HasEvaluation(Protocol):
    """The attributes of an evaluation that `plot_reliability` reads."""

    @property
    def reliability(self) -> HasReliability:
        """Reliability of the evaluated probabilities."""


class HasCalibration(Protocol):
    """The attributes of a calibration that `plot_reliability` reads."""

    @property
    def before(self) -> HasReliability:
        """Reliability before calibration."""

    @property
    def after(self) -> HasReliability:
        """Reliability after calibration."""


Measured = HasReliability | HasEvaluation


def plot_confusion(evaluation: HasConfusion, *, ax: Axes | None = None) -> Figure:
    """Draws the confusion matrix; shades are fractions of a row.

    Of more than 40 classes the 40 with the most mistakes are shown, and the title says so.

    Args:
        evaluation: An `EvaluationReport`; for several labels there is no matrix, and the figure
            says so.
        ax: The axes to draw in; a new figure by default.
    """
    check_shown("evaluation", evaluation, "confusion", "a result of evaluate")
    matrix = evaluation.confusion
    if matrix is None:
        return message("a model with several labels per image has no confusion matrix", ax)
    shown = most_confused(matrix, MAX_CLASSES_IN_MATRIX)
    fractions = (matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))[np.ix_(shown, shown)]
    counts = matrix[np.ix_(shown, shown)]
    names = [printable(evaluation.class_names[index], limit=24) for index in shown]
    size = max(2.4, 0.36 * len(shown)) + 0.09 * max(map(len, names)) + 0.6
    num_images, num_classes = int(matrix.sum()), len(matrix)
    title = f"Confusion matrix, {counted(num_images, 'image')}"
    if len(shown) < num_classes:
        title += f"\nthe {len(shown)} of {num_classes} classes with the most mistakes"
    axes = axes_for(ax, (size, size), title=title)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if fractions[row, column] > 0.5 else "black"
            text = _short_count(int(count))
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(len(shown)), names, rotation=90)
    axes.set_yticks(range(len(shown)), names)
    dress(*axes.get_xticklabels(), *axes.get_yticklabels())
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_xticks(np.arange(len(shown) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(shown) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    return figure_of(axes)


def most_confused(matrix: np.ndarray, limit: int) -> np.ndarray:
    """Returns the numbers of the classes with the most mistakes, ascending, at most `limit`.

    A mistake counts for the true class and for the predicted class.
    """
    mistakes = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    return np.sort(np.argsort(-mistakes, kind="stable")[:limit])


def plot_reliability(
    measured: Measured | HasCalibration | Mapping[str, Measured],
    *,
    title: str = "Calibration",
    ax: Axes | None = None,
) -> Figure:
    """Draws a model's accuracy against its confidence (a reliability diagram).

    Each point is a bin of confidence. On the diagonal the model is calibrated; below it the model
    is overconfident. Bars through the points are 95 % intervals. The lower panel shows the number
    of predictions in each bin.

    Args:
        measured: An `EvaluationReport` or its `reliability`; a `CalibrationReport`, which is drawn
            before and after; or at most 3 of them by name, such as
            `{"the head alone": probed, "fine-tuned": tuned}`.
        title: Title of the figure.
        ax: The axes to draw in; a new figure by default.

    Raises:
        ArgumentError: There are more than 3, which could not be distinguished.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.reliability import measure_reliability
        >>> from tlkit.plots.evaluation import plot_reliability
        >>> measured = measure_reliability(np.linspace(0.5, 1, 50), np.arange(50) % 4 > 0)
        >>> [axes.get_ylabel() for axes in plot_reliability(measured).axes]
        ['accuracy', 'predictions']
    """
    by_name = _by_name(measured)
    for reliability in by_name.values():
        check_shown(
            "measured", reliability, "accuracy_interval", "a result of evaluate or calibrate"
        )
    panels = panels_in(
        ax,
        (4.8, 5.9),
        (2, 1),
        title=printable(title, 48),
        gaps=(0, 0.1),
        heights=(3, 1),
        sharex=True,
    )
    upper, lower = panels[:, 0]
    handles: list[Any] = upper.plot([0, 1], [0, 1], color="0.4", linewidth=1, linestyle=":")
    labels = ["calibrated"]
    for number, (name, one) in enumerate(by_name.items()):
        colour, marker, hatch = _SERIES[number]
        filled = one.counts > 0
        low, high = one.accuracy_interval[filled].T
        points = upper.errorbar(
            one.confidence[filled],
            one.accuracy[filled],
            yerr=np.stack([one.accuracy[filled] - low, high - one.accuracy[filled]]).tolist(),
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=2,
        )
        handles.append(points)
        labels.append(f"{printable(name, 24)}: " * bool(name) + f"error {percent(one.error)}")
        widths = np.diff(one.edges) * 0.9 / len(by_name)
        left = one.edges[:-1] + np.diff(one.edges) * 0.05 + number * widths
        lower.bar(
            left, one.counts, widths, align="edge", color=colour, hatch=hatch, edgecolor="white"
        )
    upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="accuracy")
    upper.grid(color="#dddddd", linewidth=0.6)
    lower.set(xlabel="confidence", ylabel="predictions")
    lower.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    # given explicitly: matplotlib leaves out names with a leading underscore
    legend_for(panels, ax, "outside lower center", handles=handles, labels=labels)
    for axes in (upper, lower):
        without_frame(axes)
    return figure_of(panels)


def plot_mistakes(
    evaluation: HasMistakes,
    read_image: Callable[[Any], np.ndarray] | None = None,
    *,
    ax: Axes | None = None,
) -> Figure:
    r"""Draws the worst mistakes, at most 24, with predicted class, true class and probability.

    The most confident mistake comes first. With two classes it has the highest loss; with more
    classes the order by loss may differ, as the remaining probability may be on other classes than
    the true one.

    Args:
        evaluation: An `EvaluationReport`.
        read_image: Returns the pixels 0...255, `(height, width, 3)`, of one of its mistakes; reads
            the mistake's file by default.
        ax: The axes to draw in; a new figure by default.

    Raises:
        ArgumentError: A mistake has no file, and `read_image` is not given.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.metrics import evaluate_probabilities
        >>> from tlkit.plots.evaluation import plot_mistakes
        >>> report = evaluate_probabilities(
        ...     np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), ["ant", "bee"])
        >>> figure = plot_mistakes(report, lambda mistake: np.zeros((8, 8, 3)))
        >>> [axes.get_title() for axes in figure.axes]
        ['pred: ant\ntrue: bee\nprobability 80 %']
    """
    check_shown("evaluation", evaluation, "mistakes", "a result of evaluate")
    mistakes = evaluation.mistakes[:MAX_IMAGES]
    if not mistakes:
        return message("no mistakes", ax)
    limit = COLUMNS_UNDER_IMAGE - len("pred: ")
    texts = [
        f"pred: {printable(mistake.predicted or 'no label', limit)}\n"
        f"true: {printable(mistake.truth or 'no label', limit)}\n"
        f"probability {percent(mistake.probability, 0)}"
        for mistake in mistakes
    ]
    read_image = read_image or _read_file_of
    title = f"Most confident mistakes, {len(mistakes)} of {len(evaluation.mistakes)}"
    return grid([read_image(mistake) for mistake in mistakes], texts, title=title, ax=ax)


def _read_file_of(mistake: Any) -> np.ndarray:
    return read_file(mistake.source)


def _by_name(
    measured: Measured | HasCalibration | Mapping[str, Measured],
) -> dict[str, HasReliability]:
    """Returns the reliability measurements to draw, by their names in the legend."""
    if isinstance(measured, Mapping):
        if len(measured) > len(_SERIES):
            raise ArgumentError(
                f"`measured` must contain at most {len(_SERIES)} measurements. Received: "
                f"{len(measured)}. Draw the others in another figure."
            )
        by_name: Mapping[str, Any] = measured
    elif hasattr(measured, "before") and hasattr(measured, "after"):
        by_name = {"before": measured.before, "after": measured.after}
    else:
        by_name = {"": measured}
    return {name: getattr(one, "reliability", one) for name, one in by_name.items()}


def _short_count(count: int) -> str:
    """Returns a count in at most four characters: 999, 1.2k, 12k."""
    if count < 1000:
        return str(count)
    return f"{count / 1000:.1f}k" if count < 9950 else f"{count / 1000:.0f}k"
