"""Interpolation of weights, and distillation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tlkit.errors import ArgumentError
from tlkit.plots.continual import plot_interpolation


@pytest.fixture
def other():
    return tlkit.build_classifier("tiny_resnet", ["grey", "red"], weights=None, seed=5)


def test_weights_are_interpolated_and_the_ends_are_exact(model, other):
    for alpha in (0.0, 0.25, 1.0):
        between = tlkit.interpolate_weights(model, other, alpha)
        for a, b, c in zip(model.weights, other.weights, between.weights, strict=True):
            expected = (1 - alpha) * a.numpy().astype("float64") + alpha * b.numpy()
            np.testing.assert_array_equal(c.numpy(), expected.astype("float32"))


def test_neither_model_is_changed(model, other):
    before = [w.numpy() for w in (*model.weights, *other.weights)]
    between = tlkit.interpolate_weights(model, other, 0.5)
    between.weights[0].assign(between.weights[0] + 1)
    for value, weight in zip(before, (*model.weights, *other.weights), strict=True):
        np.testing.assert_array_equal(value, weight.numpy())


def test_the_sweep_evaluates_every_split_at_every_alpha(model, other, data):
    splits = {"old": data.train, "new": data.validation}
    report = tlkit.sweep_interpolation(model, other, splits, alphas=[0, 0.5, 1])
    assert report.accuracies["new"][0] == tlkit.evaluate(model, data.validation).accuracy
    assert report.accuracies["new"][2] == tlkit.evaluate(other, data.validation).accuracy
    assert report.num_images == {name: split.num_images for name, split in splits.items()}
    assert report.best_alpha in report.alphas
    assert len(plot_interpolation(report).axes[0].lines) == 2
    assert "best mean" in str(report)


def test_models_of_other_shapes_are_refused_by_name(model):
    three = tlkit.build_classifier("tiny_resnet", ["a", "b", "c"], weights=None)
    with pytest.raises(ArgumentError, match=r"logits/kernel \(\d+, 2\) and \(\d+, 3\)"):
        tlkit.interpolate_weights(model, three, 0.5)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, "half", float("nan")])
def test_alpha_must_be_from_0_to_1(model, alpha):
    with pytest.raises(ArgumentError, match="must be a number from 0 to 1"):
        tlkit.interpolate_weights(model, model, alpha)


def test_the_distillation_term_matches_the_formula(model, other, data):
    term = tlkit.distill_from(other, temperature=3.0, weight=0.5)
    images, _ = next(iter(data.train.dataset(shuffle=False)))
    outputs = model(images)
    value = float(term.loss(images, outputs, tf.constant(0.0)))
    old, new = other(images).numpy() / 3, outputs.numpy() / 3
    logs = new - np.log(np.exp(new).sum(axis=1, keepdims=True))
    targets = np.exp(old) / np.exp(old).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(value, 0.5 * 9 * -(targets * logs).sum(axis=1).mean(), rtol=1e-5)


def test_logits_and_probabilities_give_the_same_term(model, other, data):
    """The term is the same for a student that ends with a softmax."""
    term = tlkit.distill_from(other, temperature=3.0)
    images, _ = next(iter(data.train.dataset(shuffle=False)))
    expected = float(term.loss(images, model(images), tf.constant(0.0)))
    ends = keras.Model(model.inputs[0], keras.layers.Softmax(name="softmax")(model.outputs[0]))
    term.check(ends)
    value = float(term.loss(images, ends(images), tf.constant(0.0)))
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_binary_heads_are_distilled_by_their_sigmoid(data):
    models = [
        tlkit.build_classifier("tiny_resnet", ["grey", "red"], weights=None, binary=True, seed=i)
        for i in (0, 1)
    ]
    images, _ = next(iter(data.train.dataset(shuffle=False)))
    outputs = models[0](images)
    value = float(tlkit.distill_from(models[1], 2.0).loss(images, outputs, tf.constant(0.0)))
    p, q = (1 / (1 + np.exp(-m(images).numpy() / 2)) for m in (models[1], models[0]))
    expected = -4 * (p * np.log(q) + (1 - p) * np.log(1 - q)).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_multi_label_heads_are_distilled_by_the_mean_over_images_and_labels(data):
    models = [
        tlkit.build_classifier("tiny_resnet", list("abc"), weights=None, multi_label=True, seed=i)
        for i in (0, 1)
    ]
    images, _ = next(iter(data.train.dataset(shuffle=False)))
    value = float(
        tlkit.distill_from(models[1], 3.0).loss(images, models[0](images), tf.constant(0.0))
    )
    p, q = (1 / (1 + np.exp(-m(images).numpy() / 3)) for m in (models[1], models[0]))
    expected = -9 * (p * np.log(q) + (1 - p) * np.log(1 - q)).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.slow
def test_distillation_keeps_old_predictions_against_flipped_labels(model, data):
    tlkit.train_head(model, data)
    start = model.get_weights()
    flipped = data.train.dataset().map(lambda images, labels: (images, 1 - labels))
    kept = {}
    for weight in (0.0, 30.0):
        model.set_weights(start)
        report = tlkit.fine_tune(
            model,
            flipped,
            unfreeze="all",
            epochs=8,
            learning_rate=3e-4,
            anchor=tlkit.distill_from(model, weight=weight),
        )
        kept[weight] = tlkit.evaluate(model, data.train).accuracy
    assert kept[30.0] > 0.9 > kept[0.0]
    assert report.stages[-1].history[-1]["distillation"] > 0
    assert any("distilled from the old model" in note for note in report.stages[-1].notes)


def test_the_teacher_is_a_copy_and_stays_unchanged(model, data):
    term = tlkit.distill_from(model)
    before = term._teacher.get_weights()
    tlkit.fine_tune(model, data, unfreeze="all", epochs=1, learning_rate=1e-3, anchor=term)
    for a, b in zip(before, term._teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert "the whole graph runs: the constraint needs the images" in " ".join(
        tlkit.fine_tune(model, data, unfreeze="stage3", epochs=1, augment="none", anchor=term)
        .stages[-1]
        .notes
    )


def test_an_old_model_with_more_outputs_is_refused(model, data):
    three = tlkit.build_classifier("tiny_resnet", ["a", "b", "c"], weights=None)
    with pytest.raises(
        ArgumentError, match=r"old model with 3 outputs \(softmax\), and a new model with 2"
    ):
        tlkit.fine_tune(model, data, epochs=1, anchor=tlkit.distill_from(three))


@pytest.mark.parametrize("arguments", [{"temperature": 0.0}, {"weight": -1.0}])
def test_bad_arguments(model, arguments):
    name = next(iter(arguments))
    with pytest.raises(ArgumentError, match=f"`{name}` must be"):
        tlkit.distill_from(model, **arguments)


def test_a_distilled_model_is_saved_without_its_teacher(model, data, tmp_path):
    sizes = []
    for anchor in (None, tlkit.distill_from(model)):
        tlkit.fine_tune(model, data, unfreeze="head", epochs=1, anchor=anchor)
        model.save(tmp_path / "model.keras")
        sizes.append(
            sum(w.numpy().size for w in keras.models.load_model(tmp_path / "model.keras").weights)
        )
    assert sizes[0] == sizes[1]
