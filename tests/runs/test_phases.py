"""The phases of a run: all phases that can run are announced, in order."""

import pytest

from tlkit.runs.config import Choice, RunConfig
from tlkit.runs.phases import phases_of


@pytest.mark.parametrize("mode", ["head", "fine-tune"])
@pytest.mark.parametrize("reject_unknown", [False, True])
def test_phases_after_the_choices_are_announced_before_in_the_same_order(mode, reject_unknown):
    given = RunConfig(photos="photos", backbone="auto", reject_unknown=reject_unknown)
    sized = RunConfig(photos="photos", backbone="resnet20", image_size="auto")
    assert "choosing the image size" in phases_of(sized)
    assert "choosing the image size" not in phases_of(given)
    announced = phases_of(given)
    choice = Choice({"mode": mode, "backbone": "resnet20"}, ["why"])
    settled = phases_of(given, given.resolve({"both": choice}))
    assert [name for name in announced if name in settled] == list(settled)
    left_out = set() if mode == "fine-tune" else {"head alone"}
    assert set(announced) - set(settled) == left_out
