"""Runs in MLflow: in a store of the real library if it is installed, else in a recording one."""

import os

import pytest

from tests.tracking import fakes
from tests.tracking.records import EPOCHS, METRICS, SETTINGS, record_run
from tlkit.tracking.mlflow import MlflowTracker

needs_mlflow = pytest.mark.skipif(
    not fakes.is_installed("mlflow"), reason="MLflow is not installed: pip install 'tlkit[mlflow]'"
)
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
as_texts = {name: str(value) for name, value in SETTINGS.items()}


@pytest.fixture
def calls(monkeypatch):
    calls = fakes.Calls()
    fakes.install_mlflow(monkeypatch, calls)
    return calls


def test_a_run_is_recorded(calls, tmp_path):
    record_run(MlflowTracker("http://localhost:5000"), tmp_path)
    assert calls.of("client") == [{"tracking_uri": "http://localhost:5000"}]
    assert calls.of("create_experiment") == [{"name": "tlkit"}]
    assert calls.of("create_run") == [{"experiment_id": "7", "run_name": "flowers-1"}]
    first, *others = calls.of("log_batch")
    assert {one.key: one.value for one in first["params"]} == as_texts
    logged = {(one.key, one.step): one.value for batch in others for one in batch["metrics"]}
    assert logged == expected_metrics()
    assert [os.path.basename(one["local_path"]) for one in calls.of("log_artifact")] == [
        "report.html",
        "model_card.md",
    ]
    assert calls.of("set_terminated") == [{"status": "FINISHED"}]


def expected_metrics():
    of_epochs = {
        (f"fine-tune/{name}", epoch): value
        for epoch, figures in enumerate(EPOCHS, start=1)
        for name, value in figures.items()
    }
    return of_epochs | {(name, 0): value for name, value in METRICS.items()}


@pytest.mark.parametrize(("status", "theirs"), [("failed", "FAILED"), ("killed", "KILLED")])
def test_the_status_is_passed_on(calls, status, theirs, tmp_path):
    record_run(MlflowTracker("http://localhost:5000"), tmp_path, status)
    assert calls.of("set_terminated") == [{"status": theirs}]


def test_the_experiment_is_that_of_the_environment(calls, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "flowers")
    record_run(MlflowTracker("http://localhost:5000"), tmp_path)
    assert calls.of("create_experiment") == [{"name": "flowers"}]


def test_the_server_is_asked_before_any_work_and_not_for_long(calls, monkeypatch):
    monkeypatch.delenv(RETRIES, raising=False)
    seen = []
    calls.add = lambda function, /, **_: seen.append(os.environ.get(RETRIES))
    tracker = MlflowTracker("http://localhost:5000")
    tracker.check()
    assert set(seen) == {"3"}
    assert RETRIES not in os.environ
    monkeypatch.setenv(RETRIES, "9")
    seen.clear()
    tracker.check()
    assert seen == ["9"]
    assert os.environ[RETRIES] == "9"


def test_nothing_is_ended_that_was_not_started(calls):
    MlflowTracker("http://localhost:5000").finish("failed")
    assert calls.made == []


def test_a_password_is_not_shown(calls):
    assert str(MlflowTracker("https://me:secret@host/a")) == "mlflow:https://host/a"
    assert str(MlflowTracker("sqlite:///runs.db")) == "mlflow:sqlite:///runs.db"


@needs_mlflow
@pytest.mark.filterwarnings("ignore")
def test_the_signatures_are_those_of_mlflow():
    import mlflow.entities

    assert fakes.differing(fakes.mlflow_client(fakes.Calls()), mlflow.MlflowClient) == []
    assert fakes.fits(fakes.Metric, mlflow.entities.Metric)
    assert fakes.fits(fakes.Param, mlflow.entities.Param)


@needs_mlflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("status", ["finished", "failed", "killed"])
def test_a_run_is_read_back(monkeypatch, status, tmp_path):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    record_run(MlflowTracker(uri), tmp_path, status)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tlkit")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "flowers-1"
    assert run.info.status == status.upper()
    assert run.data.params == as_texts
    metrics = {
        (name, one.step): one.value
        for name in run.data.metrics
        for one in client.get_metric_history(run.info.run_id, name)
    }
    assert metrics == expected_metrics()
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"report.html", "model_card.md"}
