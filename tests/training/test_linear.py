"""The solved linear head: the optimum of the documented objective, with the scale folded in."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from tlkit.data.class_weighting import ClassWeighting
from tlkit.training import linear
from tlkit.training.labelled import LabelledFeatures
from tlkit.training.linear import (
    FEW_IMAGES,
    STRENGTHS,
    mean_cross_entropy,
    moments,
    solve_linear,
    standardisation,
)


def blobs(num_classes, n=300, num_features=8, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % num_classes
    centres = generator.normal(0, 1, (num_classes, num_features))
    features = centres[labels] + generator.normal(0, 1, (n, num_features))
    return (features * 10 ** generator.uniform(-2, 2, num_features) + 5).astype("float32"), labels


def solved(features, labels, *, groups=None, weights=None, validation=None, **given):
    held_out = validation and LabelledFeatures(*validation)
    rows = LabelledFeatures(features, labels, groups, weights)
    return solve_linear(rows, validation=held_out, **given)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def objective_gradient(kernel, bias, features, labels, strength):
    """Gradient of 1/2 |w|^2 + C * sum of log losses, w on standardised features."""
    mean, deviation = features.mean(axis=0, dtype=float), features.std(axis=0, dtype=float)
    own = len(features) / (len(features) + FEW_IMAGES)
    scale = deviation**own * np.exp(np.log(deviation).mean()) ** (1 - own)
    standard = (features - mean) / scale
    slopes = kernel * scale[:, None]
    residual = softmax(standard @ slopes + bias + mean @ kernel)
    residual[np.arange(len(labels)), labels] -= 1
    return slopes + strength * standard.T @ residual, strength * residual.sum(axis=0)


def test_the_fewer_images_the_more_columns_share_their_scale():
    features = np.random.default_rng(0).normal(size=(20_000, 8)) * 10.0 ** np.arange(-4, 4)
    spreads = []
    for number in (2, 20, 200, 20_000):
        own, shared = (one(features[:number])[1] for one in (moments, standardisation))
        assert np.exp(np.log(shared).mean()) == pytest.approx(np.exp(np.log(own).mean()))
        spreads.append(np.log(shared).std() / np.log(own).std())
    assert spreads == pytest.approx([2 / 22, 0.5, 200 / 220, 1], abs=1e-3)
    constant = np.array([[1.0, 5.0], [2.0, 5.0]])
    assert standardisation(constant)[1].tolist() == pytest.approx([0.5, np.inf])


@pytest.mark.parametrize("num_classes", [3, 5])
def test_the_gradient_of_the_objective_vanishes(num_classes):
    features, labels = blobs(num_classes)
    solution = solved(features.copy(), labels, num_units=num_classes)
    of_kernel, of_bias = objective_gradient(
        solution.kernel, solution.bias, features, labels, solution.strength
    )
    scale = solution.strength * len(labels)
    assert np.abs(of_kernel).max() < 1e-3 * scale
    assert np.abs(of_bias).max() < 1e-3 * scale
    assert solution.strength in STRENGTHS


def test_two_units_and_one_unit_give_the_same_probabilities():
    features, labels = blobs(2)
    one = solved(features.copy(), labels, num_units=1)
    two = solved(features.copy(), labels, num_units=2)
    logit = features @ one.kernel + one.bias
    expected = np.concatenate([1 / (1 + np.exp(logit)), 1 / (1 + np.exp(-logit))], axis=1)
    np.testing.assert_allclose(softmax(features @ two.kernel + two.bias), expected, atol=1e-4)


def test_each_label_is_solved_separately_and_a_constant_label_gets_its_prior_odds():
    features, classes = blobs(3)
    labels = np.stack([classes == 0, classes < 2, np.ones(len(classes))], axis=1).astype(int)
    solution = solved(features.copy(), labels, num_units=3)
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
    balanced = solved(
        features.copy(),
        labels,
        num_units=1,
        weighting=ClassWeighting("balanced"),
        validation=validation,
    )
    validation = features[:300].copy(), labels[:300]
    weighted = solved(features.copy(), labels, num_units=1, weights=weights, validation=validation)
    np.testing.assert_allclose(balanced.kernel, weighted.kernel, rtol=1e-3, atol=1e-5)
    plain = solved(features.copy(), labels, num_units=1)
    assert balanced.bias[0] != pytest.approx(plain.bias[0], rel=1e-2)


def test_many_validation_images_choose_the_strength_and_few_do_not():
    features, labels = blobs(3, n=900)
    held_out = features[:300].copy(), labels[:300]
    assert "300 validation images" in (
        solved(features[300:].copy(), labels[300:], num_units=3, validation=held_out).chosen_by
    )
    held_out = features[:30].copy(), labels[:30]
    assert "cross-validation" in (
        solved(features[30:].copy(), labels[30:], num_units=3, validation=held_out).chosen_by
    )


def test_a_constant_feature_and_single_images_do_no_harm():
    features, labels = blobs(3, n=3)
    features[:, 0] = 7.0
    solution = solved(features.copy(), labels, num_units=3)
    assert np.isfinite(solution.kernel).all()
    assert "too few images" in solution.chosen_by


def test_a_line_search_that_stops_at_a_flat_minimum_is_no_warning(monkeypatch):
    fit = LogisticRegression.fit

    def flat(*given, **others):
        warnings.warn("lbfgs failed to converge: ABNORMAL", ConvergenceWarning, stacklevel=2)
        return fit(*given, **others)

    expected = solved(*blobs(2), num_units=2)
    monkeypatch.setattr(LogisticRegression, "fit", flat)
    np.testing.assert_array_equal(solved(*blobs(2), num_units=2).kernel, expected.kernel)


def test_the_limit_of_iterations_is_reported(monkeypatch):
    assert "converged" not in solved(*blobs(3), num_units=3).chosen_by
    monkeypatch.setattr(linear, "MAX_ITERATIONS", 2)
    assert solved(*blobs(3), num_units=3).chosen_by.endswith("; not converged after 2 iterations")


def test_labels_only_in_validation_are_ignored():
    features, labels = blobs(3, n=900)
    train = labels[300:] != 2
    held_out = features[:300].copy(), labels[:300]
    solution = solved(
        features[300:][train].copy(), labels[300:][train], num_units=2, validation=held_out
    )
    assert solution.kernel.shape == (8, 2)


def test_views_of_one_image_stay_in_one_fold():
    """Otherwise an image's own views leak into the fold, and too weak a penalty is chosen."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    features = generator.normal(0, 1, (200, 100)).astype("float32")
    features[:, 0] += labels
    views = np.concatenate([features] * 4)
    arguments = {"num_units": 2, "groups": np.tile(np.arange(200), 4)}
    together = solved(views.copy(), np.tile(labels, 4), **arguments)
    apart = solved(views.copy(), np.tile(labels, 4), num_units=2)
    alone = solved(features.copy(), labels, num_units=2)
    assert together.strength <= alone.strength
    assert apart.strength >= 100 * together.strength


def test_a_fold_with_one_training_class_is_left_out():
    groups = np.repeat([0, 1, 1, 2], [20, 1, 20, 100])
    labels = np.repeat([1, 0, 1, 0], [20, 1, 20, 100])
    features = np.random.default_rng(0).normal(size=(141, 5)) + 9 * labels[:, np.newaxis]
    solution = solved(features.astype("float32"), labels, num_units=2, groups=groups)
    assert solution.chosen_by == "1-fold cross-validation"
    is_correct = (features @ solution.kernel + solution.bias).argmax(axis=1) == labels
    assert is_correct.mean() > 0.95


def test_without_a_bias_the_gradient_of_its_objective_vanishes():
    features, labels = blobs(3)
    solution = solved(features.copy(), labels, num_units=3, use_bias=False)
    scale = np.sqrt(np.square(features, dtype=float).mean(axis=0))
    residual = softmax(features.astype(float) @ solution.kernel)
    residual[np.arange(len(labels)), labels] -= 1
    slopes = solution.kernel * scale[:, None]
    gradient = slopes + solution.strength * (features / scale).T @ residual
    assert np.abs(gradient).max() < 1e-3 * solution.strength * len(labels)
    assert not solution.bias.any()


def test_features_close_to_zero_get_no_large_weights():
    features, labels = blobs(3)
    solution = solved(features * np.float32(1e-20), labels, num_units=3)
    assert np.abs(solution.kernel).max() < 1


@pytest.mark.parametrize(
    "column",
    [
        lambda noise: np.full(300, 0.1),
        lambda noise: 0.1 + 7e-9 * noise,
        lambda noise: 1 + 1e-6 * noise,
        lambda noise: 30 + 1e-4 * noise,
        lambda noise: 1e-6 * noise,
        lambda noise: 1e-9 * (noise > 2),
        lambda noise: 1e-16 * noise,
    ],
    ids=["constant", "one ulp", "ulps", "thousandths", "almost dead", "rarely active", "1e-16"],
)
def test_an_almost_constant_column_gets_no_large_weight(column):
    """The labels are random, so that the other columns leave errors for it to fit."""
    generator = np.random.default_rng(0)
    features, labels = generator.normal(0, 1, (300, 6)), np.arange(300) % 3
    noise = np.where(labels == 0, 1.5, 0) + generator.normal(0, 1, 300)
    features[:, 2] = column(noise)
    solution = solved(features.astype("float32"), labels, num_units=3)
    assert np.abs(solution.kernel).max() < 1000
    scale = np.abs(features[:, 2]).max()
    effect = np.abs(solution.kernel[2]).max() * 1e-4 * scale  # of a small change of the column
    assert effect < 0.5


def test_a_small_column_that_separates_the_classes_is_used():
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 2
    features = generator.normal(0, 1, (300, 6))
    features[:, 2] = 1e-3 * (labels + 0.1 * generator.normal(0, 1, 300))
    solution = solved(features.astype("float32"), labels, num_units=1)
    is_correct = ((features @ solution.kernel + solution.bias)[:, 0] > 0) == labels
    assert is_correct.mean() > 0.98


def unbalanced(n, fraction_of_rare, seed):
    """Two classes that overlap; without class weights the rare one has a low recall."""
    generator = np.random.default_rng(seed)
    labels = (generator.uniform(size=n) < fraction_of_rare).astype(int)
    return generator.normal(0, 1, (n, 40)) + 0.3 * labels[:, np.newaxis] * np.eye(40)[:5].sum(
        axis=0
    ), labels


def strength_of_grid_search(features, labels, held_out, weights):
    """The strength with the lowest weighted loss on held-out rows, computed by scikit-learn."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    regressions = {
        strength: LogisticRegression(C=strength, class_weight="balanced", max_iter=1000).fit(
            (features - mean) / scale, labels
        )
        for strength in STRENGTHS
    }
    losses = {
        strength: log_loss(
            held_out[1],
            one.predict_proba((held_out[0] - mean) / scale),
            sample_weight=weights,
        )
        for strength, one in regressions.items()
    }
    return min(losses, key=losses.get)


def test_the_penalty_is_chosen_by_the_weighted_loss():
    """The unweighted loss would choose another penalty."""
    features, labels = unbalanced(600, 0.06, seed=1)
    held_out = unbalanced(400, 0.06, seed=2)
    counts = np.bincount(held_out[1])
    weights = len(held_out[1]) / (2 * counts[held_out[1]])
    wanted = strength_of_grid_search(features, labels, held_out, weights)
    assert wanted != strength_of_grid_search(features, labels, held_out, np.ones(400))
    solution = solved(
        features.astype("float32"),
        labels,
        num_units=1,
        weighting=ClassWeighting("balanced"),
        validation=(held_out[0].astype("float32"), held_out[1]),
    )
    assert solution.strength == wanted


def test_sample_weights_count_where_the_penalty_is_chosen():
    """Rows of weight 0 have no effect, neither in folds nor among validation images."""
    features, labels = blobs(3, n=360)
    noise = np.random.default_rng(1).permutation(labels)
    both = np.concatenate([features, features]).astype("float32")
    arguments = {"num_units": 3, "groups": np.tile(np.arange(360), 2)}
    weighted = solved(
        both.copy(),
        np.concatenate([labels, noise]),
        weights=np.repeat([1.0, 0.0], 360),
        **arguments,
    )
    unweighted = solved(both.copy(), np.concatenate([labels, noise]), **arguments)
    assert weighted.strength > unweighted.strength  # noisy rows require a stronger penalty
    held_out = both.copy(), np.concatenate([labels, noise]), None, np.repeat([1.0, 0.0], 360)
    weighted = solved(
        features.copy(),
        labels,
        num_units=3,
        validation=held_out,
    )
    alone = solved(features.copy(), labels, num_units=3, validation=(features.copy(), labels))
    assert weighted.strength == alone.strength


@pytest.mark.parametrize("weights", [None, np.array([1.0, 0.0, 2.5, 0.5])])
def test_the_cross_entropy_is_that_of_scikit_learn(weights):
    probabilities = np.array([[0.2, 0.8], [0.6, 0.4], [1.0, 0.0], [0.0, 1.0]], "float32")
    labels, classes = np.array([3, 7, 7, 7]), np.array([3, 7])
    expected = log_loss(labels, probabilities, labels=classes, sample_weight=weights)
    assert mean_cross_entropy(probabilities, labels, classes, weights) == pytest.approx(expected)
