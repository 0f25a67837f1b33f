"""The epoch whose weights a training keeps."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from tlkit.models.groups import TrainableReport
from tlkit.training.best import EpochGuard, KeepBest
from tlkit.training.reports import StageReport


def keeper(epochs, best=None, guards=()):
    """A `KeepBest` after some epochs, each with validation (accuracy, cross-entropy) or `None`."""
    whole = SimpleNamespace(get_weights=lambda: [np.zeros(1)])
    kept = KeepBest(whole, 9, best, guards)
    kept.set_model(SimpleNamespace(stop_training=False))
    for number, reached in enumerate(epochs):
        for guard in guards:
            guard.allowed = number in guard.epochs
        logs = {"loss": 1.0}
        if reached is not None:
            logs |= {"val_accuracy": reached[0], "val_cross_entropy": reached[1]}
        kept.on_epoch_end(number, logs)
    return kept


@pytest.mark.parametrize(
    ("epochs", "best", "expected"),
    [
        ([(0.5, 1.0), (0.7, 1.0), (0.7, 1.1), (0.6, 0.5)], None, 2),
        ([(0.5, 1.0), (0.7, 1.0), (0.7, 0.9)], None, 3),
        ([(0.5, 1.0), (0.7, 1.0)], (0.8, 1.0), None),
        ([None, None, None], None, 3),
        ([], None, None),
    ],
)
def test_the_best_epoch_is_kept(epochs, best, expected):
    assert keeper(epochs, best).kept_epoch == expected


def test_an_epoch_that_a_guard_forbids_is_not_the_kept_one():
    guard = EpochGuard()
    guard.epochs = (0,)
    assert keeper([(0.5, 1.0), (0.7, 1.0)], guards=[guard]).kept_epoch == 1


def test_a_stage_has_its_epoch_in_json_and_older_files_have_none():
    trainable = TrainableReport(("head",), (), ("logits",), 1, 2, "none")
    stage = StageReport("head", trainable, ({"loss": 1.0},), {"head": 0.5}, 1.0, kept_epoch=1)
    content = json.loads(json.dumps(dataclasses.asdict(stage)))
    assert StageReport.from_dict(content) == stage
    del content["kept_epoch"]
    assert StageReport.from_dict(content).kept_epoch is None
