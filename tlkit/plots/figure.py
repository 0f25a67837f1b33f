"""Figures that show themselves: in a notebook, by `figure.show()`, and by pyplot's `show()`.

pyplot keeps every figure that it knows until it is closed, and loading it settles a backend. So it
gets ours only where the user has loaded it and its backend can show anything, or asks a figure to
show itself; scripts that write figures to files, and reports, leave nothing behind in it.

pyplot has no function that takes a figure which exists. It makes those that it keeps by calling
the class that it is given as `FigureClass`, see
https://github.com/matplotlib/matplotlib/blob/v3.10.0/lib/matplotlib/pyplot.py, and this file alone
gives it something that is no class; tests/test_private_api.py says when that no longer serves.
"""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import matplotlib
from matplotlib import figure
from matplotlib.backends.registry import BackendFilter, backend_registry

DOTS_PER_INCH = 100

_IS_APART: ContextVar[bool] = ContextVar("is_apart", default=False)


class Figure(figure.Figure):
    """A `matplotlib.figure.Figure` that can be shown however it was made.

    Example:
        >>> from tlkit.plots.figure import Figure
        >>> Figure()._repr_png_()[1:4]
        b'PNG'
    """

    def show(self, warn: bool = True) -> None:
        """Shows the figure: below a notebook's cell, else in a window of pyplot's backend.

        In a script `matplotlib.pyplot.show()` keeps windows open, as it does for all figures.

        Args:
            warn: Whether to warn where the backend can show nothing.
        """
        if _is_in_notebook():
            self._ipython_display_()
            return
        if not _is_with_pyplot(self):
            _give_to_pyplot(self)
        super().show(warn)
        if not _can_show():
            self._take_from_pyplot()

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
        return png.getvalue()

    def _ipython_display_(self) -> None:
        """Shows it in a notebook, once: pyplot's inline backend would do so again."""
        if not _is_in_notebook():
            raise NotImplementedError("a terminal shows no images")  # and IPython goes on
        from IPython.display import Image, display

        self._take_from_pyplot()
        display(Image(data=self._repr_png_()))

    def _take_from_pyplot(self) -> None:
        if _is_with_pyplot(self):
            import matplotlib.pyplot

            matplotlib.pyplot.close(self)


def finished(drawn: figure.Figure) -> figure.Figure:
    """Returns a figure; where the user has loaded pyplot, that shows ours from now on.

    Example:
        >>> from tlkit.plots.figure import Figure, finished
        >>> finished(Figure()).get_size_inches().tolist()
        [6.4, 4.8]
    """
    is_wanted = "matplotlib.pyplot" in sys.modules and not _IS_APART.get()
    if is_wanted and isinstance(drawn, Figure) and not _is_with_pyplot(drawn) and _can_show():
        _give_to_pyplot(drawn)
    return drawn


@contextmanager
def apart_from_pyplot() -> Iterator[None]:
    """Within it, figures are drawn for files alone: pyplot gets none of them."""
    token = _IS_APART.set(True)
    try:
        yield
    finally:
        _IS_APART.reset(token)


def _give_to_pyplot(drawn: figure.Figure) -> None:
    import matplotlib.pyplot

    size, dpi = drawn.get_size_inches(), drawn.get_dpi()
    made: Any = lambda *_, **__: drawn  # noqa: E731 - what pyplot takes for a class
    matplotlib.pyplot.figure(figsize=size, dpi=dpi, FigureClass=made)


def _is_with_pyplot(drawn: figure.Figure) -> bool:
    """Whether pyplot keeps the figure."""
    manager = drawn.canvas.manager
    if manager is None or "matplotlib.pyplot" not in sys.modules:
        return False
    import matplotlib.pyplot

    return bool(matplotlib.pyplot.fignum_exists(manager.num))


def _can_show() -> bool:
    """Whether the backend that pyplot has, or would take, can show figures."""
    silent = backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE)
    return matplotlib.get_backend().lower() not in silent


def _is_in_notebook() -> bool:
    """Whether this process answers a notebook's cells."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")
