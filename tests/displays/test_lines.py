"""Lines where there is no terminal: each phase, each note, and something every few seconds."""

import io
import threading

import pytest

from tlkit.displays.activity import Activity
from tlkit.displays.lines import LinesDisplay


class Stream(io.StringIO):
    """Tells when a line has come."""

    def __init__(self):
        super().__init__()
        self.has_come = threading.Event()

    def flush(self):
        self.has_come.set()


@pytest.fixture
def shown():
    """Makes displays that are stopped in the end."""
    made = []

    def show(stream, **settings):
        made.append(LinesDisplay(stream, **settings))
        return made[-1]

    yield show
    for display in made:
        display.stop()


def test_phases_with_a_number_and_notes_are_lines_and_counts_are_not(shown):
    stream = io.StringIO()
    display = shown(stream, interval=3600)
    training = Activity("training", number=(1, 2), is_phase=True)
    steps = Activity("steps", 10)
    display.opened([training])
    display.opened([training, steps])
    display.changed([training, steps])
    display.said("epoch 1 of 2: loss 0.5")
    display.closed(steps, [training])
    display.closed(training, [])
    display.opened([Activity("predicting", is_phase=True)])
    assert stream.getvalue() == "[1/2] training\n  epoch 1 of 2: loss 0.5\n"


def test_something_is_said_every_few_seconds_of_what_counts_nothing(shown):
    stream = Stream()
    display = shown(stream, interval=0.05)
    display.opened([Activity("exporting", is_phase=True)])
    assert stream.has_come.wait(60)
    assert stream.getvalue().startswith("exporting, 0.")


def test_the_thread_ends_with_the_display():
    before = threading.active_count()
    display = LinesDisplay(io.StringIO())
    assert threading.active_count() == before + 1
    display.stop()
    assert threading.active_count() == before
