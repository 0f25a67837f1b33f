"""How much of a weight change is kept at the end of a stage."""

import numpy as np
import pytest

import tlkit
from tlkit.data.class_weighting import ClassWeighting
from tlkit.training import mixture, tuner
from tlkit.training.candidates import Candidate, evaluate_candidate
from tlkit.training.criterion import Score
from tlkit.training.mixture import FRACTIONS, USUAL, best_of, choose_mixture, keep_fraction
from tlkit.training.resume import values_of


def candidate(losses, weights=None):
    losses = np.asarray(losses, float)
    score = Score(0.5, float(losses.mean()), 0.5, len(losses))
    return Candidate(
        score, losses, np.zeros(len(losses)), np.ones(len(losses)) if weights is None else weights
    )


def candidates(**losses):
    """Candidates by fraction, with the losses of the usual one except for those given."""
    usual = [1.0, 2.0, 3.0, 4.0]
    return {one: candidate(losses.get(f"at_{one:g}", usual)) for one in FRACTIONS}


def test_the_usual_fraction_is_kept_unless_another_is_better_beyond_a_standard_error():
    assert best_of(candidates()) == USUAL
    lower = [0.0, 1.9, 3.2, 4.0]  # gains 1, 0.1, -0.2, 0: mean 0.225, standard error 0.23
    assert best_of(candidates(at_0=lower)) == USUAL
    clearly = [0.5, 1.5, 2.5, 3.6]
    assert best_of(candidates(at_0=clearly)) == 0.0
    assert best_of(candidates(at_0=clearly, at_1=[0.4, 1.5, 2.5, 3.6])) == 1.0


def test_the_gain_is_weighted():
    weights = np.array([1.0, 3.0])
    gain, error = candidate([0.0, 0.0], weights).gain_over(candidate([4.0, 0.0], weights))
    assert gain == 1.0
    assert error == pytest.approx(np.sqrt((0.25 * 3) ** 2 + (0.75 * 1) ** 2))


def test_the_chosen_weights_lie_between_and_equal_ones_stay_bit_identical(data, monkeypatch):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    tlkit.train_head(model, data, head="linear")
    start = values_of(model.weights)
    kernel = model.get_layer("logits").kernel
    kernel.assign(kernel + 0.5)
    last = values_of(model.weights)
    for fraction in FRACTIONS:
        for variable, value in zip(model.weights, last, strict=True):
            variable.assign(value)
        monkeypatch.setattr(mixture, "best_of", lambda some, chosen=fraction: chosen)
        found = choose_mixture(model, start, data.validation, ClassWeighting())
        assert found.fraction == fraction
        for variable, first, end in zip(model.weights, start, last, strict=True):
            expected = end if np.array_equal(first, end) or fraction == 1 else None
            if expected is not None:
                np.testing.assert_array_equal(variable, expected)
            np.testing.assert_allclose(variable, first + fraction * (end - first), rtol=1e-6)
        score = tlkit.evaluate(model, data.validation)
        assert (found.score.accuracy, found.score.num_images) == (score.accuracy, score.num_images)
        kept = f"{100 * fraction:.0f} % of the weight change is kept"
        assert (kept if fraction else "the initial weights are restored") in found.note


def test_underconfident_weights_are_not_at_a_disadvantage(data):
    """Label smoothing scales all logits; the losses are compared at the best temperature."""
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    tlkit.train_head(model, data, head="linear")
    one = evaluate_candidate(model, data.train, ClassWeighting())
    dense = model.get_layer("logits")
    for weight in dense.weights:
        weight.assign(weight / 3)
    two = evaluate_candidate(model, data.train, ClassWeighting())
    assert two.score.loss > one.score.loss
    np.testing.assert_allclose(two.losses, one.losses, atol=1e-3)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_the_report_has_the_kept_fraction(data, monkeypatch, fraction):
    monkeypatch.setattr(mixture, "best_of", lambda some: fraction)
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    tlkit.train_head(model, data, head="linear")
    before = values_of(model.weights)
    report = tlkit.fine_tune(model, data, epochs=2, augment="none")
    (stage,) = report.stages
    assert stage.kept_fraction == fraction
    assert stage.kept_epoch == (2 if fraction else None)
    assert bool(stage.put_back) == (fraction == 0)
    is_same = all(map(np.array_equal, before, values_of(model.weights)))
    assert is_same == (fraction == 0)
    assert report.accuracy_after == tlkit.evaluate(model, data.validation).accuracy


def test_validation_makes_no_choice_without_images(data, monkeypatch):
    monkeypatch.setattr(tuner, "choose_mixture", None)  # would fail if it was called
    images = np.random.default_rng(0).integers(0, 255, (30, 32, 32, 3), "uint8")
    all_train = tlkit.load_arrays(images, np.arange(30) % 3, ["a", "b", "c"], splits=(1, 0, 0))
    model = tlkit.build_classifier("tiny_resnet", all_train.class_names, weights=None)
    report = tlkit.fine_tune(model, all_train, epochs=1)
    note = "no validation images: 75 % of the weight change is kept, untested"
    assert report.stages[-1].notes[-1] == note
    assert report.stages[-1].kept_fraction == USUAL


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_a_given_fraction_is_kept(data, monkeypatch, fraction):
    monkeypatch.setattr(tuner, "choose_mixture", None)
    recorded = []
    monkeypatch.setattr(
        tuner,
        "keep_fraction",
        lambda model, start, kept: recorded.append(kept) or keep_fraction(model, start, kept),
    )
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    tlkit.train_head(model, data, head="linear")
    before = values_of(model.weights)
    report = tlkit.fine_tune(model, data, epochs=1, kept_fraction=fraction)
    assert recorded == [fraction]
    assert report.stages[-1].kept_fraction == fraction
    assert all(map(np.array_equal, before, values_of(model.weights))) == (fraction == 0)
    with pytest.raises(tlkit.ArgumentError, match="`kept_fraction` must be"):
        tlkit.fine_tune(model, data, kept_fraction=1.5)
