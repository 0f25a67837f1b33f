"""A name that was public once goes on working, with a warning that gives the new one."""

import inspect

import pytest

from tlkit.data.images import ImageSplit
from tlkit.errors import ArgumentError
from tlkit.runs.add_classes import add_classes_run
from tlkit.runs.train import train_run
from tlkit.serving.server import serve
from tlkit.utils.renamed import renamed_argument


@renamed_argument("say", "log")
def run(out, *, log=None):
    return out, log


def test_an_old_name_is_taken_and_the_new_one_named():
    with pytest.deprecated_call(match="`say` is called `log` now"):
        assert run("out", say="text") == ("out", "text")
    assert run("out", log="text") == ("out", "text")


def test_both_names_at_once_are_refused():
    with pytest.raises(ArgumentError, match=r"`log` must be given once.*Leave `say` out"):
        run("out", say="text", log="text")


@pytest.mark.parametrize(
    ("function", "old", "new"),
    [
        (train_run, "say", "log"),
        (add_classes_run, "say", "log"),
        (serve, "say", "log"),
        (ImageSplit.dataset, "share", "shard"),
    ],
)
def test_signatures_show_the_new_name_alone(function, old, new):
    parameters = inspect.signature(function).parameters
    assert new in parameters
    assert old not in parameters
