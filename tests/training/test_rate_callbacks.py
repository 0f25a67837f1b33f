"""Keras's callbacks and clipping with the layerwise optimizer, in float32 and mixed float16."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.conftest import set_seeds
from tlkit.training.objective import loss_of
from tlkit.training.precision import computed_in, with_loss_scaling
from tlkit.training.rates import LayerwiseAdamW, layer_multipliers
from tlkit.training.step import hooked
from tlkit.training.weight_change import weights_by_group

RATE, DECAY = 1e-2, 0.1
STEP_SIZES = (0.2, 3.2)
"""Adam's largest weight change in one step, in rates: up to (1 - 0.9) / sqrt(1 - 0.999)"""

PRECISIONS = pytest.mark.parametrize("precision", ["float32", "mixed_float16"])


def classifier(data):
    set_seeds(0)
    return tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)


class Watch(keras.callbacks.Callback):
    """Records each step's rate, and the largest weight change in each group."""

    def __init__(self, whole):
        super().__init__()
        self.whole, self.rates, self.weight_change = whole, [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.before = weights_by_group(self.whole)

    def on_train_batch_end(self, batch, logs=None):
        after = weights_by_group(self.whole)
        self.rates.append(float(self.model.optimizer.learning_rate))
        self.weight_change.append(
            {
                name: max(np.abs(a - b).max() for a, b in zip(values, after[name], strict=True))
                for name, values in self.before.items()
            }
        )


def tuned(data, precision, *callbacks):
    """Three epochs of three steps, the groups' rates a factor of ten apart."""
    model = classifier(data)
    watch = Watch(model)
    tlkit.fine_tune(
        model,
        data.train.dataset(),
        unfreeze="stage2",
        epochs=3,
        learning_rate=RATE,
        layer_decay=DECAY,
        schedule="constant",
        weight_decay=0.0,
        precision=precision,
        callbacks=[*callbacks, watch],
    )
    assert isinstance(watch.model.optimizer, keras.optimizers.LossScaleOptimizer) == (
        precision == "mixed_float16"
    )
    return watch


def assert_each_group_has_its_own_rate(watch):
    steps = [  # loss scaling skips steps in which float16 overflowed
        (rate, change)
        for rate, change in zip(watch.rates, watch.weight_change, strict=True)
        if change["head"]
    ]
    assert steps[-1][0] == watch.rates[-1]
    for rate, change in steps:
        for distance, group in enumerate(("head", "stage3", "stage2")):
            assert STEP_SIZES[0] < change[group] / (rate * DECAY**distance) < STEP_SIZES[1]
        assert change["stage1"] == 0.0


@PRECISIONS
def test_a_plateau_lowers_every_group_s_rate(data, precision):
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=1, min_delta=100)
    watch = tuned(data, precision, plateau)
    assert watch.rates == pytest.approx([RATE] * 6 + [RATE / 10] * 3)
    assert_each_group_has_its_own_rate(watch)


@PRECISIONS
def test_a_scheduled_rate_is_the_head_s_and_the_others_keep_their_multiplier(data, precision):
    rates = [RATE, RATE / 10, RATE / 2]
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: rates[epoch])
    watch = tuned(data, precision, scheduler)
    assert watch.rates == pytest.approx(np.repeat(rates, 3))
    assert_each_group_has_its_own_rate(watch)


@PRECISIONS
def test_the_global_clip_norm_covers_all_groups_and_ignores_the_loss_scale(data, precision):
    """After one step Adam's momenta are a tenth of the clipped gradients."""
    model = classifier(data)
    tlkit.set_trainable(model, "stage2")
    optimizer = LayerwiseAdamW(
        RATE,
        multipliers=layer_multipliers(model, DECAY),
        weight_decay=0.1,
        global_clipnorm=1e-3,
    )
    trainee = hooked(model)
    with computed_in(model, precision):
        trainee.compile(optimizer=with_loss_scaling(optimizer, precision), loss=loss_of(model))
        for batch in data.train.dataset().repeat():
            trainee.train_on_batch(*batch)
            if int(optimizer.iterations):  # float16 may overflow first
                break
    momenta = [variable.value for variable in optimizer._momentums]
    assert float(tf.linalg.global_norm(momenta)) == pytest.approx(1e-4, rel=1e-3)
