"""Keras's losses, metrics, callbacks, sample weights and models work as Keras users expect."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit


def classifier(data, **arguments):
    return tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.CategoricalFocalCrossentropy(from_logits=True),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras.losses.CategoricalHinge(),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_a_custom_loss(data, loss):
    report = tlkit.fine_tune(classifier(data), data, epochs=1, loss=loss, augment="none")
    history = report.stages[-1].history[0]
    assert np.isfinite(history["loss"])
    assert ("Sparse" in type(loss).__name__) == (
        abs(history["loss"] - history["cross_entropy"]) < 1e-4
    )


def test_custom_metrics_and_callbacks(data, tmp_path):
    report = tlkit.fine_tune(
        classifier(data),
        data,
        epochs=2,
        metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")],
        callbacks=[keras.callbacks.TensorBoard(tmp_path / "logs"), keras.callbacks.History()],
    )
    assert report.stages[-1].history[-1]["val_top_2"] == 1.0
    assert list((tmp_path / "logs").rglob("events*"))


def test_metrics_for_one_hot_labels_go_with_a_loss_that_takes_them(data):
    report = tlkit.fine_tune(
        classifier(data),
        data,
        epochs=1,
        loss=keras.losses.CategoricalFocalCrossentropy(from_logits=True),
        metrics=[keras.metrics.TopKCategoricalAccuracy(2, name="top_2")],
    )
    assert report.stages[-1].history[-1]["val_top_2"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "hinge"}, "`loss` must be .* also a keras.losses.Loss"),
        ({"loss": keras.losses.CategoricalFocalCrossentropy()}, "Create it with from_logits=True"),
        ({"callbacks": [None]}, "`callbacks` must be objects of keras.callbacks.Callback"),
        ({"stages": 3}, "`stages` must be one or more tlkit.Stage"),
        ({"metrics": ["mae"]}, "`metrics` must be objects of keras.metrics.Metric"),
        ({"callbacks": [keras.callbacks.ModelCheckpoint("m.keras")]}, "`run_directory` saves"),
        ({"callbacks": [keras.callbacks.ReduceLROnPlateau()]}, "Give schedule='constant'"),
    ],
)
def test_invalid_arguments_are_refused_before_training(data, arguments, message):
    with pytest.raises(tlkit.ArgumentError, match=message):
        tlkit.fine_tune(classifier(data), data, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"views": 4}, "`views` and `augment` must be left out"),
        ({"augment": "strong"}, "`views` and `augment` must be left out"),
    ],
)
def test_arguments_that_do_not_apply_to_a_dataset_are_refused(data, arguments, message):
    weighted = data.train.dataset().map(lambda x, y: (x, y, tf.ones(tf.shape(y))))
    with pytest.raises(tlkit.ArgumentError, match=message):
        tlkit.fine_tune(classifier(data), weighted, **arguments)


@pytest.mark.parametrize(
    "spoil", [lambda data: data.unbatch(), lambda data: data.map(lambda x, _: x)]
)
@pytest.mark.parametrize("train", [tlkit.fine_tune, tlkit.train_head])
def test_images_without_batches_or_labels_are_refused_by_the_arguments_name(data, train, spoil):
    with pytest.raises(
        tlkit.ArgumentError, match=r"`data` must give batches of \(images, labels\)"
    ):
        train(classifier(data), spoil(data.train.dataset()))
    with pytest.raises(tlkit.ArgumentError, match="`validation` must give batches"):
        train(classifier(data), data.train.dataset(), validation=spoil(data.train.dataset()))


def test_one_callback_one_metric_and_numpy_numbers_do(data, tmp_path):
    seen = []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    report = tlkit.fine_tune(
        tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, seed=np.int64(3)),
        data,
        unfreeze=np.int64(2),
        epochs=np.int64(1),
        learning_rate=np.float32(1e-3),
        callbacks=count,
        metrics=keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2"),
        run_directory=tmp_path / "run",
        seed=np.int64(1),
    )
    assert seen == [0]
    assert report.stages[-1].trainable.groups == ("stage3", "head")
    assert report.stages[-1].history[-1]["val_top_2"] == 1.0


def test_sample_weights_count(data):
    """Images of weight 0 are not learnt: any labels of theirs give the same model."""
    images = np.concatenate([x for x, _ in data.train.dataset(shuffle=False)])
    labels = data.train.labels
    model = classifier(data)
    tlkit.train_head(model, data)
    start = model.get_weights()

    def logits(labels, weights):
        dataset = tf.data.Dataset.from_tensor_slices((images, labels, weights)).batch(16)
        model.set_weights(start)
        tlkit.fine_tune(model, dataset, epochs=2, learning_rate=1e-3, label_smoothing=0.0)
        return model(images, training=False).numpy()

    ones, some = np.ones(len(labels), "float32"), (labels == 0).astype("float32")
    true, other = logits(labels, some), logits(np.zeros_like(labels), some)
    np.testing.assert_allclose(other, true, atol=1e-3)
    counted = logits(np.zeros_like(labels), ones)
    assert np.abs(counted - true).max() > 0.1  # a hundred times as much


def test_a_text_classifier_is_fine_tuned_like_any_other():
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2
    words = generator.integers(0, 50, (120, 12)) + 50 * labels[:, None]
    tokens = keras.Input((12,), dtype="int32")
    x = keras.layers.Embedding(100, 8, name="words")(tokens)
    x = keras.layers.Conv1D(8, 3, activation="relu", name="phrases")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(tokens, keras.layers.Dense(2, name="logits")(x))
    dataset = tf.data.Dataset.from_tensor_slices((words, labels)).shuffle(120, seed=0).batch(20)
    report = tlkit.fine_tune(
        model,
        dataset.take(5),
        validation=dataset.skip(5),
        unfreeze="all",
        epochs=10,
        learning_rate=1e-2,
    )
    assert report.accuracy_after == 1.0
    last = report.stages[-1]
    assert all(last.weight_change.values()) or all(last.put_back.values())


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_ends_with_the_training(data, precision, tmp_path):
    model = classifier(data)
    policies = [layer.dtype_policy.name for layer in model.layers]
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append(model.get_layer("stage3_1_conv").compute_dtype)
            seen.append(model.get_layer("logits").compute_dtype)

    report = tlkit.fine_tune(
        model, data.train.dataset(), epochs=1, precision=precision, callbacks=[Watch()]
    )
    assert seen == [precision.removeprefix("mixed_"), "float32"]
    assert [layer.dtype_policy.name for layer in model.layers] == policies
    assert all(report.stages[-1].weight_change[name] for name in ("stage2", "stage3", "head"))
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    model.save(tmp_path / "model.keras")
    assert "mixed" not in keras.saving.load_model(tmp_path / "model.keras").to_json()


@pytest.mark.gpu
def test_a_gpu_trains_in_mixed_precision_by_default():
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("there is no GPU here")
    from tlkit.training.precision import resolve_precision

    assert resolve_precision("auto").startswith("mixed_")


def test_a_cpu_trains_in_float32_by_default():
    from tlkit.training.precision import resolve_precision

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU here")
    assert resolve_precision("auto") == "float32"
    assert resolve_precision("mixed_bfloat16") == "mixed_bfloat16"


@pytest.mark.gpu
def test_gpu_memory_grows():
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        pytest.skip("there is no GPU here")
    tlkit.build_classifier("tiny_resnet", ["a", "b"], weights=None)
    assert all(tf.config.experimental.get_memory_growth(gpu) for gpu in gpus)
