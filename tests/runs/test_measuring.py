"""A run that fine-tunes: the head alone is usable at once, and the better model is exported."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

import tlkit
from tests.conftest import write_photos
from tlkit.data.class_weighting import ClassWeighting
from tlkit.errors import RunError
from tlkit.evaluation.prediction_stream import predict_exported
from tlkit.runs import measuring
from tlkit.runs.config import RunConfig
from tlkit.runs.directory import record_in
from tlkit.runs.measuring import Measured, choose_shipped, compare_with_head, solve_head
from tlkit.runs.results import CalibrationDecision, Shipped
from tlkit.training.candidates import Candidate
from tlkit.training.criterion import Score
from tlkit.utils.progress import RunLog

ARGUMENTS = {
    "backbone": "tiny_resnet",
    "weights": None,
    "mode": "fine-tune",
    "epochs": 1,
    "batch_size": 16,
}
NO_LOG = RunLog(lambda text: None)


def interrupt(*_, **__):
    raise KeyboardInterrupt


def predictions(run, photos):
    files = sorted(photos.glob("*/*.jpg"))[::10]
    return [one.probability for one in predict_exported(run / "saved_model", files)]


@pytest.mark.parametrize(
    ("gains", "kept", "expected"),
    [
        ([0.3, 0.2, 0.3], 0.75, Shipped(False, "its cross-entropy is lower by 0.267")),
        ([-0.3, 0.2, 0.3], 0.75, Shipped(False, "cannot tell them apart")),
        ([-0.3, -0.2, -0.3], 0.75, Shipped(True, "its cross-entropy is lower by 0.267")),
        ([-0.3, 0.2, 0.3], 0.0, Shipped(True, "kept the initial weights; validation cannot")),
        ([0.3, 0.2, 0.3], 0.0, Shipped(False, "its cross-entropy is lower")),
    ],
)
def test_the_head_is_exported_if_it_is_better_beyond_a_standard_error(
    data, monkeypatch, gains, kept, expected
):
    def candidate(losses, accuracies):
        score = Score(np.mean(accuracies), 0.0, np.mean(accuracies), 3)
        return Candidate(score, np.array(losses), np.array(accuracies), np.ones(3))

    head = candidate([1.0, 1.0, 1.0], [1.0, 0.5, 0.0])
    tuned = candidate(1 - np.array(gains), [1.0, 1.0, 0.25])
    monkeypatch.setattr("tlkit.training.candidates.evaluate_candidate", lambda model, *given: model)
    training = SimpleNamespace(stages=[SimpleNamespace(kept_fraction=kept)])
    models = [
        Measured(None, data, served, training, CalibrationDecision(None), None, {})
        for served in (head, tuned)
    ]
    shipped = choose_shipped(*models, ClassWeighting())
    assert shipped.is_head is expected.is_head
    assert expected.reason in shipped.reason
    # the differences 0, 0.5 and 0.25 have the standard deviation 0.204, and 0.204 / sqrt(3) = 0.118
    figures = "accuracy 50.0 % of the head alone, 75.0 % fine-tuned (+25.0 ± 11.8 points), on 3 "
    assert figures in shipped.reason
    without = dataclasses.replace(data, validation=None)
    models = [dataclasses.replace(one, data=without) for one in models]
    assert not choose_shipped(*models, ClassWeighting()).is_head


@pytest.mark.slow
def test_the_comparison_is_that_of_both_models_on_test_images(tmp_path):
    photos = write_photos(tmp_path / "photos", {"green": 60, "red": 60})
    for path in sorted((photos / "green").glob("*.jpg"))[::5]:
        path.rename(photos / "red" / f"from green {path.name}")
    data = tlkit.load_folder(photos, image_size=32)
    for class_weight in (None, "balanced"):
        config = RunConfig(photos=str(photos), class_weight=class_weight)
        one, two = (
            tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, seed=seed)
            for seed in (0, 1)
        )
        head, other = (solve_head(model, data, config, NO_LOG) for model in (one, two))
        expected = tlkit.compare_models(one, two, data.test, class_weight=class_weight)
        assert compare_with_head(head, other, config.weighting_for(data.class_names)) == expected
    nothing = dataclasses.replace(head, evaluations={"validation": None, "test": None})
    assert compare_with_head(nothing, other, None) is None


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The folder of images and the directory of a run that was interrupted while fine-tuning."""
    folder = tmp_path_factory.mktemp("interrupted")
    photos = write_photos(folder / "photos", {"green": 30, "red": 30})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlkit.training.tuner.fit_model", interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            tlkit.train_run(photos, out=folder / "run", **ARGUMENTS)
    assert caught.value.__notes__ == [f"{folder / 'run'} holds the head alone, which can be used"]
    return photos, folder / "run"


def test_the_head_alone_of_an_interrupted_run_can_be_used(interrupted):
    photos, out = interrupted
    run = tlkit.load_run(out)
    assert "provisional: the head alone" in str(run)
    assert record_in(out).provisional == "the head alone"
    assert not record_in(out).is_finished
    data = tlkit.load_folder(photos, image_size=32)
    model = run.load_model()
    assert tlkit.evaluate(model, data.test).accuracy == run.metrics["test"]["accuracy"]
    assert [stage["name"] for stage in run.metrics["stages"]] == ["head"]
    files = sorted(photos.glob("*/*.jpg"))[::10]
    in_memory = [one.probability for one in tlkit.predict(model, files, run.class_names)]
    assert predictions(out, photos) == pytest.approx(in_memory, abs=1e-5)
    for name in ("report.html", "model_card.md"):
        assert "rovisional: the head alone" in (out / name).read_text("utf-8")


@pytest.mark.slow
def test_the_same_call_resumes_and_replaces_the_head(interrupted, tmp_path, monkeypatch):
    photos, out = interrupted
    chosen = Shipped(False, "why")
    monkeypatch.setattr("tlkit.runs.train.choose_shipped", lambda *given: chosen)
    written = []
    original = measuring.export_into

    def export(*given, **others):
        written.append(others["before_replacing"])
        assert record_in(out).provisional  # until the new export is complete
        original(*given, **others)
        assert not record_in(out).provisional

    monkeypatch.setattr(measuring, "export_into", export)
    run = tlkit.train_run(photos, out=out, **ARGUMENTS)
    assert len(written) == 1  # the head alone was not exported again
    assert run.metrics["shipped"] == {"model": "fine-tuned", "reason": "why"}
    assert "provisional" not in json.loads((out / "run.json").read_text())
    assert [stage["name"] for stage in run.metrics["stages"]] == ["head", "fine-tune"]
    files = sorted(photos.glob("*/*.jpg"))[::10]
    in_memory = [one.probability for one in tlkit.predict(run.load_model(), files, run.class_names)]
    assert predictions(out, photos) == pytest.approx(in_memory, abs=1e-5)
    assert {path.name for path in out.iterdir()} == {
        "run.json",
        "run.toml",
        "metrics.json",
        "class_names.json",
        "model.keras",
        "saved_model",
        "history.csv",
        "report.html",
        "split.csv",
        "model_card.md",
        "log.txt",
    }


@pytest.mark.slow
def test_the_head_alone_is_exported_if_it_is_chosen(photos, tmp_path, monkeypatch):
    chosen = Shipped(True, "why")
    monkeypatch.setattr("tlkit.runs.train.choose_shipped", lambda *given: chosen)
    run = tlkit.train_run(photos, out=tmp_path / "run", **ARGUMENTS)
    assert run.metrics["shipped"]["model"] == "head"
    data = tlkit.load_folder(photos, image_size=32)
    expected = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    tlkit.train_head(expected, data)
    for one, other in zip(run.load_model().weights, expected.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    accuracies = run.metrics["against_probe"]["accuracies"]
    assert run.metrics["test"]["accuracy"] == accuracies[0]
    assert run.metrics["stages"][-1]["name"] == "fine-tune"
    assert "Exported is the head alone: why" in (run.path / "model_card.md").read_text("utf-8")


@pytest.mark.slow
def test_models_and_figures_of_two_results_are_never_mixed(photos, tmp_path, monkeypatch):
    """Between the replaced models and their figures, the run has no result that can be used."""
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("tlkit.runs.outputs.write_files", interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            tlkit.train_run(photos, out=out, **ARGUMENTS)
    assert not hasattr(caught.value, "__notes__")
    with pytest.raises(RunError, match="which is unfinished"):
        tlkit.load_run(out)
    run = tlkit.train_run(photos, out=out, **ARGUMENTS)
    assert run.run_record.is_finished
