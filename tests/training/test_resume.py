"""A training that was stopped goes on where it was, and only that training does."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import tlkit
from tlkit.errors import RunError
from tlkit.training import resume

ROOT = Path(__file__).resolve().parents[2]


class Stop(keras.callbacks.Callback):
    """Raises in the middle of training, as Ctrl-C does."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise KeyboardInterrupt


@pytest.fixture
def data(photos):
    return tlkit.load_folder(photos, image_size=32, batch_size=16)


def tune(data, folder, callbacks=(), **arguments):
    keras.utils.set_random_seed(0)
    model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
    settings = {"stages": [tlkit.Stage("head", epochs=2), tlkit.Stage("stage3", epochs=2)]}
    report = tlkit.fine_tune(
        model, data, run_directory=folder, callbacks=callbacks, views=0, **(settings | arguments)
    )
    return model, report


def test_sigkill_at_random_moments_changes_no_bit():
    command = [sys.executable, str(ROOT / "benchmarks" / "kill.py"), "--kills", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "killed: 2 kills" in done.stdout
    assert "0 of 107 weights differ" in done.stdout


def test_the_report_of_a_resumed_training_is_whole(data, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        tune(data, tmp_path, [Stop(epoch=1, batch=1)])
    _, report = tune(data, tmp_path)
    assert [stage.name for stage in report.stages] == ["head", "fine-tune", "fine-tune"]
    assert [len(stage.history) for stage in report.stages[1:]] == [2, 2]
    assert [report.stages[1].moved[name] for name in ("stage1", "stage2", "stage3")] == [0.0] * 3
    assert report.accuracy_after is not None


def test_a_finished_training_is_not_repeated(data, tmp_path):
    model, report = tune(data, tmp_path)
    steps = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(1))
    again, reported = tune(data, tmp_path, [count])
    assert steps == []
    assert str(reported) == str(report)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"learning_rate": 1e-3}, "learning_rate=0.0002 instead of 0.001"),
        ({"layer_decay": 0.5}, "layer_decay=1.0 instead of 0.5"),
        ({"stages": [tlkit.Stage("head", epochs=2)]}, "stages="),
        ({"seed": 3}, "seed=0 instead of 3"),
        ({"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}, "loss=None"),
    ],
)
def test_another_training_is_refused_with_the_difference(data, tmp_path, changed, named):
    with pytest.raises(KeyboardInterrupt):
        tune(data, tmp_path, [Stop(epoch=0, batch=0)])
    with pytest.raises(RunError, match=named):
        tune(data, tmp_path, **changed)


def test_other_data_and_other_models_are_refused(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tune(data, tmp_path, [Stop(epoch=0, batch=0)])
    images = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), "uint8")
    fewer = tlkit.load_arrays(images, np.arange(20) % 2, list(data.class_names))
    with pytest.raises(RunError, match="begun with data="):
        tune(fewer, tmp_path)
    model = tlkit.build_classifier("resnet20", data.class_names, weights=None, seed=1)
    with pytest.raises(RunError, match="begun with model="):
        tlkit.fine_tune(model, data, stages=[tlkit.Stage("head", epochs=2)], run_directory=tmp_path)


def test_weights_that_nan_has_spoilt_are_not_saved(data, tmp_path):
    with pytest.raises(tlkit.TrainingError, match="NaN or infinite"):
        tune(data, tmp_path, learning_rate=1e30, schedule="constant")
    with np.load(tmp_path / resume.FILE_NAME) as file:
        assert all(np.isfinite(file[key]).all() for key in file.files if key.startswith("model/"))


def test_a_damaged_file_is_named(data, tmp_path):
    (tmp_path / resume.FILE_NAME).write_bytes(b"half a file")
    with pytest.raises(RunError, match="Remove it to begin anew"):
        tune(data, tmp_path)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / "run" / f".{resume.FILE_NAME}-x").mkdir(parents=True)
    resume.Checkpoint(tmp_path / "run", {})
    assert list((tmp_path / "run").iterdir()) == []
