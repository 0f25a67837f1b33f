"""Progress in a notebook: one output below a cell, without widgets, that is updated."""

import sys
import types

import pytest

from tlkit.displays import notebook
from tlkit.utils.progress import bar, note, phase, phases


class ZMQInteractiveShell:
    """A class with the name of IPython's shell in a notebook."""

    execution_count = 1


class Handle:
    """Stands in for the handle that `display` returns for updates."""

    def __init__(self, shown):
        self.shown = [repr(shown)]
        self.html = shown._repr_html_()

    def update(self, value):
        self.shown.append(repr(value))
        self.html = value._repr_html_()


@pytest.fixture
def outputs(monkeypatch):
    """The outputs below the cells of a notebook, and its shell."""
    handles, shell = [], ZMQInteractiveShell()

    def display(value, *, display_id):
        assert display_id is True
        handles.append(Handle(value))
        return handles[-1]

    module = types.ModuleType("IPython")
    module.get_ipython = lambda: shell
    module.display = types.ModuleType("IPython.display")
    module.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", module.display)
    monkeypatch.setattr(notebook, "_output", None)
    monkeypatch.setattr(notebook, "_INTERVAL", 0.0)
    return types.SimpleNamespace(handles=handles, shell=shell)


def test_all_work_of_a_cell_shares_one_output(outputs, capfd):
    with phases(["data", "training"]):
        with phase("data"), bar("images <b>", 3, "images") as advance:
            advance(3)
        with phase("training"):
            note("epoch 1 of 1: loss 0.5")
    with bar("evaluation", 2, "images") as advance:
        advance(2)
    (output,) = outputs.handles
    assert output.shown[1].startswith("[1/2] data: images <b> 3 of 3 images, ")
    first, second, third, last = output.shown[-1].splitlines()
    assert first.startswith("[1/2] data: 0.")
    assert second == "epoch 1 of 1: loss 0.5"
    assert third.startswith("[2/2] training: 0.")
    assert last.startswith("evaluation: 2 of 2 images, ")
    assert output.html.startswith("<pre>[1/2] data")
    assert capfd.readouterr() == ("", "")


def test_names_are_escaped(outputs):
    with bar("<b>", 2) as advance:
        advance(1)
    assert "&lt;b&gt;: 1 of 2" in outputs.handles[0].html


def test_each_cell_has_its_own_output_and_long_outputs_are_cut(outputs):
    for number in range(40):
        note(f"line {number}")
    outputs.shell.execution_count = 2
    note("another")
    assert [handle.shown[-1].splitlines()[-1] for handle in outputs.handles] == [
        "line 39",
        "another",
    ]
    assert len(outputs.handles[0].shown[-1].splitlines()) == 15


def test_work_that_ends_at_once_is_not_shown(outputs, monkeypatch):
    monkeypatch.setattr(notebook, "_INTERVAL", 3600.0)
    with bar("quick", 3) as advance:
        advance(3)
    assert outputs.handles == []


def test_ipython_in_a_terminal_is_not_a_notebook(outputs, monkeypatch):
    terminal = type("TerminalInteractiveShell", (), {})()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: terminal)
    assert notebook.notebook_shell() is None
    colab = type("Shell", (ZMQInteractiveShell,), {})()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: colab)
    assert notebook.notebook_shell() is colab
