"""Importance: the mean of squared per-sample gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.conftest import set_seeds
from tlkit.continual.importance import accumulate_importance, normalize_importance
from tlkit.errors import ArgumentError, DataError


def batches(images, labels=None):
    content = images if labels is None else (images, labels)
    return tf.data.Dataset.from_tensor_slices(content).batch(4)


def reference_importance(model, images, scalars):
    """Averages weight * measure(gradient) over single samples; see `exact` for `scalars`."""
    variables = model.trainable_variables
    totals = [np.zeros(v.shape) for v in variables]
    for i, image in enumerate(images):
        with tf.GradientTape(persistent=True) as tape:
            terms = scalars(model(image[None], training=False)[0], i)
        for value, weight, measure in terms:
            gradients = tape.gradient(value, [v.value for v in variables])
            totals = [
                t + float(weight) * measure(g.numpy())
                for t, g in zip(totals, gradients, strict=True)
            ]
    return {v.path: t / len(images) for v, t in zip(variables, totals, strict=True)}


def exact(logits, i):
    logs = tf.nn.log_softmax(logits)
    return [(logs[c], tf.exp(logs[c]), np.square) for c in range(3)]


def assert_close(importance, expected):
    for path, values in expected.items():
        scale = np.abs(values).max()
        np.testing.assert_allclose(importance[path], values, rtol=1e-4, atol=1e-5 * scale)


def test_exact_fisher_is_the_expectation_over_the_models_own_predictions(small):
    model, images, _ = small
    before = [variable.numpy() for variable in model.variables]
    importance = tlkit.estimate_importance(model, batches(images), method="fisher")
    assert_close(importance, reference_importance(model, images, exact))
    assert importance.num_samples == 10
    assert not importance.notes  # convolutions are vectorised
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())


def test_empirical_fisher_takes_the_label_and_is_not_the_squared_mean_gradient(small):
    model, images, labels = small
    importance = tlkit.estimate_importance(
        model, batches(images, labels), method="empirical_fisher"
    )

    def of_label(logits, i):
        return [(tf.nn.log_softmax(logits)[labels[i]], 1.0, np.square)]

    assert_close(importance, reference_importance(model, images, of_label))
    with tf.GradientTape() as tape:
        loss = keras.losses.sparse_categorical_crossentropy(
            labels, model(images, training=False), from_logits=True
        )
        loss = tf.reduce_mean(loss)
    squared_mean = tape.gradient(loss, model.get_layer("conv").kernel.value).numpy() ** 2
    assert not np.allclose(importance["conv/kernel"], squared_mean, rtol=0.1)


def test_mas_is_the_mean_size_of_the_gradient_of_the_squared_output(small):
    model, images, _ = small
    importance = tlkit.estimate_importance(model, batches(images), method="mas")
    assert_close(
        importance,
        reference_importance(
            model, images, lambda logits, i: [(tf.reduce_sum(logits**2), 1.0, np.abs)]
        ),
    )


def test_sampled_fisher_approximates_the_exact_one_and_depends_on_the_seed(small):
    model, images, _ = small
    many = np.repeat(images, 100, axis=0)
    given = {"method": "fisher_sampled", "num_samples": 1000}
    one = tlkit.estimate_importance(model, batches(many), seed=1, **given)
    again = tlkit.estimate_importance(model, batches(many), seed=1, **given)
    expected = reference_importance(model, images, exact)
    for path, values in expected.items():
        np.testing.assert_array_equal(one[path], again[path])
        assert abs(one[path].sum() / values.sum() - 1) < 0.15


@pytest.mark.parametrize("num_classes", [2, 20])
def test_all_classes_are_counted_over_several_passes(num_classes):
    set_seeds(0)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(num_classes, name="logits")(inputs))
    images = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    importance = tlkit.estimate_importance(model, batches(images))
    probabilities = tf.nn.softmax(model(images)).numpy()
    # d log p_c / d b_k = [k = c] - p_k, whose square has the expectation p_k (1 - p_k)
    np.testing.assert_allclose(
        importance["logits/bias"], (probabilities * (1 - probabilities)).mean(axis=0), rtol=1e-4
    )


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_binary_heads_have_the_bernoulli_fisher(activation):
    set_seeds(0)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(1, activation, name="binary_logit")(inputs))
    images = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    p = model(images).numpy() if activation else tf.sigmoid(model(images)).numpy()
    importance = tlkit.estimate_importance(model, batches(images))
    np.testing.assert_allclose(importance["binary_logit/bias"], (p * (1 - p)).mean(0), rtol=1e-3)


def test_depthwise_convolutions_are_processed_one_by_one_and_reported():
    set_seeds(0)
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))
    images = np.random.default_rng(0).normal(size=(7, 6, 6, 3)).astype("float32")
    importance = tlkit.estimate_importance(model, batches(images))
    assert "Depthwise" in importance.notes[0]
    assert_close(importance, reference_importance(model, images, exact))


def test_frozen_weights_have_an_importance_too(small):
    model, images, _ = small
    free = tlkit.estimate_importance(model, batches(images))
    model.trainable = False
    try:
        frozen = tlkit.estimate_importance(model, batches(images))
    finally:
        model.trainable = True
    for path in free:
        np.testing.assert_array_equal(free[path], frozen[path])


def test_a_split_gives_at_most_num_samples_random_images(model, data):
    importance = tlkit.estimate_importance(model, data, method="mas", num_samples=5)
    assert importance.num_samples == 5
    other = tlkit.estimate_importance(model, data, method="mas", num_samples=5, seed=1)
    assert not np.array_equal(importance["logits/bias"], other["logits/bias"])


def test_online_accumulation_decays_the_old_importance(small):
    model, images, _ = small
    one = tlkit.estimate_importance(model, batches(images))
    both = accumulate_importance(one, one, decay=0.5)
    np.testing.assert_allclose(both["conv/kernel"], 1.5 * one["conv/kernel"], rtol=1e-6)
    with pytest.raises(ArgumentError, match=r"decay=1\.5"):
        accumulate_importance(one, one, decay=1.5)
    with pytest.raises(ArgumentError, match="conv/kernel"):
        accumulate_importance(one, {"conv/kernel": np.ones(2)})
    for value in (-1.0, np.nan):
        with pytest.raises(ArgumentError, match="finite and at least 0 everywhere"):
            accumulate_importance({}, {"conv/kernel": np.array([value])})


def test_labels_without_an_output_are_refused(model):
    images = np.zeros((30, 32, 32, 3), "uint8")
    images += np.arange(30, dtype="uint8")[:, None, None, None]
    three = tlkit.load_arrays(images, np.arange(30) % 3, ["a", "b", "c"])
    with pytest.raises(DataError, match=r"from 0 to 1, as the model has 2 classes. Received: 2"):
        tlkit.estimate_importance(model, three, method="empirical_fisher")


def test_normalized_importance_has_mean_one_over_anchored_weights(small):
    model, images, _ = small
    importance = tlkit.estimate_importance(model, batches(images))
    scaled = normalize_importance(importance, ["conv/kernel", "conv/bias"])
    assert np.mean(np.concatenate([scaled[path].ravel() for path in scaled])) == pytest.approx(1)
    with pytest.raises(ArgumentError, match="above zero for some anchored weight"):
        normalize_importance({"w": np.zeros(3)}, ["w"])


def test_the_path_integral_is_the_decrease_of_the_loss(small):
    """With small gradient-descent steps the contributions sum to the decrease of the loss."""
    from tlkit.training.step import hooked

    model, images, labels = small
    start = model.get_weights()
    path = tlkit.SynapticPath(model)
    model.trainable = True
    for layer in model.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    trainee = hooked(model, [path])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainee.compile(keras.optimizers.SGD(1e-3), loss)
    before = float(loss(labels, model(images)))
    trainee.fit(images, labels, batch_size=10, epochs=50, verbose=0)
    decrease = before - float(loss(labels, model(images)))
    total = sum(float(tf.reduce_sum(one)) for one in path._path)
    assert decrease > 0
    np.testing.assert_allclose(total, decrease, rtol=0.02)
    importance = tlkit.estimate_importance(model, path, method="synaptic")
    assert importance.num_samples == 50
    assert all(np.all(values >= 0) for values in importance.values())
    model.set_weights(start)
    model.trainable = True


def test_a_skipped_step_is_not_counted_in_the_path():
    """Loss scaling skips a step with non-finite gradients, and so does the path."""
    set_seeds(0)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(inputs))
    weights = model.trainable_variables
    path = tlkit.SynapticPath(model)
    rate = [tf.constant(0.1)] * 2
    path.before_update([tf.fill(weights[0].shape, np.inf), tf.ones(2)], weights)
    weights[1].assign_add([1.0, 1.0])  # as an anchor does in every step
    path.after_update(weights, rate)
    path.before_update([tf.fill(weights[0].shape, 2.0), tf.ones(2)], weights)
    weights[0].assign_sub(tf.fill(weights[0].shape, 0.5))
    path.after_update(weights, rate)
    assert path.num_steps == 1
    importance = path.importance()
    np.testing.assert_allclose(importance["logits/kernel"], 2.0 * 0.5 / (0.25 + 0.1), rtol=1e-5)
    np.testing.assert_array_equal(importance["logits/bias"], 0.0)


def test_mixed_float16_gives_a_finite_path():
    from tlkit.training.step import hooked

    set_seeds(0)
    inputs = keras.Input((6,))
    policy = keras.DTypePolicy("mixed_float16")
    hidden = keras.layers.Dense(8, "relu", dtype=policy)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, dtype=policy, name="logits")(hidden))
    path = tlkit.SynapticPath(model)
    trainee = hooked(model, [path])
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=2.0**24)
    trainee.compile(scaled, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = np.random.default_rng(0).normal(0, 30, (16, 6)).astype("float32")
    trainee.fit(images, np.arange(16) % 2, batch_size=4, epochs=5, verbose=0)
    assert 0 < path.num_steps < 20  # the first ones overflow
    assert all(np.isfinite(values).all() for values in path.importance().values())
    assert any(values.max() > 0 for values in path.importance().values())


def test_the_gradient_of_an_anchor_is_excluded_from_the_path(model, data, blind):
    """If only the anchor changes weights, nothing was learned."""
    tlkit.train_head(model, data)
    anchor = tlkit.anchor_weights(model, 1.0)
    kernel = model.get_layer("stage3_1_conv").kernel
    kernel.assign(kernel + 0.05)
    before = kernel.numpy()
    path = tlkit.SynapticPath(model)
    tlkit.fine_tune(
        model,
        data.train.dataset(shuffle=False),
        unfreeze="stage3",
        epochs=1,
        anchor=[anchor, path],
        loss=blind,
        learning_rate=1e-3,
    )
    assert np.abs(kernel.numpy() - before).max() > 1e-4
    assert np.abs(path.importance()[kernel.path]).max() < 1e-6


@pytest.mark.parametrize(
    ("dataset", "arguments", "message"),
    [
        (batches, {"method": "empirical_fisher"}, "with labels beside the images"),
        (batches, {"method": "hessian"}, "method='hessian'"),
        (batches, {"num_samples": 0}, "num_samples=0"),
        (batches, {"method": "synaptic"}, "SynapticPath"),
        (lambda images: batches(images).take(0), {}, "must contain images"),
        (batches, {"seed": -1}, "seed=-1"),
        (lambda images: images, {}, "ndarray"),
    ],
)
def test_bad_input(small, dataset, arguments, message):
    model, images, _ = small
    with pytest.raises((ArgumentError, DataError), match=message):
        tlkit.estimate_importance(model, dataset(images), **arguments)
