"""The trackers of a run: none of them ends it, and each is finished however it ends."""

from pathlib import Path

import pytest

import tlkit
from tlkit.errors import ArgumentError
from tlkit.tracking.tracking import Tracking


class Recorder(tlkit.Tracker):
    """Records its calls, and raises an error where it is told to."""

    def __init__(self, *failing):
        self.calls, self.failing = [], failing

    def _add(self, *call):
        self.calls.append(call)
        if call[0] in self.failing:
            raise ConnectionError(f"server gone at {call[0]}")

    def check(self):
        self._add("check")

    def start(self, name, settings):
        self._add("start", name, settings)

    def log_epoch(self, stage, epoch, figures):
        self._add("epoch", stage, epoch, figures["loss"])

    def log_metrics(self, metrics):
        self._add("metrics", metrics)

    def log_artifact(self, path):
        self._add("artifact", path)

    def finish(self, status):
        self._add("finish", status)


HISTORY = [{"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}]


def test_an_epoch_is_logged_once():
    recorder = Recorder()
    tracking = Tracking([recorder])
    tracking.log_epoch("fine-tune", 2, {"loss": 2.0})  # resumed after the first
    tracking.log_epoch("fine-tune", 3, {"loss": 1.0})
    tracking.log_epochs("fine-tune", HISTORY)
    assert [(epoch, loss) for _, _, epoch, loss in recorder.calls] == [(2, 2.0), (3, 1.0), (1, 3.0)]
    tracking.log_epochs("refit", HISTORY[:1])
    assert recorder.calls[-1] == ("epoch", "refit", 1, 3.0)


def test_a_failing_tracker_is_reported_and_left_out():
    messages, bad, good = [], Recorder("epoch"), Recorder()
    tracking = Tracking([bad, good], messages.append)
    with tracking.recording("run", {"epochs": 2}):
        tracking.log_epochs("fine-tune", HISTORY)
        tracking.log_results({"test/accuracy": 1.0}, [Path("report.html")])
    assert [call[0] for call in bad.calls] == ["start", "epoch", "finish"]
    assert bad.calls[-1] == ("finish", "failed")
    names = ["start", "epoch", "epoch", "epoch", "metrics", "artifact", "finish"]
    assert [call[0] for call in good.calls] == names
    assert good.calls[-1] == ("finish", "finished")
    what = "Recorder failed at epoch 1 of fine-tune (server gone at epoch)"
    assert messages == [
        f"{what}; the run continues without it",
        "Recorder lacks a part of this run: it failed at epoch 1 of fine-tune "
        "(server gone at epoch)",
    ]


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        ("metrics", "with the final metrics"),
        ("artifact", "with report.html"),
        ("finish", "at the end"),
    ],
)
def test_failures_at_the_end_are_reported(failing, words, tmp_path):
    messages, recorder = [], Recorder(failing)
    tracking = Tracking([recorder], messages.append)
    with tracking.recording("run", {}):
        tracking.log_results({"test/accuracy": 1.0}, [tmp_path / "report.html"])
    assert f"lacks a part of this run: it failed {words} (server gone" in messages[-1]
    assert len(messages) == (1 if failing == "finish" else 2)


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError, "failed"), (KeyboardInterrupt, "killed"), (SystemExit, "killed")],
)
def test_trackers_are_finished_when_the_run_ends_early(error, status):
    recorder, bad = Recorder(), Recorder("finish")
    with pytest.raises(error), Tracking([bad, recorder]).recording("run", {}):
        raise error
    assert recorder.calls[-1] == bad.calls[-1] == ("finish", status)


@pytest.mark.parametrize("failing", ["check", "start"])
def test_one_that_cannot_be_used_is_refused_from_the_start(failing):
    first, second = Recorder(), Recorder(failing)
    tracking = Tracking([first, second])

    def begin():
        tracking.check()
        with tracking.recording("run", {}):
            pytest.fail("the run has begun")

    with pytest.raises(ArgumentError, match=f"`trackers` must be usable.*gone at {failing}"):
        begin()
    if failing == "start":
        assert first.calls[-1] == second.calls[-1] == ("finish", "failed")


def test_an_interruption_within_a_tracker_is_not_taken_for_its_failure():
    recorder = Recorder()
    recorder.log_epoch = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    tracking = Tracking([recorder])
    with pytest.raises(KeyboardInterrupt), tracking.recording("run", {}):
        tracking.log_epoch("fine-tune", 1, {})
    assert recorder.calls[-1] == ("finish", "killed")
