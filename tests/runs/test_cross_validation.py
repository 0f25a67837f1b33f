"""Cross-validation of a run's recipe: out-of-fold figures, resumed fold by fold."""

import numpy as np
import pytest

import tlkit
from tlkit.data.folds import folds_of_images
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.outputs import collect_outputs
from tlkit.runs import cross_validation
from tlkit.runs.config import RunConfig
from tlkit.runs.console_summary import summarize_run
from tlkit.runs.directory import record_in

ARGUMENTS = {"backbone": "tiny_resnet", "weights": None, "mode": "head", "batch_size": 16}


@pytest.mark.slow
def test_an_interrupted_cross_validation_is_resumed_and_has_out_of_fold_figures(
    photos, tmp_path, monkeypatch
):
    for path in sorted((photos / "green").glob("*.jpg"))[::3]:
        path.rename(photos / "red" / f"from green {path.name}")  # labels that cannot be learned
    measured, original = [], cross_validation._probabilities

    def probabilities(fold, *given, **others):
        if len(measured) == 1:
            measured.append(None)
            raise KeyboardInterrupt
        measured.append(original(fold, *given, **others))
        return measured[-1]

    monkeypatch.setattr(cross_validation, "_probabilities", probabilities)
    given = {"out": tmp_path / "run", "folds": 3, **ARGUMENTS}
    with pytest.raises(KeyboardInterrupt):
        tlkit.train_run(photos, **given)
    assert record_in(tmp_path / "run").provisional == "the trained model"
    run = tlkit.train_run(photos, **given)
    assert len(measured) == 4  # one, an interrupted one, and the two that were left
    data = tlkit.load_folder(photos, image_size=32, batch_size=16)
    correct = 0
    for fold, _ in folds_of_images(data, 3):
        model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
        tlkit.train_head(model, fold)
        (logits,), labels = collect_outputs([model], fold.test)
        correct += int((logits.argmax(axis=1) == labels).sum())
    figures = run.metrics["cross_validation"]
    assert figures["num_images"] == 60
    assert round(figures["accuracy"] * 60) == correct < 60
    assert np.sum(figures["confusion"]) == 60
    assert f"cross-validated accuracy {100 * correct / 60:.1f} %" in summarize_run(run)
    assert "| cross-validation | accuracy |" in (run.path / "model_card.md").read_text("utf-8")
    assert "Cross-validation of the whole recipe" in (run.path / "report.html").read_text("utf-8")
    assert not (run.path / "folds").exists()


def test_folds_that_cannot_be_made_are_refused_before_any_work(photos, tmp_path):
    for path in sorted((photos / "green").glob("*.jpg"))[4:]:
        path.unlink()
    with pytest.raises(DataError, match="`folds` must be at most"):
        tlkit.train_run(photos, out=tmp_path / "run", folds=5, **ARGUMENTS)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ArgumentError, match="`folds` must be a whole number of at least 2"):
        RunConfig(photos="photos", folds=1)
    with pytest.raises(ArgumentError, match="`folds` must be left out when training starts"):
        RunConfig(photos="photos", folds=5, from_run="run")
    with pytest.raises(ArgumentError, match="`folds` must be left out with `distribute`"):
        tlkit.train_run(photos, out=tmp_path / "run", folds=5, distribute="mirrored")
