"""The plan of a run within some minutes."""

import dataclasses

import numpy as np
import pytest

import tlkit
from tests.conftest import write_photos
from tlkit.advice.cost import CostReport
from tlkit.errors import ArgumentError
from tlkit.runs import budget
from tlkit.runs.budget import (
    budget_choice,
    check_minutes,
    check_minutes_for_any,
    sizes_within_minutes,
)
from tlkit.runs.choices import SizePlan, image_size_choice
from tlkit.runs.config import AUTO, RunConfig
from tlkit.runs.console_summary import summarize_run

ARGUMENTS = {"backbone": "tiny_resnet", "weights": None, "mode": "fine-tune", "batch_size": 16}


def cost(training, epochs, is_stored=False):
    """A projection with 10 seconds before training, and 1 ms per forward pass of an image."""
    return CostReport(
        groups=(),
        unfreeze="all",
        num_trainable=0,
        batch_size=16,
        forward_milliseconds=1.0,
        step_seconds=1.0,
        activation_bytes=0,
        memory_bytes=0,
        is_stored=is_stored,
        num_epochs=epochs,
        solves_head=True,
        seconds={"preparing": 10.0, "training": training},
        disk_bytes={},
    )


@pytest.fixture
def projected(monkeypatch):
    """Training all groups takes 10 s an epoch, the last groups on stored activations 1 s."""

    def project(model, data, config):
        if config.mode == "head":
            return cost(0.0, 1)
        epochs = config.epochs or 60
        seconds = epochs if config.views else 10 * epochs
        return cost(float(seconds), epochs, is_stored=bool(config.views))

    monkeypatch.setattr(budget, "project_cost", project)


@pytest.mark.parametrize(
    ("minutes", "given", "expected"),
    [
        # 1.2 × (10 + 600) s, 20 s to finish, and 60 s that have passed: 13.5 minutes
        (14, {}, {"epochs": 60}),
        (13, {}, {"epochs": 57}),
        (4, {}, {"epochs": 12}),
        (2, {}, {"unfreeze": 3, "views": 8, "epochs": 20}),
        (2, {"unfreeze": "stage2"}, {"views": 8, "epochs": 20}),
        (1.5, {}, {"mode": "head", "unfreeze": None, "anchor": None}),
        (14, {"refit": True}, {"epochs": 30}),
        (27, {"refit": True}, {"epochs": 60}),
    ],
)
@pytest.mark.usefixtures("projected")
def test_the_most_that_fits_is_chosen_and_what_is_left_out_is_named(data, minutes, given, expected):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    config = RunConfig(photos="photos", minutes=minutes, **given, **ARGUMENTS)
    choice = budget_choice(model, data, config, cost(600.0, 60), seconds=60.0)
    assert choice.arguments == expected
    left_out = [line for line in choice.reasons if line.startswith("left out: ")]
    assert any("60 epochs, which need" in line for line in left_out) == (
        "epochs" in expected and expected["epochs"] < 60 and "views" not in expected
    )
    assert any("for 10 epochs or more" in line for line in left_out) == (minutes <= 2)
    assert any("last groups on stored activations, which" in line for line in left_out) == (
        expected.get("mode") == "head"
    )
    assert "left out: fine-tuning of other backbones" in left_out


@pytest.mark.usefixtures("projected")
def test_too_few_minutes_are_refused_with_the_smallest_useful_number(data):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    config = RunConfig(photos="photos", minutes=0.5, **ARGUMENTS)
    with pytest.raises(ArgumentError, match=r"`minutes` must be at least 1\.6 .*minutes=0\.5"):
        check_minutes(model, data, config, seconds=60.0)  # and 1.2 × 10 s, and 20 s
    check_minutes(model, data, dataclasses.replace(config, kept=True, minutes=1.6), seconds=60.0)


@pytest.mark.usefixtures("projected")
def test_too_few_minutes_are_refused_before_backbones_are_compared(data, tmp_path, monkeypatch):
    def compare(*given, **others):
        raise AssertionError("backbones were compared")

    monkeypatch.setattr("tlkit.runs.train.backbone_choice", compare)
    with pytest.raises(ArgumentError, match=r"`minutes` must be at least .*minutes=0\.1"):
        tlkit.train_run(
            write_photos(tmp_path / "photos", {"a": 6, "b": 6}),
            out=tmp_path / "run",
            backbone=AUTO,
            minutes=0.1,
        )
    assert not (tmp_path / "run").exists()
    config = RunConfig(photos="photos", minutes=0.6, backbone=AUTO)
    check_minutes_for_any(data, config, seconds=0.0)  # 1.2 × 10 s, and 20 s
    with pytest.raises(ArgumentError, match=r"at least 0\.6"):
        check_minutes_for_any(
            data, dataclasses.replace(config, kept=True, minutes=0.5), seconds=0.0
        )
    # the cost of a backbone of one's own is not known
    monkeypatch.setattr(budget, "check_minutes", compare)
    own = dataclasses.replace(config, kept=True, backbones="tiny_resnet,resnet20")
    check_minutes_for_any(data, own, seconds=0.0)


@pytest.mark.parametrize(
    ("minutes", "given", "sizes", "missing"),
    [
        # 1.2 × (10 + 600) s at 96 pixels, 16/9 of it at 128, 20 s to finish, 60 s that have passed
        (24, {}, (96, 128), []),
        (23, {}, (96,), ["images of 128 pixels, which need 1.4 s more"]),
        (23, {"mode": "head"}, (96, 128), []),
        (24, {"refit": True}, (96,), ["images of 128 pixels, which need 20 min 43 s more"]),
    ],
)
@pytest.mark.usefixtures("projected")
def test_larger_images_are_compared_if_training_on_them_fits(data, minutes, given, sizes, missing):
    data = data.at_size((96, 96))
    arguments = ARGUMENTS | given
    config = RunConfig(photos="photos", minutes=minutes, **arguments)
    assert sizes_within_minutes(None, data, config, seconds=60.0) == SizePlan(sizes, tuple(missing))


def test_sizes_are_not_compared_with_a_class_of_one_image(data):
    rows = np.flatnonzero(data.train.labels)
    rows = np.append(rows, np.flatnonzero(data.train.labels == 0)[0])
    lone = dataclasses.replace(data, train=data.train.subset(rows)).at_size((96, 96))
    plan = sizes_within_minutes(None, lone, RunConfig(photos="photos", minutes=60), seconds=0.0)
    assert plan.sizes == (96,)
    assert "larger images, which cannot be compared" in plan.left_out[0]


def test_only_the_own_size_is_left(data):
    config = RunConfig(photos="photos", minutes=5, backbone="tiny_resnet")
    messages = []
    plan = SizePlan((96,), ("images of 128 pixels, which need 3 s more",))
    choice = image_size_choice(config, data, {}, messages.append, plan_sizes=lambda: plan)
    assert choice.arguments == {"image_size": 96}
    assert choice.reasons[1] == "left out: images of 128 pixels, which need 3 s more"
    assert choice.reasons[1] in messages[0]


def test_a_size_is_chosen_unless_one_is_given():
    minutes = {"photos": "photos", "minutes": 5}
    chosen = [{}, {"backbone": "resnet20"}, {"backbone": AUTO, "backbones": "resnet20"}]
    given = [
        {"image_size": 64},
        {"backbone": "resnet20", "image_size": 40},
        {"backbone": "resnet20", "weights": None},
        {"backbone": AUTO, "backbones": "resnet20,resnet20@40"},
    ]
    assert all(RunConfig(**minutes, **some).chooses_image_size for some in chosen)
    assert not any(RunConfig(**minutes, **some).chooses_image_size for some in given)
    assert not RunConfig(photos="photos", backbone=AUTO).chooses_image_size


@pytest.mark.slow
@pytest.mark.usefixtures("timed_costs")
def test_a_run_within_minutes(photos, tmp_path):
    with pytest.raises(ArgumentError, match="`minutes` must be at least"):
        tlkit.train_run(photos, out=tmp_path / "run", minutes=0.001, **ARGUMENTS)
    assert not (tmp_path / "run").exists()
    messages = []
    run = tlkit.train_run(photos, out=tmp_path / "run", minutes=1, log=messages.append, **ARGUMENTS)
    choice = run.run_record.choices["budget"]
    assert any(choice.reasons[0] in message for message in messages)
    assert f"chosen budget: {choice.reasons[0]}" in summarize_run(run)
    stages = [stage["name"] for stage in run.metrics["stages"]]
    assert stages == (["head"] if choice.arguments.get("mode") == "head" else ["head", "fine-tune"])


def test_contradictions_are_refused():
    for name, value in {"epochs": 3, "views": 2, "from_run": "run"}.items():
        with pytest.raises(ArgumentError, match=f"`{name}` must be left out with `minutes`"):
            RunConfig(photos="photos", minutes=5, **{name: value})
    with pytest.raises(ArgumentError, match="`minutes` must be"):
        RunConfig(photos="photos", minutes=-1)
    with pytest.raises(ArgumentError, match="`views` must be left out with mode='head'"):
        RunConfig(photos="photos", mode="head", views=2)
    assert RunConfig(photos="photos", minutes=5).backbone == AUTO
    assert RunConfig(photos="photos", minutes=5, backbone="resnet20").backbone == "resnet20"
