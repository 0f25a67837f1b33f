"""LogME: how well features explain labels, estimated without training."""

import numpy as np

_MAX_STEPS = 100
_TOLERANCE = 1e-6
_RANK_TOLERANCE = 1e-12
"""Fraction of the largest eigenvalue below which an eigenvalue counts as zero."""


def log_evidence(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns LogME: the mean log evidence of labels given features, per class and image.

    Each class k is a separate regression, y = 1 for its images and 0 for others, by a Bayesian
    linear model y ~ N(F w, I / beta), w ~ N(0, I / alpha), whose log evidence

        n/2 log beta + d/2 log alpha - n/2 log 2 pi - beta/2 |F m - y|² - alpha/2 |m|²
        - 1/2 log |A|,   A = alpha I + beta F'F,   m = beta inverse(A) F'y,

    is maximised over alpha and beta by MacKay's fixed-point iteration. Higher is better; only
    differences between networks on the same images and labels are meaningful.

    Conventions: natural logarithm; features neither centred nor standardised, and no intercept; the
    mean over classes, divided by n. Each label of multi-label data is one regression.

    Args:
        features: `(n, d)`.
        labels: Whole numbers `(n,)`; or rows of 0/1, `(n, num_labels)`.

    Example:
        >>> import numpy as np
        >>> from tlkit.advice.evidence import log_evidence
        >>> labels = np.arange(100) % 2
        >>> noise = np.random.default_rng(0).normal(size=(100, 4))
        >>> informative = noise + 3 * labels[:, np.newaxis]
        >>> log_evidence(informative, labels) > log_evidence(noise, labels)
        True

    Reference:
        You et al. (2021), sections 4.1 and 4.2, https://arxiv.org/abs/2102.11005. The authors' code
        (https://github.com/thuml/LogME) agrees by its `_fit_icml`, up to the 1e-5 that it adds to
        both denominators and its larger tolerance. Its current default, `_fit_fixed_point`,
        disagrees if the features' rank r is below d: it omits the d - r logarithms of alpha from
        log |A|, so that each class is (d - r) / (2 n) log alpha above the formula.
    """
    matrix = np.asarray(features, np.float64)
    matrix = matrix.reshape(len(matrix), -1)
    if labels.ndim == 2:
        targets = labels.astype(np.float64)
    else:
        targets = (labels[:, np.newaxis] == np.unique(labels)).astype(np.float64)
    eigenvalues, projected = _spectrum(matrix, targets)
    evidences = [
        _maximise_evidence(eigenvalues, projected[:, column], targets[:, column])
        for column in range(targets.shape[1])
    ]
    return float(np.mean(evidences)) / len(matrix)


def _spectrum(matrix: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the non-zero eigenvalues of F'F, `(rank,)`, and U'Y with left singular vectors U."""
    num_images, num_features = matrix.shape
    if num_images <= num_features:
        eigenvalues, vectors = np.linalg.eigh(matrix @ matrix.T)
        is_kept = eigenvalues > _RANK_TOLERANCE * max(eigenvalues[-1], 0.0)
        return eigenvalues[is_kept], vectors[:, is_kept].T @ targets
    eigenvalues, vectors = np.linalg.eigh(matrix.T @ matrix)
    is_kept = eigenvalues > _RANK_TOLERANCE * max(eigenvalues[-1], 0.0)
    eigenvalues, vectors = eigenvalues[is_kept], vectors[:, is_kept]
    projected = vectors.T @ (matrix.T @ targets)
    return eigenvalues, projected / np.sqrt(eigenvalues)[:, np.newaxis]


def _maximise_evidence(eigenvalues: np.ndarray, projected: np.ndarray, target: np.ndarray) -> float:
    """Returns the log evidence of one target, maximised over alpha and beta."""
    num_images = len(target)
    unexplained = max(
        float(target @ target - projected @ projected), 0.0
    )  # the part outside the span of the features
    alpha = beta = 1.0
    squares = residual = 0.0
    for _ in range(_MAX_STEPS):
        ratio = alpha / beta
        shrunk = eigenvalues / (ratio + eigenvalues)
        squares = float(np.sum(eigenvalues * (projected / (ratio + eigenvalues)) ** 2))
        residual = float(np.sum(((1 - shrunk) * projected) ** 2)) + unexplained
        gamma = float(shrunk.sum())
        alpha = gamma / (squares + 1e-30)
        beta = (num_images - gamma) / (residual + 1e-30)
        if abs(alpha / beta - ratio) <= _TOLERANCE * ratio:
            break
    ratio = alpha / beta
    squares = float(np.sum(eigenvalues * (projected / (ratio + eigenvalues)) ** 2))
    shrunk = eigenvalues / (ratio + eigenvalues)
    residual = float(np.sum(((1 - shrunk) * projected) ** 2)) + unexplained
    # d/2 log alpha and the part of log |A| outside the span cancel
    determinant = float(np.sum(np.log1p(eigenvalues / ratio))) if len(eigenvalues) else 0.0
    return 0.5 * (
        num_images * np.log(beta)
        - num_images * np.log(2 * np.pi)
        - beta * residual
        - alpha * squares
        - determinant
    )
