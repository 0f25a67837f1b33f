"""What all figures share: colours, a grid of images, a message in place of a figure.

The functions draw on figures of their own, which show themselves (see `tlkit.plots.figure`), or,
given `ax`, in a panel of the user's figure.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tlkit.data.reading import read_image
from tlkit.errors import ArgumentError
from tlkit.plots.figure import Figure as OwnFigure
from tlkit.plots.figure import finished
from tlkit.plots.fonts import dress

# Colours that all kinds of colour vision tell apart, by Okabe and Ito:
# https://jfly.uni-koeln.de/color/
ORANGE, GREEN, BLUE = "#E69F00", "#009E73", "#0072B2"

MAX_IMAGES = 24
COLUMNS_UNDER_IMAGE = 22
_IMAGES_IN_A_ROW = 6


def check_shown(argument: str, value: object, attribute: str, source: str) -> None:
    """Raises `ArgumentError` unless what is to be drawn has what is drawn of it.

    Args:
        argument: What errors call it.
        value: What was received.
        attribute: What the figure reads first.
        source: Where such a thing comes from.
    """
    if not hasattr(value, attribute):
        raise ArgumentError(
            f"`{argument}` must be {source}. Received: {argument} of type {type(value).__name__}. "
            "Give that."
        )


def grid(
    images: Sequence[np.ndarray], texts: Sequence[str], *, title: str, ax: Axes | None = None
) -> Figure:
    """Draws images, each under its text, six in a row.

    Args:
        images: Pixels 0...255, each `(height, width, 3)`; they need not have one size.
        texts: Of as many lines each.
        title: Stands above all of them.
        ax: Where they are drawn; in a figure of their own by default.
    """
    num_columns = min(len(images), _IMAGES_IN_A_ROW)
    num_rows = -(-len(images) // num_columns)
    num_lines = 1 + max(text.count("\n") for text in texts)
    size = (1.75 * num_columns, (1.85 + 0.15 * num_lines) * num_rows)
    panels = panels_in(
        ax, size, (num_rows, num_columns), title=title, gaps=(0.05, 0.05 + 0.07 * num_lines)
    )
    for panel in panels.flat:
        panel.set_axis_off()
        panel.set_anchor("N")
    for panel, image, text in zip(panels.flat, images, texts, strict=False):
        panel.imshow(np.clip(np.round(image), 0, 255).astype(np.uint8))
        dress(panel.set_title(text, fontsize=8))
    return figure_of(panels)


def read_file(path: str) -> np.ndarray:
    """Returns an image file as figures show it: upright, in its proportions, small.

    Raises:
        ArgumentError: There is no such file: images of arrays and datasets have none.
    """
    if not Path(path).is_file():
        raise ArgumentError(
            "`read_image` must be given for images that are no files. Received: "
            f"read_image=None, and {path!r} is none. Give a function that returns the "
            "pixels, `(height, width, 3)`, 0...255."
        )
    from tlkit.plots.thumbnails import thumbnail  # takes TensorFlow, which no other figure does

    return thumbnail(read_image(path))


def message(text: str, ax: Axes | None = None) -> Figure:
    """Draws a sentence, where there is nothing else to draw."""
    axes = panel_in(ax, (5, 1.2))
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    return figure_of(axes)


def panel_in(ax: Axes | None, size: tuple[float, float], *, title: str = "") -> Axes:
    """Returns the panel to draw in: the one that was given, or that of a new figure.

    Args:
        ax: What the user gave as `ax`.
        size: Of the new figure, in inches.
        title: Stands above the panel.

    Raises:
        ArgumentError: `ax` is no panel of a figure.
    """
    if ax is not None:
        _check_axes(ax)
    axes: Axes = OwnFigure(figsize=size, layout="constrained").subplots() if ax is None else ax
    if title:
        dress(axes.set_title(title, fontsize=10))
    return axes


def panels_in(
    ax: Axes | None,
    size: tuple[float, float],
    shape: tuple[int, int],
    *,
    title: str,
    gaps: tuple[float, float] = (0.24, 0.3),
    heights: Sequence[float] | None = None,
    sharex: bool = False,
    sharey: bool = False,
) -> np.ndarray:
    """Returns several panels, `(rows, columns)`, in a new figure or within one that was given.

    Args:
        ax: What the user gave as `ax`; its own frame and ticks go.
        size: Of the new figure, in inches.
        shape: Rows and columns.
        title: Stands above all of them.
        gaps: Between columns and rows of panels within another, as parts of its width and height;
            above the first row lies half a gap for the panels' own titles.
        heights: Of the rows in relation to each other.
        sharex: Whether they share their horizontal axis.
        sharey: Whether they share their vertical axis.

    Raises:
        ArgumentError: `ax` is no panel of a figure.
    """
    if ax is None:
        figure = OwnFigure(figsize=size, layout="constrained")
        dress(figure.suptitle(title, fontsize=11))
        return figure.subplots(
            *shape, squeeze=False, height_ratios=heights, sharex=sharex, sharey=sharey
        )
    _check_axes(ax)
    ax.set_axis_off()
    dress(ax.set_title(title, fontsize=10))
    rows, columns = shape
    beside, between = gaps
    top = 1 - between / 2
    width = (1 - beside * (columns - 1)) / columns
    tall = np.array(heights or [1] * rows, float)
    tall *= (top - between * (rows - 1)) / tall.sum()
    panels = np.empty(shape, object)
    for row, column in np.ndindex(*shape):
        bottom = float(top - tall[: row + 1].sum() - between * row)
        place = (column * (width + beside), bottom, width, float(tall[row]))
        first = panels[0, 0]
        panels[row, column] = ax.inset_axes(
            place, sharex=first if sharex else None, sharey=first if sharey else None
        )
    return panels


def figure_of(panels: Axes | np.ndarray) -> Figure:
    """Returns the finished figure that holds the panels."""
    first: Axes = panels.flat[0] if isinstance(panels, np.ndarray) else panels
    figure = first.get_figure(root=True)
    assert isinstance(figure, Figure)
    return finished(figure)


def legend_for(panels: Axes | np.ndarray, ax: Axes | None, place: str, **settings: Any) -> None:
    """Explains what is drawn: beside the panels of a figure of our own, within a user's panel.

    Args:
        panels: What is explained; in the user's figure the first of them holds the legend.
        ax: What the user gave as `ax`.
        place: Where it stands in a figure of our own, such as "outside upper center".
        settings: As `Figure.legend` takes them.
    """
    first: Axes = panels.flat[0] if isinstance(panels, np.ndarray) else panels
    if ax is None:
        figure = first.get_figure(root=True)
        assert figure is not None
        legend = figure.legend(**{"loc": place, "frameon": False, **settings})
    else:
        legend = first.legend(loc="best", fontsize=7, **(settings | {"ncols": 1}))
    dress(*legend.get_texts())


def _check_axes(ax: object) -> None:
    if not isinstance(ax, Axes):
        raise ArgumentError(
            "`ax` must be one panel of a figure, a matplotlib.axes.Axes. Received: ax of type "
            f"{type(ax).__name__}. Give one of those that plt.subplots returned."
        )


def without_frame(axes: Axes) -> None:
    """Leaves the two axes of a panel and takes the rest of its frame away."""
    axes.spines[["top", "right"]].set_visible(False)
