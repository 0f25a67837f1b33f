"""The demo: its files, and that it checks its folder before it writes anything."""

import pytest

import tlkit
from tests import networks
from tlkit.models import catalogue
from tlkit.runs import demo

NUM_DIGITS = 120
NUM_TEST = 14  # a tenth of each digit, rounded


@pytest.fixture
def few_digits(monkeypatch):
    """Makes the demo use few digits, one epoch and a small network, so that it takes seconds."""
    monkeypatch.setattr(demo, "_NUM_DIGITS", NUM_DIGITS)
    monkeypatch.setattr(demo, "_EPOCHS", 1)
    monkeypatch.setitem(catalogue._BUILT_IN, "resnet20", networks.small_version("resnet20"))


@pytest.mark.slow
def test_the_demo_trains_exports_and_names_the_report(few_digits, tmp_path):
    messages = []
    run = demo.run_demo(tmp_path / "run", messages.append)
    photos = tmp_path / "run-photos"
    assert len(list(photos.glob("*/*.png"))) == NUM_DIGITS
    assert run.class_names == tuple("0123456789")
    assert [stage["name"] for stage in run.metrics["stages"]] == ["head", "fine-tune"]
    assert run.metrics["test"]["num_images"] == NUM_TEST
    text = "\n".join(messages)
    assert str(run.path / "report.html") in text
    assert "test accuracy " in text
    assert sum(f"{photos}" in line and "%" in line for line in messages) == demo._NUM_PREDICTED
    assert len(list((run.path / "saved_model").iterdir())) > 0
    again = []
    assert demo.run_demo(tmp_path / "run", again.append).metrics == run.metrics
    assert any("is already finished" in line for line in again)


@pytest.mark.parametrize("out", ["mine", "mine/thesis.txt/run"])
def test_a_folder_with_other_content_is_refused_before_digits_are_written(tmp_path, out):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(tlkit.RunError, match="`out` must be"):
        demo.run_demo(tmp_path / out, log=print)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_a_folder_of_the_users_images_is_not_used_for_digits(tmp_path):
    (tmp_path / "run-photos").mkdir()
    with pytest.raises(tlkit.RunError, match="OUT-photos is free for the demo's images"):
        demo.run_demo(tmp_path / "run", log=print)
    assert not (tmp_path / "run").exists()
