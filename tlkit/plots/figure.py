"""Figures that show themselves: in a notebook, by `figure.show()`, and by pyplot's `show()`.

pyplot keeps every registered figure until it is closed, and importing it selects a backend. So a
figure is registered only if the user has imported pyplot and its backend can show figures, or when
the user shows the figure. Scripts that write figures to files, and reports, register none.

pyplot has no function that registers an existing figure. It makes its figures by calling the class
that it is given as `FigureClass`, see
https://github.com/matplotlib/matplotlib/blob/v3.10.0/lib/matplotlib/pyplot.py. This file alone
gives it a function instead of a class; tests/test_private_api.py fails when that no longer works.
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

_WITHOUT_PYPLOT: ContextVar[bool] = ContextVar("without_pyplot", default=False)


class Figure(figure.Figure):
    """A `matplotlib.figure.Figure` that shows itself without pyplot's help.

    Example:
        >>> from tlkit.plots.figure import Figure
        >>> Figure()._repr_png_()[1:4]
        b'PNG'
    """

    def show(self, warn: bool = True) -> None:
        """Shows the figure: below a notebook's cell, else in a window of pyplot's backend.

        In a script `matplotlib.pyplot.show()` keeps windows open, as it does for all figures.

        Args:
            warn: Whether to warn if the backend cannot show figures.
        """
        if _is_in_notebook():
            self._ipython_display_()
            return
        if not _is_registered(self):
            _register(self)
        super().show(warn)
        if not _can_show():
            self._unregister()

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
        return png.getvalue()

    def _ipython_display_(self) -> None:
        """Shows it in a notebook once; pyplot's inline backend would show it again."""
        if not _is_in_notebook():
            raise NotImplementedError("a terminal shows no images")  # IPython then uses the repr
        from IPython.display import Image, display

        self._unregister()
        display(Image(data=self._repr_png_()))

    def _unregister(self) -> None:
        if _is_registered(self):
            import matplotlib.pyplot

            matplotlib.pyplot.close(self)


def register_with_pyplot(drawn: figure.Figure) -> figure.Figure:
    """Registers a figure with pyplot if the user has imported it, and returns the figure.

    Example:
        >>> from tlkit.plots.figure import Figure, register_with_pyplot
        >>> register_with_pyplot(Figure()).get_size_inches().tolist()
        [6.4, 4.8]
    """
    is_in_use = "matplotlib.pyplot" in sys.modules and not _WITHOUT_PYPLOT.get()
    if is_in_use and isinstance(drawn, Figure) and not _is_registered(drawn) and _can_show():
        _register(drawn)
    return drawn


@contextmanager
def without_pyplot() -> Iterator[None]:
    """Within the block, figures are not registered with pyplot, as they are for files only."""
    token = _WITHOUT_PYPLOT.set(True)
    try:
        yield
    finally:
        _WITHOUT_PYPLOT.reset(token)


def _register(drawn: figure.Figure) -> None:
    import matplotlib.pyplot

    size, dpi = drawn.get_size_inches(), drawn.get_dpi()
    figure_class: Any = lambda *_, **__: drawn  # noqa: E731 - called by pyplot like a class
    matplotlib.pyplot.figure(figsize=size, dpi=dpi, FigureClass=figure_class)


def _is_registered(drawn: figure.Figure) -> bool:
    """Whether pyplot keeps the figure."""
    manager = drawn.canvas.manager
    if manager is None or "matplotlib.pyplot" not in sys.modules:
        return False
    import matplotlib.pyplot

    return bool(matplotlib.pyplot.fignum_exists(manager.num))


def _can_show() -> bool:
    """Whether the backend that pyplot uses, or would select, can show figures."""
    non_interactive = backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE)
    return matplotlib.get_backend().lower() not in non_interactive


def _is_in_notebook() -> bool:
    """Whether this process runs a notebook's cells."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")
