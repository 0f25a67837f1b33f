"""Heads solved on features: the form that is asked for, or the better one."""

import numpy as np
import pytest

from tlkit.training.head_solution import HeadProblem, HeadSolution, solve_on_features
from tlkit.training.labelled import LabelledFeatures


def problem(num_images, num_classes, form="auto", seed=0, **settings):
    generator = np.random.default_rng(seed)
    labels = np.arange(num_images) % num_classes
    features = generator.normal(size=(num_images, 8))
    features[np.arange(num_images), labels] += 2
    rows = LabelledFeatures(features.astype("float32"), labels)
    return HeadProblem(rows, np.arange(num_images), "softmax", num_classes, form, **settings)


def test_one_image_of_each_class_takes_the_closed_form():
    """There are no folds to compare both forms on."""
    solution = solve_on_features(problem(3, 3))
    assert solution.note.startswith("solved in closed form: 3 landmarks")
    assert solution.note.endswith("a linear head was not compared: too few images")


@pytest.mark.parametrize("form", ["linear", "closed-form"])
def test_logits_are_those_of_the_last_layers_weights(form):
    features = problem(60, 3).rows.features
    solution = solve_on_features(problem(60, 3, form))
    assert (solution.kernel_map is None) == (form == "linear")
    assert np.mean(solution.logits(features).argmax(axis=1) == np.arange(60) % 3) > 0.8
    read = HeadSolution.from_arrays(*solution.to_arrays())
    np.testing.assert_array_equal(read.logits(features), solution.logits(features))
    assert read.note == solution.note


def test_both_forms_are_compared_on_validation_rows_if_there_are_enough():
    rows = problem(400, 3, seed=1).rows
    given = {"num_validation": 400, "read_validation": lambda: rows[np.arange(400)]}
    assert "on 400 validation images" in solve_on_features(problem(60, 3, **given)).note
    few = {"num_validation": 100, "read_validation": lambda: rows[np.arange(100)]}
    assert "on 60 training images out of fold" in solve_on_features(problem(60, 3, **few)).note
