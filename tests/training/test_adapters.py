"""Low-rank adapters: factors of a kernel's change are trained instead of the kernel."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.training.test_resume import Stop
from tlkit.errors import ArgumentError
from tlkit.models.flattening import flat
from tlkit.models.graph import with_nested
from tlkit.training.adapters import LowRankUpdates, choose_kernels, matrix_shape
from tlkit.training.lora import Lora, adapters_of
from tlkit.training.recipe import Recipe


def classifier(data, **arguments):
    return tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, **arguments)


def values(model):
    return {variable.path: variable.numpy() for variable in model.weights}


def rank_of(change):
    matrix = change.reshape(matrix_shape(change.shape))
    singular = np.linalg.svd(matrix, compute_uv=False)
    return int(np.sum(singular > 1e-3 * singular[0]))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: keras.layers.Dense(9), (5, 7)),
        (lambda: keras.layers.Conv2D(36, 3), (5, 8, 8, 4)),
        (lambda: keras.layers.EinsumDense("abc,cd->abd", output_shape=(None, 9)), (5, 3, 7)),
    ],
)
def test_steps_are_those_of_the_lora_that_keras_has(layer, shape):
    """For kernels whose matrix both take in the same way."""
    inputs = np.random.default_rng(0).normal(size=shape).astype("float32")
    own, other = layer(), layer()
    target = np.random.default_rng(1).normal(size=own(inputs).shape).astype("float32")
    other(inputs)
    start = own.get_weights()[0]
    other.set_weights(own.get_weights())
    other.enable_lora(2)
    updates = LowRankUpdates(Lora(rank=2), [own.kernel], seed=0)
    left, right = updates.variables
    other.lora_kernel_a.assign(tf.reshape(left.value, other.lora_kernel_a.shape))
    other.lora_kernel_b.assign(tf.reshape(right.value, other.lora_kernel_b.shape))
    variables, optimizer = [own.kernel], keras.optimizers.Adam(0.05)
    optimizer.build(updates.trained(variables))
    factors = [other.lora_kernel_a, other.lora_kernel_b]
    keras_optimizer = keras.optimizers.Adam(0.05)
    keras_optimizer.build(factors)
    for _ in range(20):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((own(inputs) - target) ** 2)
        updates.update(optimizer, tape.gradient(loss, [own.kernel.value]), variables)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((other(inputs) - target) ** 2)
        gradients = tape.gradient(loss, [factor.value for factor in factors])
        keras_optimizer.apply(gradients, factors)
    np.testing.assert_allclose(own(inputs), other(inputs), rtol=1e-3, atol=1e-4)
    product = tf.reshape(updates.scale * tf.matmul(left.value, right.value), start.shape)
    np.testing.assert_allclose(own.kernel, start + product, rtol=0, atol=1e-5)
    assert np.abs(own.kernel - other.get_weights()[0]).max() > 0  # Keras's kernel is unchanged


def test_kernels_change_by_low_rank_and_other_weights_not_at_all(data):
    model = classifier(data)
    tlkit.train_head(model, data, head="linear")
    before = values(model)
    kernels = choose_kernels(classifier(data), Lora(rank=1)).adapted
    adapted = {kernel.path for kernel in kernels}
    head = {weight.path for weight in model.get_layer("logits").weights}
    report = tlkit.fine_tune(
        model, data, epochs=2, learning_rate=1e-2, adapters=Lora(rank=1), kept_fraction=1.0
    )
    after = values(model)
    assert adapted
    for path, value in after.items():
        change = value - before[path]
        if path in adapted:
            assert rank_of(change) == 1
        elif path.endswith("kernel") or path in head:
            assert np.abs(change).max() > 0  # smaller than its factors, or the head
        else:
            assert not change.any()
    stage = report.stages[-1]
    assert stage.trainable.batch_norm == "frozen"
    assert any(
        note.startswith(f"low-rank adapters of {len(adapted)} kernels") for note in stage.notes
    )
    numbers = sum(sum(matrix_shape(kernel.shape)) for kernel in kernels)
    full = sum(np.prod(kernel.shape) for kernel in kernels)
    of_kernels = tlkit.fine_tune(classifier(data), data, epochs=1, train="kernel").stages[-1]
    assert stage.trainable.num_trainable == of_kernels.trainable.num_trainable - full + numbers


def test_what_adapters_need_and_what_is_trained_whole_is_said(data, tmp_path):
    report = tlkit.fine_tune(
        classifier(data), data, epochs=1, adapters="lora:16", run_directory=tmp_path
    )
    notes = [note for note in report.stages[-1].notes if "kernel" in note]
    assert len(notes) == 2
    sizes = r"the optimizer's state takes 0\.1 MB, the checkpoint with all weights 0\.[1-9] MB"
    assert re.search(sizes, notes[0])
    assert notes[1].startswith("kernels no larger than their factors, trained whole: stage1")


def test_the_groups_of_adapters_are_the_only_ones_that_change(data):
    model = classifier(data)
    report = tlkit.fine_tune(model, data, epochs=1, adapters=Lora(rank=1, groups=["stage2"]))
    change = report.stages[-1].weight_change
    assert change["stage1"] == change["stage3"] == 0
    assert change["stage2"] > 0
    assert change["head"] > 0


def test_training_with_adapters_is_resumed_bit_identically(data, tmp_path):
    arguments = {"epochs": 3, "adapters": "lora:1", "layer_decay": 0.9}
    expected = classifier(data)
    tlkit.fine_tune(expected, data, **arguments)
    resumed = classifier(data)
    with pytest.raises(KeyboardInterrupt):
        tlkit.fine_tune(resumed, data, run_directory=tmp_path, callbacks=[Stop(1, 1)], **arguments)
    resumed = classifier(data)
    tlkit.fine_tune(resumed, data, run_directory=tmp_path, **arguments)
    for one, other in zip(expected.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_state_of_the_optimizer_is_smaller(data):
    def numbers(**arguments):
        model = classifier(data)
        seen = []
        callback = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append(
                sum(np.prod(v.shape) for v in callback.model.optimizer.variables)
            )
        )
        tlkit.fine_tune(model, data, epochs=1, callbacks=[callback], **arguments)
        return seen[0]

    assert numbers(adapters="lora:1") < numbers() / 2


def test_attention_and_depthwise_kernels_are_adapted(data):
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(48, 8, strides=8, name="patches")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = keras.layers.Reshape((16, 48))(x)
    x = keras.layers.MultiHeadAttention(4, 12, name="attention")(x, x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(data.num_classes, name="logits")(x))
    kernels = choose_kernels(model, Lora(rank=2)).adapted
    attention = model.get_layer("attention")
    inside = {id(v) for layer in with_nested(attention) for v in layer.weights}
    assert sum(id(kernel) in inside for kernel in kernels) == 4  # query, key, value and output
    assert any(kernel is model.get_layer("depthwise").kernel for kernel in kernels)
    before = values(model)
    tlkit.fine_tune(model, data, epochs=1, adapters=Lora(rank=2), kept_fraction=1.0)
    for kernel in kernels:
        assert rank_of(kernel.numpy() - before[kernel.path]) <= 2
    assert flat(model).output.shape == (None, data.num_classes)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), ("lora", Lora()), ("lora:3", Lora(rank=3)), (Lora(2), Lora(2))],
)
def test_adapters_are_given_by_text_or_settings(given, expected):
    assert adapters_of(given) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"adapters": "laura"}, "`adapters` must be 'lora', 'lora:RANK'"),
        ({"adapters": "lora:"}, "`adapters` must be"),
        ({"adapters": 8}, "`adapters` must be"),
        ({"adapters": "lora:0"}, "`adapters` must be"),
        ({"adapters": "lora:999"}, "no kernel in .* has more numbers than its factors"),
        ({"adapters": "lora", "unfreeze": "head"}, "`adapters` must fit weights"),
        ({"adapters": Lora(1, groups=["head"])}, "`groups` must be groups before the head"),
        (
            {"train": "bias", "batch_norm": "train"},
            "`batch_norm` must be 'affine' or 'frozen' with",
        ),
        ({"adapters": "lora:1", "train": "bias"}, "`train` must be left out with `adapters`"),
        ({"train": "biases"}, "Did you mean 'bias'"),
        ({"train": "norm", "unfreeze": "head"}, "`train` must fit weights that the unfrozen"),
        ({"train": "norm", "batch_norm": "frozen"}, "batch normalisation: frozen"),
    ],
)
def test_bad_arguments_are_named_before_training(data, arguments, message):
    model = classifier(data)
    before, flags = model.get_weights(), [layer.trainable for layer in model.layers]
    with pytest.raises(ArgumentError, match=message):
        tlkit.fine_tune(model, data, epochs=1, **arguments)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [layer.trainable for layer in model.layers] == flags


def test_bad_settings_are_named(data):
    with pytest.raises(ArgumentError, match="`rank` must be"):
        Lora(rank=0)
    with pytest.raises(ArgumentError, match="`scale` must be a positive number"):
        Lora(scale=0)
    with pytest.raises(ArgumentError, match=r"`groups` must be .*stage2"):
        tlkit.fine_tune(classifier(data), data, epochs=1, adapters=Lora(1, groups=["stage22"]))
    model = classifier(data)
    with pytest.raises(ArgumentError, match="left out with an anchor"):
        tlkit.fine_tune(
            model, data, epochs=1, adapters="lora:1", anchor=tlkit.anchor_weights(model, 0.1)
        )


@pytest.mark.parametrize("train", ["bias", "norm", "kernel"])
def test_only_the_named_part_and_the_head_change(data, train):
    model = classifier(data)
    tlkit.train_head(model, data, head="linear")
    before = values(model)
    report = tlkit.fine_tune(model, data, epochs=1, train=train, kept_fraction=1.0)
    ends = {"bias": ("bias", "beta"), "norm": ("gamma", "beta"), "kernel": ("kernel",)}[train]
    head = {weight.path for weight in model.get_layer("logits").weights}
    changed = {path for path, value in values(model).items() if (value != before[path]).any()}
    assert head < changed
    assert {path for path in changed - head if not path.endswith(ends)} == set()
    expected = {path for path in before if path.endswith(ends)} | head
    assert changed == expected
    assert (
        report.stages[-1].trainable.batch_norm
        == {
            "bias": "offsets",
            "norm": "affine",
            "kernel": "frozen",
        }[train]
    )


def test_parts_can_be_set_for_training_in_keras(data):
    model = classifier(data)
    report = tlkit.set_trainable(model, "all", batch_norm="affine", train="norm")
    names = {variable.name for variable in model.trainable_variables}
    assert names == {"gamma", "beta", "kernel", "bias"}  # the last two are the head's
    assert report.num_trainable == sum(np.prod(v.shape) for v in model.trainable_variables)
    tlkit.set_trainable(model, "all")  # sets every flag again
    assert len(model.trainable_variables) > len(names)


def test_batch_normalisation_without_scales_is_trained_with_its_statistics(data):
    inputs = keras.Input((*data.image_size, 3))
    x = keras.layers.BatchNormalization(scale=False, name="norm")(inputs)
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(data.num_classes)(x))
    norm = model.get_layer("norm")
    for batch_norm, shown, moves in (("affine", "offsets", False), ("train", "train", True)):
        before = norm.moving_mean.numpy()
        report = tlkit.fine_tune(model, data, epochs=1, batch_norm=batch_norm, kept_fraction=1.0)
        assert report.stages[-1].trainable.batch_norm == shown
        assert (norm.moving_mean.numpy() != before).any() == moves
        norm.beta.assign([0, 0, 0])


@pytest.mark.parametrize(
    ("arguments", "rate"),
    [
        ({}, 5e-4),
        ({"train": "kernel"}, 5e-4),
        ({"train": "bias"}, 5e-3),
        ({"train": "norm"}, 5e-3),
        ({"adapters": Lora()}, 2e-3),
        ({"adapters": Lora(), "learning_rate": 1e-4}, 1e-4),
    ],
)
def test_the_default_learning_rate_is_higher_if_fewer_weights_are_trained(arguments, rate):
    assert Recipe(**arguments).resolved().learning_rate == rate
