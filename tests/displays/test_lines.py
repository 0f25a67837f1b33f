"""Progress as lines: each numbered phase, each logged line, and the progress at intervals."""

import io
import threading

import pytest

from tlkit.displays.activity import Activity
from tlkit.displays.lines import LinesDisplay


class Stream(io.StringIO):
    """Sets an event when a line is written."""

    def __init__(self):
        super().__init__()
        self.is_written = threading.Event()

    def flush(self):
        self.is_written.set()


@pytest.fixture
def make_display():
    """Makes displays that are stopped at the end of the test."""
    displays = []

    def make(stream, **settings):
        displays.append(LinesDisplay(stream, **settings))
        return displays[-1]

    yield make
    for display in displays:
        display.stop()


def test_numbered_phases_and_logged_lines_are_written_and_counters_are_not(make_display):
    stream = io.StringIO()
    display = make_display(stream, interval=3600)
    training = Activity("training", number=(1, 2), is_phase=True)
    steps = Activity("steps", 10)
    display.opened([training])
    display.opened([training, steps])
    display.changed([training, steps])
    display.logged("epoch 1 of 2: loss 0.5")
    display.closed(steps, [training])
    display.closed(training, [])
    display.opened([Activity("predicting", is_phase=True)])
    assert stream.getvalue() == "[1/2] training\n  epoch 1 of 2: loss 0.5\n"


def test_progress_without_a_counter_is_written_at_intervals(make_display):
    stream = Stream()
    display = make_display(stream, interval=0.05)
    display.opened([Activity("exporting", is_phase=True)])
    assert stream.is_written.wait(60)
    assert stream.getvalue().startswith("exporting, 0.")


def test_the_thread_ends_with_the_display():
    before = threading.active_count()
    display = LinesDisplay(io.StringIO())
    assert threading.active_count() == before + 1
    display.stop()
    assert threading.active_count() == before
