"""The state of a training is read back as it was written, by this version or an earlier one."""

import dataclasses
import inspect
import json

import tlkit
from tests.training.test_reports import stage
from tlkit.data.class_weighting import weighting_of
from tlkit.training.criterion import Score
from tlkit.training.recipe import Recipe
from tlkit.training.saved_state import FitState, TrainingState

SCORE = Score(0.75, 0.5, 0.8, 20)
FIT = FitState((0.75, 0.5), True, 2, 1, [{"loss": 0.4}], False)


def written(state):
    return json.loads(json.dumps(state.to_json()))


def test_a_state_is_written_and_read_again():
    state = TrainingState(True, SCORE, (stage(),), SCORE, True, FIT, 12.5)
    assert TrainingState.from_json(written(state)) == state
    assert TrainingState.from_json(written(TrainingState())) == TrainingState()


def test_what_an_earlier_version_wrote_is_read():
    content = written(TrainingState(True, SCORE, (stage(),), SCORE, True, FIT, 12.5))
    for report in content["reports"]:
        report["moved"] = report.pop("weight_change")
    del content["fit"]["kept_epoch"]
    state = TrainingState.from_json(content)
    assert state.reports == (stage(),)
    assert state.fit == dataclasses.replace(FIT, kept_epoch=None)
    finished = {name: content[name] for name in ("was_trained", "accuracy_before", "reports")}
    assert TrainingState.from_json(finished) == TrainingState(True, SCORE, (stage(),))


def test_a_recipe_has_the_defaults_of_fine_tune():
    given = inspect.signature(tlkit.fine_tune).parameters
    assert Recipe().weighting == weighting_of(given["class_weight"].default)
    for field in dataclasses.fields(Recipe):
        if field.name == "weighting":  # three arguments
            continue
        default = field.default_factory() if field.name == "augment" else field.default
        assert str(given[field.name].default) == str(default)
