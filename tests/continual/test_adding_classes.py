"""New rows with fixed old logits, and the report on them."""

import dataclasses

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import tlkit
from tlkit.continual.adding_classes import (
    Replay,
    learn_classes,
    old_and_new_accuracy,
    signature_of_features,
)
from tlkit.continual.class_means import mean_features
from tlkit.continual.exemplars import Exemplars
from tlkit.continual.growth_report import GrowthReport
from tlkit.continual.new_rows import FRACTION_OF_NEW, PENALTIES, solve_new_rows
from tlkit.evaluation.metrics import evaluate_probabilities
from tlkit.models.surgery import add_classes, align_new_classes, new_layers, widen_layer


def clusters(num_classes, num=30, width=6, seed=0):
    """Features around one centre for each class, and labels."""
    random = np.random.default_rng(seed)
    centres = 3 * random.standard_normal((num_classes, width))
    labels = np.repeat(np.arange(num_classes), num)
    return (centres[labels] + random.standard_normal((len(labels), width))).astype("f4"), labels


def loss_of(features, labels, logits, rows):
    """The balanced loss that the rows minimise, without penalty."""
    both = np.concatenate([logits, features @ rows.kernel + rows.bias], axis=1).astype("f8")
    logs = both - np.log(np.exp(both).sum(axis=1, keepdims=True))
    own = -logs[np.arange(len(labels)), labels]
    return np.mean([own[labels == label].mean() for label in np.unique(labels)])


def test_without_old_classes_it_is_plain_logistic_regression():
    features, labels = clusters(3)
    rows = solve_new_rows(features, labels, np.empty((90, 0)), 3)
    penalty = float(rows.note.split("penalty ")[1].split(",")[0])
    assert any(np.isclose(penalty, one, rtol=0.02) for one in PENALTIES)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    nearest = min(PENALTIES, key=lambda one: abs(np.log(one / penalty)))
    plain = LogisticRegression(C=1 / (90 * nearest), tol=1e-10, max_iter=5000)
    plain.fit((features - mean) / scale, labels)
    found = np.exp(features @ rows.kernel + rows.bias)
    expected = plain.predict_proba((features - mean) / scale)
    np.testing.assert_allclose(found / found.sum(axis=1, keepdims=True), expected, atol=2e-3)


def test_new_rows_are_solved_against_the_fixed_old_logits():
    features, labels = clusters(4)
    random = np.random.default_rng(1)
    old = (features @ random.standard_normal((6, 2))).astype("f4")
    rows = solve_new_rows(features, labels, old, 2)
    best = loss_of(features, labels, old, rows)
    for _ in range(5):  # nearby rows are hardly better, only by the effect of the penalty
        perturbed = rows.kernel + 0.05 * random.standard_normal(rows.kernel.shape)
        assert best < 1e-3 + loss_of(
            features, labels, old, type(rows)(perturbed.astype("f4"), rows.bias, "")
        )


def test_few_old_rows_count_as_much_as_many_new_ones():
    features, labels = clusters(2, num=200)
    old = np.zeros((400, 1), "f4")
    few = np.r_[0:8, 200:400]
    rows = solve_new_rows(features[few], labels[few], old[few], 1)
    is_new = features @ rows.kernel[:, 0] + rows.bias[0] > 0
    assert is_new[labels == 0].mean() < 0.1
    assert is_new[labels == 1].mean() > 0.9


@pytest.mark.parametrize("num_new", [1, 3])
def test_without_old_rows_new_classes_are_predicted_for_their_fraction_of_new_images(num_new):
    features, labels = clusters(2 + num_new)
    new = labels >= 2
    old = features[new] @ np.random.default_rng(1).standard_normal((6, 2))
    mean = features[new].mean(axis=0)[:, np.newaxis] if num_new == 1 else None
    rows = solve_new_rows(features[new], labels[new], old, num_new, imprinted=mean)
    assert (features[new] @ rows.kernel).std(axis=0).min() > 0.1  # no constant logit
    margin = (features[new] @ rows.kernel + rows.bias).max(axis=1) - old.max(axis=1)
    assert np.mean(margin > 0) == pytest.approx(FRACTION_OF_NEW, abs=0.02)
    assert f"{100 * FRACTION_OF_NEW:.0f} % of the new images" in rows.note


def test_a_single_new_class_needs_an_imprinted_row():
    features, labels = clusters(1)
    with pytest.raises(tlkit.ArgumentError, match="`imprinted` must be given"):
        solve_new_rows(features, labels + 1, np.zeros((30, 1)), 1)


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_learning_classes_changes_nothing_else_and_predicts_them(hidden):
    model = tlkit.build_classifier(
        "tiny_resnet", ["a", "b"], weights=None, hidden=hidden, dropout=0.5
    )
    labels = np.arange(60) % 2
    images = np.random.default_rng(0).integers(0, 99, (60, 32, 32, 3), "uint8")
    images[labels == 0, :, :, 0] += 100
    images[labels == 1, :, :, 2] += 100
    data = tlkit.load_arrays(images, labels, ["red", "blue"], splits=(0.6, 0.4, 0))
    train = data.train
    shifted = dataclasses.replace(train, labels=train.labels + 2)
    before = model.get_weights()
    learned = learn_classes(model, shifted, ["red", "blue"], ["a", "b"], replay=Replay(0))
    pixels = images[:4].astype("f4")
    assert np.array_equal(learned.model(pixels)[:, :2], model(pixels))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    logits = learned.model(images.astype("f4")).numpy()
    assert (logits[:, 2:].argmax(axis=1) == labels).all()
    assert learned.num_replayed == 0
    assert learned.exemplars.features == {}


def test_heads_that_are_no_softmax_over_logits_are_refused():
    data = tlkit.load_arrays(
        np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), "uint8"), np.arange(8) % 2
    )
    for given in ({"binary": True}, {"multi_label": True}):
        model = tlkit.build_classifier("tiny_resnet", ["a", "b"], weights=None, **given)
        with pytest.raises(
            tlkit.ArgumentError, match="must have a softmax head that returns logits"
        ):
            learn_classes(model, data.train, ["c"], ["a", "b"])


def colours(*means, first=0, num=24):
    """Returns a training split of images around one colour per class, labels from `first`."""
    random = np.random.default_rng(first)
    labels = np.arange(len(means) * num) % len(means)
    noise = random.normal(0, 6, (len(labels), 1, 1, 3)) + random.normal(0, 20, (4, 4, 1))
    images = (np.array(means)[labels][:, None, None] + noise).clip(0, 255).astype("uint8")
    names = [f"class {n}" for n in range(len(means))]
    split = tlkit.load_arrays(images, labels, names, splits=(1, 0, 0)).train
    return dataclasses.replace(split, labels=split.labels + first)


def thinned(split, rows):
    return split.subset(np.asarray(rows, int))


def only(split, label):
    return thinned(split, np.flatnonzero(split.labels == label))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def pixels_of(split):
    return np.concatenate([batch.numpy() for batch, *_ in split.dataset(shuffle=False)])


def by_red(**others):
    """Returns a model that separates two classes by their red channel."""
    x = keras.Input((4, 4, 3))
    y = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(x, keras.layers.Dense(2, name="logits", **others)(y))
    slope = 0.05
    model.layers[-1].kernel.assign([[-slope, slope], [0, 0], [0, 0]])
    if model.layers[-1].bias is not None:
        model.layers[-1].bias.assign([125 * slope, -125 * slope])
    return model


OLD = colours((50, 99, 230), (200, 99, 230))
NEW = colours((125, 99, 60), (125, 99, 150), first=2)


def accuracies(model):
    """Returns a model's accuracy on old and on new images."""
    return [
        float(np.mean(model(pixels_of(split)).numpy().argmax(axis=1) == split.labels))
        for split in (OLD, NEW)
    ]


def test_exemplars_keep_old_accuracy_and_without_them_it_is_lost():
    model = by_red()  # new classes differ in blue, and the old ones have more of it
    none = learn_classes(model, NEW, ["c", "d"], ["a", "b"], replay=Replay(0, OLD))
    kept = learn_classes(model, NEW, ["c", "d"], ["a", "b"], replay=Replay(20, OLD))
    old, _ = accuracies(none.model)
    assert old < 0.5
    assert min(accuracies(kept.model)) > 0.95
    for learned in (none, kept):
        logits = learned.model(pixels_of(OLD)).numpy()
        assert np.array_equal(logits[:, :2], model(pixels_of(OLD)).numpy())
        assert learned.stage.trainable.layers == ("logits__grown1",)
        assert learned.stage.trainable.num_trainable == 8
        assert [v.path for v in learned.model.trainable_variables] == [
            v.path for v in new_layers(learned.model)[0].variables
        ]


def test_a_single_new_class_without_exemplars_is_imprinted():
    split = only(NEW, 2)
    learned = learn_classes(by_red(), split, ["c"], ["a", "b"], replay=Replay(0))
    (layer,) = new_layers(learned.model)
    features = pixels_of(split).mean(axis=(1, 2))
    own = layer.kernel.numpy()[:, 0]
    mean = features.mean(axis=0)
    np.testing.assert_allclose(unit(own), unit(mean), rtol=1e-4)
    logits = learned.model(pixels_of(split)).numpy()
    assert np.ptp(logits[:, 2]) > 0.1
    assert np.mean(logits.argmax(axis=1) == 2) == pytest.approx(FRACTION_OF_NEW, abs=0.05)
    assert "imprinted" in learned.stage.notes[-1]
    aligned = align_new_classes(learned.model)(pixels_of(split)).numpy()
    np.testing.assert_allclose(aligned, logits, rtol=1e-4, atol=1e-4)  # already at old rows' norm


def test_an_expanded_network_learns_more_classes():
    x = keras.Input((4, 4, 3))
    y = keras.layers.Conv2D(6, 3, activation="relu", name="inner")(keras.layers.Rescaling(0.01)(x))
    y = keras.layers.GlobalAveragePooling2D()(y)
    y = keras.layers.Dense(5, activation="relu", name="hidden")(y)
    model = add_classes(keras.Model(x, keras.layers.Dense(2, name="logits")(y)), ["c", "d"])
    for name, units in (("hidden", 8), ("inner", 9)):  # as tlkit.expand does
        model = widen_layer(model, name, units, isolate=True)
    random = np.random.default_rng(0)
    for layer in new_layers(model):
        layer.set_weights([random.normal(0, 0.5, w.shape) for w in layer.get_weights()])
    old = colours((50, 50, 50), (200, 50, 50), (50, 200, 50), (200, 200, 50))
    split = colours((50, 50, 220), (220, 220, 220), first=4)
    names = ["a", "b", "c", "d"]
    learned = learn_classes(model, split, ["e", "f"], names, replay=Replay(3, old))
    images = pixels_of(split)
    logits = learned.model(images).numpy()
    assert np.array_equal(logits[:, :4], model(images).numpy())
    assert np.mean(logits[:, 4:].argmax(axis=1) + 4 == split.labels) > 0.9
    assert len(learned.stage.trainable.layers) == 2
    assert all(np.ptp(learned.model.get_layer(n).kernel) for n in learned.stage.trainable.layers)
    assert learned.exemplars.features["f"].shape == (3, 5 + 3)
    assert learned.num_replayed == 12
    again = learn_classes(
        learned.model,
        only(colours((50, 220, 220), (0, 0, 0), first=6), 6),
        ["g"],
        [*names, "e", "f"],
        replay=Replay(3, stored=learned.exemplars),
    )
    assert again.from_stored == dict.fromkeys([*names, "e", "f"], 3)
    assert learned.exemplars.signature == signature_of_features(again.model)


def test_a_head_without_bias_is_refused():
    with pytest.raises(tlkit.ArgumentError, match=r"`model` must have a bias.*use_bias=False"):
        learn_classes(by_red(use_bias=False), NEW, ["c", "d"], ["a", "b"], replay=Replay(0))


def test_images_that_do_not_fit_the_model_are_refused_before_anything(cache):
    larger = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    )
    with pytest.raises(tlkit.ArgumentError, match=r"image size of the model, \(8, 8\)"):
        learn_classes(larger, NEW, ["c", "d"], ["a", "b"], replay=Replay(0))
    with pytest.raises(tlkit.ArgumentError, match=r"image size of the model, \(8, 8\)"):
        mean_features(larger, NEW)
    assert not cache.exists()


def test_a_class_without_an_image_is_refused_before_anything(cache):
    with pytest.raises(tlkit.DataError, match=r"images of each new class.*none of 'e'"):
        learn_classes(by_red(), NEW, ["c", "d", "e"], ["a", "b"], replay=Replay(0))
    with pytest.raises(tlkit.DataError, match=r"exemplars=20, and none of 'b'"):
        learn_classes(
            by_red(), NEW, ["c", "d"], ["a", "b"], replay=Replay(images=thinned(OLD, [0, 2]))
        )
    with pytest.raises(tlkit.ArgumentError, match="`new_names` must be names of classes that"):
        learn_classes(by_red(), NEW, ["c", "a"], ["a", "b"], replay=Replay(0))
    assert not cache.exists()


def test_stored_exemplars_replace_missing_old_images():
    model = by_red()
    features = pixels_of(OLD).mean(axis=(1, 2))
    own = {n: features[OLD.labels == row][:20] for row, n in enumerate("ab")}
    stored = Exemplars(own, signature_of_features(model))
    left = thinned(OLD, np.flatnonzero(OLD.labels == 0)[:2])  # both are among the stored ones
    learned = learn_classes(
        model, NEW, ["c", "d"], ["a", "b"], replay=Replay(images=left, stored=stored)
    )
    assert learned.from_stored == {"a": 18, "b": 20}
    assert learned.num_replayed == 40
    for name, rows in own.items():
        found = learned.exemplars.features[name]
        order = [np.linalg.norm(rows - row, axis=1).argmin() for row in found]
        assert sorted(order) == list(range(20))
        np.testing.assert_allclose(found, rows[order], rtol=1e-5)
    full = learn_classes(
        model, NEW, ["c", "d"], ["a", "b"], replay=Replay(images=OLD, stored=stored)
    )
    assert full.from_stored == {}


def test_images_of_old_classes_among_the_new_ones_preserve_old_accuracy():
    both = colours((50, 99, 230), (200, 99, 230), (125, 99, 60), (125, 99, 150))
    learned = learn_classes(by_red(), both, ["c", "d"], ["a", "b"], replay=Replay(0))
    assert learned.num_further == 48
    assert min(accuracies(learned.model)) > 0.95


def test_mean_features_initialise_new_classes():
    model = by_red()
    means = mean_features(model, NEW)
    features = pixels_of(NEW).mean(axis=(1, 2))
    expected = [features[NEW.labels == label].mean(axis=0) for label in (2, 3)]
    np.testing.assert_allclose(means, expected, rtol=1e-5)
    rows = new_layers(add_classes(model, ["c", "d"], class_means=means))[0].kernel.numpy().T
    np.testing.assert_allclose(unit(rows), unit(means), rtol=1e-5)
    np.testing.assert_array_equal(mean_features(model, only(NEW, 3)), means[1:])
    several = dataclasses.replace(NEW, labels=np.eye(4)[NEW.labels])
    for wrong in (several, thinned(NEW, []), None):
        with pytest.raises(tlkit.DataError, match="`images` must be images with one label each"):
            mean_features(model, wrong)


def test_replay_is_one_record():
    with pytest.raises(tlkit.ArgumentError, match="`exemplars` must be a whole number"):
        Replay(exemplars=-1)
    nothing = Replay(0, OLD, Exemplars({"a": np.ones((1, 2))}, "signature"))
    assert not len(nothing.labels)
    assert nothing.stored_features == {}


def test_accuracy_is_computed_on_old_and_on_new_images():
    logits = np.eye(3)[[0, 1, 1, 2, 0]]
    report = evaluate_probabilities(logits, np.array([0, 0, 1, 2, 2]), ["a", "b", "c"])
    assert old_and_new_accuracy(report, 2) == (pytest.approx(2 / 3), 0.5)
    only_old = evaluate_probabilities(logits[:3], np.array([0, 0, 1]), ["a", "b", "c"])
    assert old_and_new_accuracy(only_old, 2) == (pytest.approx(2 / 3), None)
    labels = evaluate_probabilities(
        np.full((2, 2), 0.4), np.array([[0, 1], [1, 0]]), ["a", "b"], kind="multi_label"
    )
    with pytest.raises(tlkit.ArgumentError, match="one class for each image"):
        old_and_new_accuracy(labels, 1)


def test_the_report_in_words():
    report = GrowthReport(("a", "b"), ("<c>",), exemplars=20, num_replayed=40)
    assert "old classes: no images to measure on" in str(report)
    assert "40 stored features" in str(report)
    assert "&lt;c&gt;" in report._repr_html_()
    assert "cost: unknown" in str(GrowthReport(("a",), ("c",), method="isolated"))
    report = GrowthReport(
        ("a",), ("c",), exemplars=20, num_replayed=22, num_further=7, from_stored={"a": 18}
    )
    assert "22 stored features of old images were replayed" in str(report)
    assert "including from the earlier run 18 of 'a'" in str(report)
    assert "7 images of old classes in the new folder were used against" in str(report)
    assert report.as_dict()["from_stored"] == {"a": 18}
