"""The summary at the top of a run's page: task, data, and a command that makes the same run."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from tlkit.cli import app
from tlkit.data.limits import MAX_PIXELS
from tlkit.runs.add_classes_config import AddClassesConfig
from tlkit.runs.page_summary import command_of, machine, summary_of
from tlkit.runs.record import RunRecord

GIVEN = {
    "photos": "/home/somebody/my photos",
    "from_run": None,
    "backbone": "mobilenet_v2",
    "backbones": None,
    "weights": "pretrained",
    "image_size": 128,
    "mode": "auto",
    "unfreeze": None,
    "anchor": None,
    "learning_rate": 1e-05,
    "reject_unknown": True,
    "batch_size": 16,
    "seed": 7,
    "max_pixels": MAX_PIXELS,
}
RECORD = {
    "finished": True,
    "arguments": GIVEN,
    "seed": 7,
    "image_size": [128, 96],
    "data": {
        "fingerprint": "7588f85d",
        "num_images": {"train": 1430, "validation": 186, "test": 90},
    },
}


def parsed(command):
    """The parameters that the command line parses from a command."""
    program, name, *words = shlex.split(command)
    assert program == "tlkit"
    return get_command(app).commands[name].make_context(name, words).params


def record(**given):
    return RunRecord.from_json({**RECORD, "arguments": {**GIVEN, **given}})


def test_the_command_makes_the_same_run():
    out = Path("run")
    params = parsed(command_of(record(), out))
    assert params["photos"] == "/home/somebody/my photos"
    assert params["out"] == out
    for name, value in GIVEN.items():
        if name != "photos":
            assert params[name] == value, name


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"weights": None}, {"weights": "none"}),
        ({"max_pixels": 99}, {"max_pixels": 99}),
        ({"backbone": "auto", "backbones": ["vgg16", "resnet20"]}, {"backbones": "vgg16,resnet20"}),
        (
            {"from_run": "/runs/1", "backbone": None, "anchor": 0.5},
            {"from_run": Path("/runs/1"), "anchor": 0.5, "image_size": None},
        ),
        ({"reject_unknown": False}, {"reject_unknown": False}),
    ],
)
def test_given_arguments_are_in_the_command(given, expected):
    params = parsed(command_of(record(**given), Path("a b")))
    assert {name: params[name] for name in expected} == expected


def test_adding_classes_has_its_own_command():
    grown = {
        "photos": "more",
        "from_run": "/runs/1",
        "exemplars": 5,
        "align": True,
        "batch_size": 32,
        "max_pixels": MAX_PIXELS,
    }
    params = parsed(command_of(RunRecord.from_json({**RECORD, "arguments": grown}), Path("run2")))
    assert (params["run"], params["photos"]) == (Path("/runs/1"), "more")
    assert (params["exemplars"], params["align"]) == (5, True)
    kept = AddClassesConfig(from_run="/runs/1", photos="/more", damaged="skip").to_json()
    params = parsed(command_of(RunRecord.from_json({**RECORD, "arguments": kept}), Path("x")))
    assert (params["run"], params["photos"]) == (Path("/runs/1"), "/more")


def test_the_summary_names_model_data_date_and_machine():
    chosen = {"mode": {"arguments": {"mode": "fine-tune"}, "reasons": []}}
    summary = summary_of(RunRecord.from_json({**RECORD, "choices": chosen}), Path("run"))
    assert list(summary) == ["task", "data", "command", "date", "machine"]
    assert summary["task"] == "fine-tuning of mobilenet_v2, at 128 × 96 pixels"
    expected = "/home/somebody/my photos: 1,430 train, 186 validation, 90 test images"
    assert summary["data"] == expected
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d ", summary["date"])
    assert re.search(r"\d+ processors?, \S", machine())
    head = record(mode="head", from_run="/runs/1", backbone=None)
    expected = "head trained on the model of /runs/1, at 128 × 96 pixels"
    assert summary_of(head, Path("run"))["task"] == expected
