import numpy as np
import pytest
from scipy.stats import binom, binomtest

from tlkit.evaluation.intervals import (
    mean_paired_difference_interval,
    mean_share_interval,
    paired_difference_interval,
    wilson_interval,
)


@pytest.mark.parametrize("trials", [1, 2, 7, 20, 263, 10_000])
def test_wilson_interval_is_the_known_one(trials):
    for successes in {0, 1, trials // 3, trials - 1, trials}:
        known = binomtest(successes, trials).proportion_ci(method="wilson")
        found = wilson_interval(successes / trials, trials)
        assert found == pytest.approx((known.low, known.high), abs=1e-12)


def test_wilson_interval_takes_shares_of_what_is_no_whole_number_of_trials():
    """As those of label decisions with a multi-label head, several an image."""
    ends = [wilson_interval(share, 20) for share in (0.70, 0.71, 0.75)]
    assert ends == sorted(ends)
    assert len(set(ends)) == 3


@pytest.mark.parametrize("trials", [1, 2, 3, 5, 10, 19, 100])
def test_wilson_interval_serves_any_number_of_trials(trials):
    found = np.arange(trials + 1)
    low, high = np.array([wilson_interval(one / trials, trials) for one in found]).T[..., None]
    shares = np.linspace(0.005, 0.995, 199)
    chance = binom.pmf(found[:, None], trials, shares)
    covered = (chance * ((low <= shares) & (shares <= high))).sum(axis=0)
    assert 0.949 < covered.mean() < 0.96
    assert covered.min() > 0.79
    assert np.all(high - low > 0.7) or trials > 1


@pytest.mark.parametrize(("share", "num_trials"), [(0.0, 7), (0.3, 10), (1.0, 50)])
def test_the_mean_of_one_share_has_wilson_s_interval(share, num_trials):
    found = mean_share_interval(np.array([share]), np.array([num_trials]))
    assert found == pytest.approx(wilson_interval(share, num_trials))


@pytest.mark.parametrize(
    ("shares", "num_trials"),
    [([0.95, 0.8, 0.99, 0.6, 0.9], [14, 21, 20, 25, 20]), ([0.7, 0.9], [10, 200])],
)
def test_the_mean_s_interval_covers_what_it_should(shares, num_trials):
    generator = np.random.default_rng(0)
    shares, num_trials = np.array(shares), np.array(num_trials)
    covered = 0
    for _ in range(1000):
        drawn = generator.binomial(num_trials, shares) / num_trials
        low, high = mean_share_interval(drawn, num_trials)
        covered += low <= shares.mean() <= high
    assert 0.925 < covered / 1000 < 0.98


@pytest.mark.parametrize(
    ("shares", "num_trials"),
    [
        ([0.95] * 10, [20] * 10),
        ([0.8] * 10, [5] * 10),
        ([0.99] * 5, [10] * 5),
        ([0.99] * 3, [5] * 3),
        (np.linspace(0.8, 1, 10), [5] * 10),
        ([1.0] * 4 + [0.7], [10] * 5),
        ([0.93] * 5, [40, 10, 10, 10, 10]),
        ([0.9] * 2, [10] * 2),
    ],
)
def test_few_images_of_high_recall_are_covered_too(shares, num_trials):
    """Sums of squared distances to Wilson's ends hold 87 to 90 % in the first four of these."""
    generator = np.random.default_rng(0)
    shares, num_trials = np.array(shares), np.array(num_trials)
    found = {}
    covered = 0
    for drawn in generator.binomial(num_trials, shares, (1000, len(shares))):
        key = tuple(drawn)
        if key not in found:
            found[key] = mean_share_interval(drawn / num_trials, num_trials)
        low, high = found[key]
        covered += low - 1e-12 <= shares.mean() <= high + 1e-12
    assert covered / 1000 > 0.915


def test_shares_of_one_alike_have_wilson_s_interval_of_all_trials():
    found = mean_share_interval(np.ones(3), np.array([5, 5, 5]))
    assert found == pytest.approx(wilson_interval(1.0, 15), abs=1e-6)
    turned = mean_share_interval(np.zeros(3), np.array([5, 5, 5]))
    assert turned == pytest.approx((1 - found[1], 1 - found[0]))


@pytest.mark.parametrize("num_classes", [2, 3, 100])
def test_one_image_a_class_gives_a_wide_interval_that_holds_the_estimate(num_classes):
    shares = np.arange(num_classes) % 2
    low, high = mean_share_interval(shares, np.ones(num_classes))
    assert 0 <= low < shares.mean() < high <= 1
    assert high - low > 1.0 / np.sqrt(num_classes)


def test_the_paired_interval_is_newcombe_s():
    """Newcombe (1998), table II, method 10, for 36, 12, 2, 0 of 50."""
    assert paired_difference_interval(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    low, high = paired_difference_interval(36, 2, 12, 0)
    assert (-high, -low) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@pytest.mark.parametrize("counts", [(9, 0, 0, 0), (0, 0, 0, 9), (0, 9, 0, 0), (5, 0, 0, 4)])
def test_the_paired_interval_holds_the_difference_at_the_edges(counts):
    low, high = paired_difference_interval(*counts)
    difference = (counts[1] - counts[2]) / 9
    assert -1 <= low <= difference <= high <= 1
    assert low < high


def test_the_paired_interval_covers_what_it_should():
    generator = np.random.default_rng(0)
    shares = np.array([0.75, 0.12, 0.06, 0.07])
    covered = 0
    for counts in generator.multinomial(80, shares, size=1000):
        low, high = paired_difference_interval(*counts.tolist())
        covered += low <= 0.06 <= high
    assert 0.925 < covered / 1000 < 0.98


def test_the_interval_of_a_mean_of_paired_differences():
    strata = [(36, 12, 2, 0), (8, 1, 0, 1), (5, 0, 3, 2)]
    assert mean_paired_difference_interval(strata[:1]) == paired_difference_interval(*strata[0])
    differences = np.array([(one[1] - one[2]) / sum(one) for one in strata])
    ends = np.array([paired_difference_interval(*one) for one in strata])
    variances = np.sum((ends - differences[:, None]) ** 2, axis=0) / 9  # of a mean of three
    expected = differences.mean() + np.array([-1, 1]) * np.sqrt(variances)
    assert mean_paired_difference_interval(strata) == pytest.approx(expected)
    turned = mean_paired_difference_interval([(a, c, b, d) for a, b, c, d in strata])
    assert turned == pytest.approx(-expected[::-1])


@pytest.mark.parametrize(
    ("sizes", "discordant"),
    [((8, 200), (0.1, 0.1)), ((20, 30, 150), (0.3, 0.1, 0.05)), ((10,) * 10, (0.05,) * 10)],
)
def test_the_interval_of_a_mean_of_paired_differences_covers_what_it_should(sizes, discordant):
    generator = np.random.default_rng(0)
    rates = [(0.9 - 0.9 * d, 0.7 * d, 0.3 * d, 0.1 - 0.1 * d) for d in discordant]
    true = np.mean([one[1] - one[2] for one in rates])
    covered = 0
    for _ in range(400):
        drawn = [generator.multinomial(n, one) for n, one in zip(sizes, rates, strict=True)]
        low, high = mean_paired_difference_interval(drawn)
        covered += low <= true <= high
    assert covered / 400 > 0.93
