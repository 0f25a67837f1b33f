import json

import numpy as np
import pytest

from tlkit.evaluation.reliability import measure_reliability


def test_the_error_is_the_weighted_absolute_difference():
    """Three of four correct at 95 % confidence, one of two at 30 %."""
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.3, 0.3])
    is_right = np.array([1, 1, 1, 0, 1, 0], bool)
    found = measure_reliability(confidence, is_right)
    assert found.error == pytest.approx((4 * 0.2 + 2 * 0.2) / 6)
    assert found.counts[[14, 4]].tolist() == [4, 2]
    assert found.counts.sum() == 6
    assert found.accuracy[14] == 0.75
    assert np.isnan(found.confidence[0])
    assert found.error_by_chance is None
    assert "too few images" in str(found)
    content = json.loads(json.dumps(found.as_dict()))
    assert content["confidence"][0] is None
    assert content["accuracy"][4] == 0.5


def test_confidences_of_0_and_1_fall_into_the_end_bins():
    found = measure_reliability(np.array([0.0, 1.0, 1 / 15]), np.array([0, 1, 0], bool))
    assert found.counts[[0, 14]].tolist() == [2, 1]
    beyond = measure_reliability(np.full(30, np.float32(1) + np.finfo(np.float32).eps), np.ones(30))
    assert beyond.counts[14] == 30
    assert beyond.error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("num_images", [20, 100, 1000])
def test_a_calibrated_model_is_within_the_range_by_chance(num_images):
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        confidence = generator.uniform(0.3, 1, num_images)
        found = measure_reliability(confidence, generator.random(num_images) < confidence)
        inside += found.error_by_chance[0] <= found.error <= found.error_by_chance[1]
    assert 0.91 < inside / 300 < 0.985
    sure = measure_reliability(np.full(num_images, 0.99), np.arange(num_images) % 4 > 0)
    assert sure.error > sure.error_by_chance[1]
    assert "of a perfectly calibrated model" in str(sure)


def test_the_same_seed_gives_the_same_range():
    confidence = np.linspace(0.4, 1, 50)
    is_right = np.arange(50) % 3 > 0
    first, second = (measure_reliability(confidence, is_right) for _ in range(2))
    assert first.error_by_chance == second.error_by_chance
    hanging = measure_reliability(confidence, is_right, independent=False)
    assert hanging.error_by_chance is None
    assert "chance" not in str(hanging)
