"""Runs that train parts of the layers, or low-rank adapters."""

import keras
import pytest

import tlkit
from tests.conftest import write_photos
from tlkit.errors import ArgumentError
from tlkit.runs.config import RunConfig

GIVEN = {"backbone": "tiny_resnet", "weights": None, "epochs": 1}


@pytest.mark.parametrize(
    ("arguments", "note"),
    [({"adapters": "lora:1"}, "low-rank adapters of"), ({"train": "bias"}, "offsets trainable")],
)
def test_a_run_fine_tunes_what_is_named(arguments, note, tmp_path):
    photos = write_photos(tmp_path / "photos", {"green": 20, "red": 20})
    run = tlkit.train_run(photos, out=tmp_path / "run", **GIVEN, **arguments)
    assert run.run_record.resolved.mode == "fine-tune"  # nothing is left to choose
    assert note in (run.path / "log.txt").read_text()
    again = tlkit.train_run(photos, out=tmp_path / "run", **GIVEN, **arguments)
    assert again.run_record == run.run_record


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"adapters": "lora8"}, "`adapters` must be 'lora'"),
        ({"train": "biases"}, "Did you mean 'bias'"),
        ({"adapters": "lora:4", "train": "bias"}, "must be left out with `train`"),
        ({"adapters": "lora:4", "mode": "head"}, "must be left out with mode='head'"),
    ],
)
def test_bad_arguments_are_named_before_any_work(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        RunConfig(photos="photos", backbone="resnet20", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"adapters": "lora:1", "unfreeze": "head"}, "`adapters` must fit weights"),
        ({"adapters": "lora:900"}, "`adapters` must fit at least one trainable"),
        ({"train": "norm", "backbone": "plain.keras"}, "`train`"),
    ],
)
def test_what_does_not_fit_the_model_leaves_no_run(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layers = [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3)]
    keras.Sequential(layers).save("plain.keras")
    photos = write_photos(tmp_path / "photos", {"green": 20, "red": 20})
    with pytest.raises(ArgumentError, match=message):
        tlkit.train_run(photos, out=tmp_path / "run", **GIVEN | arguments)
    assert not (tmp_path / "run").exists()
