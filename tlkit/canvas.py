"""Figures that a notebook shows, whether or not pyplot is loaded.

IPython knows how to show matplotlib's figures once pyplot has chosen a backend
(https://ipython.readthedocs.io/en/stable/config/integrating.html). tlkit leaves pyplot alone, so
its figures say themselves what they look like.
"""

import io
from typing import Any

from matplotlib import figure

DOTS_PER_INCH = 100


class Figure(figure.Figure):
    """A `matplotlib.figure.Figure` that is shown where it is a notebook cell's last value.

    Example:
        >>> from tlkit.canvas import Figure
        >>> Figure()._repr_png_()[1:4]
        b'PNG'
    """

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        settings: dict[str, Any] = {"dpi": DOTS_PER_INCH, "bbox_inches": "tight"}
        self.savefig(picture, format="png", **settings)
        return picture.getvalue()
