"""Estimates agree with the training that follows, and the model is unchanged."""

import json

import keras
import numpy as np
import pytest

import tlkit
from tlkit.advice import cost
from tlkit.advice.cost import estimate_cost
from tlkit.errors import ArgumentError

pytestmark = pytest.mark.usefixtures("timed_costs")


def classifier(data, **options):
    return tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, **options)


def test_the_model_is_unchanged(data):
    model = classifier(data)
    tlkit.set_trainable(model, "stage3")
    trained = [variable.path for variable in model.trainable_variables]
    before = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    report = estimate_cost(model, data, unfreeze="all", epochs=2)
    assert [variable.path for variable in model.trainable_variables] == trained
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable))
    trained = tlkit.set_trainable(model, "all", batch_norm="affine")
    assert report.num_trainable == trained.num_trainable
    assert report.step_seconds > 0
    assert report.memory_bytes > report.activation_bytes > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("unfreeze", "epochs", "views", "augment"),
    [
        ("stage3", 4, 2, "default"),
        ("stage3", 3, 2, "default"),
        ("all", 4, 1, "none"),
        ("stage2", 2, None, "none"),
    ],
)
def test_the_estimate_agrees_with_fine_tuning(data, unfreeze, epochs, views, augment):
    model = classifier(data)
    plan = {"unfreeze": unfreeze, "epochs": epochs, "views": views, "augment": augment}
    report = estimate_cost(model, data, **plan)
    head, stage = tlkit.fine_tune(model, data, learning_rate=1e-3, **plan).stages
    is_stored = "stored activations" in stage.notes[0]
    assert report.is_stored == is_stored == ("storing" in report.seconds)
    assert ("activations" in report.disk_bytes) == is_stored
    assert report.num_trainable == stage.trainable.num_trainable
    assert report.num_epochs == epochs
    num_rows = stage.num_forward_passes
    cut = next(group for group in report.groups if group.name == unfreeze) if is_stored else None
    if cut:
        assert report.disk_bytes["activations"] == 4 * num_rows * cut.num_inputs
    assert report.disk_bytes["features"] == (
        4 * model.get_layer("logits").kernel.shape[0] * head.num_forward_passes
    )
    # a trained head is not solved again
    again = estimate_cost(model, data, **plan)
    assert "features" not in again.seconds
    assert (report.solves_head, again.solves_head) == (True, False)
    assert "without solving" not in str(again)


@pytest.mark.parametrize("restriction", [{"train": "norm"}, {"adapters": "lora:2"}])
def test_parts_of_the_layers_and_adapters_count(data, restriction):
    model = classifier(data)
    report = estimate_cost(model, data, epochs=1, **restriction)
    everything = estimate_cost(model, data, epochs=1)
    _, stage = tlkit.fine_tune(model, data, epochs=1, **restriction).stages
    assert report.num_trainable == stage.trainable.num_trainable < everything.num_trainable
    assert report.memory_bytes < everything.memory_bytes


def test_the_head_alone_takes_no_steps(data):
    report = estimate_cost(classifier(data), data, unfreeze="head")
    assert report.step_seconds is None
    assert report.num_epochs == 0
    assert report.solves_head
    assert list(report.seconds) == ["preparing", "features"]
    assert list(report.disk_bytes) == ["features", "model files"]
    assert report.total_seconds == sum(report.seconds.values())
    assert "; without solving the head" in str(report)
    with_steps = estimate_cost(classifier(data), data, unfreeze="head", epochs=3)
    assert with_steps.step_seconds > 0
    assert "training" in with_steps.seconds


def test_without_timing_everything_is_counted_and_nothing_runs(data, monkeypatch):
    def refuse(*_):
        raise AssertionError("was run")

    monkeypatch.setattr("tlkit.advice.cost.time_calls", refuse)
    model = classifier(data)
    counted = estimate_cost(model, data, unfreeze="stage3", epochs=2, is_timed=False)
    assert counted.forward_milliseconds is None
    assert counted.step_seconds is None
    assert counted.seconds == {}
    trained = tlkit.set_trainable(model, "stage3", batch_norm="affine")
    assert counted.num_trainable == trained.num_trainable
    assert "measured:" not in str(counted)
    assert "disk:" in str(counted)
    plan = {"unfreeze": "head", "augment": "light", "is_timed": False}
    sizes = [
        estimate_cost(model, data, views=views, **plan).disk_bytes["features"]
        for views in (None, 4)
    ]
    num_images = data.train.num_images, data.validation.num_images
    assert sizes[1] * sum(num_images) == sizes[0] * (4 * num_images[0] + num_images[1])


def test_a_report_becomes_json(data):
    report = estimate_cost(classifier(data), data, unfreeze="head", is_timed=False)
    content = json.loads(json.dumps(report.as_dict()))
    assert content["total_disk_bytes"] == report.total_disk_bytes
    assert content["groups"][-1]["name"] == "head"


def test_more_trainable_layers_keep_more_activations(data):
    model = classifier(data)
    reports = [estimate_cost(model, unfreeze=name) for name in ("stage3", "stage2", "all")]
    kept = [report.activation_bytes for report in reports]
    assert kept == sorted(kept)
    assert kept[-1] == 4 * 32 * sum(group.num_activations for group in reports[0].groups)
    assert not reports[0].seconds
    assert not reports[0].disk_bytes
    text = str(reports[0])
    assert "without solving" not in text
    assert "stage3" in text
    assert "ms per batch of 32" in text


def test_the_report_gives_time_and_disk_space(data):
    report = estimate_cost(classifier(data), data, unfreeze="stage3", epochs=4, augment="none")
    text = str(report)
    for part in ("preparing", "features", "storing", "training", "measuring", "disk:"):
        assert part in text
    assert "\ntime: about " in text
    assert "at most" not in text  # the estimate is no upper bound
    assert report.total_seconds == pytest.approx(sum(report.seconds.values()))
    assert report.total_disk_bytes == sum(report.disk_bytes.values())


@pytest.mark.parametrize("options", [{"binary": True}, {"multi_label": True}])
def test_every_head_has_a_step(data, options):
    assert estimate_cost(classifier(data, **options), unfreeze="stage3").step_seconds > 0


def test_invalid_arguments_raise(data):
    model = classifier(data)
    for arguments, message in (
        ({"unfreeze": "stage9"}, "stage3"),
        ({"epochs": 0}, "`epochs` must be a whole number"),
        ({"views": -1}, "`views` must be a whole number"),
        ({"augment": "lite"}, "`augment` must be one of"),
        ({"train": "norms"}, "`train` must be one of"),
        ({"adapters": 8}, "`adapters` must be 'lora'"),
        ({"batch_size": 0}, "`batch_size` must be a whole number"),
        ({"data": data.train.dataset()}, "`data` must be the result of load_folder"),
        ({"data": data, "batch_size": 8}, "`batch_size` must be left out"),
    ):
        with pytest.raises(ArgumentError, match=message):
            estimate_cost(model, **arguments)


def test_the_measured_step_is_traced_once(data, monkeypatch):
    traced = []

    class Noted(keras.losses.SparseCategoricalCrossentropy):
        def call(self, y_true, y_pred):
            traced.append(True)
            return super().call(y_true, y_pred)

    monkeypatch.setattr(cost, "loss_of", lambda model: Noted(from_logits=True))
    assert estimate_cost(classifier(data), unfreeze="stage3").step_seconds > 0
    assert len(traced) == 1
