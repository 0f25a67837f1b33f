"""Anchors: penalty zero at the anchor, the formula's gradient elsewhere, and a clean release."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.conftest import set_seeds
from tlkit.errors import ArgumentError
from tlkit.training.step import hooked


def kernel(model, name="stage3_1_conv"):
    return model.get_layer(name).kernel


def test_the_penalty_is_zero_at_the_anchor_and_the_sum_of_squares_away_from_it(model):
    anchor = tlkit.anchor_weights(model, 0.5)
    assert anchor.penalties() == {"stage1": 0.0, "stage2": 0.0, "stage3": 0.0}
    assert float(tf.add_n(model.losses)) == 0.0
    kernel(model).assign(kernel(model) + 0.1)
    expected = 0.5 * 0.1**2 * np.prod(kernel(model).shape)
    np.testing.assert_allclose(anchor.penalties()["stage3"], expected, rtol=1e-4)
    np.testing.assert_allclose(float(tf.add_n(model.losses)), expected, rtol=1e-4)


def test_its_gradient_matches_the_formula(model):
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
    change = kernel(model).numpy() - here
    expected = 2 * 0.7 * importance[kernel(model).path] * change
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


def test_the_head_is_anchored_only_on_request_and_moving_averages_never(model):
    def anchored(anchor):
        return {id(variable) for variable in anchor.undecayed}

    without, whole = (
        tlkit.anchor_weights(model, 1.0),
        tlkit.anchor_weights(model, 1.0, groups="all"),
    )
    assert anchored(whole) - anchored(without) == {id(v) for v in model.get_layer("logits").weights}
    assert anchored(whole) == {id(variable) for variable in model.trainable_variables}
    some = tlkit.anchor_weights(model, 1.0, groups=["stage2"])
    assert some.groups == ("stage2",)


def test_frozen_weights_add_nothing(model):
    tlkit.anchor_weights(model, 1.0)
    kernel(model, "stage1_stem_conv").assign(kernel(model, "stage1_stem_conv") + 1.0)
    assert float(tf.add_n(model.losses)) > 0
    tlkit.set_trainable(model, "stage3")
    assert float(tf.add_n(model.losses)) == 0.0


def test_released_weights_have_their_former_regularizer(model):
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


def test_a_saved_model_contains_no_reference_and_loads_in_plain_keras(model, tmp_path):
    size = {}
    for name in ("plain", "anchored"):
        if name == "anchored":
            tlkit.anchor_weights(model, 1.0)
        model.save(tmp_path / f"{name}.keras")
        size[name] = (tmp_path / f"{name}.keras").stat().st_size
    assert size["anchored"] == size["plain"]
    loaded = keras.models.load_model(tmp_path / "anchored.keras")
    assert all(variable.regularizer is None for variable in loaded.variables)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "strong"), [("penalty", 1e3), ("proximal", 1e4)])
def test_a_strong_anchor_keeps_the_weights_and_a_weak_one_does_not(model, data, mode, strong):
    tlkit.train_head(model, data)
    start = model.get_weights()
    drift = {}
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
        drift[strength] = sum(anchor.penalties().values()) / strength
        anchor.release()
    assert drift[strong] < 0.2 * drift[1e-6]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["penalty", "proximal"])
def test_the_log_has_every_groups_penalty_and_its_fraction_of_the_loss(model, data, mode):
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


@pytest.mark.slow
def test_weight_decay_does_not_change_anchored_weights(model, data, blind):
    """Without a gradient only decay could change a weight."""
    tlkit.train_head(model, data)
    given = {"unfreeze": "head", "epochs": 1, "loss": blind, "weight_decay": 0.5}
    anchor = tlkit.anchor_weights(model, 0.0, groups="all")
    with pytest.raises(tlkit.TrainingError, match="bit-identical"):
        tlkit.fine_tune(model, data, anchor=anchor, **given)
    with pytest.raises(tlkit.TrainingError, match="bit-identical"):  # even if not passed
        tlkit.fine_tune(model, data, **given)
    anchor.release()
    report = tlkit.fine_tune(model, data.train.dataset(), **given)
    assert report.stages[-1].weight_change["head"] > 0


def test_penalty_and_proximal_agree_to_first_order_under_gradient_descent():
    reference = np.array([1.0, -2.0, 0.5], np.float32)
    importance = np.array([1.0, 0.2, 3.0], np.float32)
    weight = reference + np.array([0.3, -0.1, 0.2], np.float32)
    gradient = np.array([0.5, 0.1, -0.7], np.float32)
    anchor = tlkit.WeightAnchor(0.8, reference, importance)
    differences = []
    for rate in (1e-2, 1e-3):
        penalised = weight - rate * (gradient + anchor.gradient(weight).numpy())
        pulled = anchor.proximal_step(weight - rate * gradient, tf.constant(rate)).numpy()
        differences.append(np.abs(penalised - pulled).max() / np.abs(penalised - weight).max())
    assert differences[0] < 0.05
    assert differences[1] < 0.15 * differences[0]


def test_a_proximal_step_in_training_is_that_of_the_penalty_to_first_order():
    """Each weight's proximal step has the rate of its update."""
    set_seeds(0)
    images = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    inputs = keras.Input((5,))
    layers = keras.layers.Dense(4, "tanh", name="body")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(layers))
    start, after = model.get_weights(), {}
    for mode in ("none", "penalty", "proximal"):
        model.set_weights([weight + 0.1 for weight in start])
        hooks = []
        if mode != "none":
            model.set_weights(start)
            hooks = [tlkit.anchor_weights(model, 0.5, groups="all", mode=mode)]
            model.set_weights([weight + 0.1 for weight in start])
        trainee = hooked(model, hooks)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trainee.compile(keras.optimizers.SGD(1e-3), loss)
        trainee.fit(images, np.arange(8) % 2, batch_size=8, verbose=0)
        after[mode] = np.concatenate([weight.ravel() for weight in model.get_weights()])
        for hook in hooks:
            hook.release()
    pulls = [after[mode] - after["none"] for mode in ("penalty", "proximal")]
    np.testing.assert_allclose(pulls[0], -1e-3 * 2 * 0.5 * 0.1, rtol=1e-2)
    np.testing.assert_allclose(pulls[1], pulls[0], rtol=1e-2)


def test_an_anchor_that_was_not_passed_is_logged_and_reported(model, data):
    tlkit.anchor_weights(model, 0.1)
    stage = tlkit.fine_tune(model, data, unfreeze="stage3", epochs=1, learning_rate=1e-3).stages[-1]
    assert stage.history[-1]["anchor_stage3"] > 0
    assert any("weight decay is off" in note for note in stage.notes)


def test_an_anchor_without_trainable_weights_is_reported(model, data):
    anchor = tlkit.anchor_weights(model, 0.1)
    stage = tlkit.fine_tune(model, data, unfreeze="head", epochs=1, anchor=anchor).stages[-1]
    assert "no anchored weight is trainable" in stage.notes[-1] + stage.notes[-2]


def test_an_anchor_of_another_model_or_a_released_one_is_refused(model, data):
    other = tlkit.build_classifier("tiny_resnet", ["grey", "red"], weights=None)
    with pytest.raises(ArgumentError, match="weights of another model"):
        tlkit.fine_tune(model, data, anchor=tlkit.anchor_weights(other, 0.1, mode="proximal"))
    released = tlkit.anchor_weights(model, 0.1)
    released.release()
    with pytest.raises(ArgumentError, match="was released"):
        tlkit.fine_tune(model, data, anchor=released)
    with pytest.raises(ArgumentError, match="a SynapticPath of the model that is trained"):
        tlkit.fine_tune(model, data, anchor=tlkit.SynapticPath(other))


def test_the_proximal_step_is_the_exact_minimum_and_stable_at_any_strength():
    anchor = tlkit.WeightAnchor(1e6, np.zeros(1, np.float32))
    pulled = float(anchor.proximal_step(np.ones(1, np.float32), tf.constant(10.0))[0])
    np.testing.assert_allclose(pulled, 1 / (1 + 2e7), atol=1e-7)
    strongest = tlkit.WeightAnchor(1e30, np.zeros(2), np.array([0.0, 1e9], np.float32))
    np.testing.assert_array_equal(
        strongest.proximal_step(np.ones(2, np.float32), tf.constant(10.0)), [1, 0]
    )


def test_the_penalty_is_computed_in_float32_under_mixed_precision(model, data):
    tlkit.train_head(model, data)
    anchor = tlkit.anchor_weights(model, 1e-3)
    for variable in anchor.undecayed:
        if variable.path.endswith("kernel"):  # batch normalisation is frozen in training
            variable.assign(variable + 1e-3)
    expected = anchor.penalties()["stage3"]
    stage = tlkit.fine_tune(
        model,
        data.train.dataset(),
        unfreeze="stage3",
        epochs=1,
        anchor=anchor,
        precision="mixed_bfloat16",
        learning_rate=1e-7,
    ).stages[-1]
    # in bfloat16 the sum of so many small squares would stagnate
    np.testing.assert_allclose(stage.history[-1]["anchor_stage3"], expected, rtol=1e-3)


def test_a_regularizer_is_restored_from_its_config():
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
        ({"strength": 1e31}, r"at most 1e\+30"),
        (
            {"strength": 1.0, "groups": "head", "importance": {"other/kernel": np.ones(3)}},
            r"other/kernel \(3,\), none of which fits the head",
        ),
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
    with pytest.raises(ArgumentError, match="at least 0 everywhere"):
        tlkit.anchor_weights(model, 1.0, {**importance, path: -importance[path]})
    assert not model.losses


def test_a_replaced_head_is_not_anchored_and_this_is_reported(model):
    importance = {v.path: np.ones(v.shape, np.float32) for v in model.trainable_variables}
    importance["logits/kernel"] = np.ones((96, 7), np.float32)
    anchor = tlkit.anchor_weights(model, 1.0, importance, groups="all")
    assert "logits/kernel" in anchor.notes[1]
    assert "logits/bias" not in anchor.notes[1]
    assert id(model.get_layer("logits").kernel) not in {id(v) for v in anchor.undecayed}


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(ArgumentError, match="`model` must be built"):
        tlkit.anchor_weights(keras.Sequential([keras.layers.Dense(2)]), 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: tlkit.anchor_weights(None, 1.0), "`model` must be a keras.Model"),
        (lambda model: tlkit.anchor_weights(model, 1.0, "fisher"), "tlkit.estimate_importance"),
        (lambda model: tlkit.anchor_weights(model, 1.0, groups=3), "`groups` must be names"),
        (lambda model: tlkit.distill_from("model"), "`old_model` must be a keras.Model"),
        (lambda model: tlkit.interpolate_weights(model, None, 0.5), "`new` must be a keras.Model"),
        (lambda model: tlkit.add_classes(model, None), "`new_names` must be a list"),
        (lambda model: tlkit.ForgettingMatrix(3, scenario="x"), "`task_names` must be one or more"),
    ],
)
def test_arguments_of_another_type_are_named(model, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(model)


def test_only_constraints_are_accepted_as_anchors(model, data):
    with pytest.raises(ArgumentError, match="`anchor` must be what"):
        tlkit.fine_tune(model, data, anchor=0.01)


@pytest.mark.slow
def test_a_resumed_run_has_its_original_references(model, data, tmp_path):
    """The references are those of the first call, whatever they are in the second."""
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
    assert run(folder=tmp_path, reference=1.0) < 10  # with references off by 1 it would be 1e5
    model.set_weights(start)
    with pytest.raises(tlkit.RunError, match="anchor"):
        tlkit.fine_tune(
            model, data, unfreeze="stage3", epochs=3, run_directory=tmp_path, learning_rate=1e-3
        )


def test_the_identity_of_an_anchor_ignores_the_last_bits_of_its_importance(model):
    weights = {v.path: np.full(v.shape, 0.5, np.float32) for v in model.trainable_variables}
    path = kernel(model).path

    def norms_of(values):
        anchor = tlkit.anchor_weights(model, 1.0, values)
        (norms,) = anchor.identity()["importance"].values()
        anchor.release()
        return norms

    norms = norms_of(weights)
    assert not any(norms_of(None).values())
    assert norms_of({path: np.zeros_like(one) for path, one in weights.items()}) != norms_of(None)
    assert norms_of({**weights, path: weights[path] * np.float32(1 + 1e-6)}) == pytest.approx(
        norms, rel=1e-4
    )
    other = np.zeros_like(weights[path])
    other.flat[0] = weights[path].sum()  # the same mean
    assert norms_of({**weights, path: other}) != pytest.approx(norms, rel=1e-3)


@pytest.mark.slow
def test_plain_fit_decays_anchored_weights_unless_they_are_excluded(model, data, blind):
    """At the anchor the penalty changes no weight, but AdamW's decay does."""
    kernel = model.get_layer("stage3_1_conv").kernel
    anchor = tlkit.anchor_weights(model, 1.0)
    images = data.train.dataset(shuffle=False)
    for leave_out in (True, False):
        before = kernel.numpy()
        optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.5)
        if leave_out:
            optimizer.exclude_from_weight_decay(anchor.undecayed)
        model.compile(optimizer, blind)
        model.fit(images, verbose=0, shuffle=False)
        assert np.array_equal(kernel.numpy(), before) == leave_out
