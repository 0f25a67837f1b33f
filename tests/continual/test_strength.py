"""The choice of a strength: the rule on simulated trainings, then on real ones."""

import dataclasses

import numpy as np
import pytest

import tlkit
from tlkit.continual import strength
from tlkit.continual.strength_reports import StrengthTrial
from tlkit.continual.strength_search import StrengthRule, search_strength
from tlkit.errors import ArgumentError
from tlkit.plots.continual import plot_strengths


def trainings(enough, accuracy=0.9, drift=2.0, share=0.1):
    """Simulates trainings that reach the accuracy with strengths up to `enough`."""

    def train(strength):
        if not strength:
            return StrengthTrial(0.0, accuracy, loss=0.2, drift=drift)
        reached = accuracy if strength <= enough else 0.5
        return StrengthTrial(strength, reached, loss=0.3, drift=drift / 2, share=share)

    return train


BEFORE = StrengthTrial(0.0, accuracy=0.5, loss=1.2, drift=0.0)


def test_the_first_strength_matches_the_formula_and_is_halved_until_enough_is_kept():
    trials, chosen, notes = search_strength(trainings(enough=1.0), BEFORE)
    tried = [trial.strength for trial in trials]
    np.testing.assert_allclose(tried, [0.0, 5.0, 2.5, 1.25, 0.625])  # 10 * (1.2 - 0.2) / 2
    assert chosen == 0.625
    assert not notes


def test_a_first_strength_that_keeps_enough_accuracy_is_doubled_while_it_does():
    trials, chosen, notes = search_strength(trainings(enough=25.0), BEFORE)
    assert [trial.strength for trial in trials] == [0.0, 5.0, 10.0, 20.0, 40.0]
    assert chosen == 20.0
    assert not notes
    _, chosen, _ = search_strength(trainings(enough=1e9), BEFORE, StrengthRule(max_trials=3))
    assert chosen == 20.0


def test_with_old_images_the_best_mean_of_both_tasks_is_found():
    """The old task's accuracy falls by 0.1 for each decade from the best strength."""

    def training(best):
        def train(strength):
            if not strength:
                return StrengthTrial(0.0, 0.9, loss=0.2, drift=2.0, old_accuracy=0.1)
            decades = abs(np.log10(strength / best))
            return StrengthTrial(strength, 0.6, 0.3, drift=1.0, old_accuracy=0.9 - 0.1 * decades)

        return train

    before = dataclasses.replace(BEFORE, old_accuracy=1.0)
    for best, tried in ((80.0, [5, 20, 80, 320, 1280]), (0.3125, [5, 20, 80, 1.25, 0.3125])):
        trials, chosen, notes = search_strength(training(best), before)
        assert chosen == best
        assert [trial.strength for trial in trials[1:6]] == tried
        assert not notes
    trials, chosen, _ = search_strength(training(1e9), before, StrengthRule(max_trials=3))
    assert len(trials) == 4
    assert chosen == 80.0


def test_the_rule_new_follows_the_new_task_alone():
    """With the same trainings, each rule has a strength of its own."""

    def train(strength):
        new = {0.0: 0.8, 1.25: 0.9, 5.0: 0.85}.get(strength, 0.79 if strength < 100 else 0.5)
        old = min(strength / 80, 1)
        return StrengthTrial(strength, new, 0.2, 2.0, old_accuracy=old, validation_loss=1 - new)

    before = dataclasses.replace(BEFORE, old_accuracy=1.0)
    chosen = {
        name: search_strength(train, before, StrengthRule(name))[1]
        for name in ("tolerance", "mean", "new", "auto")
    }
    assert chosen == {"tolerance": 80.0, "mean": 80.0, "new": 1.25, "auto": 80.0}
    # the same accuracy, and a lower cross-entropy without an anchor
    alone = dataclasses.replace(train(0.0), accuracy=0.9, validation_loss=0.05)
    trials, without, notes = search_strength(
        lambda strength: train(strength) if strength else alone, before, StrengthRule("new")
    )
    assert without == 0
    assert len(trials) > 2
    assert "cross-entropy on the new task 0.100 with an anchor, 0.050 without" in notes[0]
    with pytest.raises(tlkit.ArgumentError, match="`rule` must be 'tolerance' or 'new' without"):
        StrengthRule("mean").decided(has_old_data=False)
    with pytest.raises(tlkit.ArgumentError, match="`rule` must be one of"):
        StrengthRule("best")


def test_each_old_task_counts_as_much_as_the_new_one():
    def train(strength):
        old = {0.0: 0.1, 0.3125: 0.2, 1.25: 0.3, 5.0: 0.5, 20.0: 0.6}.get(strength, 0.7)
        new = {20.0: 0.75, 80.0: 0.6, 320.0: 0.52, 1280.0: 0.51}.get(strength, 0.9)
        return StrengthTrial(strength, new, loss=0.2, drift=2.0, old_accuracy=old)

    before = dataclasses.replace(BEFORE, old_accuracy=0.8)
    assert search_strength(train, before)[1] == 5.0
    assert search_strength(train, before, StrengthRule(num_old_tasks=4))[1] == 80.0


def test_a_useless_strength_gives_a_note():
    def train(strength):
        if not strength:
            return StrengthTrial(0.0, 0.9, loss=0.2, drift=2.0, old_accuracy=0.9)
        return StrengthTrial(strength, 0.5, loss=None, drift=0.1, old_accuracy=1.0)

    before = dataclasses.replace(BEFORE, old_accuracy=1.0)
    _, _, notes = search_strength(train, before)
    assert "no strength was better than no anchor" in notes[0]
    assert "the new task is not learned" in notes[1]


def test_a_trial_that_just_keeps_enough_is_chosen():
    def train(strength):
        kept = {0.0: 1.0, 5.0: 0.94, 2.5: 0.95}
        return StrengthTrial(strength, kept[strength], loss=0.2, drift=2.0)

    _, chosen, _ = search_strength(train, BEFORE, StrengthRule(tolerance=0.05))
    assert chosen == 2.5


def test_a_search_that_fails_gives_a_note():
    trials, chosen, notes = search_strength(
        trainings(enough=0.0), BEFORE, StrengthRule(max_trials=3)
    )
    assert chosen == trials[-1].strength == 1.25
    assert "even the smallest strength tried, 1.25" in notes[0]


def test_a_zero_or_dominating_penalty_gives_a_note():
    _, _, notes = search_strength(trainings(enough=1.0, drift=0.0), BEFORE)
    assert "penalty is zero" in notes[0]
    _, _, notes = search_strength(trainings(enough=9.0, share=0.7), BEFORE)
    assert "70 % of the loss" in notes[0]


def test_a_loss_that_did_not_fall_is_reported():
    better = dataclasses.replace(BEFORE, loss=0.1)
    trials, _, notes = search_strength(trainings(enough=9.0), better)
    assert "did not lower the loss" in notes[0]
    assert trials[1].strength == 10 * 0.2 / 2


@pytest.fixture
def mistaken(model, data):
    """A model whose head was trained on flipped labels, so that there is something to learn."""
    flipped = data.train.dataset().map(lambda images, labels: (images, 1 - labels))
    tlkit.train_head(model, flipped)
    return model


@pytest.mark.slow
def test_the_model_is_unchanged_but_anchored(mistaken, data):
    model = mistaken
    before = [variable.numpy() for variable in model.variables]
    flags = [layer.trainable for layer in model.layers]
    anchor = tlkit.choose_anchor(
        model, data, epochs=3, unfreeze="stage3", learning_rate=1e-2, old_data=data, max_trials=3
    )
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())
    assert [layer.trainable for layer in model.layers] == flags
    report = anchor.report
    assert anchor.strength == report.chosen
    assert report.trials[0].strength == 0.0
    assert report.before.old_accuracy < 0.1
    assert sum(anchor.penalties().values()) == 0.0
    assert {type(v.regularizer).__name__ for v in anchor.undecayed} == {"WeightAnchor"}
    assert model.get_layer("logits").kernel.regularizer is None
    assert plot_strengths(report).axes[0].get_xlabel() == "loss on the old task (points)"
    assert f"n = {report.num_validation}" in str(report)
    assert "best mean of the new and the old" in str(report)
    assert report.scenario == "domain-incremental"
    assert "domain-incremental" in str(report)
    assert [trial.loss is None for trial in report.trials] == [False, True, True, True]
    best = max(trial.balance() for trial in report.trials if trial.strength)
    chosen = next(trial for trial in report.trials if trial.strength == report.chosen)
    assert chosen.balance() == best


@pytest.mark.slow
def test_importance_by_name_is_estimated_and_scaled_to_mean_one(mistaken, data):
    anchor = tlkit.choose_anchor(
        mistaken,
        data,
        importance="mas",
        epochs=3,
        unfreeze="stage3",
        max_trials=1,
        learning_rate=1e-2,
    )
    importance = [a.importance.numpy() for a in anchor._anchors.values()]
    assert np.mean(np.concatenate([w.ravel() for w in importance])) == pytest.approx(1.0, rel=1e-4)


def test_a_zero_penalty_on_frozen_groups_is_noted_in_every_report(model, data):
    anchor = tlkit.choose_anchor(model, data, epochs=1, unfreeze="head", groups=["stage1"])
    (note,) = anchor.report.notes
    assert "the penalty is zero whatever its strength" in note
    assert note in str(anchor.report)
    report = tlkit.fine_tune(model, data, epochs=1, unfreeze="head", anchor=anchor)
    assert note in report.stages[-1].notes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": 1.5}, "tolerance"),
        ({"max_trials": 0}, "max_trials=0"),
        ({"num_old_tasks": 0}, "num_old_tasks=0"),
        ({"importance": "hessian"}, "importance='hessian'"),
        ({"groups": ["stage9"]}, "stage9"),
        ({"mode": "soft"}, "mode='soft'"),
        ({"importance": {"x": np.ones(3)}}, r"it has x \(3,\)"),
        ({"learning_rat": 1e-3}, "Did you mean 'learning_rate'"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"augment": "lite"}, "augment='lite'"),
        ({"epochs": 0}, "epochs=0"),
        ({"unfreeze": "stage9", "importance": "mas"}, "stage9"),
    ],
)
def test_invalid_arguments_are_refused_before_any_work(
    model, data, arguments, message, monkeypatch
):
    def forbidden(*_, **__):
        raise AssertionError("work was done")

    for name in ("train_head", "estimate_importance", "score_on"):
        monkeypatch.setattr(strength, name, forbidden)
    before = model.get_weights()
    with pytest.raises(ArgumentError, match=message):
        tlkit.choose_anchor(model, data, **{"epochs": 1, **arguments})
    assert all(map(np.array_equal, before, model.get_weights()))


def test_old_data_without_validation_images_are_refused(model, data):
    with pytest.raises(ArgumentError, match="`old_data` must contain images"):
        tlkit.choose_anchor(
            model, data, epochs=1, old_data=dataclasses.replace(data, validation=None)
        )


def test_images_of_some_classes_only_are_class_incremental(data):
    data = dataclasses.replace(data, class_names=("grey", "red", "blue"))
    three = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    three.get_layer("logits").bias.assign([0.1, 0.0, 0.2])  # counts as trained
    anchor = tlkit.choose_anchor(three, data, epochs=1, unfreeze="stage3", max_trials=1)
    assert anchor.report.scenario == "class-incremental"
    assert "known to fail" in anchor.report.notes[-1]


def test_validation_images_are_needed(model, data):
    with pytest.raises(ArgumentError, match="must have validation images"):
        tlkit.choose_anchor(model, dataclasses.replace(data, validation=None))
