"""The config of a run: checked when made, unchanged in run.json, and resolved by choices."""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import tlkit
from tlkit import cli
from tlkit.runs.add_classes_config import AddClassesConfig, choose_method
from tlkit.runs.any_config import config_from_json
from tlkit.runs.config import Choice, RunConfig, arguments_of
from tlkit.runs.options import option_of

KEPT = {  # as written by the previous version
    "photos": "/data/photos",
    "from_run": None,
    "backbone": "auto",
    "backbones": ["resnet20", "vgg16=/w.h5"],
    "max_milliseconds": None,
    "max_megabytes": 9.0,
    "weights": "pretrained",
    "image_size": None,
    "mode": "auto",
    "unfreeze": None,
    "epochs": 3,
    "learning_rate": None,
    "layer_decay": None,
    "anchor": None,
    "importance": None,
    "old_photos": None,
    "augment": None,
    "class_weight": None,
    "reject_unknown": False,
    "batch_size": 32,
    "seed": 0,
    "max_pixels": 134217728,
}


def test_a_new_config_is_complete(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RunConfig(photos="photos", weights="w.h5")
    assert config.photos == str(tmp_path / "photos")
    assert config.path_as_given("photos") == "photos"
    assert config.weights == str(tmp_path / "w.h5")
    assert (config.backbone, config.image_size) == ("mobilenet_v2", 224)
    later = RunConfig(photos="photos", from_run="run")
    assert (later.from_run, later.backbone) == (str(tmp_path / "run"), None)
    assert later.path_as_given("from_run") == "run"


def test_the_json_of_a_config_is_that_of_the_previous_version():
    content = json.loads(json.dumps(KEPT))
    config = config_from_json(content)
    assert config.to_json() == KEPT
    assert list(config.to_json()) == list(KEPT)
    made = RunConfig(
        photos="/data/photos",
        backbone="auto",
        backbones="resnet20,vgg16=/w.h5",
        max_megabytes=9.0,
        epochs=3,
    )
    assert made == config
    skipping = dataclasses.replace(made, damaged="skip")
    assert skipping.to_json() == {**KEPT, "damaged": "skip"}
    flipping = dataclasses.replace(made, mode="head", head="linear", tta="flip", epochs=None)
    given = {"mode": "head", "epochs": None, "head": "linear", "tta": "flip"}
    assert flipping.to_json() == {**KEPT, **given}
    padding = dataclasses.replace(made, resize="pad")
    assert padding.to_json() == {**KEPT, "resize": "pad"}
    assert config_from_json(padding.to_json()) == padding
    assert dataclasses.replace(made, resize="stretch") == made
    assert config_from_json(flipping.to_json()) == flipping
    del content["reject_unknown"]  # as in versions without this argument
    assert config_from_json(content) == config


def test_a_choice_may_set_what_a_user_may_not():
    config = RunConfig(photos="/data/photos", backbone="auto", backbones="resnet20")
    backbone = {"backbone": "resnet20", "weights": None, "image_size": 32}
    choices = {
        "backbone": Choice(backbone, ["the only one"]),
        "mode": Choice({"mode": "fine-tune", "unfreeze": 3, "anchor": 0.001}, ["near"]),
    }
    resolved = config.resolve(choices)
    assert (resolved.backbone, resolved.weights, resolved.image_size) == ("resnet20", None, 32)
    assert (resolved.mode, resolved.unfreeze, resolved.anchor) == ("fine-tune", 3, 0.001)
    assert config.mode == "auto"
    with pytest.raises(tlkit.ArgumentError, match="Name that run"):
        RunConfig(photos="/data/photos", anchor=0.001)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"photos": 3}, TypeError),
        ({"max_pixels": "9"}, ValueError),
        ({"backbones": "resnet20"}, TypeError),
        ({"seed": -1}, ValueError),
        ({"mode": "heads"}, ValueError),
    ],
)
def test_json_that_no_run_has_written_is_refused(content, error):
    with pytest.raises(error):
        config_from_json({**KEPT, **content})


def test_the_json_of_added_classes_is_that_of_the_previous_version():
    content = {
        "command": "add-classes",
        "from_run": "/runs/1",
        "photos": "/data/cows",
        "backbone": None,
        "weights": "those of the run",
        "exemplars": 4,
        "align": False,
        "batch_size": 32,
        "max_pixels": 9,
    }
    config = config_from_json(content)
    assert isinstance(config, AddClassesConfig)
    assert config.to_json() == content
    assert list(config.to_json()) == list(content)
    assert config_from_json({"damaged": "skip", **content}).damaged == "skip"
    with pytest.raises(tlkit.ArgumentError, match="`align` must be True or False"):
        AddClassesConfig(from_run="/runs/1", photos="/data/cows", align="yes")


def test_train_run_has_the_arguments_and_defaults_of_a_config():
    parameters = inspect.signature(tlkit.train_run).parameters
    for field in arguments_of(RunConfig):
        default = inspect.Parameter.empty if field.name == "photos" else field.default
        assert parameters[field.name].default == default, field.name
    others = set(parameters) - {field.name for field in arguments_of(RunConfig)}
    assert others == {"out", "resume", "distribute", "trackers", "log"}


def test_the_command_takes_sizes_as_numbers_or_auto(monkeypatch):
    seen = []
    monkeypatch.setattr("tlkit.runs.train.make_run", lambda config, **_: seen.append(config))
    monkeypatch.setattr(cli, "_print_summary", lambda *_, **others: None)
    train = ["train", "photos", "--backbone", "resnet20", "--image-size"]
    for size in ("auto", "40"):
        cli.app([*train, size], standalone_mode=False)
    assert [config.image_size for config in seen] == ["auto", 40]
    for size in ("4.5", "-3", "0", "Auto"):
        with pytest.raises(tlkit.ArgumentError, match="`image_size` must be a whole number"):
            cli.app([*train, size], standalone_mode=False)
    with pytest.raises(tlkit.ArgumentError, match="`image_size` must be at most 4,096 pixels"):
        cli.app([*train, "100000"], standalone_mode=False)


def test_the_command_offers_each_field_with_its_help():
    params = {one.name: one for one in typer.main.get_group(cli.app).commands["train"].params}
    for field in arguments_of(RunConfig):
        described = option_of(field)
        assert params[field.name].help.removesuffix("  [required]") == described.help
        if described.panel:
            assert params[field.name].default == field.default
            option = f"--{(described.name or field.name).replace('_', '-')}"
            assert option in params[field.name].opts


def test_the_command_line_makes_the_config_that_it_describes(monkeypatch):
    calls = []

    def make_run(config, **others):
        calls.append((config, others))
        raise ValueError("enough")

    monkeypatch.setattr("tlkit.runs.train.make_run", make_run)
    words = "train photos --out x --weights none --unfreeze 2 --epochs 3 --no-resume --seed 7"
    CliRunner().invoke(cli.app, words.split())
    ((config, others),) = calls
    assert config == RunConfig(
        photos=str(Path("photos").resolve()), weights=None, unfreeze=2, epochs=3, seed=7
    )
    passed = {"out": Path("x"), "resume": False, "distribute": None, "trackers": None}
    assert others == passed


@pytest.mark.parametrize("name", ["image_size", "inference_size"])
def test_a_size_below_the_backbone_s_is_named_before_any_file_is_read(name):
    with pytest.raises(
        tlkit.ArgumentError, match=f"`{name}` must be at least 32 for the .* 'vgg16'"
    ):
        RunConfig(photos="photos", backbone="vgg16", **{name: 16})


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, ("replay", 20)),
        ({"has_statistics": True}, ("exact", 0)),
        ({"has_statistics": True, "exemplars": 3}, ("replay", 3)),
        ({"has_statistics": True, "exemplars": 0}, ("isolated", 0)),
        ({"has_statistics": True, "align": True}, ("replay", 20)),
        ({"method": "exact"}, ("exact", 0)),
        ({"method": "isolated", "align": True, "exemplars": 0}, ("isolated", 0)),
        ({"method": "replay", "has_statistics": True}, ("replay", 20)),
    ],
)
def test_the_method_of_adding_classes_follows_from_what_there_is(given, chosen):
    arguments = {"method": "auto", "exemplars": None, "align": False, "has_statistics": False}
    assert choose_method(**{**arguments, **given}) == chosen


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "best"}, "`method` must be one of"),
        ({"method": "exact", "exemplars": 5}, "`exemplars` must be left out with method='exact'"),
        ({"method": "exact", "align": True}, "`align` must be left out with method='exact'"),
        ({"method": "isolated", "exemplars": 5}, "`exemplars` must be left out"),
        ({"method": "replay", "exemplars": 0}, "`exemplars` must be at least 1"),
        ({"exemplars": -1}, "`exemplars`"),
    ],
)
def test_what_does_not_apply_to_the_method_is_refused(given, message):
    arguments = {"method": "auto", "exemplars": None, "align": False, "has_statistics": False}
    with pytest.raises(tlkit.ArgumentError, match=message):
        choose_method(**{**arguments, **given})


def test_statistics_are_kept_or_not():
    config = RunConfig(photos="p", backbone="resnet20", keep_statistics=False)
    assert RunConfig.from_json(config.to_json()) == config
    with pytest.raises(tlkit.ArgumentError, match="`statistics_width` must be left out"):
        RunConfig(photos="p", keep_statistics=False, statistics_width=9)
    with pytest.raises(tlkit.ArgumentError, match="`keep_statistics` must be True or False"):
        RunConfig(photos="p", keep_statistics="yes")
    with pytest.raises(tlkit.ArgumentError, match="`statistics_width`"):
        RunConfig(photos="p", statistics_width=0)
