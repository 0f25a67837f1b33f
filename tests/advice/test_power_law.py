"""The fitted power laws: they recover a known curve, and stay monotone and between 0 and 1."""

import numpy as np
import pytest

from tlkit.advice.power_law import fit_power_law

SIZES = np.array([100.0, 200.0, 300.0, 400.0])


@pytest.mark.parametrize(
    ("asymptote", "factor", "exponent"), [(0.0, 2.0, 0.5), (0.1, 1.0, 0.5), (0.05, 3.0, 0.8)]
)
def test_a_known_power_law_is_recovered(asymptote, factor, exponent):
    def error(n):
        return asymptote + factor * n**-exponent

    law = fit_power_law(SIZES, error(SIZES), 2e-4**2 * np.eye(4))
    assert law.mean(law.errors_at(800)) == pytest.approx(error(800), abs=0.003)
    low, high = law.interval(law.errors_at(400) - law.errors_at(800), 0.8)
    assert low - 1e-3 <= error(400) - error(800) <= high + 1e-3
    assert high - low < 0.02


def test_noisy_errors_leave_a_wide_range():
    errors = 2 * SIZES**-0.5
    widths = []
    for deviation in (1e-3, 1e-2, 1e-1):
        law = fit_power_law(SIZES, errors, deviation**2 * np.eye(4))
        low, high = law.interval(law.errors_at(400) - law.errors_at(800), 0.8)
        widths.append(high - low)
    assert widths == sorted(widths)


@pytest.mark.parametrize("errors", [SIZES / 400, SIZES * 0, 2 - SIZES / 400, SIZES / 4000])
def test_extrapolations_decrease_within_0_and_1(errors):
    law = fit_power_law(SIZES, np.clip(errors, 0, 1), 1e-4 * np.eye(4))
    curves = np.stack([law.errors_at(number) for number in (50, 100, 400, 800, 1e6)])
    assert np.all(np.diff(curves, axis=0) <= 0)
    assert curves.min() >= 0
    assert curves.max() <= 1
    assert law.weights.sum() == pytest.approx(1)
