"""LogME equals its formula: the marginal density of the labels at the best alpha and beta."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from tlkit.advice.evidence import log_evidence


def independent(features, labels):
    """LogME by numerical maximisation of the marginal y ~ N(0, I / beta + F F' / alpha)."""
    values = []
    for name in np.unique(labels):
        target = (labels == name).astype(float)

        def loss(logs, target=target):
            alpha, beta = np.exp(logs)
            covariance = np.eye(len(target)) / beta + features @ features.T / alpha
            return -multivariate_normal.logpdf(target, cov=covariance)

        best = min(
            minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).fun
            for start in ([0.0, 0.0], [3.0, 3.0])
        )
        values.append(-best / len(labels))
    return np.mean(values)


@pytest.mark.parametrize("num_features", [3, 60])  # fewer and more than images
def test_log_evidence_equals_the_marginal_density(num_features):
    random = np.random.default_rng(num_features)
    labels = np.arange(40) % 3
    features = random.normal(size=(40, num_features))
    features[:, 0] += labels
    features[:, 1] = np.abs(features[:, 1]) + 1
    assert log_evidence(features, labels) == pytest.approx(independent(features, labels), abs=1e-4)


def test_dependent_and_constant_columns_are_handled():
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    features = random.normal(size=(40, 3)) + labels[:, np.newaxis]
    features = np.concatenate([features, features, np.zeros((40, 1))], axis=1)
    assert log_evidence(features, labels) == pytest.approx(independent(features, labels), abs=1e-4)


def test_each_label_is_a_separate_regression():
    random = np.random.default_rng(1)
    labels = np.arange(30) % 3
    features = random.normal(size=(30, 4)) + labels[:, np.newaxis]
    assert log_evidence(features, np.eye(3)[labels]) == pytest.approx(
        log_evidence(features, labels)
    )


def test_features_of_zeros_have_a_finite_evidence():
    assert np.isfinite(log_evidence(np.zeros((10, 4)), np.arange(10) % 2))
