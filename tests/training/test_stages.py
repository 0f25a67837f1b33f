"""Stages: each unfreezes more than the one before it."""

import numpy as np
import pytest

import tlkit
from tlkit.errors import ArgumentError, TrainingError
from tlkit.training.weight_change import weights_by_group


def classifier(data):
    return tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)


def test_each_stage_trains_its_groups_and_no_other(data):
    model = classifier(data)
    tlkit.train_head(model, data)
    before = weights_by_group(model)
    stages = [tlkit.Stage("head", epochs=1), tlkit.Stage("stage2", epochs=2, learning_rate=1e-3)]
    report = tlkit.fine_tune(model, data.train.dataset(), stages=stages)
    first, second = report.stages
    assert first.trainable.groups == ("head",)
    assert second.trainable.groups == ("stage2", "stage3", "head")
    assert [len(stage.history) for stage in report.stages] == [1, 2]
    assert [stage.kept_epoch for stage in report.stages] == [
        1,
        2,
    ]  # the last ones: there is no validation
    assert {name for name, change in first.weight_change.items() if change} == {"head"}
    assert {name for name, change in second.weight_change.items() if change} == {
        "stage2",
        "stage3",
        "head",
    }
    for a, b in zip(before["stage1"], weights_by_group(model)["stage1"], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, [("stage1", 1)]),
        (2, [("stage3", 1), ("stage1", 1)]),
        (3, [("stage3", 1), ("stage2", 1), ("stage1", 1)]),
        (7, [("stage3", 2), ("stage2", 2), ("stage1", 3)]),
    ],
)
def test_a_gradual_plan_ends_with_everything(data, epochs, expected):
    plan = tlkit.gradual_plan(classifier(data), epochs, learning_rate=1e-3)
    assert [(stage.unfreeze, stage.epochs) for stage in plan] == expected
    assert [stage.learning_rate for stage in plan] == [1e-3 * 0.5**i for i in range(len(plan))]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "must be one or more tlkit.Stage"),
        (["head"], "must be one or more tlkit.Stage"),
        ([tlkit.Stage("stage2"), tlkit.Stage("head")], "'head' after 'stage2', which is fewer"),
        ([tlkit.Stage("stage2"), tlkit.Stage(3)], "'stage2' after 'stage2', which is the same"),
        ([tlkit.Stage("stag2")], "Did you mean 'stage"),
        ([tlkit.Stage("head", epochs=0)], "`epochs` must be a whole number of at least 1"),
        ([tlkit.Stage("head", learning_rate=-1.0)], "`learning_rate` must be a positive number"),
    ],
)
def test_invalid_stages_are_refused(data, stages, message):
    with pytest.raises(ArgumentError, match=message):
        tlkit.fine_tune(classifier(data), data, stages=stages)


def test_stages_and_unfreeze_exclude_each_other(data):
    with pytest.raises(ArgumentError, match="`unfreeze` must be left out if `stages`"):
        tlkit.fine_tune(classifier(data), data, unfreeze="head", stages=[tlkit.Stage("all")])


def test_a_rate_that_makes_the_loss_nan_stops_at_once_and_restores_the_best_weights(data):
    model = classifier(data)
    tlkit.train_head(model, data)
    before = model.get_weights()
    with pytest.raises(TrainingError, match=r"NaN or infinite at step .* Try learning_rate=1e\+29"):
        tlkit.fine_tune(model, data, epochs=2, learning_rate=1e30, schedule="constant")
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
