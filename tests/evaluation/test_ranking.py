import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tlkit.evaluation.ranking import score_ranking


def scores_of(labels, generator):
    """One score for each of three classes; ties are common."""
    return np.round(generator.normal(0, 1, (len(labels), 3)) + 1.5 * np.eye(3)[labels], 1)


def membership(labels):
    return labels[:, np.newaxis] == np.arange(3)


def test_areas_equal_those_of_scikit_learn_with_ties():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 90)
    scores = scores_of(labels, generator)
    found = score_ranking(membership(labels), scores)
    expected = [roc_auc_score(labels == index, scores[:, index]) for index in range(3)]
    assert found.per_class == pytest.approx(expected)
    assert found.mean == pytest.approx(np.mean(expected))
    assert found.interval[0] < found.mean < found.interval[1]
    assert found.remark is None


def test_the_variance_of_one_class_is_delongs():
    """Components computed pair by pair, as the paper defines them."""
    generator = np.random.default_rng(1)
    members = np.arange(60) < 20
    scores = np.round(generator.normal(0, 1, 60) + members, 1)
    above = scores[members][:, None] - scores[~members][None, :]
    wins = (above > 0) + 0.5 * (above == 0)
    area = wins.mean()
    variance = wins.mean(axis=1).var(ddof=1) / 20 + wins.mean(axis=0).var(ddof=1) / 40
    centre = np.log(area / (1 - area))
    half = 1.959963984540054 * np.sqrt(variance) / (area * (1 - area))
    expected = 1 / (1 + np.exp(-np.array([centre - half, centre + half])))
    found = score_ranking(members[:, None], scores[:, None])
    assert found.mean == pytest.approx(area)
    assert found.interval == pytest.approx(tuple(expected))


def test_the_interval_of_the_mean_has_its_nominal_coverage():
    generator = np.random.default_rng(2)
    many = generator.choice(3, 100_000, p=[0.2, 0.3, 0.5])
    truth = score_ranking(membership(many), scores_of(many, generator)).mean
    covered = 0
    for _ in range(300):
        labels = generator.choice(3, 200, p=[0.2, 0.3, 0.5])
        low, high = score_ranking(membership(labels), scores_of(labels, generator)).interval
        covered += low <= truth <= high
    assert 0.91 < covered / 300 < 0.985


def test_too_few_images_and_perfect_order_have_no_interval():
    labels = np.repeat([0, 1, 2], [9, 30, 30])
    few = score_ranking(membership(labels), scores_of(labels, np.random.default_rng(0)))
    assert few.mean is not None
    assert few.interval is None
    assert "10 images of each class" in few.remark
    labels = np.repeat([0, 1, 2], 30)
    perfect = score_ranking(membership(labels), np.eye(3)[labels])
    assert (perfect.mean, perfect.interval) == (1.0, None)
    assert "variance is zero" in perfect.remark


def test_a_class_with_no_or_all_images_has_no_area():
    labels = np.repeat([0, 1], 20)
    found = score_ranking(membership(labels), scores_of(labels, np.random.default_rng(0)))
    assert found.per_class[2] is None
    assert found.mean == pytest.approx(np.mean(found.per_class[:2]))
    alone = score_ranking(membership(np.zeros(5, int)), np.zeros((5, 3)))
    assert alone.per_class == (None, None, None)
    assert (alone.mean, alone.interval) == (None, None)
    assert "no ROC-AUC" in alone.remark
