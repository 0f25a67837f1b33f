"""Parts of all figures: colours, axes, a grid of images, and a message instead of a figure.

Functions draw in a new figure, which shows itself (see `tlkit.plots.figure`), or in the user's axes
`ax`.
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
from tlkit.plots.figure import register_with_pyplot
from tlkit.plots.fonts import dress
from tlkit.utils.rgb import as_rgb

# Colours that all kinds of colour vision distinguish, by Okabe and Ito:
# https://jfly.uni-koeln.de/color/
ORANGE, GREEN, BLUE = "#E69F00", "#009E73", "#0072B2"

MAX_IMAGES = 24
COLUMNS_UNDER_IMAGE = 22
_IMAGES_IN_A_ROW = 6


def check_shown(argument: str, value: object, attribute: str, source: str) -> None:
    """Raises `ArgumentError` unless the object to draw has the attribute that is drawn.

    Args:
        argument: Name of the argument in error messages.
        value: The object to draw.
        attribute: The attribute that the figure reads first.
        source: Where such an object comes from.
    """
    if not hasattr(value, attribute):
        raise ArgumentError(
            f"`{argument}` must be {source}. Received: {argument} of type {type(value).__name__}. "
            "Give such an object."
        )


def grid(
    images: Sequence[np.ndarray], texts: Sequence[str], *, title: str, ax: Axes | None = None
) -> Figure:
    """Draws images below their texts, six in a row.

    Args:
        images: Pixels 0...255, each `(height, width, channels)`, shown as `as_rgb` does; sizes may
            differ.
        texts: A text for each image, all with the same number of lines.
        title: Title of the figure.
        ax: The axes to draw in; a new figure by default.
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
        panel.imshow(as_rgb(np.clip(np.round(image), 0, 255).astype(np.uint8)))
        dress(panel.set_title(text, fontsize=8))
    return figure_of(panels)


def read_file(path: str) -> np.ndarray:
    """Returns a small upright version of an image file in its proportions.

    Raises:
        ArgumentError: There is no such file, as for images of arrays and datasets.
    """
    if not Path(path).is_file():
        raise ArgumentError(
            "`read_image` must be given for images without files. Received: read_image=None, and "
            f"{path!r} is not a file. Give a function that returns the pixels, "
            "`(height, width, 3)`, 0...255."
        )
    from tlkit.plots.thumbnails import thumbnail  # loads TensorFlow, which other figures do not

    return thumbnail(read_image(path))


def message(text: str, ax: Axes | None = None) -> Figure:
    """Draws a text instead of a figure that would be empty."""
    axes = axes_for(ax, (5, 1.2))
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    return figure_of(axes)


def axes_for(ax: Axes | None, size: tuple[float, float], *, title: str = "") -> Axes:
    """Returns the axes to draw in: the user's, or those of a new figure.

    Args:
        ax: The user's axes, if given.
        size: Size of the new figure in inches.
        title: Title of the axes.

    Raises:
        ArgumentError: `ax` is not the axes of a figure.
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
    """Returns several panels, `(rows, columns)`, in a new figure or within the user's axes.

    Args:
        ax: The user's axes, if given; their own frame and ticks are hidden.
        size: Size of the new figure in inches.
        shape: Number of rows and columns.
        title: Title above all panels.
        gaps: Gaps between columns and rows within the user's axes, as fractions of their width and
            height; half a gap above the first row is for the panels' own titles.
        heights: Relative heights of the rows.
        sharex: Whether the panels share the horizontal axis.
        sharey: Whether the panels share the vertical axis.

    Raises:
        ArgumentError: `ax` is not the axes of a figure.
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
    column_gap, row_gap = gaps
    top = 1 - row_gap / 2
    width = (1 - column_gap * (columns - 1)) / columns
    row_heights = np.array(heights or [1] * rows, float)
    row_heights *= (top - row_gap * (rows - 1)) / row_heights.sum()
    panels = np.empty(shape, object)
    for row, column in np.ndindex(*shape):
        bottom = float(top - row_heights[: row + 1].sum() - row_gap * row)
        bounds = (column * (width + column_gap), bottom, width, float(row_heights[row]))
        first = panels[0, 0]
        panels[row, column] = ax.inset_axes(
            bounds, sharex=first if sharex else None, sharey=first if sharey else None
        )
    return panels


def figure_of(panels: Axes | np.ndarray) -> Figure:
    """Returns the figure of the panels, and registers it with pyplot if that is in use."""
    first: Axes = panels.flat[0] if isinstance(panels, np.ndarray) else panels
    figure = first.get_figure(root=True)
    assert isinstance(figure, Figure)
    return register_with_pyplot(figure)


def legend_for(panels: Axes | np.ndarray, ax: Axes | None, location: str, **settings: Any) -> None:
    """Draws a legend: beside the panels of a new figure, within the user's axes.

    Args:
        panels: The panels that the legend explains; the first of the user's axes holds it.
        ax: The user's axes, if given.
        location: Location of the legend in a new figure, such as "outside upper center".
        settings: As for `Figure.legend`.
    """
    first: Axes = panels.flat[0] if isinstance(panels, np.ndarray) else panels
    if ax is None:
        figure = first.get_figure(root=True)
        assert figure is not None
        legend = figure.legend(**{"loc": location, "frameon": False, **settings})
    else:
        legend = first.legend(loc="best", fontsize=7, **(settings | {"ncols": 1}))
    dress(*legend.get_texts())


def _check_axes(ax: object) -> None:
    if not isinstance(ax, Axes):
        raise ArgumentError(
            "`ax` must be a matplotlib.axes.Axes of a figure. Received: ax of type "
            f"{type(ax).__name__}. Give axes that plt.subplots returned."
        )


def without_frame(axes: Axes) -> None:
    """Hides the upper and right part of the frame."""
    axes.spines[["top", "right"]].set_visible(False)
