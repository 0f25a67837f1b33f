"""The phases of a run: those that are announced hold all that come."""

import pytest

from tlkit.runs.config import Choice, RunConfig
from tlkit.runs.phases import phases_of


@pytest.mark.parametrize("mode", ["head", "fine-tune"])
@pytest.mark.parametrize("reject_unknown", [False, True])
def test_what_a_choice_leaves_is_among_what_was_announced_in_its_order(mode, reject_unknown):
    given = RunConfig(photos="photos", backbone="auto", reject_unknown=reject_unknown)
    announced = phases_of(given)
    choice = Choice({"mode": mode, "backbone": "resnet20"}, ["why"])
    settled = phases_of(given, given.resolve({"both": choice}))
    assert [name for name in announced if name in settled] == list(settled)
    left_out = set() if mode == "fine-tune" else {"comparison with a linear probe"}
    assert set(announced) - set(settled) == left_out
