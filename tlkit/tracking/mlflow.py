"""Runs on an MLflow server, or in a database of MLflow."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tlkit.tracking.packages import import_package
from tlkit.tracking.tracker import FAILED, FINISHED, KILLED, Setting, Tracker

DEFAULT_EXPERIMENT = "tlkit"
"""The experiment of runs unless `MLFLOW_EXPERIMENT_NAME` names another."""

_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_NUM_RETRIES = 3
"""Within 15 seconds; MLflow's own seven take four minutes, for which training would stand still."""

_STATUS = {FINISHED: "FINISHED", FAILED: "FAILED", KILLED: "KILLED"}


@contextmanager
def _few_retries() -> Iterator[None]:
    """Within the block MLflow gives up sooner, unless the user has set the number of retries."""
    if _RETRIES in os.environ:
        yield
        return
    os.environ[_RETRIES] = str(_NUM_RETRIES)
    try:
        yield
    finally:
        os.environ.pop(_RETRIES, None)


class MlflowTracker(Tracker):
    """Records a run in the experiment that `MLFLOW_EXPERIMENT_NAME` names, "tlkit" by default.

    Settings are parameters, figures metrics whose step is the epoch, files artifacts. Settings of
    the process, such as MLflow's current run, are neither used nor changed.

    Args:
        uri: The tracking URI, such as "http://localhost:5000" or "sqlite:///mlflow.db".

    Raises:
        ArgumentError: MLflow is not installed.

    Example:
        >>> from tlkit.tracking.mlflow import MlflowTracker
        >>> tracker = MlflowTracker("http://localhost:5000")  # doctest: +SKIP
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._run_id: str | None = None
        self._made_client: Any = None
        import_package("mlflow", str(self), extra="mlflow")

    @_few_retries()
    def check(self) -> None:
        """Asks the server for the experiment, so that an error comes before any work."""
        self._client.get_experiment_by_name(_experiment_name())

    @_few_retries()
    def start(self, name: str, settings: Mapping[str, Setting]) -> None:
        """Creates the run, and the experiment if there is none."""
        from mlflow.entities import Param

        experiment = self._client.get_experiment_by_name(_experiment_name())
        if experiment is None:
            experiment_id = self._client.create_experiment(_experiment_name())
        else:
            experiment_id = experiment.experiment_id
        run = self._client.create_run(experiment_id, run_name=name)
        self._run_id = run.info.run_id
        parameters = [Param(key, str(value)) for key, value in settings.items()]
        self._client.log_batch(self._run_id, params=parameters)

    def log_epoch(self, stage: str, epoch: int, figures: Mapping[str, float]) -> None:
        """Logs `STAGE/loss` and so on; the step is the epoch."""
        self._log({f"{stage}/{name}": value for name, value in figures.items()}, step=epoch)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Logs the metrics with step 0."""
        self._log(metrics, step=0)

    @_few_retries()
    def log_artifact(self, path: Path) -> None:
        """Uploads the file."""
        self._client.log_artifact(self._run_id, str(path))

    @_few_retries()
    def finish(self, status: str) -> None:
        """Sets MLflow's status of the run: FINISHED, FAILED or KILLED."""
        if self._run_id is not None:
            self._client.set_terminated(self._run_id, status=_STATUS[status])

    def __str__(self) -> str:
        scheme, separator, rest = self._uri.rpartition("://")
        return f"mlflow:{scheme}{separator}{rest.rpartition('@')[2]}"  # without a password

    @property
    def _client(self) -> Any:
        if self._made_client is None:
            from mlflow import MlflowClient

            self._made_client = MlflowClient(tracking_uri=self._uri)
        return self._made_client

    @_few_retries()
    def _log(self, values: Mapping[str, float], *, step: int) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
