"""Anchors: zero where they stand, the formula's gradient away from it, and nothing left behind."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.errors import ArgumentError


def kernel(model, name="stage3_block1_1_conv"):
    return model.get_layer(name).kernel


def test_the_penalty_is_zero_at_the_anchor_and_the_sum_of_squares_away_from_it(model):
    anchor = tlkit.anchor_weights(model, 0.5)
    assert anchor.penalties() == {"stage1": 0.0, "stage2": 0.0, "stage3": 0.0}
    assert float(tf.add_n(model.losses)) == 0.0
    kernel(model).assign(kernel(model) + 0.1)
    expected = 0.5 * 0.1**2 * np.prod(kernel(model).shape)
    np.testing.assert_allclose(anchor.penalties()["stage3"], expected, rtol=1e-4)
    np.testing.assert_allclose(float(tf.add_n(model.losses)), expected, rtol=1e-4)


def test_its_gradient_is_the_formulas(model):
    generator = np.random.default_rng(0)
    shape = tuple(kernel(model).shape)
    importance = {
        v.path: generator.random(tuple(v.shape), np.float32) for v in model.trainable_variables
    }
    here = kernel(model).numpy()
    tlkit.anchor_weights(model, 0.7, importance)
    step = generator.normal(0, 1, shape).astype(np.float32)
    kernel(model).assign(here + step)
    with tf.GradientTape() as tape:
        penalty = tf.add_n(model.losses)
    gradient = tape.gradient(penalty, kernel(model).value).numpy()
    moved = kernel(model).numpy() - here
    expected = 2 * 0.7 * importance[kernel(model).path] * moved
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


def test_the_head_is_held_only_when_asked_and_moving_averages_never(model):
    def held(anchor):
        return {id(variable) for variable in anchor.undecayed}

    without, whole = (
        tlkit.anchor_weights(model, 1.0),
        tlkit.anchor_weights(model, 1.0, groups="all"),
    )
    assert held(whole) - held(without) == {id(v) for v in model.get_layer("logits").weights}
    assert held(whole) == {id(variable) for variable in model.trainable_variables}
    some = tlkit.anchor_weights(model, 1.0, groups=["stage2"])
    assert some.groups == ("stage2",)


def test_frozen_weights_add_nothing(model):
    tlkit.anchor_weights(model, 1.0)
    kernel(model, "stage1_stem_conv").assign(kernel(model, "stage1_stem_conv") + 1.0)
    assert float(tf.add_n(model.losses)) > 0
    tlkit.set_trainable(model, "stage3")
    assert float(tf.add_n(model.losses)) == 0.0


def test_released_weights_have_the_regularizer_they_had(model):
    own = keras.regularizers.L2(0.01)
    kernel(model).regularizer = own
    first, second = tlkit.anchor_weights(model, 1.0), tlkit.anchor_weights(model, 2.0)
    kernel(model).assign(kernel(model) + 0.1)
    of_both = float(kernel(model).regularizer(kernel(model)))
    alone = float(own(kernel(model)))
    np.testing.assert_allclose(
        of_both - alone, first.penalties()["stage3"] + second.penalties()["stage3"], rtol=1e-4
    )
    first.release()
    assert second.penalties()["stage3"] > 0
    second.release()
    assert kernel(model).regularizer is own
    assert kernel(model, "stage1_stem_conv").regularizer is None


def test_a_saved_model_holds_no_reference_and_loads_in_plain_keras(model, tmp_path):
    size = {}
    for name in ("plain", "anchored"):
        if name == "anchored":
            tlkit.anchor_weights(model, 1.0)
        model.save(tmp_path / f"{name}.keras")
        size[name] = (tmp_path / f"{name}.keras").stat().st_size
    assert size["anchored"] == size["plain"]
    loaded = keras.models.load_model(tmp_path / "anchored.keras")
    assert all(variable.regularizer is None for variable in loaded.variables)


@pytest.mark.parametrize(("mode", "strong"), [("penalty", 1e3), ("proximal", 1e4)])
def test_a_strong_anchor_keeps_the_weights_and_a_weak_one_does_not(model, data, mode, strong):
    tlkit.train_head(model, data)
    start = model.get_weights()
    moved = {}
    for strength in (1e-6, strong):
        model.set_weights(start)
        anchor = tlkit.anchor_weights(model, strength, mode=mode)
        tlkit.fine_tune(
            model,
            data.train.dataset(shuffle=True),
            unfreeze="stage3",
            epochs=3,
            anchor=anchor,
            learning_rate=1e-3,
            weight_decay=0.0,
        )
        moved[strength] = sum(anchor.penalties().values()) / strength
        anchor.release()
    assert moved[strong] < 0.2 * moved[1e-6]


@pytest.mark.parametrize("mode", ["penalty", "proximal"])
def test_the_log_has_every_groups_penalty_and_its_share(model, data, mode):
    anchor = tlkit.anchor_weights(model, 0.1, mode=mode)
    stage = tlkit.fine_tune(
        model, data, unfreeze="stage3", epochs=2, anchor=anchor, learning_rate=1e-3
    ).stages[-1]
    last = stage.history[-1]
    assert last["anchor_stage3"] > 0
    assert last["anchor_stage1"] == last["anchor_stage2"] == 0.0  # frozen
    whole = last["loss"] + (last["anchor_stage3"] if mode == "proximal" else 0.0)
    np.testing.assert_allclose(last["anchor_share"], last["anchor_stage3"] / whole, rtol=1e-3)
    assert not any(name.startswith("val_anchor") for name in last)
    assert any("weight decay is off" in note for note in stage.notes)


def test_weight_decay_does_not_move_what_is_anchored(model, data, blind):
    """Without a gradient only decay could move a weight."""
    tlkit.train_head(model, data)
    given = {"unfreeze": "head", "epochs": 1, "loss": blind, "weight_decay": 0.5}
    held = tlkit.anchor_weights(model, 0.0, groups="all")
    with pytest.raises(tlkit.TrainingError, match="not a bit"):
        tlkit.fine_tune(model, data, anchor=held, **given)
    report = tlkit.fine_tune(model, data.train.dataset(), **given)
    assert report.stages[-1].moved["head"] > 0


def test_penalty_and_proximal_agree_to_first_order_under_gradient_descent():
    reference = np.array([1.0, -2.0, 0.5], np.float32)
    importance = np.array([1.0, 0.2, 3.0], np.float32)
    weight = reference + np.array([0.3, -0.1, 0.2], np.float32)
    gradient = np.array([0.5, 0.1, -0.7], np.float32)
    anchor = tlkit.WeightAnchor(0.8, reference, importance)
    differences = []
    for rate in (1e-2, 1e-3):
        penalised = weight - rate * (gradient + anchor.gradient(weight).numpy())
        pulled = anchor.pulled(weight - rate * gradient, tf.constant(rate)).numpy()
        differences.append(np.abs(penalised - pulled).max() / np.abs(penalised - weight).max())
    assert differences[0] < 0.05
    assert differences[1] < 0.15 * differences[0]


def test_the_pull_is_the_exact_minimum_and_stable_at_any_strength():
    anchor = tlkit.WeightAnchor(1e6, np.zeros(1, np.float32))
    pulled = float(anchor.pulled(np.ones(1, np.float32), tf.constant(10.0))[0])
    np.testing.assert_allclose(pulled, 1 / (1 + 2e7), atol=1e-7)


def test_the_penalty_is_computed_in_float32_under_mixed_precision(model, data):
    anchor = tlkit.anchor_weights(model, 1e-3)
    stage = tlkit.fine_tune(
        model,
        data,
        unfreeze="all",
        epochs=1,
        anchor=anchor,
        precision="mixed_bfloat16",
        learning_rate=1e-3,
    ).stages[-1]
    assert np.isfinite(stage.history[-1]["loss"])
    assert model.losses[0].dtype == tf.float32


def test_a_regularizer_comes_back_from_its_config():
    anchor = tlkit.WeightAnchor(0.5, np.ones(3), np.array([1.0, 2.0, 0.0]))
    again = keras.regularizers.get(keras.regularizers.serialize(anchor))
    at = np.array([2.0, 0.0, 7.0], np.float32)
    assert float(again(at)) == float(anchor(at)) == 1.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": -1.0}, "strength=-1.0"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"strength": float("inf")}, "strength=inf"),
        ({"strength": 1.0, "mode": "soft"}, "mode='soft'"),
        ({"strength": 1.0, "groups": ["stage4"]}, "Did you mean 'stage"),
        ({"strength": 1.0, "importance": {"conv1/kernel": np.ones(3)}}, "stage1_stem_conv/kernel"),
    ],
)
def test_bad_arguments(model, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        tlkit.anchor_weights(model, **arguments)
    assert not model.losses


def test_importance_of_another_shape_or_sign_is_refused(model):
    importance = {v.path: np.ones(v.shape, np.float32) for v in model.trainable_variables}
    path = kernel(model).path
    with pytest.raises(ArgumentError, match=r"importance: \(2, 2\)"):
        tlkit.anchor_weights(model, 1.0, {**importance, path: np.ones((2, 2))})
    with pytest.raises(ArgumentError, match="0 or more everywhere"):
        tlkit.anchor_weights(model, 1.0, {**importance, path: -importance[path]})
    assert not model.losses


def test_a_head_that_changed_is_left_out_and_said(model):
    importance = {v.path: np.ones(v.shape, np.float32) for v in model.trainable_variables}
    importance["logits/kernel"] = np.ones((96, 7), np.float32)
    anchor = tlkit.anchor_weights(model, 1.0, importance, groups="all")
    assert "logits/kernel" in anchor.notes[1]
    assert "logits/bias" not in anchor.notes[1]
    assert id(model.get_layer("logits").kernel) not in {id(v) for v in anchor.undecayed}


def test_a_model_without_weights_yet_is_refused():
    with pytest.raises(ArgumentError, match="`model` must be built"):
        tlkit.anchor_weights(keras.Sequential([keras.layers.Dense(2)]), 1.0)


def test_only_constraints_are_taken_for_anchors(model, data):
    with pytest.raises(ArgumentError, match="`anchor` must be what"):
        tlkit.fine_tune(model, data, anchor=0.01)


def test_a_resumed_run_has_its_references_back(model, data, tmp_path):
    """The references are those of the first start, whatever they are in the second call."""
    tlkit.train_head(model, data)
    start = model.get_weights()

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def run(callbacks=(), folder=None, reference=0.0):
        model.set_weights([weight + reference for weight in start])
        anchor = tlkit.anchor_weights(model, 0.5)
        model.set_weights(start)
        try:
            tlkit.fine_tune(
                model,
                data,
                unfreeze="stage3",
                epochs=3,
                anchor=anchor,
                callbacks=callbacks,
                run_directory=folder,
                learning_rate=1e-3,
            )
            return anchor.penalties()["stage3"]
        finally:
            anchor.release()

    with pytest.raises(KeyboardInterrupt):
        run([Stop()], tmp_path)
    assert run(folder=tmp_path, reference=1.0) < 10  # against references that are off by 1: 1e5
    model.set_weights(start)
    with pytest.raises(tlkit.RunError, match="anchor"):
        tlkit.fine_tune(
            model, data, unfreeze="stage3", epochs=3, run_directory=tmp_path, learning_rate=1e-3
        )
