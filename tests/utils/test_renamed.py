"""Former public names still work, with a warning that gives the new name."""

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


def test_an_old_name_is_accepted_with_a_warning():
    with pytest.deprecated_call(match="`say` was renamed to `log`"):
        assert run("out", say="text") == ("out", "text")
    assert run("out", log="text") == ("out", "text")


def test_both_names_at_once_are_refused():
    with pytest.raises(ArgumentError, match=r"`log` must be given once.*Leave out `say`"):
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
