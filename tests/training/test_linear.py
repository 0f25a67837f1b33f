"""The solved linear head: the optimum of its stated objective, scale folded back."""

import numpy as np
import pytest

from tlkit.training.linear import STRENGTHS, solve_linear


def blobs(num_classes, n=300, num_features=8, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % num_classes
    centres = generator.normal(0, 1, (num_classes, num_features))
    features = centres[labels] + generator.normal(0, 1, (n, num_features))
    return (features * 10 ** generator.uniform(-2, 2, num_features) + 5).astype("float32"), labels


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def objective_gradient(kernel, bias, features, labels, strength):
    """Gradient of 1/2 |w|^2 + C * sum of log losses, w on standardised features."""
    mean, scale = features.mean(axis=0, dtype=float), features.std(axis=0, dtype=float)
    standard = (features - mean) / scale
    slopes = kernel * scale[:, None]
    residual = softmax(standard @ slopes + bias + mean @ kernel)
    residual[np.arange(len(labels)), labels] -= 1
    return slopes + strength * standard.T @ residual, strength * residual.sum(axis=0)


@pytest.mark.parametrize("num_classes", [3, 5])
def test_the_gradient_of_the_objective_vanishes(num_classes):
    features, labels = blobs(num_classes)
    solution = solve_linear(features.copy(), labels, num_units=num_classes)
    of_kernel, of_bias = objective_gradient(
        solution.kernel, solution.bias, features, labels, solution.strength
    )
    scale = solution.strength * len(labels)
    assert np.abs(of_kernel).max() < 1e-3 * scale
    assert np.abs(of_bias).max() < 1e-3 * scale
    assert solution.strength in STRENGTHS


def test_two_units_and_one_unit_give_the_same_probabilities():
    features, labels = blobs(2)
    one = solve_linear(features.copy(), labels, num_units=1)
    two = solve_linear(features.copy(), labels, num_units=2)
    logit = features @ one.kernel + one.bias
    expected = np.concatenate([1 / (1 + np.exp(logit)), 1 / (1 + np.exp(-logit))], axis=1)
    np.testing.assert_allclose(softmax(features @ two.kernel + two.bias), expected, atol=1e-4)


def test_each_label_is_solved_by_itself_and_a_constant_one_keeps_its_odds():
    features, classes = blobs(3)
    labels = np.stack([classes == 0, classes < 2, np.ones(len(classes))], axis=1).astype(int)
    solution = solve_linear(features.copy(), labels, num_units=3)
    logits = features @ solution.kernel + solution.bias
    assert ((logits > 0) == labels.astype(bool)).mean(axis=0).min() > 0.85
    assert np.all(logits[:, 2] > 3)


def test_balanced_weights_equal_repeating_the_rare_class():
    features, labels = blobs(2, n=400)
    keep = np.flatnonzero((labels == 0) | (np.arange(400) % 8 == 1))
    features, labels = features[keep], labels[keep]
    counts = np.bincount(labels)
    weights = len(labels) / (2 * counts[labels])
    validation = features[:300].copy(), labels[:300]
    balanced = solve_linear(
        features.copy(), labels, num_units=1, class_weight="balanced", validation=validation
    )
    validation = features[:300].copy(), labels[:300]
    weighted = solve_linear(
        features.copy(), labels, num_units=1, sample_weight=weights, validation=validation
    )
    np.testing.assert_allclose(balanced.kernel, weighted.kernel, rtol=1e-3, atol=1e-5)
    plain = solve_linear(features.copy(), labels, num_units=1)
    assert balanced.bias[0] != pytest.approx(plain.bias[0], rel=1e-2)


def test_many_validation_images_choose_the_strength_and_few_do_not():
    features, labels = blobs(3, n=900)
    held_out = features[:300].copy(), labels[:300]
    assert "300 validation images" in (
        solve_linear(
            features[300:].copy(), labels[300:], num_units=3, validation=held_out
        ).chosen_by
    )
    held_out = features[:30].copy(), labels[:30]
    assert "cross-validation" in (
        solve_linear(features[30:].copy(), labels[30:], num_units=3, validation=held_out).chosen_by
    )


def test_a_constant_feature_and_single_images_do_no_harm():
    features, labels = blobs(3, n=3)
    features[:, 0] = 7.0
    solution = solve_linear(features.copy(), labels, num_units=3)
    assert np.isfinite(solution.kernel).all()
    assert "too few images" in solution.chosen_by


def test_labels_that_validation_has_and_training_lacks_are_passed_over():
    features, labels = blobs(3, n=900)
    train = labels[300:] != 2
    held_out = features[:300].copy(), labels[:300]
    solution = solve_linear(
        features[300:][train].copy(), labels[300:][train], num_units=2, validation=held_out
    )
    assert solution.kernel.shape == (8, 2)


def test_views_of_one_image_stay_in_one_fold():
    """Else an image's own views betray it, and noise is learnt by heart."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    features = generator.normal(0, 1, (200, 100)).astype("float32")
    features[:, 0] += labels
    views = np.concatenate([features] * 4)
    arguments = {"num_units": 2, "groups": np.tile(np.arange(200), 4)}
    together = solve_linear(views.copy(), np.tile(labels, 4), **arguments)
    apart = solve_linear(views.copy(), np.tile(labels, 4), num_units=2)
    alone = solve_linear(features.copy(), labels, num_units=2)
    assert together.strength <= alone.strength
    assert apart.strength >= 100 * together.strength


def test_a_fold_whose_groups_leave_one_class_alone_is_left_out():
    groups = np.repeat([0, 1, 1, 2], [20, 1, 20, 100])
    labels = np.repeat([1, 0, 1, 0], [20, 1, 20, 100])
    features = np.random.default_rng(0).normal(size=(141, 5)) + 9 * labels[:, np.newaxis]
    solution = solve_linear(features.astype("float32"), labels, num_units=2, groups=groups)
    assert solution.chosen_by == "1-fold cross-validation"
    right = (features @ solution.kernel + solution.bias).argmax(axis=1) == labels
    assert right.mean() > 0.95


def test_without_a_bias_the_gradient_of_its_objective_vanishes():
    features, labels = blobs(3)
    solution = solve_linear(features.copy(), labels, num_units=3, use_bias=False)
    scale = np.sqrt(np.square(features, dtype=float).mean(axis=0))
    residual = softmax(features.astype(float) @ solution.kernel)
    residual[np.arange(len(labels)), labels] -= 1
    slopes = solution.kernel * scale[:, None]
    gradient = slopes + solution.strength * (features / scale).T @ residual
    assert np.abs(gradient).max() < 1e-3 * solution.strength * len(labels)
    assert not solution.bias.any()


def test_features_that_have_all_but_vanished_are_left_alone():
    features, labels = blobs(3)
    solution = solve_linear(features * np.float32(1e-20), labels, num_units=3)
    assert np.abs(solution.kernel).max() < 1
