"""Learning rates: schedules, and an optimizer with a multiplier for each variable."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.training.rates import LayerwiseAdamW, layer_multipliers, schedule_of


def variables():
    return [keras.Variable(np.ones(3, "float32"), name=name) for name in ("near", "far")]


def gradients():
    return [tf.constant([0.1, -2.0, 3.0]), tf.constant([0.1, -2.0, 3.0])]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_multiplier_is_a_rate_of_its_own(weight_decay):
    """Compared with two plain optimizers, one with a tenth of the rate."""
    near, far = variables()
    optimizer = LayerwiseAdamW(
        0.01, multipliers={far.path: 0.1}, weight_decay=weight_decay, epsilon=1e-7
    )
    expected = []
    for rate in (0.01, 0.001):
        (alone,) = variables()[:1]
        plain = keras.optimizers.AdamW(rate, weight_decay=weight_decay, epsilon=1e-7)
        for _ in range(5):
            plain.apply([gradients()[0]], [alone])
        expected.append(alone.numpy())
    for _ in range(5):
        optimizer.apply(gradients(), [near, far])
    np.testing.assert_allclose(near.numpy(), expected[0], rtol=1e-6)
    np.testing.assert_allclose(far.numpy(), expected[1], rtol=1e-6)


@pytest.mark.parametrize("by_name", [False, True])
def test_excluded_variables_do_not_decay(by_name):
    """As with Keras's AdamW, and with the same state variables."""
    values, state = [], []
    for optimizer in (
        keras.optimizers.AdamW(0.01, weight_decay=0.5),
        LayerwiseAdamW(0.01, multipliers={}, weight_decay=0.5),
    ):
        near, far = variables()
        excluded = {"var_names": ["fa"]} if by_name else {"var_list": [far]}
        optimizer.exclude_from_weight_decay(**excluded)
        for _ in range(3):
            optimizer.apply(gradients(), [near, far])
        values.append([near.numpy(), far.numpy()])
        state.append([tuple(variable.shape) for variable in optimizer.variables])
    np.testing.assert_allclose(values[1], values[0], rtol=1e-6)
    assert (values[1][0] < values[1][1]).all()
    assert state[1] == state[0]


def test_clipping_is_by_the_norm_over_all_variables():
    near, far = variables()
    optimizer = LayerwiseAdamW(0.1, multipliers={}, global_clipnorm=1.0, weight_decay=0.0)
    clipped = optimizer._clip_gradients(gradients())
    assert float(tf.linalg.global_norm(clipped)) == pytest.approx(1.0, rel=1e-5)
    optimizer.apply(gradients(), [near, far])


def test_callbacks_change_the_rate_and_checkpoints_hold_the_slots(tmp_path):
    near, far = variables()
    optimizer = LayerwiseAdamW(0.01, multipliers={far.path: 0.5}, weight_decay=0.0)
    optimizer.apply(gradients(), [near, far])
    optimizer.learning_rate = 0.5  # as ReduceLROnPlateau and LearningRateScheduler do
    before = far.numpy().copy()
    optimizer.apply(gradients(), [near, far])
    assert np.abs(far.numpy() - before).max() > 0.1

    path = tf.train.Checkpoint(optimizer=optimizer).write(str(tmp_path / "checkpoint"))
    again = LayerwiseAdamW(0.01, multipliers={far.path: 0.5}, weight_decay=0.0)
    again.build([near, far])
    tf.train.Checkpoint(optimizer=again).read(path).assert_consumed()
    for a, b in zip(optimizer.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_distance_from_the_head_counts_groups():
    model = tlkit.build_classifier("tiny_resnet", ["a", "b"], weights=None)
    tlkit.set_trainable(model, "all")
    multipliers = layer_multipliers(model, 0.5)
    assert multipliers["logits/kernel"] == 1.0
    assert multipliers["stage3_1_conv/kernel"] == 0.5
    assert multipliers["stage1_stem_conv/kernel"] == 0.125
    assert set(multipliers) == {variable.path for variable in model.trainable_variables}


def test_layer_decay_changes_lower_groups_less(data):
    changes = {}
    for decay in (1.0, 0.1):
        model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
        report = tlkit.fine_tune(
            model, data.train.dataset(), unfreeze="all", epochs=1, layer_decay=decay
        )
        changes[decay] = report.stages[-1].weight_change
    assert changes[0.1]["stage1"] < 0.01 * changes[1.0]["stage1"]
    assert changes[0.1]["head"] > 0.1 * changes[1.0]["head"]


@pytest.mark.parametrize("decay", [0.0, -1.0, 1.5])
def test_layer_decay_must_be_a_fraction(data, decay):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    with pytest.raises(tlkit.ArgumentError, match="`layer_decay` must be"):
        tlkit.fine_tune(model, data, layer_decay=decay)


def test_schedules_have_the_documented_rates():
    assert schedule_of("constant", 0.1, 100) == 0.1
    step = schedule_of("step", 0.1, 100)
    assert [round(float(step(i)), 6) for i in (0, 49, 50, 75)] == [0.1, 0.1, 0.01, 0.001]
    cosine = schedule_of("cosine", 0.1, 100)
    assert float(cosine(0)) == 0.0
    assert float(cosine(10)) == pytest.approx(0.1)
    assert float(cosine(100)) == pytest.approx(0.0, abs=1e-8)


def test_reduce_on_plateau_works_with_a_constant_rate(data):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(float(self.model.optimizer.learning_rate))

    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=1, min_delta=100)
    tlkit.fine_tune(
        model, data, epochs=4, schedule="constant", callbacks=[plateau, Watch()], views=0
    )
    assert seen[0] == pytest.approx(5e-4)
    assert seen[-1] < 1e-5


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 7, 8, 100])
def test_a_stepped_rate_falls_at_half_and_at_three_quarters_of_the_steps(num_steps):
    rate = schedule_of("step", 1.0, num_steps)
    rates = [float(rate(step)) for step in range(num_steps)]
    wanted = [
        1.0 if step < num_steps / 2 else 0.1 if step < 3 * num_steps / 4 else 0.01
        for step in range(num_steps)
    ]
    np.testing.assert_allclose(rates, wanted, rtol=1e-6)
