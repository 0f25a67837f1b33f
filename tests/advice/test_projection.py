"""The estimated time is the sum of measured times, each as often as in training."""

import dataclasses

import numpy as np
import pytest

import tlkit
from tlkit.advice.projection import (
    FORWARD_FRACTION,
    Timings,
    estimate_head_seconds,
    estimate_plan_seconds,
)
from tlkit.advice.timing import Timing, time_calls

TIMINGS = Timings(
    forward=Timing(100.0, 1.0),
    below=Timing(200.0, 0.5),
    decoding=Timing(3.0, 0.1),
    augmenting=Timing(5.0, 0.2),
    step=Timing(900.0, 6.0),
)


@pytest.fixture(scope="module")
def data():
    images = np.random.default_rng(0).integers(0, 255, (100, 4, 4, 3), "uint8")
    return tlkit.load_arrays(images, np.arange(100) % 2, batch_size=16)


def test_estimate_of_the_head_alone(data):
    train, validation = data.train.num_images, data.validation.num_images
    plain = estimate_head_seconds(data, TIMINGS)
    assert plain["preparing"] == 100 + 3 + 3
    assert plain["features"] == pytest.approx((train + validation) * 1.1)
    views = estimate_head_seconds(data, TIMINGS, views=4)
    assert views["preparing"] == 100 + 5 + 3
    assert views["features"] == pytest.approx(4 * train * 1.2 + validation * 1.1)


def test_estimate_with_stored_activations(data):
    train, validation = data.train.num_images, data.validation.num_images
    found = estimate_plan_seconds(data, TIMINGS, epochs=4, views=2, is_solved=True, is_stored=True)
    assert list(found) == ["preparing", "features", "storing", "training", "measuring"]
    assert found["features"] == estimate_head_seconds(data, TIMINGS)["features"]
    # the head, storing, steps with validation, and two evaluations
    preparing = 106 + (200 + 5 + 3) + 900 * (1 + FORWARD_FRACTION) + 2 * (100 + 3)
    assert found["preparing"] == pytest.approx(preparing)
    assert found["storing"] == pytest.approx(2 * train * 0.7 + validation * 0.6)
    batches = -(-validation // 16)
    assert found["training"] == pytest.approx(
        4 * 6 * (-(-train // 16) + FORWARD_FRACTION * batches)
    )
    assert found["measuring"] == pytest.approx(2 * validation * 1.1)


def test_estimate_without_stored_activations(data):
    train, validation = data.train.num_images, data.validation.num_images
    found = estimate_plan_seconds(
        data, TIMINGS, epochs=4, views=2, is_solved=False, is_stored=False
    )
    assert list(found) == ["preparing", "training", "measuring"]
    assert found["preparing"] == pytest.approx((5 + 900) + (100 + 3) + 2 * (100 + 3))
    steps = -(-train // 16) * 6
    assert found["training"] == pytest.approx(4 * (0.2 * train + steps + 1.1 * validation))


def test_without_validation_no_evaluation_is_estimated(data):
    alone = dataclasses.replace(data, validation=None)
    plan = {"epochs": 4, "views": 2, "is_solved": True}
    found = estimate_plan_seconds(alone, TIMINGS, is_stored=True, **plan)
    assert found["measuring"] == 0
    assert found["preparing"] == (100 + 3) + (200 + 5) + 900
    found = estimate_plan_seconds(alone, TIMINGS, is_stored=False, **plan)
    assert found["preparing"] == (100 + 3) + (5 + 900)


def test_the_first_call_is_timed_separately(monkeypatch):
    clock = iter(np.cumsum([0, 7, 0, 2, 0, 2]).tolist())
    monkeypatch.setattr("tlkit.advice.timing.time.perf_counter", lambda: float(next(clock)))
    found = time_calls(lambda: None)
    assert found == Timing(setup=5.0, typical=2.0)
    assert found.divide(4) == Timing(setup=5.0, typical=0.5)
