"""How well features explain labels, without training: LogME."""

import numpy as np

_MAX_STEPS = 100
_TOLERANCE = 1e-6
_SMALLEST = 1e-12
"""Share of the largest eigenvalue below which one counts as zero."""


def log_evidence(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns LogME: the mean log evidence of labels given features, per class and image.

    Each class k is a regression of its own, y = 1 for its images and 0 for others, by a Bayesian
    linear model y ~ N(F w, I / beta), w ~ N(0, I / alpha), whose log evidence

        n/2 log beta + d/2 log alpha - n/2 log 2 pi - beta/2 |F m - y|² - alpha/2 |m|²
        - 1/2 log |A|,   A = alpha I + beta F'F,   m = beta inverse(A) F'y,

    is maximised over alpha and beta by MacKay's fixed point. Higher is better; only differences
    between networks on the same images and labels mean anything.

    Conventions: natural logarithm; features as they come (neither centred nor standardised) and no
    intercept; the mean over classes, divided by n. Of several labels each is one regression.

    Args:
        features: `(n, d)`.
        labels: Whole numbers `(n,)`; or rows of 0/1, `(n, num_labels)`.

    Example:
        >>> import numpy as np
        >>> from tlkit.advice.evidence import log_evidence
        >>> labels = np.arange(100) % 2
        >>> noise = np.random.default_rng(0).normal(size=(100, 4))
        >>> telling = noise + 3 * labels[:, np.newaxis]
        >>> log_evidence(telling, labels) > log_evidence(noise, labels)
        True

    Reference:
        You et al. (2021), sections 4.1 and 4.2, https://arxiv.org/abs/2102.11005. The authors' code
        (https://github.com/thuml/LogME) agrees by its `_fit_icml`, up to the 1e-5 that it adds to
        both denominators and its looser end. Its present default, `_fit_fixed_point`, does not
        where the features' rank r is below d: it leaves the d - r logarithms of alpha out of
        log |A|, so that each class comes out (d - r) / (2 n) log alpha higher than the formula.
    """
    matrix = np.asarray(features, np.float64)
    matrix = matrix.reshape(len(matrix), -1)
    if labels.ndim == 2:
        targets = labels.astype(np.float64)
    else:
        targets = (labels[:, np.newaxis] == np.unique(labels)).astype(np.float64)
    eigenvalues, projected = _spectrum(matrix, targets)
    found = [
        _maximum(eigenvalues, projected[:, column], targets[:, column])
        for column in range(targets.shape[1])
    ]
    return float(np.mean(found)) / len(matrix)


def _spectrum(matrix: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Non-zero eigenvalues of F'F, `(rank,)`, and U'Y for the left singular vectors U of F."""
    num_images, num_features = matrix.shape
    if num_images <= num_features:
        eigenvalues, vectors = np.linalg.eigh(matrix @ matrix.T)
        kept = eigenvalues > _SMALLEST * max(eigenvalues[-1], 0.0)
        return eigenvalues[kept], vectors[:, kept].T @ targets
    eigenvalues, vectors = np.linalg.eigh(matrix.T @ matrix)
    kept = eigenvalues > _SMALLEST * max(eigenvalues[-1], 0.0)
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    projected = vectors.T @ (matrix.T @ targets)
    return eigenvalues, projected / np.sqrt(eigenvalues)[:, np.newaxis]


def _maximum(eigenvalues: np.ndarray, projected: np.ndarray, target: np.ndarray) -> float:
    """The log evidence of one target at its best alpha and beta."""
    num_images = len(target)
    outside = max(float(target @ target - projected @ projected), 0.0)  # no weights reach it
    alpha = beta = 1.0
    squares = residual = 0.0
    for _ in range(_MAX_STEPS):
        ratio = alpha / beta
        shrunk = eigenvalues / (ratio + eigenvalues)
        squares = float(np.sum(eigenvalues * (projected / (ratio + eigenvalues)) ** 2))
        residual = float(np.sum(((1 - shrunk) * projected) ** 2)) + outside
        gamma = float(shrunk.sum())
        alpha = gamma / (squares + 1e-30)
        beta = (num_images - gamma) / (residual + 1e-30)
        if abs(alpha / beta - ratio) <= _TOLERANCE * ratio:
            break
    ratio = alpha / beta
    squares = float(np.sum(eigenvalues * (projected / (ratio + eigenvalues)) ** 2))
    shrunk = eigenvalues / (ratio + eigenvalues)
    residual = float(np.sum(((1 - shrunk) * projected) ** 2)) + outside
    # d/2 log alpha and the part of log |A| outside the span cancel
    determinant = float(np.sum(np.log1p(eigenvalues / ratio))) if len(eigenvalues) else 0.0
    return 0.5 * (
        num_images * np.log(beta)
        - num_images * np.log(2 * np.pi)
        - beta * residual
        - alpha * squares
        - determinant
    )
