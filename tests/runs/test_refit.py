"""A last training on all images: what it trains on, whose figures are reported, and resuming it."""

import numpy as np
import pytest

import tlkit
from tests.conftest import write_photos
from tlkit.errors import ArgumentError
from tlkit.models.kernel_head import has_kernel_head
from tlkit.runs.config import RunConfig
from tlkit.runs.console_summary import summarize_run
from tlkit.runs.directory import record_in, seen_digests
from tlkit.runs.results import Shipped
from tlkit.training import fine_tuning

ARGUMENTS = {"backbone": "tiny_resnet", "weights": None, "batch_size": 16}


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_all_images_become_training_images(tmp_path):
    photos = write_photos(tmp_path / "photos", {"green": 30, "red": 30})
    data = tlkit.load_folder(photos, image_size=32)
    merged = data.merged()
    assert merged.train.num_images == 60
    assert (merged.validation, merged.test) == (None, None)
    splits = (data.train, data.validation, data.test)
    assert merged.train.digests == sum((split.digests for split in splits), ())
    images, labels = next(iter(merged.train.dataset(shuffle=False, batch_size=60)))
    expected = [next(iter(one.dataset(shuffle=False, batch_size=60))) for one in splits]
    np.testing.assert_array_equal(images, np.concatenate([one for one, _ in expected]))
    np.testing.assert_array_equal(labels, np.concatenate([one for _, one in expected]))
    assert merged.fingerprint != data.fingerprint


def test_a_refitted_head_is_that_of_all_images_and_the_figures_are_those_before(photos, tmp_path):
    run = tlkit.train_run(photos, out=tmp_path / "run", mode="head", refit=True, **ARGUMENTS)
    data = tlkit.load_folder(photos, image_size=32, batch_size=16)
    before = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    tlkit.train_head(before, data)
    measured = tlkit.evaluate(before, data.test, data.class_names)
    assert run.metrics["test"]["loss"] == pytest.approx(measured.loss, rel=1e-3)
    expected = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    form = "closed-form" if has_kernel_head(before) else "linear"
    tlkit.train_head(expected, data.merged(), head=form)
    for one, other in zip(run.load_model().weights, expected.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert run.metrics["refit"]["num_images"] == 60
    assert run.metrics["refit"]["num_before"] == data.train.num_images
    assert seen_digests(run) == set(data.merged().train.digests)
    words = "trained once more"
    assert words in summarize_run(run)
    for name in ("report.html", "model_card.md"):
        assert words in (run.path / name).read_text("utf-8")
    assert not (run.path / "refit").exists()


@pytest.mark.slow
def test_an_interrupted_refit_leaves_the_model_before_and_is_resumed(photos, tmp_path, monkeypatch):
    chosen = Shipped(False, "why")
    monkeypatch.setattr("tlkit.runs.train.choose_shipped", lambda *given: chosen)
    monkeypatch.setattr("tlkit.training.mixture.best_of", lambda some: 0.5)
    calls = []

    def fine_tune(model, data, **given):
        calls.append((data.train.num_images, given))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(model, data, **given)

    original = fine_tuning.fine_tune
    monkeypatch.setattr(fine_tuning, "fine_tune", fine_tune)
    given = {"out": tmp_path / "run", "mode": "fine-tune", "epochs": 5, "refit": True, **ARGUMENTS}
    with pytest.raises(KeyboardInterrupt) as caught:
        tlkit.train_run(photos, **given)
    name = "the trained model"
    assert caught.value.__notes__ == [f"{tmp_path / 'run'} holds {name}, which can be used"]
    assert record_in(tmp_path / "run").provisional == name
    usable = tlkit.load_run(tmp_path / "run")
    figures, model = usable.metrics, usable.load_model()
    run = tlkit.train_run(photos, **given)
    assert run.metrics["test"] == figures["test"]
    assert run.metrics["refit"]["epochs"] == 4  # 60 images in as many steps as 5 epochs of 46
    (first, _), (second, refitted) = calls[0], calls[-1]
    assert (first, second) == (usable.run_record.data.num_images["train"], 60)
    assert refitted["kept_fraction"] == 0.5
    assert not all(map(np.array_equal, run.load_model().get_weights(), model.get_weights()))
    assert not (run.path / "refit").exists()


def test_what_needs_images_that_are_left_is_refused(photos, tmp_path):
    with pytest.raises(ArgumentError, match="`refit` must be False with `reject_unknown`"):
        RunConfig(photos="photos", refit=True, reject_unknown=True)
    with pytest.raises(ArgumentError, match="`refit` must be True or False"):
        RunConfig(photos="photos", refit="yes")
    with pytest.raises(ArgumentError, match="`refit` must be left out with `distribute`"):
        tlkit.train_run(photos, out=tmp_path / "run", refit=True, distribute="mirrored")
    assert "refit" not in RunConfig(photos="photos").to_json()
