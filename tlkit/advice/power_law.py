"""The power law of an error against the number of training images: fitted and extrapolated."""

from dataclasses import dataclass

import numpy as np

from tlkit.evaluation.intervals import Interval

EXPONENTS = np.linspace(0.025, 1.0, 40)
ASYMPTOTES = np.linspace(0.0, 0.975, 40)
"""Asymptotes of the error, as fractions of the error with the most images measured."""

_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_RIDGE = 1e-8


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """Curves e(n) = a + b n^-c that agree with some measured errors, and how well each does.

    All decrease with n and are between 0 and 1, so every extrapolation is, too.

    Attributes:
        largest: The largest number of images with a measured error, N.
        errors: Each curve's e(N), `(num_curves,)`, 0...1.
        asymptotes: Its a / e(N), `(num_curves,)`.
        exponents: Its c, `(num_curves,)`.
        weights: Its probability, `(num_curves,)`; they sum to one.
    """

    largest: float
    errors: np.ndarray
    asymptotes: np.ndarray
    exponents: np.ndarray
    weights: np.ndarray

    def errors_at(self, num_images: float) -> np.ndarray:
        """Returns each curve's error with that many images, `(num_curves,)`, 0...1."""
        falling = (num_images / self.largest) ** -self.exponents
        return np.minimum(self.errors * (self.asymptotes + (1 - self.asymptotes) * falling), 1.0)

    def mean(self, values: np.ndarray) -> float:
        """Returns the mean of a value of each curve, `(num_curves,)`."""
        return float(self.weights @ values)

    def interval(self, values: np.ndarray, level: float, deviation: float = 0.0) -> Interval:
        """Returns the quantiles between which a value lies with this probability.

        Args:
            values: The value of each curve, `(num_curves,)`.
            level: The probability, 0...1.
            deviation: Standard deviation of a normally distributed number that is added to it.
        """
        spread = (values[:, np.newaxis] + deviation * _NODES).ravel()
        weights = (self.weights[:, np.newaxis] * _NODE_WEIGHTS).ravel()
        order = np.argsort(spread)
        total = np.cumsum(weights[order]) / weights.sum()
        tails = np.array([(1 - level) / 2, (1 + level) / 2])
        low, high = spread[order[np.minimum(np.searchsorted(total, tails), len(order) - 1)]]
        return float(low), float(high)


def fit_power_law(num_images: np.ndarray, errors: np.ndarray, covariance: np.ndarray) -> PowerLaw:
    """Returns the power laws that agree with measured errors.

    Every curve has a probability: the density of the measured errors, normally distributed around
    it with the given covariance. Before the measurement, all errors with the most images, all
    asymptotes between 0 and that error, and all exponents between 0 and 1 count as equally
    probable. So few or noisy measurements leave a wide range of curves instead of the one that fits
    best.

    Args:
        num_images: Numbers of training images, ascending, `(k,)`.
        errors: The error with each, 0...1, `(k,)`.
        covariance: The covariance of the measurement errors, `(k, k)`.

    Example:
        >>> import numpy as np
        >>> from tlkit.advice.power_law import fit_power_law
        >>> sizes = np.array([100.0, 200.0, 400.0, 800.0])
        >>> law = fit_power_law(sizes, 2 * sizes**-0.5, 1e-8 * np.eye(4))
        >>> round(law.mean(law.errors_at(1600)), 3)
        0.05

    Reference:
        Hestness et al. (2017), Deep Learning Scaling is Predictable, Empirically,
        https://arxiv.org/abs/1712.00409: e(n) = alpha n^beta + gamma, here with a = gamma,
        b = alpha, c = -beta; Viering and Loog (2021), The Shape of Learning Curves: a Review,
        https://arxiv.org/abs/2103.10948, section 4.1, for its fit to learning curves.
    """
    exponents, asymptotes = (grid.ravel() for grid in np.meshgrid(EXPONENTS, ASYMPTOTES))
    ratios = np.asarray(num_images, np.float64)[np.newaxis] / num_images[-1]
    shapes = asymptotes[:, np.newaxis]
    shapes = shapes + (1 - shapes) * ratios ** -exponents[:, np.newaxis]
    size = float(np.trace(covariance)) / len(errors) + 1e-12
    inverse = np.linalg.inv(covariance + (_RIDGE * size) * np.eye(len(errors)))
    weighted = shapes @ inverse
    precision = np.sum(weighted * shapes, axis=1)
    best = weighted @ errors / precision
    residual = errors - best[:, np.newaxis] * shapes
    badness = np.sum((residual @ inverse) * residual, axis=1)
    density = np.exp(-(badness - badness.min()) / 2) / np.sqrt(precision)
    # each curve's scale, e(N), is uncertain as well
    scales = best[:, np.newaxis] + _NODES / np.sqrt(precision)[:, np.newaxis]
    weights = density[:, np.newaxis] * _NODE_WEIGHTS
    repeated = [np.repeat(values, len(_NODES)) for values in (asymptotes, exponents)]
    return PowerLaw(
        largest=float(num_images[-1]),
        errors=np.clip(scales, 0.0, 1.0).ravel(),
        asymptotes=repeated[0],
        exponents=repeated[1],
        weights=(weights / weights.sum()).ravel(),
    )
