"""The seconds of a run are summed over all processes that worked on it."""

import json

import numpy as np
import pytest

import tlkit
from tests.runs.test_train import ARGUMENTS
from tests.training.test_resume import Stop, tune
from tlkit.runs.clock import Clock
from tlkit.training import resume


def test_seconds_add_up_and_are_saved_when_a_part_is_interrupted(monkeypatch):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr("tlkit.runs.clock.time.perf_counter", lambda: float(next(now)))
    clock, saved = Clock(), []
    with clock.timed("data"):
        pass
    clock.add_earlier({"data": 1.0, "training": 5.0})
    clock.save_with(lambda: saved.append(clock.as_dict()))
    with pytest.raises(KeyboardInterrupt), clock.timed("training"):  # noqa: PT012
        clock.save_now()
        raise KeyboardInterrupt
    assert saved == [{"data": 11.0, "training": 15.0}, {"data": 11.0, "training": 25.0}]
    with clock.timed("training"):
        pass
    assert clock.as_dict() == {"data": 11.0, "training": 35.0}


@pytest.mark.slow
def test_a_resumed_run_reports_the_seconds_of_all_its_processes(tmp_path, photos, monkeypatch):
    def interrupt(*arguments, **others):
        raise KeyboardInterrupt

    arguments = {"mode": "fine-tune", "unfreeze": "head", "epochs": 1, **ARGUMENTS}
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("tlkit.training.tuner.fit_model", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tlkit.train_run(photos, out=out, **arguments)
    record = json.loads((out / "run.json").read_text())
    assert set(record["seconds"]) >= {"data", "model", "training"}
    record["seconds"] |= {"data": 500.0, "training": 1000.0, "an earlier part": 7.0}
    (out / "run.json").write_text(json.dumps(record))
    found = tlkit.train_run(photos, out=out, **arguments).record["seconds"]
    assert 500 < found["data"] < 1000 < found["training"] < 2000
    assert found["an earlier part"] == 7.0
    assert set(found) >= {"evaluation", "export"}


@pytest.mark.slow
def test_a_resumed_stage_reports_the_seconds_of_all_its_processes(data, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        tune(data, tmp_path, [Stop(epoch=1, batch=1)])
    file = tmp_path / resume.FILE_NAME
    with np.load(file) as saved:
        arrays = dict(saved)
    content = json.loads(arrays["record"].tobytes())
    assert content["record"]["seconds"] > 0
    content["record"]["seconds"] = 1000.0
    arrays["record"] = np.frombuffer(json.dumps(content).encode(), np.uint8)
    np.savez(file, **arrays)
    _, report = tune(data, tmp_path)
    seconds = [stage.seconds for stage in report.stages]
    assert 1000 < seconds[1] < 2000
    assert seconds[2] < 1000
