"""The steps of a run: projected cost, calibration, and rejection."""

import json

import numpy as np
import pytest
from PIL import Image

import tlkit
from tests.conftest import write_photos
from tlkit.evaluation.prediction_stream import predict_exported
from tlkit.runs.config import RunConfig
from tlkit.runs.inference import export_run
from tlkit.runs.steps import (
    augmentation_of,
    calibrate_on_validation,
    measure_learning_curve,
    project_cost,
    train_model,
)
from tlkit.runs.train import train_run

ARGUMENTS = {"backbone": "resnet20", "batch_size": 16}


@pytest.fixture(scope="module")
def photos_with_errors(tmp_path_factory):
    """300 images, every tenth of which is in the wrong folder."""
    folder = write_photos(tmp_path_factory.mktemp("errors") / "photos", {"green": 150, "red": 150})
    for name, other in (("green", "red"), ("red", "green")):
        for path in sorted((folder / name).glob("???.jpg"))[::10]:
            path.rename(folder / other / f"from {name} {path.name}")
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, photos_with_errors):
    """A finished, fine-tuned run that rejects unknown images, and its messages."""
    messages = []
    run = train_run(
        photos_with_errors,
        out=tmp_path_factory.mktemp("tuned") / "run",
        unfreeze="stage3",
        epochs=1,
        reject_unknown=True,
        log=messages.append,
        **ARGUMENTS,
    )
    return run, "\n".join(messages)


@pytest.mark.slow
def test_the_cost_is_logged_before_training_and_kept(tuned):
    run, log = tuned
    cost = run.record["cost"]
    before, _, after = log.partition("projected cost:")
    assert "fine-tune:" not in before
    assert f"{cost['num_trainable']:,} of" in after
    assert cost["unfreeze"] == "stage3"
    assert cost["num_epochs"] == 1
    assert cost["step_seconds"] > 0
    assert cost["num_trainable"] == run.metrics["stages"][-1]["num_trainable"]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Projected training time" in page


@pytest.mark.slow
def test_the_time_of_solving_a_head_is_projected_too(photos):
    data = tlkit.load_folder(photos, image_size=32)
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    plain, augmented = (
        project_cost(model, data, RunConfig(photos="photos", mode="head", augment=augment))
        for augment in (None, "light")
    )
    for report in (plain, augmented):
        assert report.forward_milliseconds > 0
        assert list(report.seconds) == ["preparing", "features"]
        assert report.step_seconds is None
    assert augmented.disk_bytes["features"] > 3 * plain.disk_bytes["features"]


def test_fine_tuning_is_compared_with_the_head_alone(tuned):
    run, log = tuned
    comparison = run.metrics["against_probe"]
    assert comparison["num_images"] == run.metrics["test"]["num_images"]
    shipped = run.metrics["shipped"]["model"]
    exported = comparison["accuracies"][shipped == "fine-tuned"]
    assert exported == run.metrics["test"]["accuracy"]
    assert comparison["verdict"] in log
    assert "McNemar" in (run.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_probabilities_of_every_export_are_calibrated(tmp_path, photos_with_errors, monkeypatch):
    accuracy = {}

    def train_overconfident(model, data, *others, **arguments):
        report = train_model(model, data, *others, **arguments)
        for weight in model.get_layer("logits").weights:
            weight.assign(8 * weight)
        accuracy["before"] = tlkit.evaluate(model, data.test).accuracy
        return report

    monkeypatch.setattr("tlkit.runs.train.train_model", train_overconfident)
    messages = []
    run = train_run(
        photos_with_errors, out=tmp_path / "run", mode="head", log=messages.append, **ARGUMENTS
    )
    calibration = run.metrics["calibration"]
    assert calibration["temperature"] > 5
    assert calibration["loss_after"] < calibration["loss_before"] - 0.1
    assert calibration["notes"] == []
    assert any(f"temperature {calibration['temperature']:.3f}" in line for line in messages)
    assert run.metrics["test"]["accuracy"] == accuracy["before"]
    assert run.metrics["validation"]["loss"] == pytest.approx(calibration["loss_after"], abs=1e-4)
    files = sorted(photos_with_errors.glob("*/*.jpg"))[:8]
    in_memory = tlkit.predict(run.load_model(), files, run.class_names)
    for one, other in zip(
        predict_exported(run.path / "saved_model", files), in_memory, strict=True
    ):
        assert one.label == other.label
        assert one.probability == pytest.approx(other.probability, abs=1e-5)
        assert one.probability < 0.999  # it is 1 with logits that are 8 times as large
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "does not change the predicted classes" in page


def test_too_few_validation_images_or_another_last_layer_leave_the_model_unchanged(photos):
    data = tlkit.load_folder(photos, image_size=32)
    model = tlkit.build_classifier("resnet20", data.class_names)
    tlkit.train_head(model, data)
    before = model.get_layer("logits").kernel.numpy()
    assert data.validation.num_images < 20
    few = calibrate_on_validation(model, data)
    assert "calibration needs 20 validation images, and there are" in few.reason
    assert few.as_dict() == {"temperature": 1.0, "notes": [few.reason]}
    larger = tlkit.load_folder(photos, image_size=32, splits=(0.5, 0.5, 0))
    wider = tlkit.add_classes(model, ["blue"], class_names=data.class_names)
    assert "one plain Dense layer" in calibrate_on_validation(wider, larger).reason
    np.testing.assert_array_equal(before, model.get_layer("logits").kernel.numpy())


@pytest.mark.slow
def test_a_run_rejects_images_that_are_none_of_its_classes(tuned, tmp_path):
    run, log = tuned
    rejection = run.metrics["rejection"]
    assert rejection["wrongly_rejected"] <= 0.05
    assert rejection["num_images"] == run.metrics["validation"]["num_images"]
    assert rejection["test"]["num_images"] == run.metrics["test"]["num_images"]
    assert "OOD score threshold" in log
    Image.fromarray(np.full((40, 40, 3), 255, np.uint8)).save(tmp_path / "white.png")
    (white,) = predict_exported(run.path / "saved_model", [tmp_path / "white.png"])
    assert white.known is False
    export_run(run.path, tmp_path / "again", "saved_model")
    (white,) = predict_exported(tmp_path / "again", [tmp_path / "white.png"])
    assert white.known is False
    assert "OOD score threshold" in (run.path / "report.html").read_text(encoding="utf-8")
    (run.path / "rejection.npz").write_bytes(b"junk")
    with pytest.raises(tlkit.RunError, match=r"rejection\.npz must be intact"):
        export_run(run.path, tmp_path / "third", "saved_model")


def test_too_few_images_for_a_rejection_threshold_are_refused_before_training(tmp_path, photos):
    with pytest.raises(tlkit.DataError, match="at least 19 images"):
        train_run(photos, out=tmp_path / "run", mode="head", reject_unknown=True, **ARGUMENTS)
    with pytest.raises(tlkit.ArgumentError, match="`reject_unknown` must be True or False"):
        train_run(photos, out=tmp_path / "run", reject_unknown="yes", **ARGUMENTS)
    assert not (tmp_path / "run").exists()


def test_the_augmentation_of_training_images():
    assert augmentation_of(RunConfig(photos="photos", mode="head")) == "none"
    assert augmentation_of(RunConfig(photos="photos", mode="fine-tune")) == "default"
    assert augmentation_of(RunConfig(photos="photos", mode="head", augment="light")) == "light"


def test_the_results_of_a_run_are_in_its_metrics(tuned):
    run, _ = tuned
    metrics = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
    assert {"calibration", "against_probe", "learning_curve", "rejection"} <= set(metrics)


def test_a_run_estimates_what_more_images_would_bring(tuned):
    run, log = tuned
    curve = run.metrics["learning_curve"]
    assert curve["num_images"] == curve["num_tested"] == run.record["data"]["num_images"]["train"]
    assert curve["gain_interval"][0] <= curve["gain"] <= curve["gain_interval"][1]
    assert "twice as many training images" in log
    assert "learning curve" in run.record["seconds"]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "More training images" in page


def test_a_warm_started_run_has_no_learning_curve(photos_with_errors):
    """Its backbone may have been trained on the images that a head would be tested on."""
    data = tlkit.load_folder(photos_with_errors, image_size=32)
    model = tlkit.build_classifier("resnet20", data.class_names)
    config = RunConfig(photos="photos", mode="head", from_run="earlier")
    report = measure_learning_curve(model, data, config)
    assert report.gain is None
    assert report.why_not == "the backbone of the earlier run may have been trained on these images"
