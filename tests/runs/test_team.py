"""The workers of a run: each gets the chief's finished run, even without its files."""

import json
from pathlib import Path
from types import SimpleNamespace

import tensorflow as tf

from tests.runs.test_record import RECORD
from tlkit.runs.directory import Run
from tlkit.runs.team import Team

RUN = Run(Path("/runs/1"), ("cat", "dog"), {"stages": []}, RECORD)


def with_workers(is_chief, from_chief):
    team = Team(None)
    team.is_chief = is_chief
    team._strategy = tf.distribute.get_strategy()
    team._workers = SimpleNamespace(bytes_from_chief=from_chief)
    return team


def test_a_worker_gets_the_run_of_the_chief():
    sent = []
    chief = with_workers(True, lambda content: sent.append(content) or content)
    assert chief.broadcast_run(RUN) is RUN
    worker = with_workers(False, lambda content: sent[0])
    assert worker.broadcast_run(None) == RUN
    nothing = with_workers(False, lambda content: json.dumps(None).encode())
    assert nothing.broadcast_run(None) is None
