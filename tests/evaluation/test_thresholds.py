"""The probabilities from which labels are assigned: their choice, checks, and where they hold."""

import itertools
import json

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    multilabel_confusion_matrix,
)

from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.label_scores import score_labels
from tlkit.evaluation.metrics import evaluate_probabilities
from tlkit.evaluation.thresholds import (
    LabelThresholds,
    check_threshold,
    choose_thresholds,
    is_label,
)

NAMES = ["a", "b", "c"]


def drawn(number=60, seed=0):
    generator = np.random.default_rng(seed)
    labels = (generator.random((number, 3)) < [0.5, 0.3, 0.1]).astype(int)
    labels[0] = 1
    probabilities = np.clip(0.5 * labels + 0.6 * generator.random(labels.shape), 0.01, 0.99)
    return labels, np.round(probabilities, 2)


def test_no_other_threshold_has_a_higher_f1():
    labels, probabilities = drawn(40)
    chosen = choose_thresholds(probabilities, labels, NAMES)
    for column, (value, f1) in enumerate(zip(chosen.values, chosen.f1, strict=True)):
        tried = [
            f1_score(labels[:, column], probabilities[:, column] >= other)
            for other in np.linspace(0.005, 0.995, 100)
        ]
        assert f1 == pytest.approx(max(tried))
        assigned = is_label(probabilities[:, [column]], value)[:, 0]
        assert f1_score(labels[:, column], assigned) == pytest.approx(f1)
    assert chosen.counts == tuple(labels.sum(axis=0))


def test_of_equally_good_thresholds_the_one_closest_to_a_half_is_chosen():
    labels = np.array([[1], [1], [0], [0]])
    chosen = choose_thresholds(np.array([[0.9], [0.8], [0.2], [0.1]]), labels, ["a"])
    assert chosen.values == (0.5,)
    # 0.65 and 0.45 have an F1 of 0.8
    chosen = choose_thresholds(np.array([[0.9], [0.4], [0.5], [0.1]]), labels, ["a"])
    assert chosen.values == (pytest.approx(0.25),)
    constant = choose_thresholds(np.full((4, 1), 0.3), labels, ["a"])
    assert is_label(np.float32([[0.3]]), constant.values).all()


def test_the_record_is_read_again_and_names_uncertain_labels():
    labels, probabilities = drawn()
    labels[9:, 2] = 0
    chosen = choose_thresholds(probabilities, labels, NAMES)
    assert LabelThresholds.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen
    assert str(chosen).endswith("so that the threshold is uncertain: 'c'")
    given = LabelThresholds(("a", "b"), (0.4, 0.4))
    assert LabelThresholds.from_json(given.to_json()) == given
    assert "as given" in str(given)


def test_thresholds_that_cannot_be_chosen_are_refused():
    labels, probabilities = drawn()
    labels[:, 1] = 0
    with pytest.raises(DataError, match=r"Every label must have validation images.* none of 'b'"):
        choose_thresholds(probabilities, labels, NAMES)


@pytest.mark.parametrize("threshold", [0, 1.0, True, "0.5", None, [0.5, 2, 0.5], [0.5, "a", 0.1]])
def test_values_that_are_no_thresholds_are_refused(threshold):
    with pytest.raises(ArgumentError, match="`threshold` must be between 0 and 1"):
        check_threshold(threshold, 3)


def test_there_is_one_threshold_or_one_for_each_label():
    assert check_threshold(0.5, 3) == 0.5
    assert check_threshold(np.array([0.5, 0.1]), 2) == (0.5, 0.1)
    with pytest.raises(ArgumentError, match="`threshold` must be one number, or one for each lab"):
        check_threshold([0.5, 0.1], 3)


def test_the_scores_of_labels_are_those_of_scikit_learn():
    labels, probabilities = drawn()
    thresholds = (0.6, 0.5, 0.9)
    scores = score_labels(labels, probabilities, thresholds)
    assigned = is_label(probabilities, thresholds).astype(int)
    expected = average_precision_score(labels, probabilities, average=None)
    np.testing.assert_allclose(scores.average_precisions, expected)
    assert scores.mean_average_precision == pytest.approx(expected.mean())
    for average, value in (("micro", scores.f1_micro), ("macro", scores.f1_macro)):
        assert value == pytest.approx(f1_score(labels, assigned, average=average))
    np.testing.assert_array_equal(scores.counts, multilabel_confusion_matrix(labels, assigned))
    for name in ("mean_average_precision", "f1_micro", "f1_macro"):
        low, high = getattr(scores, f"{name}_interval")
        assert 0 <= low < getattr(scores, name) < high <= 1
    absent = labels * [1, 1, 0]
    assert score_labels(absent, probabilities, 0.5).average_precisions[2] is None


def test_intervals_cover_the_value_of_many_images():
    truth, probabilities = drawn(5_000, seed=1)
    expected = score_labels(truth, probabilities, 0.6)
    covered = []
    for seed, name in itertools.product(range(2, 12), ("mean_average_precision", "f1_micro")):
        scores = score_labels(*drawn(200, seed), 0.6)
        low, high = getattr(scores, f"{name}_interval")
        covered.append(low <= getattr(expected, name) <= high)
    assert np.mean(covered) >= 0.8


def test_a_report_has_the_thresholds_and_counts_of_each_label():
    labels, probabilities = drawn()
    thresholds = (0.6, 0.5, 0.9)
    report = evaluate_probabilities(
        probabilities, labels, NAMES, kind="multi_label", threshold=thresholds
    )
    assigned = is_label(probabilities, thresholds)
    assert report.accuracy == pytest.approx((assigned == labels).mean())
    first = report.label_rows()[0]
    assert first.threshold == 0.6
    assert first.counts[0] + first.counts[2] == first.score.num_images == labels[:, 0].sum()
    assert sum(first.counts) == len(labels)
    lines = str(report).splitlines()
    assert any(line.startswith("mean average precision (mAP) ") for line in lines)
    assert any(line.startswith("a ") and "0.600" in line for line in lines)
    assert report.as_dict()["labels"]["thresholds"] == list(thresholds)
    single = evaluate_probabilities(np.eye(3), np.arange(3), NAMES)
    assert "labels" not in single.as_dict()
    assert single.label_rows() == []
