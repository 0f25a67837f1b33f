"""Stand-ins for the libraries of trackers, with the signatures of MLflow 3.17 and W&B 0.31.

Each call is recorded. The tests of a tracker compare the signatures with those of the real library
if that is installed.
"""

import importlib.util
import inspect
import sys
import types
from dataclasses import dataclass, field


@dataclass
class Calls:
    """The recorded calls: name of the function, and its arguments by name."""

    made: list = field(default_factory=list)

    def add(self, function, /, **arguments):
        self.made.append((function, arguments))

    def of(self, function):
        return [arguments for called, arguments in self.made if called == function]


def is_installed(name):
    """Whether the real package is importable; a folder of that name is none."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def module_of(name, **members):
    """A module that seems to be installed."""
    module = types.ModuleType(name)
    vars(module).update(members, __file__=f"{name}.py")
    return module


def differing(fake, real):
    """Names of the functions of a class whose parameters are not those of the real class."""
    return [
        name
        for name, function in vars(fake).items()
        if inspect.isfunction(function) and not fits(function, getattr(real, name))
    ]


def fits(fake, real):
    """Whether each parameter of a function is at the same place, or by name, in the real one."""
    ours, theirs = (list(inspect.signature(one).parameters.values()) for one in (fake, real))
    names = {parameter.name: parameter.kind for parameter in theirs}
    positional = [one.name for one in ours if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    return positional == [one.name for one in theirs][: len(positional)] and all(
        parameter.name in names for parameter in ours
    )


def mlflow_client(calls):
    """The client of MLflow, on a server without experiments."""

    class MlflowClient:
        def __init__(self, tracking_uri=None):
            calls.add("client", tracking_uri=tracking_uri)

        def get_experiment_by_name(self, name):
            calls.add("get_experiment_by_name", name=name)

        def create_experiment(self, name):
            calls.add("create_experiment", name=name)
            return "7"

        def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
            calls.add("create_run", experiment_id=experiment_id, run_name=run_name)
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="ab12"))

        def log_batch(self, run_id, metrics=(), params=()):
            assert run_id == "ab12"
            calls.add("log_batch", metrics=metrics, params=params)

        def log_artifact(self, run_id, local_path):
            assert run_id == "ab12"
            calls.add("log_artifact", local_path=local_path)

        def set_terminated(self, run_id, status=None):
            assert run_id == "ab12"
            calls.add("set_terminated", status=status)

    return MlflowClient


@dataclass
class Metric:
    """MLflow's entity of a metric."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass
class Param:
    """MLflow's entity of a parameter."""

    key: str
    value: str


def install_mlflow(monkeypatch, calls):
    """Replaces MLflow."""
    entities = module_of("mlflow.entities", Metric=Metric, Param=Param)
    package = module_of("mlflow", MlflowClient=mlflow_client(calls), entities=entities)
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)


def wandb_run(calls):
    """The run of W&B."""

    class Run:
        def __init__(self):
            self.summary = {}

        def define_metric(self, name, step_metric=None):
            calls.add("define_metric", name=name, step_metric=step_metric)

        def log(self, data):
            calls.add("log", data=data)

        def log_artifact(self, artifact_or_path, name=None, type=None):  # noqa: A002 - W&B's name
            calls.add("log_artifact", path=artifact_or_path, type=type)

        def finish(self, exit_code=None):
            calls.add("finish", exit_code=exit_code, summary=self.summary)

    return Run


def wandb_module(calls):
    """The package of W&B."""

    def init(*, project=None, name=None, config=None, reinit=None, settings=None):
        calls.add("init", project=project, name=name, config=config, reinit=reinit)
        assert settings == {"console": "off"}
        return wandb_run(calls)()

    def login():
        calls.add("login")

    return module_of("wandb", init=init, login=login, Settings=dict)


def install_wandb(monkeypatch, calls):
    """Replaces W&B."""
    monkeypatch.setitem(sys.modules, "wandb", wandb_module(calls))
