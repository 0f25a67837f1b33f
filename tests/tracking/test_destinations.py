"""Trackers from texts."""

import sys

import pytest

import tlkit
from tests.tracking import fakes
from tlkit.errors import ArgumentError
from tlkit.tracking.destinations import trackers_of


class Own(tlkit.Tracker):
    """A tracker of a user's own."""

    def start(self, name, settings):
        pass

    log_epoch = log_metrics = log_artifact = finish = start


def test_texts_and_objects_are_trackers(monkeypatch):
    fakes.install_mlflow(monkeypatch, fakes.Calls())
    fakes.install_wandb(monkeypatch, fakes.Calls())
    texts = ["tensorboard:C:\\logs", "mlflow:http://localhost:5000", "wandb:flowers"]
    own = Own()
    made = trackers_of([*texts, own])
    assert [*map(str, made)] == [*texts, "Own"]
    assert made[-1] is own
    assert [*map(str, trackers_of("wandb:flowers"))] == ["wandb:flowers"]
    assert trackers_of(own) == (own,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("mlflow", r"tensorboard:DIR, mlflow:URI, wandb:PROJECT.*Add the URI.*'mlflow:http://"),
        ("wandb: ", r"trackers='wandb: '. Add the PROJECT"),
        ("tensorbord:logs", r"Did you mean 'tensorboard'\? Give 'tensorboard:logs'"),
        ("logs", "trackers='logs'. Give 'tensorboard:logs'"),
        ([3], "trackers=3. Give"),
        (["tensorboard:a", "tensorboard:a"], "Received: 'tensorboard:a' twice"),
    ],
)
def test_malformed_ones_are_refused(given, message):
    with pytest.raises(ArgumentError, match=message):
        trackers_of(given)


@pytest.mark.parametrize("text", ["tensorboard:logs", "mlflow:http://host", "wandb:flowers"])
def test_a_missing_package_is_named_with_its_extra(text, monkeypatch):
    package = text.partition(":")[0]
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"`trackers` must be .*trackers='{text}', and {package} cannot be imported.*"
    with pytest.raises(ArgumentError, match=rf"{message}pip install 'tlkit\[{package}\]'"):
        trackers_of(text)


def test_a_folder_of_that_name_is_not_the_package(monkeypatch, tmp_path):
    """W&B itself makes the folder `wandb` in the current one."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    if fakes.is_installed("wandb"):
        pytest.skip("the installed package comes before the folder")
    try:
        with pytest.raises(ArgumentError, match=r"is not installed: .* folder.*tlkit\[wandb\]"):
            trackers_of("wandb:flowers")
    finally:
        sys.modules.pop("wandb", None)
