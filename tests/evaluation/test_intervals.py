import numpy as np
import pytest
from scipy.stats import binom, binomtest

from tlkit.evaluation.intervals import (
    mean_paired_difference_interval,
    mean_proportion_interval,
    paired_difference_interval,
    wilson_interval,
)


@pytest.mark.parametrize("trials", [1, 2, 7, 20, 263, 10_000])
def test_wilson_interval_equals_the_reference(trials):
    for successes in {0, 1, trials // 3, trials - 1, trials}:
        known = binomtest(successes, trials).proportion_ci(method="wilson")
        found = wilson_interval(successes / trials, trials)
        assert found == pytest.approx((known.low, known.high), abs=1e-12)


def test_wilson_interval_accepts_fractional_numbers_of_successes():
    """As for the label decisions of a multi-label head, of which each image has several."""
    ends = [wilson_interval(proportion, 20) for proportion in (0.70, 0.71, 0.75)]
    assert ends == sorted(ends)
    assert len(set(ends)) == 3


@pytest.mark.parametrize("trials", [1, 2, 3, 5, 10, 19, 100])
def test_wilson_interval_is_valid_for_any_number_of_trials(trials):
    found = np.arange(trials + 1)
    low, high = np.array([wilson_interval(one / trials, trials) for one in found]).T[..., None]
    proportions = np.linspace(0.005, 0.995, 199)
    chance = binom.pmf(found[:, None], trials, proportions)
    covered = (chance * ((low <= proportions) & (proportions <= high))).sum(axis=0)
    assert 0.949 < covered.mean() < 0.96
    assert covered.min() > 0.79
    assert np.all(high - low > 0.7) or trials > 1


@pytest.mark.parametrize(("proportion", "num_trials"), [(0.0, 7), (0.3, 10), (1.0, 50)])
def test_the_mean_of_one_proportion_has_wilsons_interval(proportion, num_trials):
    found = mean_proportion_interval(np.array([proportion]), np.array([num_trials]))
    assert found == pytest.approx(wilson_interval(proportion, num_trials))


@pytest.mark.parametrize(
    ("proportions", "num_trials"),
    [([0.95, 0.8, 0.99, 0.6, 0.9], [14, 21, 20, 25, 20]), ([0.7, 0.9], [10, 200])],
)
def test_the_interval_of_the_mean_has_its_nominal_coverage(proportions, num_trials):
    generator = np.random.default_rng(0)
    proportions, num_trials = np.array(proportions), np.array(num_trials)
    covered = 0
    for _ in range(1000):
        drawn = generator.binomial(num_trials, proportions) / num_trials
        low, high = mean_proportion_interval(drawn, num_trials)
        covered += low <= proportions.mean() <= high
    assert 0.925 < covered / 1000 < 0.98


@pytest.mark.slow
@pytest.mark.parametrize(
    ("proportions", "num_trials"),
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
def test_the_coverage_holds_for_few_images_with_high_recall(proportions, num_trials):
    """Sums of squared distances to Wilson's ends have a coverage of 87 to 90 % in the first
    four."""
    generator = np.random.default_rng(0)
    proportions, num_trials = np.array(proportions), np.array(num_trials)
    found = {}
    covered = 0
    for drawn in generator.binomial(num_trials, proportions, (1000, len(proportions))):
        key = tuple(drawn)
        if key not in found:
            found[key] = mean_proportion_interval(drawn / num_trials, num_trials)
        low, high = found[key]
        covered += low - 1e-12 <= proportions.mean() <= high + 1e-12
    assert covered / 1000 > 0.915


def test_proportions_of_one_have_wilsons_interval_of_all_trials():
    found = mean_proportion_interval(np.ones(3), np.array([5, 5, 5]))
    assert found == pytest.approx(wilson_interval(1.0, 15), abs=1e-6)
    turned = mean_proportion_interval(np.zeros(3), np.array([5, 5, 5]))
    assert turned == pytest.approx((1 - found[1], 1 - found[0]))


@pytest.mark.parametrize("num_classes", [2, 3, 100])
def test_one_image_per_class_gives_a_wide_interval_with_the_estimate(num_classes):
    proportions = np.arange(num_classes) % 2
    low, high = mean_proportion_interval(proportions, np.ones(num_classes))
    assert 0 <= low < proportions.mean() < high <= 1
    assert high - low > 1.0 / np.sqrt(num_classes)


def test_the_paired_interval_is_newcombes():
    """Newcombe (1998), table II, method 10, for 36, 12, 2, 0 of 50."""
    assert paired_difference_interval(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    low, high = paired_difference_interval(36, 2, 12, 0)
    assert (-high, -low) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@pytest.mark.parametrize("counts", [(9, 0, 0, 0), (0, 0, 0, 9), (0, 9, 0, 0), (5, 0, 0, 4)])
def test_the_paired_interval_contains_extreme_differences(counts):
    low, high = paired_difference_interval(*counts)
    difference = (counts[1] - counts[2]) / 9
    assert -1 <= low <= difference <= high <= 1
    assert low < high


def test_the_paired_interval_has_its_nominal_coverage():
    generator = np.random.default_rng(0)
    proportions = np.array([0.75, 0.12, 0.06, 0.07])
    covered = 0
    for counts in generator.multinomial(80, proportions, size=1000):
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
def test_the_interval_of_mean_paired_differences_has_its_nominal_coverage(sizes, discordant):
    generator = np.random.default_rng(0)
    rates = [(0.9 - 0.9 * d, 0.7 * d, 0.3 * d, 0.1 - 0.1 * d) for d in discordant]
    true = np.mean([one[1] - one[2] for one in rates])
    covered = 0
    for _ in range(400):
        drawn = [generator.multinomial(n, one) for n, one in zip(sizes, rates, strict=True)]
        low, high = mean_paired_difference_interval(drawn)
        covered += low <= true <= high
    assert covered / 400 > 0.93
