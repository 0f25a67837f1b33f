"""The learning curve: what twice as many training images would bring."""

import json

import numpy as np
import pytest

import tlkit
from tlkit.advice import learning_curve as module
from tlkit.advice.learning_curve import (
    MIN_IMAGES,
    LearningCurveReport,
    curve_of_features,
    errors_of,
)
from tlkit.advice.subset_heads import SubsetAccuracies
from tlkit.data.class_weighting import ClassWeighting
from tlkit.errors import ArgumentError
from tlkit.training.labelled import LabelledFeatures


def problem(num_images=300, num_classes=3, distance=2.0, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(num_images) % num_classes
    features = generator.normal(size=(num_images, 20))
    features[np.arange(num_images), labels] += distance
    return LabelledFeatures(features.astype("float32"), labels)


def folder_like(num_images=60, **settings):
    labels = np.arange(num_images) % 2
    images = np.random.default_rng(0).integers(0, 99, (num_images, 32, 32, 3), "uint8")
    images[labels == 1, :, :, 0] += 100
    return tlkit.load_arrays(images, labels, ["grey", "red"], splits=(1, 0, 0), **settings)


@pytest.fixture(scope="module")
def model():
    return tlkit.build_classifier("resnet20", ["grey", "red"], weights=None)


def test_the_curve_of_a_separable_problem_is_flat_at_1():
    report = curve_of_features(problem(distance=50.0))
    assert [point.accuracy for point in report.measured] == [1.0] * 4
    assert report.gain == pytest.approx(0, abs=0.002)
    low, high = report.gain_interval
    assert 0 <= low <= report.gain <= high < 0.005


def test_a_noisy_problem_gains_from_more_images():
    report = curve_of_features(problem())
    sizes = [point.num_images for point in report.measured]
    assert sizes == [60, 120, 180, 240]
    assert report.measured[-1].accuracy > report.measured[0].accuracy
    low, high = report.gain_interval
    assert 0 <= low < report.gain < high
    true = curve_of_features(problem(1200)).measured[2:]  # about 480 and 720 images
    now = next(point for point in report.forecast if point.num_images == 300)
    future = next(point for point in report.forecast if point.num_images == 600)
    assert future.accuracy == pytest.approx(now.accuracy + report.gain)
    assert (
        future.interval[0] - 0.02 < np.mean([p.accuracy for p in true]) < future.interval[1] + 0.02
    )


def test_forecasts_increase_and_stay_within_0_and_1():
    accuracies = [point.accuracy for point in curve_of_features(problem()).forecast]
    assert accuracies == sorted(accuracies)
    assert 0 <= accuracies[0] <= accuracies[-1] <= 1


def test_validation_images_are_used_if_there_are_enough():
    report = curve_of_features(problem(100), problem(400, seed=1))
    assert (report.num_tested, report.tested_on) == (400, "validation images")
    assert report.measured[-1].num_images == 100
    assert report.forecast[-1].num_images == 200


def test_of_many_images_a_sample_is_used(monkeypatch):
    monkeypatch.setattr(module, "MAX_CROSS_VALIDATED", 200)
    report = curve_of_features(problem())
    assert report.notes == ("measured on 200 of the 300 training images",)
    assert report.num_tested == 200
    assert report.forecast[-1].num_images == 600


def test_several_labels_and_balanced_classes():
    rows = problem()
    several = LabelledFeatures(rows.features, np.eye(3, dtype=int)[rows.labels][:, :2])
    assert curve_of_features(several).measured[-1].accuracy > 0.7
    rare = rows[np.flatnonzero((rows.labels != 2) | (np.arange(300) % 9 == 2))]
    report = curve_of_features(rare, weighting=ClassWeighting("balanced"))
    assert report.metric == "balanced accuracy"
    assert report.measured[-1].accuracy < curve_of_features(rare).measured[-1].accuracy


def test_copies_and_groups_are_never_on_both_sides():
    """Labels are noise, so only a copy of an image tells its label."""
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(60, 30)), generator.integers(0, 2, 60)
    rows = LabelledFeatures(np.repeat(features, 4, axis=0), np.repeat(labels, 4))
    grouped = LabelledFeatures(rows.features, rows.labels, np.repeat(np.arange(60), 4))
    assert curve_of_features(rows).measured[-1].accuracy > 0.9
    assert curve_of_features(grouped).measured[-1].accuracy < 0.75


def test_groups_count_as_one_in_the_standard_error():
    wrong = np.repeat(np.arange(40) % 4 == 0, 5)[np.newaxis, np.newaxis]
    found = SubsetAccuracies(np.array([10.0]), np.arange(200), 1.0 - wrong)
    labels, features = np.zeros(200, int), np.zeros((200, 1))
    groups = np.repeat(np.arange(40), 5)
    _, alone = errors_of(found, LabelledFeatures(features, labels), ClassWeighting())
    _, together = errors_of(found, LabelledFeatures(features, labels, groups), ClassWeighting())
    assert together[0, 0] / alone[0, 0] == pytest.approx(5, rel=0.05)


def test_stored_features_are_reused(model):
    data = folder_like()
    tlkit.train_head(model, data)
    before = tlkit.training.features._Filler._compute
    tlkit.training.features._Filler._compute = None  # any forward pass would fail
    try:
        report = tlkit.learning_curve(model, data)
    finally:
        tlkit.training.features._Filler._compute = before
    assert report.num_images == 60
    assert report.num_tested == 60
    assert "twice as many training images would bring about" in str(report)
    assert report == LearningCurveReport(**vars(report))
    assert json.loads(json.dumps(report.as_dict()))["gain"] == report.gain
    assert "<table>" in report._repr_html_()


def test_too_few_images_are_a_reason_not_an_estimate(model):
    report = tlkit.learning_curve(model, folder_like(MIN_IMAGES - 2))
    assert report.gain is None
    assert report.as_dict()["measured"] == []
    assert str(report) == (
        "what more images would bring is unknown: too few images: 38 different images for "
        "training, and it needs 40"
    )
    labels = np.arange(60) < 9
    images = np.random.default_rng(0).integers(0, 255, (60, 32, 32, 3), "uint8")
    data = tlkit.load_arrays(images, labels.astype(int), ["grey", "red"], splits=(1, 0, 0))
    why_not = tlkit.learning_curve(model, data).why_not
    assert why_not == (
        "too few images: class 'red' has 9 different images for training, and it needs 10"
    )


def test_invalid_arguments_are_refused(model):
    data = folder_like()
    with pytest.raises(ArgumentError, match=r"`data` must be the result of load_folder"):
        tlkit.learning_curve(model, data.train.dataset())
    with pytest.raises(ArgumentError, match=r"`class_weight` must be"):
        tlkit.learning_curve(model, data, class_weight="often")
    with pytest.raises(ArgumentError, match=r"`seed` must be"):
        tlkit.learning_curve(model, data, seed=-1)
    three = tlkit.build_classifier("resnet20", ["a", "b", "c"], weights=None)
    with pytest.raises(ArgumentError, match=r"one output per class"):
        tlkit.learning_curve(three, data)
