"""Bars where somebody watches, and no trace of them elsewhere."""

from importlib.util import find_spec

import pytest
from rich import console

from tlkit.progress import bar, track


def test_items_come_through_and_nothing_is_written_where_nobody_watches(capfd):
    assert list(track("abc", "letters", 3)) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(find_spec("ipywidgets") is not None, reason="ipywidgets is installed")
def test_a_notebook_without_ipywidgets_has_no_bar_and_no_warning(monkeypatch, capfd):
    monkeypatch.setattr(console, "_is_jupyter", lambda: True)
    with bar("letters", 3) as advance:
        advance(3)
    assert capfd.readouterr() == ("", "")
