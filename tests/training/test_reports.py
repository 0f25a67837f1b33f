"""Reports of groups that changed, were unchanged, or were restored."""

import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

import tlkit
from tlkit.training.reports import StageReport, TrainingReport


def stage(**given):
    model = tlkit.build_classifier("tiny_resnet", ["a", "b"], weights=None)
    trainable = tlkit.set_trainable(model, "stage3")
    weight_change = {"stage1": 0.0, "stage2": 0.0, "stage3": 0.0, "head": 0.0}
    return StageReport("fine-tune", trainable, (), weight_change, 1.0, **given)


def test_the_discarded_change_of_a_restored_group_is_reported():
    text = str(stage(put_back={"stage1": 0.0, "stage2": 0.0, "stage3": 0.031, "head": 0.2}))
    assert "stage3: weight change 3.1 %, then restored" in text
    assert "unchanged: stage3" not in text
    assert "stage1" in text


def test_unchanged_groups_share_one_line():
    (line,) = (line for line in str(stage()).splitlines() if "unchanged" in line)
    assert line == "  unchanged: stage1, stage2, stage3, head"


def test_a_report_is_restored_from_its_dictionary():
    report = stage(put_back={"head": 0.2})
    assert StageReport.from_dict(asdict(report)) == report
    older = {name: value for name, value in asdict(report).items() if name != "put_back"}
    assert StageReport.from_dict(older).put_back == {}
    oldest = {**asdict(report), "moved": report.weight_change}
    del oldest["weight_change"]
    assert StageReport.from_dict(oldest) == report


def test_the_old_name_of_the_weight_change_still_reads():
    report = stage()
    with pytest.deprecated_call(match="`moved` was renamed to `weight_change`"):
        assert report.moved == report.weight_change


def test_the_accuracy_that_decided_is_named_first():
    report = TrainingReport((), 0.9, 0.85, 40, "balanced accuracy", 0.6, 0.8)
    first, second = str(report).splitlines()
    kept = "it decided which weights are kept"
    assert first == f"validation balanced accuracy 60.0 % to 80.0 %: {kept}"
    assert second == "validation accuracy 90.0 % to 85.0 % (n = 40)"
    assert "decided" not in str(TrainingReport((), 0.9, 0.95, 40))


def test_a_discarded_training_reports_both_changes(data):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    tlkit.train_head(model, data, head="linear")  # validation accuracy 100 %
    wrong = data.train.dataset().map(lambda images, labels: (images, 1 - labels))
    report = tlkit.fine_tune(
        model, wrong, validation=data.validation, unfreeze="head", epochs=3, learning_rate=1.0
    )
    (only,) = report.stages
    assert only.weight_change["head"] == 0.0
    assert only.put_back["head"] > 0.0
    assert only.put_back["stage1"] == 0.0
    assert "head: weight change" in str(only)
    assert np.isfinite(report.accuracy_after)


def test_a_group_whose_layers_were_replaced_has_new_weights():
    report = stage()
    report.weight_change["head"] = np.inf
    assert "  head: new weights" in str(report)
    assert "  unchanged: stage1, stage2, stage3" in str(report)


def trained():
    """A report of two stages, of which only the second has validation."""
    first = replace(stage(), name="head", history=({"loss": 0.9}, {"loss": 0.5}))
    second = replace(stage(), history=({"loss": 0.25, "val_accuracy": 1.0},))
    return TrainingReport((first, second), None, 1.0, 40)


def test_the_history_of_all_stages_is_that_of_keras():
    history = trained().history
    assert history["loss"] == [0.9, 0.5, 0.25]
    assert np.isnan(history["val_accuracy"][:2]).all()
    assert history["val_accuracy"][2] == 1.0
    assert TrainingReport((stage(),), None, None, 0).history == {}


def test_a_data_frame_has_a_row_for_each_epoch(columns_of):
    columns = columns_of(trained())
    assert list(columns) == ["stage", "epoch", "loss", "val_accuracy"]
    assert columns["stage"] == ["head", "head", "fine-tune"]
    assert columns["epoch"] == [1, 2, 1]
    assert columns["loss"] == [0.9, 0.5, 0.25]
    assert list(columns_of(TrainingReport((stage(),), None, None, 0))) == [
        "stage",
        "epoch",
    ]


def test_without_pandas_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(tlkit.ArgumentError, match=r"package pandas.*'tlkit\[pandas\]'"):
        trained().to_dataframe()
