"""How sure a share is: 95 % intervals in closed form, all built on Wilson's."""

import math

import numpy as np

Interval = tuple[float, float]

Z = 1.959963984540054
"""The normal distribution's 97.5 % quantile."""


def wilson_interval(share: float, num_trials: int) -> Interval:
    """Returns the 95 % interval of a share, which stays inside 0...1 and serves small numbers.

    It is given for any number of trials, one too. Over all shares alike it holds the true one in
    95 % of cases and no fewer, whatever the number is (for a single share in as few as 80 % with
    one trial, in 91 % with a hundred), and of few trials it is as wide as they deserve: it says by
    itself that one right answer tells next to nothing.

    Args:
        share: Of successes, 0...1.
        num_trials: Number of trials, at least 1.

    Example:
        >>> low, high = wilson_interval(0.85, 100)
        >>> round(low, 3), round(high, 3)
        (0.767, 0.907)

    Reference:
        Wilson (1927), as recommended in section 3.1.1 of Brown, Cai and DasGupta, Interval
        Estimation for a Binomial Proportion, https://doi.org/10.1214/ss/1009213286, which speaks
        for it where trials are few; without the continuity correction.
    """
    scale = 1 + Z**2 / num_trials
    centre = (share + Z**2 / (2 * num_trials)) / scale
    spread = share * (1 - share) / num_trials + Z**2 / (4 * num_trials**2)
    half = Z * math.sqrt(spread) / scale
    # at 0 and at 1 the formula's end is the share itself, up to rounding
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def mean_share_interval(shares: np.ndarray, num_trials: np.ndarray) -> Interval:
    """Returns the 95 % interval of the plain mean of independent shares.

    The distances from each share to the ends of its own Wilson interval are added in squares. Of
    one share this is Wilson's interval itself.

    Args:
        shares: `(n,)`, 0...1.
        num_trials: Trials behind each of them, `(n,)`, at least 1.

    Example:
        >>> import numpy as np
        >>> low, high = mean_share_interval(np.array([1.0, 0.5]), np.array([20, 20]))
        >>> round(low, 3), round(high, 3)
        (0.621, 0.85)

    Reference:
        Zou, Huang and Zhang, A note on confidence interval estimation for a linear function of
        binomial proportions, Computational Statistics & Data Analysis 53 (2009) 1080-1085, with
        Wilson's limits.
    """
    ends = np.array([wilson_interval(*one) for one in zip(shares, num_trials, strict=True)])
    mean = float(np.mean(shares))
    below = float(np.linalg.norm(shares - ends[:, 0])) / len(shares)
    above = float(np.linalg.norm(ends[:, 1] - shares)) / len(shares)
    return mean - below, mean + above


def paired_difference_interval(
    num_both: int, num_first: int, num_second: int, num_neither: int
) -> Interval:
    """Returns the 95 % interval of a difference of two shares of the same trials.

    Args:
        num_both: Trials that succeed both times.
        num_first: Those that succeed the first time only.
        num_second: Those that succeed the second time only.
        num_neither: Those that fail both times.

    Returns:
        The ends of the interval of first minus second, -1...1.

    Example:
        >>> low, high = paired_difference_interval(36, 12, 2, 0)
        >>> round(low, 4), round(high, 4)
        (0.0569, 0.3404)

    Reference:
        Method 10 of Newcombe, Improved confidence intervals for the difference between binomial
        proportions based on paired data, Statistics in Medicine 17 (1998) 2635-2650.
    """
    num_trials = num_both + num_first + num_second + num_neither
    first = (num_both + num_first) / num_trials
    second = (num_both + num_second) / num_trials
    margins = first * (1 - first) * second * (1 - second) * num_trials**4
    covariance = float(num_both * num_neither - num_first * num_second)
    if covariance > 0:
        covariance = max(covariance - num_trials / 2, 0.0)
    correlation = covariance / math.sqrt(margins) if margins > 0 else 0.0
    low_first, high_first = wilson_interval(first, num_trials)
    low_second, high_second = wilson_interval(second, num_trials)

    def combined(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0))

    below = combined(first - low_first, high_second - second)
    above = combined(high_first - first, second - low_second)
    return first - second - below, first - second + above
