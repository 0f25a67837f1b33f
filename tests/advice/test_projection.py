"""The parts of a plan add up from what was measured, each as often as training does it."""

import dataclasses

import numpy as np
import pytest

import tlkit
from tlkit.advice.projection import FORWARD_SHARE, Timings, seconds_of_head, seconds_of_plan
from tlkit.advice.timing import Timed, timed

TIMINGS = Timings(
    forward=Timed(100.0, 1.0),
    below=Timed(200.0, 0.5),
    decoding=Timed(3.0, 0.1),
    augmenting=Timed(5.0, 0.2),
    step=Timed(900.0, 6.0),
)


@pytest.fixture(scope="module")
def data():
    images = np.random.default_rng(0).integers(0, 255, (100, 4, 4, 3), "uint8")
    return tlkit.load_arrays(images, np.arange(100) % 2, batch_size=16)


def test_the_head_alone(data):
    train, validation = data.train.num_images, data.validation.num_images
    plain = seconds_of_head(data, TIMINGS)
    assert plain["preparing"] == 100 + 3 + 3
    assert plain["features"] == pytest.approx((train + validation) * 1.1)
    views = seconds_of_head(data, TIMINGS, views=4)
    assert views["preparing"] == 100 + 5 + 3
    assert views["features"] == pytest.approx(4 * train * 1.2 + validation * 1.1)


def test_steps_on_stored_activations(data):
    train, validation = data.train.num_images, data.validation.num_images
    found = seconds_of_plan(data, TIMINGS, epochs=4, views=2, is_solved=True, is_stored=True)
    assert list(found) == ["preparing", "features", "storing", "training", "measuring"]
    assert found["features"] == seconds_of_head(data, TIMINGS)["features"]
    # of the head, of storing, of steps with their validation, and of measuring twice
    preparing = 106 + (200 + 5 + 3) + 900 * (1 + FORWARD_SHARE) + 2 * (100 + 3)
    assert found["preparing"] == pytest.approx(preparing)
    assert found["storing"] == pytest.approx(2 * train * 0.7 + validation * 0.6)
    batches = -(-validation // 16)
    assert found["training"] == pytest.approx(4 * 6 * (-(-train // 16) + FORWARD_SHARE * batches))
    assert found["measuring"] == pytest.approx(2 * validation * 1.1)


def test_steps_on_whole_images(data):
    train, validation = data.train.num_images, data.validation.num_images
    found = seconds_of_plan(data, TIMINGS, epochs=4, views=2, is_solved=False, is_stored=False)
    assert list(found) == ["preparing", "training", "measuring"]
    assert found["preparing"] == pytest.approx((5 + 900) + (100 + 3) + 2 * (100 + 3))
    steps = -(-train // 16) * 6
    assert found["training"] == pytest.approx(4 * (0.2 * train + steps + 1.1 * validation))


def test_without_validation_nothing_is_measured(data):
    alone = dataclasses.replace(data, validation=None)
    plan = {"epochs": 4, "views": 2, "is_solved": True}
    found = seconds_of_plan(alone, TIMINGS, is_stored=True, **plan)
    assert found["measuring"] == 0
    assert found["preparing"] == (100 + 3) + (200 + 5) + 900
    found = seconds_of_plan(alone, TIMINGS, is_stored=False, **plan)
    assert found["preparing"] == (100 + 3) + (5 + 900)


def test_the_first_time_is_told_from_the_usual(monkeypatch):
    clock = iter(np.cumsum([0, 7, 0, 2, 0, 2]).tolist())
    monkeypatch.setattr("tlkit.advice.timing.time.perf_counter", lambda: float(next(clock)))
    found = timed(lambda: None)
    assert found == Timed(before=5.0, usual=2.0)
    assert found.shared_by(4) == Timed(before=5.0, usual=0.5)
