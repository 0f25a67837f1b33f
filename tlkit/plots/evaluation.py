"""How often a model is right, how sure it is and where it is wrong, as figures."""

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
    check_shown,
    figure_of,
    grid,
    legend_for,
    message,
    panel_in,
    panels_in,
    read_file,
    without_frame,
)
from tlkit.plots.fonts import dress, printable
from tlkit.utils.formatting import percent

MAX_CLASSES_IN_MATRIX = 40
_SERIES = ((BLUE, "o", ""), (ORANGE, "s", "////"), (GREEN, "^", "...."))


class HasConfusion(Protocol):
    """What `plot_confusion` reads of an evaluation."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the matrix."""

    @property
    def confusion(self) -> np.ndarray | None:
        """`(num_classes, num_classes)`, rows are the truth."""


class HasMistakes(Protocol):
    """What `plot_mistakes` reads of an evaluation."""

    @property
    def mistakes(self) -> tuple[Any, ...]:
        """Each with `truth`, `predicted`, `probability` and `source`, the worst first."""


class HasReliability(Protocol):
    """What `plot_reliability` reads of a measurement of reliability."""

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


class HasEvaluation(Protocol):
    """What `plot_reliability` reads of an evaluation."""

    @property
    def reliability(self) -> HasReliability:
        """Of the probabilities that were evaluated."""


class HasCalibration(Protocol):
    """What `plot_reliability` reads of a calibration."""

    @property
    def before(self) -> HasReliability:
        """Of the probabilities as they were."""

    @property
    def after(self) -> HasReliability:
        """Of the same, calibrated."""


Measured = HasReliability | HasEvaluation


def plot_confusion(evaluation: HasConfusion, *, ax: Axes | None = None) -> Figure:
    """Draws how many images of each class were called what; shades are shares of a row.

    Of more than 40 classes those 40 with the most mistakes are shown, and the title says so.

    Args:
        evaluation: An `EvaluationReport`; one with several labels has no matrix, which is said.
        ax: Where to draw; in a figure of its own by default.
    """
    check_shown("evaluation", evaluation, "confusion", "what evaluate returned")
    matrix = evaluation.confusion
    if matrix is None:
        return message("a model that gives several labels has no confusion matrix", ax)
    chosen = most_confused(matrix, MAX_CLASSES_IN_MATRIX)
    shares = (matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))[np.ix_(chosen, chosen)]
    counts = matrix[np.ix_(chosen, chosen)]
    names = [printable(evaluation.class_names[index], limit=24) for index in chosen]
    size = max(2.4, 0.36 * len(chosen)) + 0.09 * max(map(len, names)) + 0.6
    num_images, num_classes = int(matrix.sum()), len(matrix)
    title = f"Confusion matrix, {num_images:,} image{'' if num_images == 1 else 's'}"
    if len(chosen) < num_classes:
        title += f"\nthe {len(chosen)} of {num_classes} classes with the most mistakes"
    axes = panel_in(ax, (size, size), title=title)
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
    return figure_of(axes)


def most_confused(matrix: np.ndarray, limit: int) -> np.ndarray:
    """Returns the numbers of the classes with the most mistakes, ascending, at most `limit`.

    A mistake counts for the class it belongs to and for the class it was taken for.
    """
    mistakes = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    return np.sort(np.argsort(-mistakes, kind="stable")[:limit])


def plot_reliability(
    measured: Measured | HasCalibration | Mapping[str, Measured],
    *,
    title: str = "Calibration",
    ax: Axes | None = None,
) -> Figure:
    """Draws how often a model is right against how sure it says it is.

    Each point is one bin of confidence; on the diagonal confidence is what it says, below it the
    model is too sure. Bars through the points are 95 % intervals; below stands how many decisions
    fall into each bin.

    Args:
        measured: An `EvaluationReport`, or its `reliability`; a `CalibrationReport`, which is drawn
            before and after; or several by name, at most 3, such as
            `{"the head alone": probed, "fine-tuned": tuned}`.
        title: Stands above.
        ax: Where to draw; in a figure of its own by default.

    Raises:
        ArgumentError: There are more than 3, which could not be told apart.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.reliability import measure_reliability
        >>> from tlkit.plots.evaluation import plot_reliability
        >>> measured = measure_reliability(np.linspace(0.5, 1, 50), np.arange(50) % 4 > 0)
        >>> [axes.get_ylabel() for axes in plot_reliability(measured).axes]
        ['share that is right', 'decisions']
    """
    several = _by_name(measured)
    for one in several.values():
        check_shown("measured", one, "accuracy_interval", "what evaluate or calibrate returned")
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
    labels = ["as sure as right"]
    for (name, one), (colour, marker, hatch) in zip(several.items(), _SERIES, strict=False):
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
    r"""Draws the worst mistakes, at most 24, with truth, prediction and probability.

    The most confident wrong answer comes first. Between two classes that is the one with the
    highest loss; between more the order by loss may differ, since what is left of the probability
    need not lie on the truth.

    Args:
        evaluation: An `EvaluationReport`.
        read_image: Gives the pixels 0...255, `(height, width, 3)`, of one of its mistakes; reads
            the mistake's file by default.
        ax: Where to draw; in a figure of its own by default.

    Raises:
        ArgumentError: A mistake has no file, and there is no `read_image`.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.metrics import evaluate_probabilities
        >>> from tlkit.plots.evaluation import plot_mistakes
        >>> report = evaluate_probabilities(
        ...     np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), ["ant", "bee"])
        >>> figure = plot_mistakes(report, lambda mistake: np.zeros((8, 8, 3)))
        >>> [axes.get_title() for axes in figure.axes]
        ['said ant\nis bee\n80 % sure']
    """
    check_shown("evaluation", evaluation, "mistakes", "what evaluate returned")
    shown = evaluation.mistakes[:MAX_IMAGES]
    if not shown:
        return message("no mistakes", ax)
    texts = [
        f"said {printable(one.predicted or 'no label', COLUMNS_UNDER_IMAGE - 5)}\n"
        f"is {printable(one.truth or 'no label', COLUMNS_UNDER_IMAGE - 3)}\n"
        f"{percent(one.probability, 0)} sure"
        for one in shown
    ]
    read_image = read_image or _read_file_of
    title = f"The most confident mistakes, {len(shown)} of {len(evaluation.mistakes)}"
    return grid([read_image(one) for one in shown], texts, title=title, ax=ax)


def _read_file_of(mistake: Any) -> np.ndarray:
    return read_file(mistake.source)


def _by_name(
    measured: Measured | HasCalibration | Mapping[str, Measured],
) -> dict[str, HasReliability]:
    """The measurements of reliability to draw, by the names that the legend gives them."""
    if isinstance(measured, Mapping):
        if len(measured) > len(_SERIES):
            raise ArgumentError(
                f"`measured` must hold at most {len(_SERIES)} measurements. Received: "
                f"{len(measured)}. Draw the others in a figure of their own."
            )
        given: Mapping[str, Any] = measured
    elif hasattr(measured, "before") and hasattr(measured, "after"):
        given = {"before": measured.before, "after": measured.after}
    else:
        given = {"": measured}
    return {name: getattr(one, "reliability", one) for name, one in given.items()}


def _short_count(count: int) -> str:
    """Four characters at most: 999, 1.2k, 12k."""
    if count < 1000:
        return str(count)
    return f"{count / 1000:.1f}k" if count < 9950 else f"{count / 1000:.0f}k"
