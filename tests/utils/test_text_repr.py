"""Representations of every report: at a prompt, as text, as HTML, and as a dictionary."""

import dataclasses
import importlib
import inspect
import json
import math
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

import tlkit
from tlkit.continual.forgetting import ForgettingMatrix
from tlkit.data.reports import DataReport, SkippedFile
from tlkit.evaluation.label_scores import score_labels
from tlkit.models.groups import TrainableReport
from tlkit.training.reports import StageReport, TrainingReport
from tlkit.utils.cache import ClearReport
from tlkit.utils.text_repr import (
    MAX_COLUMNS,
    MAX_LINES,
    Record,
    ShownAsParagraphs,
    ShownAsText,
    in_json,
    in_line,
    visible,
)

VALUES = {
    # attributes that need a valid value
    "kind": "softmax",
    "scenario": "domain-incremental",
    "weight_change": {"new": 0.1, "old": 0.0},
    "anchor": "weak",
    "image": np.zeros((4, 4, 3), np.uint8),
    "heatmap": np.zeros((4, 4), np.float32),
    "metrics": {"validation": {"accuracy": 0.5, "num_images": 4}, "test": None},
}


def records():
    """Yields name and class of all records of the package and classes named `*Report`."""
    for module in pkgutil.walk_packages(tlkit.__path__, "tlkit."):
        if module.name == "tlkit.__main__":
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            is_own = inspect.isclass(value) and value.__module__ == module.name
            bases = (Record, ShownAsText, ShownAsParagraphs)
            if not is_own or value in bases or name.startswith("_"):
                continue
            if name.endswith("Report") or issubclass(value, Record):
                yield name, value


RECORDS = dict(records())
REPORTS = {name: value for name, value in RECORDS.items() if name.endswith("Report")}


def returned():
    """Yields the name of each public function and the package's classes that it returns."""
    for name in tlkit.__all__:
        value = getattr(tlkit, name)
        if not inspect.isfunction(value):
            continue
        try:
            hint = typing.get_type_hints(value, vars(importlib.import_module(value.__module__)))
        except NameError:  # imported for type checkers only
            continue
        types_to_check = [hint.get("return")]
        while types_to_check:
            one = types_to_check.pop()
            types_to_check += typing.get_args(one)
            if inspect.isclass(one) and one.__module__.startswith("tlkit."):
                yield name, one


def make_value(hint, name=""):  # noqa: PLR0911 - one for each kind of type
    """Makes a value of a type, with NumPy numbers and arrays that JSON cannot hold."""
    if name in VALUES:
        return VALUES[name]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return make_value(arguments[0], name)
    if origin is tuple:
        kinds = arguments[:1] * 3 if arguments[-1] is ... else arguments
        return tuple(make_value(kind) for kind in kinds)
    if origin in (list, Sequence):
        return [make_value(arguments[0])]
    if origin in (dict, Mapping):
        return {make_value(arguments[0]): make_value(arguments[1], "value")}
    if dataclasses.is_dataclass(hint):
        return make_record(hint)
    if hint is np.ndarray:
        return np.array([0.25, 0.5, np.nan, np.inf])
    simple = {float: np.float32(0.5), int: np.int64(3), str: "<a>", bool: True, Path: Path("<p>")}
    if hint in simple:
        return simple[hint]
    if origin is Callable or hint is Callable:
        return make_value
    return {"n": np.float64(math.nan)} if hint in (object, typing.Any) else hint()


def make_record(cls):
    if cls is ForgettingMatrix:
        matrix = ForgettingMatrix(["<a>", "b"], scenario="task-incremental")
        matrix.record([0.5, np.float32(0.5)])
        matrix.record([0.9, 0.5])
        return matrix
    if cls.__name__ in ("ImageData", "ImageSplit", "KerasSplit"):
        images = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), "uint8")
        data = tlkit.load_arrays(images, np.arange(20) % 2, ["<a>", "b"], splits=(0.5, 0.5, 0))
        return data if cls.__name__ == "ImageData" else data.train
    if cls.__name__ == "RunConfig":  # it checks its values
        return cls(photos="<p>", backbone="resnet20")
    if cls.__name__ == "LabelScores":  # its arrays have the shape of the labels
        return score_labels(np.eye(3, dtype=int), np.full((3, 3), 0.5), 0.5)
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: make_value(hints[name], name) for name in names})


def test_the_package_has_reports():
    assert {"DataReport", "EvaluationReport", "TrainingReport", "ExportReport"} <= set(REPORTS)
    assert {"Prediction", "BackboneComparison", "Recommendation", "Run"} <= set(RECORDS)


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_is_frozen_and_shows_itself(name):
    report = REPORTS[name]
    assert dataclasses.is_dataclass(report)
    assert report.__dataclass_params__.frozen
    assert report.__str__ is not object.__str__
    assert callable(getattr(report, "_repr_html_", None))
    # tags are only in the functions for text, paragraphs and tables
    html = report.__dict__.get("_repr_html_")
    assert html is None or not re.search("<(pre|p|table|td)>", inspect.getsource(html))


def test_public_functions_return_records():
    # objects to work with, and figures
    others = {"Anchor", "Distillation", "Stage", "Figure"}
    kinds = {one for _, one in returned() if one.__name__ not in others}
    assert len(kinds) > 20
    assert [one.__name__ for one in kinds if not issubclass(one, Record)] == []


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_is_short_at_a_prompt_and_json_serializable(name):
    one = make_record(RECORDS[name])
    assert isinstance(one, Record)
    assert type(one).as_dict is Record.as_dict
    shown = repr(one).splitlines()
    assert 1 <= len(shown) <= MAX_LINES
    assert all(len(line) <= MAX_COLUMNS for line in shown)
    assert not shown[0].startswith((f"{name}(", f"<{type(one).__module__}"))
    assert str(one)
    content = one.as_dict()
    assert content
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    names = {field.name for field in dataclasses.fields(one)} if name in REPORTS else set()
    assert names - {*type(one)._left_out, *type(one)._optional} <= set(content)


def test_arrays_missing_numbers_and_inner_records_become_json_values():
    content = make_record(RECORDS["CalibrationReport"]).as_dict()
    assert content["temperature"] == 0.5
    assert content["interval"] == [0.5, 0.5]
    assert content["after"]["confidence"] == [0.25, 0.5, None, None]
    assert content["notes"] == ["<a>"] * 3
    assert make_record(RECORDS["Run"]).as_dict()["path"] == "<p>"
    assert make_record(RECORDS["ForgettingMatrix"]).as_dict() == {
        "task_names": ["<a>", "b"],
        "scenario": "task-incremental",
        "accuracy": [[0.5, 0.5], [0.9, 0.5]],
    }
    with pytest.raises(TypeError, match="Received: bytes"):
        in_json({"a": [b"1"]})


def trained(*histories):
    groups = tuple(f"block{number}" for number in range(9))
    trainable = TrainableReport(groups, (), tuple("abc"), 30, 10, "frozen")
    change = dict.fromkeys(groups, 0.1)
    stages = (
        StageReport(f"stage {i}", trainable, one, change, 2.5) for i, one in enumerate(histories)
    )
    return TrainingReport(tuple(stages), 0.25, 0.75, 40)


def test_the_history_of_a_training_has_the_form_of_keras():
    first = ({"loss": 2.0, "val_loss": 3.0}, {"loss": 1.0, "val_loss": 2.5})
    second = ({"loss": 0.5, "val_loss": 2.0, "anchor_share": 0.1},)
    history = trained((), first, second).history
    assert list(history) == ["loss", "val_loss", "anchor_share"]
    assert history["loss"] == [2.0, 1.0, 0.5]
    assert history["val_loss"] == [3.0, 2.5, 2.0]
    assert history["anchor_share"][2] == 0.1
    assert all(math.isnan(value) for value in history["anchor_share"][:2])
    assert trained(first, second).as_dict()["history"]["anchor_share"] == [None, None, 0.1]
    assert trained(()).history == {}


def test_the_result_comes_first_in_a_long_text():
    report = trained((), ())
    assert len(str(report).splitlines()) > MAX_LINES
    lines = repr(report).splitlines()
    assert lines[0] == "validation accuracy 25.0 % to 75.0 % (n = 40)"
    assert lines[1:] == [
        "stage 0: 2.5 s; 30 of 40 parameters trainable, in 3 layers",
        "stage 1: 2.5 s; 30 of 40 parameters trainable, in 3 layers",
    ]
    counts = {f"class {number}": {"train": 5} for number in range(99)}
    skipped = (SkippedFile("a.jpg", "class 1", "is empty"),)
    lines = repr(DataReport(counts, 500, {"jpeg": 499}, skipped)).splitlines()
    assert lines[0].startswith("500 files; readable images: 499 jpeg")
    assert lines[1] == "Skipped (1)"
    assert lines[-1] == "... and 91 more lines, which print shows"
    assert len(lines) == MAX_LINES


def test_names_are_escaped(tmp_path):
    class Evil(ShownAsText):
        def __str__(self):
            return "<script>1</script> & more\nlines"

    expected = "<pre>&lt;script&gt;1&lt;/script&gt; &amp; more\nlines</pre>"
    assert Evil()._repr_html_() == expected
    cleared = ClearReport(tmp_path / "<b>", 5, ())
    assert "&lt;b&gt;" in cleared._repr_html_()


@pytest.mark.parametrize("name", sorted(set(RECORDS) - {"Explanation"}))
def test_html_of_a_record_is_escaped(name):
    html = make_record(RECORDS[name])._repr_html_()
    assert "<a>" not in html
    assert "<p>/" not in html


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with Ähre, 猫 and 👩\u200d🚀", "plain, with Ähre, 猫 and 👩\u200d🚀"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b]0;t\x07\x08\r", r"\u001b[31mred\u001b]0;t\u0007\u0008\u000d"),
        ("\x9b2J\x7f", r"\u009b2J\u007f"),
        ("a\u202eb\u2066c\u200fd\u2028e\ufeff", r"a\u202eb\u2066c\u200fd\u2028e\ufeff"),
        ("\U000e0041", r"\udb40\udc41"),
        ("caf\udce9", r"caf\udce9"),
    ],
)
def test_invisible_characters_become_codes_and_others_are_unchanged(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown
    if "\n" not in text and "\udce9" not in text:
        assert json.loads(visible(json.dumps(text, ensure_ascii=False))) == text


def test_every_record_shows_invisible_characters_as_codes():
    class Named(ShownAsText):
        def __str__(self):
            return "cat\x1b[2J"

        def _repr_html_(self):
            return "<b>cat\u202e</b>"

    class Further(Named):
        pass

    for record in (Named(), Further()):
        assert str(record) == repr(record) == f"{record}" == r"cat\u001b[2J"
        assert record._repr_html_() == r"<b>cat\u202e</b>"
    skipped = SkippedFile("a\nb\x1b.jpg", "c\u202e", "empty file")
    report = DataReport({"x\ny": {"all": 1}}, 2, {}, skipped=(skipped,))
    assert r"  c\u202e: a\u000ab\u001b.jpg: empty file" in str(report).splitlines()
    assert str(report).splitlines()[1].startswith(r"x\u000ay")
    assert in_line("a\nb") == r"a\u000ab"
