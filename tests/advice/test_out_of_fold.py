"""Out-of-fold probabilities, outliers, and the ranking of unlabelled images."""

import numpy as np
import pytest

from tlkit.advice import out_of_fold, outliers
from tlkit.advice.labelling import rank_to_label
from tlkit.advice.out_of_fold import out_of_fold_probabilities, solve_class_head
from tlkit.advice.outliers import find_outliers
from tlkit.errors import DataError
from tlkit.training.labelled import LabelledFeatures


def some_rows(num_images=60, num_classes=3, seed=0, groups=None):
    generator = np.random.default_rng(seed)
    labels = np.arange(num_images) % num_classes
    features = generator.normal(size=(num_images, 6)).astype(np.float32)
    features[np.arange(num_images), labels] += 6
    return LabelledFeatures(features, labels, groups)


def test_no_image_is_predicted_by_a_head_that_was_solved_on_it_or_its_group(monkeypatch):
    rows = some_rows(groups=np.arange(60) // 6)
    given = rows.features.copy()
    solved, predicted = [], []
    real = out_of_fold.solve_class_head

    def spied(some, num_classes, **others):
        solved.append(some.groups)
        head = real(some, num_classes, **others)
        probabilities = head.probabilities
        object.__setattr__(
            head,
            "probabilities",
            lambda features: (predicted.append(features), probabilities(features))[1],
        )
        return head

    monkeypatch.setattr(out_of_fold, "solve_class_head", spied)
    result = out_of_fold_probabilities(rows, 3)
    group_of = {row.tobytes(): group for row, group in zip(given, rows.groups, strict=True)}
    assert len(solved) == len(predicted) == 5 * out_of_fold.NUM_DRAWS
    for train, features in zip(solved, predicted, strict=True):
        assert not {*train.tolist()} & {group_of[row.tobytes()] for row in features}
    np.testing.assert_array_equal(rows.features, given)
    np.testing.assert_allclose(result.sum(axis=1), 1)
    assert (result.argmax(axis=1) == rows.labels).mean() > 0.8


def test_a_wrong_label_gets_a_low_probability():
    rows = some_rows()
    labels = rows.labels.copy()
    labels[7] = (labels[7] + 1) % 3
    result = out_of_fold_probabilities(LabelledFeatures(rows.features, labels), 3)
    own = result[np.arange(60), labels]
    assert own.argmin() == 7
    assert result[7].argmax() == rows.labels[7]


def test_classes_without_rows_have_no_probability():
    head = solve_class_head(some_rows(num_classes=2), 4)
    probabilities = head.probabilities(some_rows(num_classes=2, seed=1).features)
    np.testing.assert_array_equal(probabilities[:, 2:], 0)
    assert (probabilities.argmax(axis=1) == np.arange(60) % 2).mean() > 0.95


def test_with_many_features_the_head_is_linear_and_rows_are_unchanged(monkeypatch):
    monkeypatch.setattr(out_of_fold, "MAX_FEATURES", 1)
    rows = some_rows(30)
    given = rows.features.copy()
    head = solve_class_head(rows, 3)
    assert head.solution.kernel_map is None
    np.testing.assert_array_equal(rows.features, given)
    assert (head.probabilities(given).argmax(axis=1) == rows.labels).all()


def test_many_images_are_divided_once(monkeypatch):
    monkeypatch.setattr(out_of_fold, "MAX_FOR_DRAWS", 50)
    solved = []
    real = out_of_fold.solve_class_head
    monkeypatch.setattr(
        out_of_fold,
        "solve_class_head",
        lambda *arguments, **others: (solved.append(1), real(*arguments, **others))[1],
    )
    out_of_fold_probabilities(some_rows(), 3)
    assert len(solved) == 5


@pytest.mark.parametrize("labels", [[0] * 6, [0, 0, 0, 0, 0, 1]])
def test_too_few_images_are_an_error(labels):
    rows = LabelledFeatures(np.ones((6, 2), np.float32), np.array(labels))
    with pytest.raises(DataError, match="at least two classes with two different images each"):
        out_of_fold_probabilities(rows, 2)


def test_outliers_are_far_from_all_others():
    features = np.abs(np.random.default_rng(0).normal(size=(100, 8))) + 3
    features[13] = np.eye(8)[2]
    found = find_outliers(features)
    assert found.scores.argmax() == 13
    assert 1 <= (found.scores > found.threshold).sum() <= 3
    new = np.stack([np.eye(8)[5], features[0] * 2])
    assert (found.scores_of(new) > found.threshold).tolist() == [True, False]


def test_scores_leave_the_image_itself_out_whether_it_is_stored_or_not(monkeypatch):
    features = np.random.default_rng(0).normal(size=(40, 8))
    whole = find_outliers(features)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -2)
    np.testing.assert_allclose(whole.scores, 1 - np.sort(cosines, axis=1)[:, -5], atol=1e-5)
    monkeypatch.setattr(outliers, "MAX_STORED", 20)
    half = find_outliers(features)
    assert len(half.vectors) == 20
    assert (half.scores >= whole.scores - 1e-6).all()  # among fewer others


def test_few_images_have_scores():
    assert np.isfinite(find_outliers(np.eye(3)).scores).all()


def test_images_with_the_smallest_margin_are_labelled_first():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.4, 0.35, 0.25], [0.45, 0.1, 0.45]])
    assert rank_to_label(probabilities).tolist() == [2, 1, 0]
