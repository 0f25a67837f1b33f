"""The demo: what it leaves, and that it asks for its place before it writes anything."""

import pytest
import sklearn.datasets

import tlkit
from tlkit.runs import demo

NUM_DIGITS = 120


@pytest.fixture
def few_digits(monkeypatch):
    """So few digits, and so few epochs, that the demo takes seconds."""
    digits = sklearn.datasets.load_digits()
    digits.images, digits.target = digits.images[:NUM_DIGITS], digits.target[:NUM_DIGITS]
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: digits)
    monkeypatch.setattr(demo, "_EPOCHS", 1)


def test_the_demo_trains_exports_and_says_where_to_look(few_digits, tmp_path):
    said = []
    run = demo.run_demo(tmp_path / "run", said.append)
    photos = tmp_path / "run-photos"
    assert len(list(photos.glob("*/*.png"))) == NUM_DIGITS
    assert run.class_names == tuple("0123456789")
    assert [stage["name"] for stage in run.metrics["stages"]] == ["head", "fine-tune"]
    assert run.metrics["test"]["accuracy"] > 0.5
    text = "\n".join(said)
    assert str(run.path / "report.html") in text
    assert sum(f"{photos}" in line and "%" in line for line in said) == demo._NUM_SHOWN
    assert len(list((run.path / "saved_model").iterdir())) > 0
    again = []
    assert demo.run_demo(tmp_path / "run", again.append).metrics == run.metrics
    assert any("finished already" in line for line in again)


@pytest.mark.parametrize("place", ["mine", "mine/thesis.txt/run"])
def test_a_place_that_is_taken_is_refused_before_a_digit_is_written(tmp_path, place):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(tlkit.RunError, match="`out` must be"):
        demo.run_demo(tmp_path / place, log=print)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_images_of_the_users_are_not_taken_for_the_demos(tmp_path):
    (tmp_path / "run-photos").mkdir()
    with pytest.raises(tlkit.RunError, match="must leave room for the demo's images"):
        demo.run_demo(tmp_path / "run", log=print)
    assert not (tmp_path / "run").exists()
