"""Runs in W&B: offline with the real library if it is installed, else with a recording one."""

import os
from pathlib import Path

import pytest

from tests.tracking import fakes
from tests.tracking.records import METRICS, SETTINGS, record_run
from tlkit.errors import ArgumentError
from tlkit.tracking.wandb import WandbTracker

needs_wandb = pytest.mark.skipif(
    not fakes.is_installed("wandb"), reason="W&B is not installed: pip install 'tlkit[wandb]'"
)


@pytest.fixture
def calls(monkeypatch):
    calls = fakes.Calls()
    fakes.install_wandb(monkeypatch, calls)
    return calls


def test_a_run_is_recorded(calls, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    record_run(WandbTracker("flowers"), tmp_path)
    assert calls.made[0] == ("login", {})
    assert calls.of("init") == [
        {"project": "flowers", "name": "flowers-1", "config": SETTINGS, "reinit": "create_new"}
    ]
    assert calls.of("define_metric") == [{"name": "fine-tune/*", "step_metric": "fine-tune/epoch"}]
    first, second = (one["data"] for one in calls.of("log"))
    assert first == {
        "fine-tune/epoch": 1,
        "fine-tune/loss": 0.5,
        "fine-tune/val_accuracy": 0.75,
        "fine-tune/learning_rate": 1e-3,
    }
    assert second["fine-tune/epoch"] == 2
    files = calls.of("log_artifact")
    assert [Path(one["path"]).name for one in files] == ["report.html", "model_card.md"]
    assert {one["type"] for one in files} == {"report"}
    assert calls.of("finish") == [{"exit_code": 0, "summary": METRICS}]


@pytest.mark.parametrize(("status", "code"), [("failed", 1), ("killed", 130)])
def test_the_status_is_an_exit_code(calls, status, code, tmp_path):
    record_run(WandbTracker("flowers"), tmp_path, status)
    assert calls.of("finish")[0]["exit_code"] == code


def test_nobody_logs_in_to_work_offline(calls, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    WandbTracker("flowers").check()
    assert calls.made == []


@pytest.mark.parametrize("project", ["team/flowers", "50%", "a" * 129])
def test_a_wrong_project_is_refused(calls, project):
    with pytest.raises(ArgumentError, match="`trackers` must have a name of a project"):
        WandbTracker(project)


@needs_wandb
@pytest.mark.filterwarnings("ignore")
def test_the_signatures_are_those_of_wandb():
    import wandb

    calls = fakes.Calls()
    ours = fakes.wandb_module(calls)
    assert fakes.differing(fakes.wandb_run(calls), wandb.Run) == []
    assert fakes.fits(ours.init, wandb.init)
    assert fakes.fits(ours.login, wandb.login)
    assert wandb.Settings(console="off").console == "off"


@needs_wandb
@pytest.mark.filterwarnings("ignore")
def test_a_run_is_written_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    record_run(WandbTracker("flowers"), tmp_path)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    for name in ("flowers-1", "fine-tune/val_accuracy", "test/accuracy", "model_card.md"):
        assert name.encode() in content
    assert os.path.getsize(file) > 0
