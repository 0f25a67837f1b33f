"""Every report shows itself: as text where it is printed, as HTML in a notebook."""

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

import tlkit
from tlkit.cache import ClearReport
from tlkit.showing import ShownAsText


def reports():
    """All classes of the package whose name ends in "Report", by their names."""
    for module in pkgutil.walk_packages(tlkit.__path__, "tlkit."):
        if module.name == "tlkit.__main__":
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            is_own = inspect.isclass(value) and value.__module__ == module.name
            if is_own and name.endswith("Report"):
                yield name, value


REPORTS = dict(reports())


def test_the_package_has_reports():
    assert {"DataReport", "EvaluationReport", "TrainingReport", "ExportReport"} <= set(REPORTS)


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_is_frozen_and_shows_itself(name):
    report = REPORTS[name]
    assert dataclasses.is_dataclass(report)
    assert report.__dataclass_params__.frozen
    assert report.__str__ is not object.__str__
    assert callable(getattr(report, "_repr_html_", None))
    # one that only wraps its text in <pre> takes that from where it stands once
    html = report.__dict__.get("_repr_html_")
    assert html is None or "<pre>{" not in inspect.getsource(html)


def test_names_are_escaped(tmp_path):
    class Evil(ShownAsText):
        def __str__(self):
            return "<script>1</script> & more\nlines"

    expected = "<pre>&lt;script&gt;1&lt;/script&gt; &amp; more\nlines</pre>"
    assert Evil()._repr_html_() == expected
    cleared = ClearReport(tmp_path / "<b>", 5, ())
    assert "&lt;b&gt;" in cleared._repr_html_()
