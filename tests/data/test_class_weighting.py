"""How classes count: the record, and what it is read from."""

import dataclasses
import re

import numpy as np
import pytest

from tlkit.data.class_weighting import ClassWeighting, check_weighting, weighting_of
from tlkit.errors import ArgumentError


def test_effective_weights_follow_the_formula_and_sum_to_the_number_of_images():
    counts = np.array([500, 50, 5])
    factors = ClassWeighting("effective", beta=0.99).factors(counts)
    expected = (1 - 0.99) / (1 - 0.99**counts)
    np.testing.assert_allclose(factors / factors[0], expected / expected[0])
    assert factors @ counts == pytest.approx(counts.sum())


@pytest.mark.parametrize(("beta", "kind"), [(0.0, "none"), (1 - 1e-9, "balanced")])
def test_effective_weights_lie_between_none_and_balanced(beta, kind):
    counts = [90, 10]
    expected = ClassWeighting(kind).factors(counts)
    np.testing.assert_allclose(
        ClassWeighting("effective", beta=beta).factors(counts), expected, rtol=1e-6
    )


def test_named_weights_are_taken_as_they_are_and_multiply_balanced_sampling():
    named = weighting_of({"b": 3.0}).for_classes(["a", "b"])
    assert named.factors([90, 10]).tolist() == [1.0, 3.0]
    drawn = dataclasses.replace(named, sampling="balanced")
    np.testing.assert_allclose(drawn.factors([90, 10]), [50 / 90, 3 * 5])
    assert drawn.in_loss().factors([90, 10]).tolist() == [1.0, 3.0]
    assert named.criterion == drawn.criterion == "weighted accuracy"


def test_each_label_has_two_classes():
    labels = np.array([[1, 0], [0, 0], [0, 0], [0, 1]])
    balanced = ClassWeighting("balanced")
    np.testing.assert_allclose(balanced.label_factors(labels), [[4 / 6, 2], [4 / 6, 2]])
    totals = balanced.decision_weights(labels)
    np.testing.assert_allclose([totals[labels == value].sum() for value in (0, 1)], 4)
    named = weighting_of({1: 5.0})
    assert named.label_factors(labels).tolist() == [[1, 1], [1, 5]]


@pytest.mark.parametrize(
    "weighting",
    [
        ClassWeighting(),
        ClassWeighting("balanced", loss="focal"),
        ClassWeighting("effective", beta=0.99),
        ClassWeighting("named", (("a, b=1", 2.0), ("c", 0.5)), sampling="balanced"),
        ClassWeighting(loss="focal", gamma=0.5),
    ],
)
def test_the_texts_of_a_weighting_are_read_again(weighting):
    class_weight, sampling, loss = weighting.texts()
    assert weighting_of(class_weight, sampling=sampling, loss=loss) == weighting
    assert weighting_of(weighting) == weighting


def test_arguments_replace_what_a_record_leaves_open():
    assert weighting_of("balanced", loss="focal:3").gamma == 3
    assert weighting_of(None, sampling="balanced").is_balanced
    assert weighting_of(ClassWeighting(sampling="balanced")).sampling == "balanced"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_weight": "even"}, "`class_weight` must be 'balanced', 'effective'"),
        ({"class_weight": 3}, "`class_weight` must be 'balanced', 'effective'"),
        ({"class_weight": "effective:1"}, "`beta` must be a number from 0 to less than 1"),
        ({"class_weight": "effective:1e"}, "must have numbers as weights .* '1e'"),
        ({"class_weight": "a=1,=2"}, "must be a list of NAME=WEIGHT .* '=2'"),
        ({"class_weight": "a=many"}, "must have numbers as weights .* 'many'"),
        ({"class_weight": "a=1,a=2"}, "must name each class once"),
        ({"class_weight": {"a": 0.0}}, "must have finite weights above 0. Received: 0.0 for 'a'"),
        ({"class_weight": {"a": float("nan")}}, "must have finite weights above 0"),
        ({"class_weight": {-1: 1.0}}, "must have names or numbers of classes as keys"),
        ({"class_weight": {}}, "must name classes if, and only if"),
        ({"sampling": "even"}, "`sampling` must be one of"),
        ({"loss": "hinge"}, "`loss` must be .cross-entropy., .focal. or"),
        ({"loss": "focal:-1"}, "`gamma` must be"),
        ({"class_weight": "balanced", "sampling": "balanced"}, "already gives all classes"),
    ],
)
def test_invalid_values_are_refused(given, message):
    with pytest.raises(ArgumentError, match=message):
        weighting_of(given.pop("class_weight", None), **given)


def test_weights_must_be_of_classes_that_exist():
    message = re.escape("Received: 'rosse', and the classes are 'rose', 'tulip'. Did you mean")
    with pytest.raises(ArgumentError, match=message):
        weighting_of("rosse=2").for_classes(["rose", "tulip"])
    named = weighting_of("rose=2,gone=3")
    assert named.for_classes(["rose"], only_known=True).weights == ((0, 2.0),)
    with pytest.raises(ArgumentError, match="numbers of classes as keys"):
        check_weighting(named, None, is_multi_label=False)
    with pytest.raises(ArgumentError, match="`sampling` must be 'shuffled' with several labels"):
        check_weighting(ClassWeighting(sampling="balanced"), ["a"], is_multi_label=True)
