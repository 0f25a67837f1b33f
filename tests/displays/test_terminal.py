"""Progress bars on a terminal, and the lines above them."""

import io

import pytest
from rich.console import Console

from tlkit.displays.activity import Activity
from tlkit.displays.terminal import TerminalDisplay


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)


def test_a_numbered_phase_leaves_a_line_and_a_counter_does_not(terminal):
    display = TerminalDisplay(terminal)
    data = Activity("data", number=(1, 2), is_phase=True)
    images = Activity("checking [images]", 10, "files")
    display.opened([data])
    display.opened([data, images])
    images.done = 4
    display.changed([data, images])
    display._progress.refresh()
    drawn = terminal.file.getvalue()
    assert "checking [images]" in drawn
    assert "4 of 10 files, about" in drawn
    display.closed(images, [data])
    display.logged("10 images of 2 classes")
    display.closed(data, [])
    display.stop()
    last = terminal.file.getvalue()[len(drawn) :]
    assert "  10 images of 2 classes\n" in last
    assert "[1/2] data: 0.0 s\n" in last
