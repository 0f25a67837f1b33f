"""What all figures share: colours, a grid of pictures, a message in place of a figure.

The functions draw on matplotlib's figures and leave pyplot alone; notebooks show what they return.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from tlkit.canvas import Figure
from tlkit.errors import ArgumentError
from tlkit.lettering import dress

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


def grid(images: Sequence[np.ndarray], texts: Sequence[str]) -> Figure:
    """Draws pictures, each under its text, six in a row.

    Args:
        images: Pixels 0...255, each `(height, width, 3)`; they need not have one size.
        texts: Of as many lines each.
    """
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


def read_file(path: str) -> np.ndarray:
    """Returns a picture file as figures show it: upright, in its proportions, small.

    Raises:
        ArgumentError: There is no such file: pictures of arrays and datasets have none.
    """
    if not Path(path).is_file():
        raise ArgumentError(
            "`read_image` must be given for pictures that are no files. Received: "
            f"read_image=None, and {path!r} is none. Give a function that returns the "
            "pixels, `(height, width, 3)`, 0...255."
        )
    from tlkit.plots.thumbnails import thumbnail  # takes TensorFlow, which no other figure does

    return thumbnail(Path(path).read_bytes())


def message(text: str) -> Figure:
    """Draws a sentence, where there is nothing else to draw."""
    figure = Figure(figsize=(5, 1.2), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    return figure


def without_frame(axes: Axes) -> None:
    """Leaves the two axes of a panel and takes the rest of its frame away."""
    axes.spines[["top", "right"]].set_visible(False)
