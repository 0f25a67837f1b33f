"""A stopped training is resumed where it stopped, and no other training is resumed."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import tlkit
from tests.conftest import set_seeds
from tlkit.errors import RunError
from tlkit.training import resume
from tlkit.training.saved_state import TrainingState

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


class StopAtEnd(keras.callbacks.Callback):
    """Raises at the end of training, before anything else is done."""

    def on_train_end(self, logs=None):
        raise KeyboardInterrupt


def tune(data, folder, callbacks=(), **arguments):
    set_seeds(0)
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    settings = {
        "views": 0,
        "stages": [tlkit.Stage("head", epochs=2), tlkit.Stage("stage3", epochs=2)],
    }
    report = tlkit.fine_tune(
        model, data, run_directory=folder, callbacks=callbacks, **(settings | arguments)
    )
    return model, report


@pytest.mark.slow
def test_training_resumed_after_random_sigkills_is_bit_identical():
    command = [sys.executable, str(ROOT / "benchmarks" / "kill.py"), "--kills", "2", "--small"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "killed: 2 kills" in done.stdout
    assert "0 of 17 weights differ" in done.stdout


@pytest.mark.slow
def test_the_report_of_a_resumed_training_is_complete(data, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        tune(data, tmp_path, [Stop(epoch=1, batch=1)])
    _, report = tune(data, tmp_path)
    assert [stage.name for stage in report.stages] == ["head", "fine-tune", "fine-tune"]
    assert [len(stage.history) for stage in report.stages[1:]] == [2, 2]
    assert [report.stages[1].weight_change[name] for name in ("stage1", "stage2", "stage3")] == [
        0.0
    ] * 3
    assert report.accuracy_after is not None


@pytest.mark.slow
def test_a_finished_training_is_not_repeated(data, tmp_path):
    model, report = tune(data, tmp_path)
    steps = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(1))
    again, reported = tune(data, tmp_path, [count])
    assert steps == []
    assert str(reported) == str(report)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"learning_rate": 1e-3}, "learning_rate=0.0005 instead of 0.001"),
        ({"layer_decay": 0.5}, "layer_decay=1.0 instead of 0.5"),
        ({"stages": [tlkit.Stage("head", epochs=2)]}, "stages="),
        ({"seed": 3}, "seed=0 instead of 3"),
        ({"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}, "loss=None"),
        ({"metrics": [keras.metrics.SparseCategoricalAccuracy("again")]}, "metrics="),
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
    with pytest.raises(RunError, match="started with data="):
        tune(fewer, tmp_path)
    with pytest.raises(RunError, match="batches of 16"):
        tune(dataclasses.replace(data, batch_size=17), tmp_path)
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, seed=1)
    with pytest.raises(RunError, match="started with model="):
        tlkit.fine_tune(model, data, stages=[tlkit.Stage("head", epochs=2)], run_directory=tmp_path)


def test_weights_after_a_nan_loss_are_not_saved(data, tmp_path):
    with pytest.raises(tlkit.TrainingError, match="NaN or infinite"):
        tune(data, tmp_path, learning_rate=1e30, schedule="constant")
    with np.load(tmp_path / resume.FILE_NAME) as file:
        assert all(np.isfinite(file[key]).all() for key in file.files if key.startswith("model/"))


def test_another_regularizer_is_another_training(data, tmp_path):
    def run(strength, callbacks=()):
        set_seeds(0)
        model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
        model.get_layer("logits").kernel.regularizer = keras.regularizers.L2(strength)
        tlkit.fine_tune(model, data, epochs=1, run_directory=tmp_path, callbacks=callbacks)

    with pytest.raises(KeyboardInterrupt):
        run(0.1, [Stop(epoch=0, batch=0)])
    with pytest.raises(RunError, match="started with regularizers="):
        run(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [lambda content: b"half a file", lambda content: content[:-200]])
def test_a_damaged_file_is_named(data, tmp_path, spoil):
    with pytest.raises(KeyboardInterrupt):
        tune(data, tmp_path, [Stop(epoch=1, batch=1)])
    file = tmp_path / resume.FILE_NAME
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(RunError, match="Remove it to start over"):
        tune(data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_resuming_on_stored_activations_gives_the_same_weights_and_history(
    data, tmp_path, monkeypatch, precision
):
    """Stopped in the middle of an epoch, whose metrics are resumed too."""
    monkeypatch.setattr(resume, "SAVE_SECONDS", 0.0)
    given = {"views": 1, "precision": precision, "stages": [tlkit.Stage("stage3", epochs=2)]}
    tune(data, tmp_path / "warm", **given)  # so that both use the stored precision of rows
    model, report = tune(data, tmp_path / "whole", **given)
    with pytest.raises(KeyboardInterrupt):
        tune(data, tmp_path / "stopped", [Stop(epoch=1, batch=1)], **given)
    again, resumed = tune(data, tmp_path / "stopped", **given)
    assert any("stored activations" in note for note in resumed.stages[-1].notes)
    for a, b in zip(report.stages[-1].history, resumed.stages[-1].history, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_training_that_cannot_be_resumed_as_it_started_is_refused(data, tmp_path, monkeypatch):
    given = {"views": 1, "stages": [tlkit.Stage("stage3", epochs=2)]}
    with pytest.raises(KeyboardInterrupt):
        tune(data, tmp_path, [Stop(epoch=1, batch=1)], **given)
    monkeypatch.setenv("TLKIT_CACHE_LIMIT", "0")
    with pytest.raises(RunError, match="Free disk space, or choose another folder"):
        tune(data, tmp_path, **given)


def test_a_training_that_a_callback_ended_is_not_continued(data, tmp_path):
    class End(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    given = {"stages": [tlkit.Stage("stage3", epochs=4)]}
    with pytest.raises(KeyboardInterrupt):
        tune(data, tmp_path, [End(), StopAtEnd()], **given)
    _, report = tune(data, tmp_path, **given)
    assert len(report.stages[-1].history) == 1


def test_partial_files_of_a_killed_process_are_removed(tmp_path):
    for start in (".", ".tlkit-aside-"):  # the names of earlier versions and of this one
        (tmp_path / "run" / f"{start}{resume.FILE_NAME}-abcd1234").mkdir(parents=True)
    resume.Checkpoint(tmp_path / "run", {})
    assert list((tmp_path / "run").iterdir()) == []


def test_estimates_may_differ_in_their_last_bits(tmp_path):
    def identity(value, rate=1e-3):
        return {"learning_rate": rate, "anchor": [{"importance": {"estimate": {"a": value}}}]}

    position = resume.Position(0, 1, 0)
    resume.Checkpoint(tmp_path, identity(np.float32(2.5))).save(position, TrainingState(), {})
    assert resume.Checkpoint(tmp_path, identity(2.500001)).saved.position == position
    for other in (identity(2.51), identity(None), identity(2.5, rate=1.00001e-3)):
        with pytest.raises(RunError, match="started with"):
            resume.Checkpoint(tmp_path, other)
