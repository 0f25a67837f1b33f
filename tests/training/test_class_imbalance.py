"""Training in which classes count differently: sampling, focal loss, and weights of labels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.training.test_resume import Stop, tune
from tlkit.data.class_weighting import ClassWeighting, weighting_of
from tlkit.errors import ArgumentError, RunError
from tlkit.training import resume
from tlkit.training.candidates import evaluate_candidate
from tlkit.training.class_losses import FocalCrossentropy
from tlkit.training.criterion import score_on

FOCAL = ClassWeighting(loss="focal")
LABELS = np.array([[1, 0], [0, 0], [0, 1], [0, 0]])


def rows(values):
    return tf.constant(np.random.default_rng(0).normal(0, 3, values), tf.float32)


@pytest.mark.parametrize("from_logits", [True, False])
def test_the_focal_loss_is_that_of_keras(from_logits):
    logits, labels = rows((6, 3)), np.array([0, 1, 2, 2, 1, 0])
    outputs = logits if from_logits else tf.nn.softmax(logits)
    focal = FocalCrossentropy("softmax", gamma=1.5, from_logits=from_logits, label_smoothing=0.1)
    given = {"gamma": 1.5, "from_logits": from_logits, "label_smoothing": 0.1}
    expected = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, **given)
    one_hot = np.eye(3, dtype="float32")[labels]
    np.testing.assert_allclose(focal(labels, outputs), expected(one_hot, outputs), rtol=1e-4)
    taking_rows = FocalCrossentropy("softmax", **given, one_hot=True)
    np.testing.assert_allclose(taking_rows(one_hot, outputs), focal(labels, outputs), rtol=1e-6)
    outputs = logits if from_logits else tf.sigmoid(logits)
    given["label_smoothing"] = 0.0
    several = FocalCrossentropy("multi_label", **given)
    expected = keras.losses.BinaryFocalCrossentropy(**given)
    np.testing.assert_allclose(several(one_hot, outputs), expected(one_hot, outputs), rtol=1e-4)


def test_the_gradient_of_the_focal_loss_is_finite_where_the_class_is_certain():
    logits = tf.Variable([[200.0, -200.0], [-200.0, 200.0]])
    with tf.GradientTape() as tape:
        loss = FocalCrossentropy("softmax", gamma=0.5, from_logits=True)([0, 0], logits)
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_weights_of_labels_are_those_of_images_with_and_without_them():
    factors = np.array([[1.0, 4.0], [0.5, 2.0]])
    loss = FocalCrossentropy("multi_label", gamma=0.0, from_logits=True, label_factors=factors)
    logits = rows((4, 2))
    each = tf.nn.sigmoid_cross_entropy_with_logits(LABELS.astype("float32"), logits).numpy()
    weights = np.where(LABELS == 1, factors[:, 1], factors[:, 0])
    np.testing.assert_allclose(loss(LABELS, logits), (weights * each).mean(), rtol=1e-5)


@pytest.fixture(scope="module")
def several():
    """Images with two labels, of which the second is rare."""
    generator = np.random.default_rng(0)
    labels = np.stack([np.arange(80) % 2, np.arange(80) % 8 == 0], axis=1)
    images = generator.integers(0, 150, (80, 32, 32, 3), "uint8")
    for channel, column in zip((0, 2), labels.T, strict=True):
        images[..., channel] += (40 * column).astype("uint8")[:, None, None]
    return tlkit.load_arrays(images, labels, ["red", "blue"], splits=(0.6, 0.4, 0))


def multi_label_model(data):
    return tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, multi_label=True)


def test_weights_of_labels_decide_by_the_mean_recall_of_each_label(several):
    model = multi_label_model(several)
    tlkit.train_head(model, several, solve_head=False)
    balanced, images = ClassWeighting("balanced"), several.validation
    score = score_on(model, images, balanced)
    logits = model.predict(images.dataset(), verbose=0)
    is_correct, labels = (logits >= 0) == (images.labels == 1), images.labels == 1
    recalls = [is_correct[labels[:, i] == value, i].mean() for i in (0, 1) for value in (0, 1)]
    assert score.value == pytest.approx(np.mean(recalls))
    assert score.accuracy == pytest.approx(is_correct.mean())
    assert evaluate_candidate(model, images, balanced).score == score


def test_a_head_of_several_labels_is_solved_with_weights_of_each_label(several):
    recalls = {}
    for class_weight in (None, "balanced", {"blue": 30.0}):
        model = multi_label_model(several)
        report = tlkit.train_head(model, several, class_weight=class_weight)
        logits = model.predict(several.train.dataset(shuffle=False), verbose=0)
        is_rare = several.train.labels[:, 1] == 1
        recalls[str(class_weight)] = logits[is_rare, 1].mean() - logits[~is_rare, 0].mean()
        notes = " ".join(report.stages[0].notes)
        assert ("no head in closed form was solved" in notes) == (class_weight is not None)
    assert recalls["None"] < recalls["balanced"]
    assert "how classes count: weights as given (blue 30; others 1)" in notes
    with pytest.raises(ArgumentError, match="`head` must be 'linear' or 'auto' with class weights"):
        tlkit.train_head(
            multi_label_model(several), several, head="closed-form", class_weight="balanced"
        )


@pytest.mark.slow
def test_several_labels_are_fine_tuned_by_their_weighted_accuracy(several):
    report = tlkit.fine_tune(
        multi_label_model(several),
        several,
        epochs=2,
        patience=2,
        class_weight="balanced",
        loss="focal",
    )
    history = report.stages[-1].history
    assert report.decided_by == "balanced accuracy"
    assert {"val_balanced_accuracy", "val_balanced_cross_entropy"} <= set(history[-1])
    assert all(0 <= epoch["val_balanced_accuracy"] <= 1 for epoch in history)
    assert report.decision_after != report.accuracy_after


@pytest.mark.slow
@pytest.mark.parametrize("views", [0, 2])
def test_a_stopped_training_with_balanced_sampling_is_resumed(data, tmp_path, monkeypatch, views):
    monkeypatch.setattr(resume, "SAVE_SECONDS", 0.0)
    plan = {
        "stages": [tlkit.Stage("stage3", epochs=4)],
        "sampling": "balanced",
        "loss": "focal:1",
        "views": views,
        "augment": "light",
    }
    whole, report = tune(data, None, **plan)
    with pytest.raises(KeyboardInterrupt):
        tune(data, tmp_path, [Stop(epoch=1, batch=1)], **plan)
    with pytest.raises(RunError, match="class_weight="):
        tune(data, tmp_path, **plan | {"loss": "focal"})
    resumed, _ = tune(data, tmp_path, **plan)
    for one, two in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert report.decided_by == "balanced accuracy"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_weight": {"gone": 2.0}}, "must name classes of the images. Received: 'gone'"),
        ({"loss": "focal:x"}, "`loss` must"),
        (
            {"loss": keras.losses.Hinge(), "class_weight": ClassWeighting(loss="focal")},
            "a focal loss",
        ),
    ],
)
def test_what_does_not_fit_is_refused(data, given, message):
    with pytest.raises(ArgumentError, match=message):
        tune(data, None, **given)


def test_what_a_dataset_or_a_solved_head_does_not_have_is_refused(data):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    with pytest.raises(ArgumentError, match="`sampling` must be 'shuffled' if `data` is"):
        tlkit.fine_tune(model, data.train.dataset(), sampling="balanced")
    with pytest.raises(ArgumentError, match="`class_weight` must have numbers"):
        tlkit.fine_tune(model, data.train.dataset(), class_weight={data.class_names[0]: 2.0})
    with pytest.raises(ArgumentError, match="`loss` must be 'cross-entropy' for a head"):
        tlkit.train_head(model, data, class_weight=weighting_of(None, loss="focal"))


def test_a_solved_head_uses_balanced_weights_in_place_of_balanced_sampling(data):
    weights = []
    for weighting in (ClassWeighting("balanced"), ClassWeighting(sampling="balanced")):
        model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
        report = tlkit.train_head(model, data, class_weight=weighting)
        weights.append(model.get_weights()[-2:])
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)
    assert any("in place of balanced sampling" in note for note in report.stages[0].notes)
