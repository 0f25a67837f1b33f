"""Forgetting: each measure compared with its formula, and the guard."""

import numpy as np
import pytest

import tlkit
from tlkit.errors import ArgumentError
from tlkit.plots.continual import plot_forgetting

ROWS = [[0.1, 0.2, 0.3], [0.9, 0.25, 0.3], [0.8, 0.95, 0.5], [0.85, 0.7, 0.9]]


@pytest.fixture
def matrix():
    matrix = tlkit.ForgettingMatrix(["a", "b", "c"], scenario="task-incremental")
    for row in ROWS:
        matrix.record(row)
    return matrix


def test_each_measure_is_its_formula(matrix):
    assert matrix.average_accuracy == pytest.approx((0.85 + 0.7 + 0.9) / 3)
    assert matrix.backward_transfer == pytest.approx(((0.85 - 0.9) + (0.7 - 0.95)) / 2)
    assert matrix.forward_transfer == pytest.approx(((0.25 - 0.2) + (0.5 - 0.3)) / 2)
    assert matrix.forgetting == pytest.approx(((0.9 - 0.85) + (0.95 - 0.7)) / 2)
    assert matrix.smallest_accuracy == 0.7
    assert matrix.intransigence([1.0, 1.0, 1.0]) == pytest.approx((0.1 + 0.05 + 0.1) / 3)


def test_forgetting_is_relative_to_the_best_row_and_backward_transfer_to_a_tasks_own_row():
    matrix = tlkit.ForgettingMatrix(["a", "b", "c"], scenario="domain-incremental")
    for row in ([0, 0, 0], [0.5, 0, 0], [0.9, 0.5, 0], [0.7, 0.5, 0.5]):
        matrix.record(row)
    assert matrix.backward_transfer == pytest.approx((0.2 + 0.0) / 2)
    assert matrix.forgetting == pytest.approx((0.2 + 0.0) / 2)
    assert matrix.smallest_accuracy == 0.5


def test_forgetting_includes_rows_before_a_tasks_own_training():
    """In the equation l runs over all earlier tasks, without the row before any training."""
    matrix = tlkit.ForgettingMatrix(["a", "b", "c"], scenario="domain-incremental")
    for row in ([0.1, 0.99, 0], [0.5, 0.8, 0], [0.5, 0.6, 0], [0.5, 0.5, 0.5]):
        matrix.record(row)
    assert matrix.forgetting == pytest.approx((0.0 + (0.8 - 0.5)) / 2)


@pytest.mark.parametrize(
    "figures",
    [(0.8, 0.1, 0.7, True), (0.3, 0.1, 0.2, True), (1.0, 0.0, 1.0, True), (0.8, 0.1, 0.69, False)],
)
def test_a_guard_allows_exactly_its_budget(model, old, monkeypatch, figures):
    before, budget, after, allowed = figures
    guard = tlkit.ForgettingGuard(model, old.train, budget=budget, before=before)
    guard.set_model(model)
    monkeypatch.setattr(guard, "_evaluate", lambda: after)
    guard.on_train_begin()
    guard.on_epoch_end(0, {})
    assert guard.allowed is allowed


def test_measures_are_computed_on_the_tasks_trained_so_far():
    matrix = tlkit.ForgettingMatrix(["a", "b", "c"], scenario="task-incremental")
    with pytest.raises(ArgumentError, match="0 rows"):
        _ = matrix.average_accuracy
    for row in ROWS[:2]:
        matrix.record(row)
    assert matrix.average_accuracy == 0.9
    assert np.isnan(matrix.forgetting)
    assert np.isnan(matrix.backward_transfer)


def test_a_matrix_is_restored_from_its_file(matrix, tmp_path):
    matrix.save(tmp_path / "matrix.json")
    again = tlkit.ForgettingMatrix.load(tmp_path / "matrix.json")
    np.testing.assert_array_equal(again.accuracy, matrix.accuracy)
    assert (again.task_names, again.scenario) == (matrix.task_names, matrix.scenario)


def test_the_scenario_is_always_named_with_a_warning_for_class_incremental(matrix):
    assert "task-incremental" in str(matrix)
    assert "known to fail" not in str(matrix)
    other = tlkit.ForgettingMatrix(["a"], scenario="class-incremental")
    other.record([0.1])
    other.record([0.9])
    assert "known to fail" in str(other)
    assert "class-incremental" in plot_forgetting(other).axes[0].get_title()


def test_the_heat_map_shows_every_figure(matrix):
    axes = plot_forgetting(matrix).axes[0]
    assert [text.get_text() for text in axes.texts][:3] == ["10", "20", "30"]
    assert len(axes.texts) == 12


@pytest.mark.parametrize("row", [[0.5, 0.5], [0.5, 0.5, 1.5], [0.5, 0.5, float("nan")]])
def test_rows_must_fit(row):
    matrix = tlkit.ForgettingMatrix(["a", "b", "c"], scenario="task-incremental")
    with pytest.raises(ArgumentError, match="3 numbers from 0 to 1"):
        matrix.record(row)


def test_nothing_is_recorded_after_the_last_task(matrix):
    with pytest.raises(ArgumentError, match="after the last task"):
        matrix.record(ROWS[0])


@pytest.mark.parametrize(
    ("names", "scenario", "message"),
    [
        (["a"], "continual", "task-incremental"),
        ([], "task-incremental", "one or more distinct names"),
        (["a", "a"], "task-incremental", "one or more distinct names"),
    ],
)
def test_bad_matrices(names, scenario, message):
    with pytest.raises(ArgumentError, match=message):
        tlkit.ForgettingMatrix(names, scenario=scenario)


@pytest.fixture
def old():
    """The same images as `data`, whose labels are flipped in training: learning is forgetting."""
    labels = np.arange(64) % 2
    images = np.random.default_rng(0).integers(0, 99, (64, 32, 32, 3), "uint8")
    images[labels == 1, :, :, 0] += 60
    return tlkit.load_arrays(images, labels, ["grey", "red"])


@pytest.mark.parametrize("action", ["stop", "roll back"])
def test_a_guard_stops_training_and_no_epoch_beyond_the_budget_is_kept(model, data, old, action):
    tlkit.train_head(model, old)
    flipped = data.train.dataset().map(lambda images, labels: (images, 1 - labels))
    guard = tlkit.ForgettingGuard(model, old.validation, budget=0.05, action=action)
    before = model.get_weights()
    report = tlkit.fine_tune(
        model, flipped, unfreeze="all", epochs=6, learning_rate=0.01, callbacks=[guard]
    )
    history = report.stages[-1].history
    assert len(history) < 6
    assert guard.before == 1.0
    assert guard.accuracies[-1] < 0.95
    assert [epoch["old_accuracy"] for epoch in history] == guard.accuracies
    assert tlkit.evaluate(model, old.validation).accuracy >= 0.95
    if len(history) == 1:
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("action", "kept"), [("stop", False), ("roll back", True)])
def test_in_plain_keras_only_roll_back_restores_weights(model, old, action, kept):
    import keras

    tlkit.train_head(model, old)
    guard = tlkit.ForgettingGuard(model, old.train, budget=0.05, action=action)
    flipped = old.train.dataset().map(lambda images, labels: (images, 1 - labels))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1.0), loss)
    model.fit(flipped, epochs=6, verbose=0, callbacks=[guard], shuffle=False)
    assert len(guard.accuracies) < 6
    assert (tlkit.evaluate(model, old.train).accuracy >= 0.95) == kept


def test_a_guard_needs_images_and_valid_arguments(model, old):
    import dataclasses

    with pytest.raises(ArgumentError, match="`old_data` must contain images"):
        tlkit.ForgettingGuard(model, dataclasses.replace(old, validation=None), 0.05)
    with pytest.raises(ArgumentError, match="budget=-1"):
        tlkit.ForgettingGuard(model, old, -1)
    with pytest.raises(ArgumentError, match="roll back"):
        tlkit.ForgettingGuard(model, old, 0.1, action="rollback")
