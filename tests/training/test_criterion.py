"""The criterion between models is weighted as training is."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tlkit
from tlkit.data.class_weighting import ClassWeighting
from tlkit.training.best import KeepBest, is_better
from tlkit.training.criterion import Criterion, Score, score_of, score_on


def unbalanced(num_images=160):
    """One image in eight is of the rare class, and hard to tell from the common one."""
    random = np.random.default_rng(0)
    labels = (np.arange(num_images) % 8 == 0).astype(int)
    images = random.integers(0, 200, (num_images, 4, 4, 3)) + 20 * labels[:, None, None, None]
    return tlkit.load_arrays(
        images.astype("uint8"), labels, ["common", "rare"], batch_size=16, splits=(0.6, 0.4, 0)
    )


def network(hidden=()):
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 1, name="first")(layers.Rescaling(1 / 100, offset=-1)(inputs))
    x = layers.Conv2D(4, 1, name="second")(layers.MaxPooling2D()(x))
    x = layers.GlobalAveragePooling2D()(x)
    for units in hidden:
        x = layers.Dense(units, "relu")(x)
    return keras.Model(inputs, layers.Dense(2, name="last")(x))


def always_common(model):
    """Sets a head that always predicts the common class: its accuracy is 7/8."""
    kernel, bias = model.get_layer("last").weights
    kernel.assign(np.zeros(kernel.shape))
    bias.assign([1.0, -1.0])
    return model


BALANCED = ClassWeighting("balanced")


def with_weights(split, weights):
    """Returns batches of the images with sample weights."""
    images = np.concatenate([x for x, _ in split.dataset()])
    return tf.data.Dataset.from_tensor_slices(
        (images, split.labels, weights.astype("float32"))
    ).batch(16)


def test_class_weights_and_sample_weights_give_the_weighted_accuracy():
    model = network()
    outputs = np.array([[2.0, 0], [2, 0], [0, 1], [2, 0]])
    labels = np.array([0, 0, 0, 1])
    own = np.array([1.0, 1.0, 1.0, 3.0])
    plain = score_of(model, outputs, labels, None, Criterion())
    assert (plain.value, plain.accuracy, plain.num_images) == (0.5, 0.5, 4)
    balanced = score_of(model, outputs, labels, None, Criterion(BALANCED))
    assert balanced.value == pytest.approx((2 / 3 + 0) / 2)
    losses = -np.log([1 / (1 + np.exp(-2))] * 2 + [1 / (1 + np.exp(1)), 1 / (1 + np.exp(2))])
    assert balanced.loss == pytest.approx((losses[:3].mean() + losses[3]) / 2)
    weighted = score_of(model, outputs, labels, own, Criterion(has_weights=True))
    assert weighted.value == pytest.approx(2 / 6)
    assert weighted.loss == pytest.approx(losses @ own / 6)
    both = score_of(model, outputs, labels, own, Criterion(BALANCED, has_weights=True))
    assert both.value == pytest.approx(2 * (2 / 3) / (3 * (2 / 3) + 2 * 3))
    assert both.accuracy == 0.5


def test_a_multi_label_score_is_weighted_by_image():
    inputs = keras.Input((4, 4, 3))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 1)(inputs))
    model = keras.Model(inputs, layers.Dense(2, "sigmoid")(pooled))
    outputs, labels = np.array([[0.9, 0.9], [0.9, 0.1]]), np.array([[1, 0], [1, 0]])
    weights = np.array([1.0, 3.0])
    score = score_of(model, outputs, labels, weights, Criterion(has_weights=True))
    assert score.value == pytest.approx((0.5 + 3 * 1) / 4)
    assert score.accuracy == 0.75


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, np.nan]])
def test_invalid_weights_are_refused(weights):
    with pytest.raises(tlkit.DataError, match="finite weights of at least 0"):
        Criterion(has_weights=True).weights(np.array([0, 1]), np.array(weights), 2)


def test_a_score_is_restored_from_its_record():
    score = Score(0.8, 0.3, 0.9, 20)
    assert Score.from_record(score.record()) == score
    assert Score.from_record([0.8, 0.3, 20]) == Score(0.8, 0.3, 0.8, 20)
    assert Score.from_record(None) is None
    assert score.is_better_than(Score(0.8, 0.4, 0.95, 20))
    assert not score.is_better_than(Score(0.81, 0.4, 0.1, 20))


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(), (8,)], ids=["solved", "by gradient descent"])
def test_a_head_is_kept_by_the_requested_accuracy(hidden):
    """A head that always predicts the common class has the higher plain accuracy."""
    data = unbalanced()
    model = always_common(network(hidden))
    report = tlkit.train_head(model, data, class_weight="balanced", learning_rate=0.03)
    after = tlkit.evaluate(model, data.validation)
    assert report.decided_by == "balanced accuracy"
    assert report.decision_before == pytest.approx(0.5)
    assert report.decision_after == pytest.approx(after.balanced_accuracy)
    assert report.decision_after > 0.6
    assert report.accuracy_before == pytest.approx(7 / 8, abs=0.03)
    assert report.accuracy_after == after.accuracy
    assert "validation balanced accuracy 50.0 % to" in str(report)
    if hidden:
        kept = max(epoch["val_balanced_accuracy"] for epoch in report.stages[0].history)
        assert kept == pytest.approx(after.balanced_accuracy)
    plain = tlkit.train_head(always_common(network(hidden)), data, epochs=1)
    assert (plain.decided_by, plain.decision_after) == ("accuracy", plain.accuracy_after)
    assert "decided" not in str(plain)


@pytest.mark.parametrize(
    ("given", "way"),
    [({"views": 1, "augment": "none"}, "stored activations"), ({"views": 0}, "whole graph")],
    ids=["stored", "whole"],
)
def test_an_epoch_is_kept_by_the_requested_accuracy(given, way):
    data = unbalanced()
    model = always_common(network())
    report = tlkit.fine_tune(
        model,
        data,
        unfreeze=2,
        epochs=8,
        learning_rate=0.03,
        patience=8,
        class_weight="balanced",
        **given,
    )
    after = tlkit.evaluate(model, data.validation)
    (stage,) = report.stages
    assert any(way in note for note in stage.notes)
    assert report.decision_before == pytest.approx(0.5)
    assert report.decision_after == pytest.approx(after.balanced_accuracy)
    values = [epoch["val_balanced_accuracy"] for epoch in stage.history]
    assert max(values) > 0.5
    assert values[stage.kept_epoch - 1] == pytest.approx(max(values))
    assert "(balanced accuracy 50.0 % at 0 %, " in stage.notes[-1]
    assert f"{100 * max(values):.1f} % at 100 %)" in stage.notes[-1]
    assert report.accuracy_after == after.accuracy


def test_weights_of_validation_images_decide():
    """The images with wrong predictions have weight 0."""
    data = unbalanced()
    model = always_common(network())
    images = with_weights(data.validation, (data.validation.labels == 0).astype(float))
    train = with_weights(data.train, np.ones(data.train.num_images))
    report = tlkit.train_head(model, train, validation=images, class_weight=None)
    assert report.decided_by == "weighted accuracy"
    assert report.decision_before == report.decision_after == 1.0  # the old head is kept
    assert report.accuracy_after < 1.0
    tuned = tlkit.fine_tune(model, train, validation=images, unfreeze="head", epochs=2)
    assert tuned.decided_by == "weighted accuracy"
    assert tuned.decision_after == 1.0
    assert all("val_weighted_cross_entropy" in epoch for epoch in tuned.stages[0].history)
    assert score_on(model, images, ClassWeighting()).value == 1.0


def test_a_strength_is_chosen_by_the_requested_accuracy():
    data = unbalanced()
    model = always_common(network())
    anchor = tlkit.choose_anchor(
        model, data, old_data=data, epochs=1, max_trials=1, unfreeze=2, class_weight="balanced"
    )
    report = anchor.report
    assert report.decided_by == "balanced accuracy"
    assert report.before.accuracy == report.before.old_accuracy == pytest.approx(0.5)
    assert "balanced accuracy throughout" in str(report)
    anchor.release()


def test_accuracies_that_differ_by_rounding_only_are_equal():
    third = float(np.float32(1 / 3))
    assert third > 1 / 3
    assert not is_better((third, 0.9), (1 / 3, 0.8))
    assert is_better((third, 0.7), (1 / 3, 0.8))
    assert is_better((0.334, 0.9), (1 / 3, 0.8))


def test_the_deciding_metrics_choose_the_best_epoch():
    model = network()
    keeper = KeepBest(model, 5, names=("balanced_accuracy", "balanced_cross_entropy"))
    keeper.set_model(model)
    for accuracy, balanced in ((0.9, 0.5), (0.6, 0.7), (0.95, 0.6)):
        model.get_layer("last").bias.assign([balanced, 0])
        keeper.on_epoch_end(
            0,
            {
                "val_accuracy": accuracy,
                "val_cross_entropy": 1.0,
                "val_balanced_accuracy": balanced,
                "val_balanced_cross_entropy": 1.0,
            },
        )
    keeper.restore()
    assert keeper.best == (0.7, 1.0)
    assert model.get_layer("last").bias.numpy()[0] == pytest.approx(0.7)
