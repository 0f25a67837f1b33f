"""TensorBoard's event files, read by TensorBoard itself."""

import os

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.tracking.records import EPOCHS, METRICS, record_run
from tlkit.errors import ArgumentError
from tlkit.tracking.tensorboard import TensorBoardTracker


def read(folder):
    """All values by tag and step."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        (tag, event.step): tf.make_ndarray(event.tensor_proto)
        for tag in events.Tags()["tensors"]
        if not tag.startswith("_hparams_")
        for event in events.Tensors(tag)
    }


def text(values, tag):
    return values[tag, 0].item().decode()


def test_a_run_is_read_back(tmp_path):
    record_run(TensorBoardTracker(str(tmp_path / "new" / "logs")), tmp_path)
    values = read(tmp_path / "new" / "logs" / "flowers-1")
    for epoch, figures in enumerate(EPOCHS, start=1):
        for name, value in figures.items():
            assert values[f"fine-tune/{name}", epoch] == pytest.approx(value)
    for name, value in METRICS.items():
        assert values[name, 0] == pytest.approx(value)
    assert "| resize | a&#124;b &lt;c&gt; |" in text(values, "settings")
    assert "| epochs | 2 |" in text(values, "settings")
    assert text(values, "model_card.md") == "# Card of ä"
    assert text(values, "report.html") == f"`{tmp_path / 'report.html'}`"
    assert ("status", 0) not in values


def test_settings_are_hyperparameters(tmp_path):
    record_run(TensorBoardTracker(str(tmp_path)), tmp_path)
    metadata = EventAccumulator(str(tmp_path / "flowers-1")).Reload().summary_metadata
    plugin = metadata["_hparams_/session_start_info"].plugin_data
    assert plugin.plugin_name == "hparams"
    assert b"epochs" in plugin.content


def test_each_session_has_a_folder_of_its_own(tmp_path):
    for status in ("killed", "failed", "finished"):
        record_run(TensorBoardTracker(str(tmp_path / "logs")), tmp_path, status)
    folders = sorted((tmp_path / "logs").iterdir())
    assert [path.name for path in folders] == ["flowers-1", "flowers-1-2", "flowers-1-3"]
    first, second, third = map(read, folders)
    assert text(first, "status") == "killed"
    assert text(second, "status") == "failed"
    assert third["fine-tune/loss", 2] == 0.25


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_writable_is_refused(tmp_path):
    (tmp_path / "logs").mkdir(mode=0o500)
    with pytest.raises(ArgumentError, match="`trackers` must have a folder for TensorBoard"):
        TensorBoardTracker(str(tmp_path / "logs" / "one")).check()


def test_a_file_is_refused(tmp_path):
    (tmp_path / "logs").write_text("mine")
    with pytest.raises(ArgumentError, match=r"`trackers` must have a folder.*logs' cannot be"):
        TensorBoardTracker(str(tmp_path / "logs" / "one")).check()
