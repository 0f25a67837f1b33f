"""A fine-tuned model that is used on images of another size than those of training."""

import dataclasses

import keras
import numpy as np
import pytest

import tlkit
from tests.conftest import write_photos
from tlkit.advice import inference_size
from tlkit.advice.inference_size import choose_inference_size
from tlkit.errors import ArgumentError
from tlkit.evaluation.prediction_stream import predict_exported
from tlkit.runs.config import RunConfig
from tlkit.runs.console_summary import summarize_run
from tlkit.runs.results import Shipped
from tlkit.training.candidates import Candidate
from tlkit.training.criterion import Score

TUNED = {
    "backbone": "tiny_resnet",
    "weights": None,
    "image_size": 32,
    "mode": "fine-tune",
    "epochs": 1,
    "batch_size": 16,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sized") / "photos"
    return write_photos(folder, {"green": 30, "red": 30})


@pytest.fixture(scope="module")
def data(photos):
    return tlkit.load_folder(photos, image_size=32)


@pytest.fixture(scope="module")
def model(data):
    return tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)


@pytest.mark.parametrize(
    ("losses", "pixels"),
    [
        ({32: 1.0, 36: 0.9, 40: 0.8}, 40),
        ({32: 1.0, 36: 0.8, 40: 0.9}, 36),
        ({32: 1.0, 36: 1.1, 40: 0.9}, 40),
        ({32: 1.0, 36: 0.99, 40: 0.98}, 32),
    ],
)
def test_a_size_must_be_better_than_the_one_before_by_a_standard_error(
    model, data, monkeypatch, losses, pixels
):
    spread = np.array([-0.05, 0.0, 0.05])

    def candidate(one, images, class_weight):
        assert one.input_shape[1:3] == images.image_size
        size = images.image_size[0]
        noise = spread * (size - 32) / 4
        return Candidate(Score(0.5, 0.0, 0.5, 3), losses[size] + noise, np.ones(3), np.ones(3))

    monkeypatch.setattr(inference_size, "evaluate_candidate", candidate)
    chosen = choose_inference_size(model, data)
    assert chosen.pixels == pixels
    assert f"{data.validation.num_images} validation images, trained at 32: 32" in chosen.reason
    for size in (36, 40):
        assert f"{size} pixels accuracy 50.0 %" in chosen.reason


def test_without_larger_sizes_that_the_model_takes_nothing_changes(data):
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    chosen = choose_inference_size(model, data)
    assert chosen.pixels == 32
    assert "the model does not take 36 pixels; the model does not take 40 pixels" in chosen.reason


@pytest.mark.slow
@pytest.mark.parametrize("further", [{"refit": True, "tta": "flip"}, {"folds": 3}], ids=str)
def test_a_run_measures_and_exports_its_model_at_the_other_size(
    photos, tmp_path, monkeypatch, further
):
    monkeypatch.setattr("tlkit.runs.train.choose_shipped", lambda *given: Shipped(False, "why"))
    monkeypatch.setattr(
        "tlkit.runs.cross_validation.choose_shipped", lambda *given: Shipped(False, "why")
    )
    run = tlkit.train_run(photos, out=tmp_path / "run", inference_size=48, **TUNED, **further)
    model = run.load_model()
    assert run.image_size == model.input_shape[1:3] == (48, 48)
    assert run.record["arguments"]["image_size"] == 32
    assert "<dt>image size in training</dt>" in (page := (run.path / "report.html").read_text())
    assert "32 × 32" in page
    assert "48 × 48" in (run.path / "model_card.md").read_text("utf-8")
    files = sorted(photos.glob("*/*.jpg"))[::10]
    exported = [one.probability for one in predict_exported(run.path / "saved_model", files)]
    served = tlkit.predict(run.load_served_model(), files, run.class_names)
    assert exported == pytest.approx([one.probability for one in served], abs=1e-5)
    if "refit" not in further:
        data = tlkit.load_folder(photos, image_size=48)
        report = tlkit.evaluate(run.load_served_model(), data.test)
        assert run.metrics["test"]["loss"] == pytest.approx(report.loss, abs=1e-5)


@pytest.mark.slow
def test_a_run_that_chooses_its_size_tries_larger_images_in_use(photos, tmp_path, monkeypatch):
    seen = []

    def choose(model, data, *, class_weight):
        seen.append((model.input_shape[1:3], data.image_size, class_weight.kind))
        return inference_size.InferenceSize(40, "measured")

    monkeypatch.setattr(inference_size, "choose_inference_size", choose)
    monkeypatch.setattr("tlkit.runs.train.choose_shipped", lambda *given: Shipped(False, "why"))
    given = {**TUNED, "inference_size": "auto", "class_weight": "balanced"}
    run = tlkit.train_run(photos, out=tmp_path / "run", **given)
    assert seen == [((32, 32), (32, 32), "balanced")]
    assert run.image_size == (40, 40)
    assert run.record["choices"]["inference_size"]["reasons"] == ["40 pixels: measured"]
    assert "chosen inference size: 40 pixels: measured" in summarize_run(run)
    assert "<h3>Size of images in use</h3>" in (run.path / "report.html").read_text("utf-8")
    assert "choosing the size of images in use" in run.record["seconds"]
    head = Shipped(True, "why")
    monkeypatch.setattr("tlkit.runs.train.choose_shipped", lambda *given: head)
    other = tlkit.train_run(photos, out=tmp_path / "other", **given)
    assert other.image_size == other.load_model().input_shape[1:3] == (32, 32)


@pytest.mark.slow
def test_an_interrupted_run_keeps_the_size_of_its_usable_result(photos, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tlkit.runs.train.choose_shipped", lambda *given: Shipped(False, "why"))
    given = {**TUNED, "inference_size": 40, "refit": True, "out": tmp_path / "run"}
    for step in ("refit", "refit", "train_model"):
        with monkeypatch.context() as patch:
            patch.setattr(f"tlkit.runs.train.{step}", interrupt)
            with pytest.raises(KeyboardInterrupt):
                tlkit.train_run(photos, **given)
        run = tlkit.load_run(tmp_path / "run")
        assert run.image_size == run.load_model().input_shape[1:3] == (40, 40)


def test_a_size_that_the_model_does_not_take_is_refused_before_training(photos, tmp_path):
    given = {**TUNED, "backbone": "mobilenet_025", "inference_size": 1}
    with pytest.raises(ArgumentError, match=r"`inference_size` must be at least 32 .*size=1"):
        tlkit.train_run(photos, out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_the_size_is_for_fine_tuning_and_a_number_or_auto():
    with pytest.raises(ArgumentError, match="`inference_size` must be left out with mode='head'"):
        RunConfig(photos="photos", mode="head", inference_size=48)
    for wrong, message in (("large", "or 'auto'"), (0, "at least 1"), (2.5, "whole number")):
        with pytest.raises(ArgumentError, match=f"`inference_size` must be.*{message}"):
            RunConfig(photos="photos", inference_size=wrong)
    config = RunConfig(photos="photos", image_size="auto")
    assert config.chooses_inference_size
    assert not dataclasses.replace(config, inference_size=256, kept=True).chooses_inference_size
    assert RunConfig(photos="photos", minutes=5.0).chooses_inference_size
    assert not RunConfig(photos="photos").chooses_inference_size
