"""The closed-form head: its solution, its cross-validation, and the choice against a linear one."""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, softmax

import tlkit
from tests.training.test_resume import Stop
from tlkit.errors import ArgumentError
from tlkit.models.kernel_head import KernelMap, directions
from tlkit.training import closed_form, head_solution
from tlkit.training.closed_form import ClosedFormTask, solve_closed_form
from tlkit.training.head_choice import HeadComparison, compare_heads
from tlkit.training.labelled import LabelledFeatures
from tlkit.training.sums import Sums


def quadrants(n=240, *, seed=0, num_features=5):
    """Two classes that no line separates: by the sign of a product of two features."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(n, num_features))
    labels = (rows[:, 0] * rows[:, 1] > 0).astype(int)
    return rows.astype("float32"), labels


def task_for(rows, labels, kind="softmax", **changed):
    n = len(rows)
    targets = np.eye(2)[labels] if labels.ndim == 1 else labels.astype(float)
    task = ClosedFormTask(
        LabelledFeatures(rows, labels),
        targets=targets,
        weights=np.ones(n),
        folds=[np.arange(start, n, 5) for start in range(5)],
        candidates=np.arange(n),
        kind=kind,
        seed=0,
    )
    return dataclasses.replace(task, **changed)


def scores_by_hand(task, solved, train, rows):
    """Solves the penalised least squares as one system of equations, without any sums."""
    kernel_map = solved.kernel_map
    some = dataclasses.replace(kernel_map, landmarks=kernel_map.landmarks[train])
    h = np.c_[some.values(task.rows.features[train]), np.ones(len(train))]
    square = np.linalg.cholesky(
        np.exp(2 * some.sharpness * (some.landmarks @ some.landmarks.T - 1))
        + 1e-10 * np.eye(len(train))
    ).T
    penalty = np.sqrt(solved.penalty) * np.c_[square, np.zeros(len(train))]
    root = np.sqrt(task.weights[train])[:, np.newaxis]
    targets = np.concatenate([root * task.targets[train], np.zeros((len(train), 2))])
    weights = np.linalg.lstsq(np.concatenate([root * h, penalty]), targets, rcond=None)[0]
    return np.c_[some.values(task.rows.features[rows]), np.ones(len(rows))] @ weights


def test_the_solution_is_that_of_the_penalised_least_squares():
    rows, labels = quadrants()
    task = task_for(rows, labels, weights=np.random.default_rng(1).uniform(0.5, 1.5, len(rows)))
    solved, everything = solve_closed_form(task), np.arange(len(rows))
    expected = scores_by_hand(task, solved, everything, everything)
    logits = solved.logits(rows)
    factor = np.ptp(logits) / np.ptp(expected)  # from scores to logits
    np.testing.assert_allclose(logits, factor * expected, atol=1e-3 * factor)


def test_a_fold_is_predicted_without_its_images_and_without_their_landmarks():
    rows, labels = quadrants()
    task = task_for(rows, labels)
    solved, fold = solve_closed_form(task), task.folds[2]
    expected = scores_by_hand(task, solved, np.setdiff1d(np.arange(len(rows)), fold), fold)
    found = solved.out_of_fold[fold]
    factor = np.ptp(found) / np.ptp(expected)
    np.testing.assert_allclose(found, factor * expected, atol=1e-6 * factor)
    agree = (solved.out_of_fold.argmax(1) == labels).mean()
    assert 0.7 < agree < (solved.logits(rows).argmax(1) == labels).mean()


def test_sums_of_parts_give_the_solution_of_all_images_at_once():
    rows, labels = quadrants()
    task, everything = task_for(rows, labels), np.arange(len(rows))
    kernel_map = solve_closed_form(task).kernel_map
    joint = closed_form._sums(task, everything, kernel_map)
    order = np.random.default_rng(0).permutation(everything)
    parts = [closed_form._sums(task, some, kernel_map) for some in np.array_split(order, 7)]
    penalty = 0.1 * closed_form.penalty_matrix(kernel_map)
    h = np.c_[kernel_map.values(rows), np.ones(len(rows))]
    added = sum(parts[1:], parts[0])
    np.testing.assert_allclose(h @ added.solve(penalty), h @ joint.solve(penalty), atol=1e-8)
    others = np.concatenate(np.array_split(order, 7)[:3] + np.array_split(order, 7)[4:])
    direct = closed_form._sums(task, others, kernel_map).solve(penalty)
    np.testing.assert_allclose(h @ (added - parts[3]).solve(penalty), h @ direct, atol=1e-8)


def test_the_error_from_sums_is_the_squared_error():
    generator = np.random.default_rng(0)
    h, y, w = generator.normal(size=(9, 3)), generator.normal(size=(9, 2)), generator.random(9)
    sums = Sums((h * w[:, None]).T @ h, (h * w[:, None]).T @ y, float(w @ np.square(y).sum(1)))
    weights = generator.normal(size=(3, 2))
    assert sums.error(weights) == pytest.approx(w @ np.square(h @ weights - y).sum(1))


@pytest.mark.parametrize("kind", ["softmax", "binary", "multi_label"])
def test_probabilities_fit_images_to_come(kind):
    rows, labels = quadrants(400)
    if kind == "multi_label":
        labels = np.stack([labels, 1 - labels, rows[:, 2] > 0], axis=1).astype(int)
    solved = solve_closed_form(task_for(rows[:300], labels[:300], kind))
    logits = solved.logits(rows[300:])
    if kind == "softmax":
        found, right = softmax(logits, axis=1).max(1), logits.argmax(1) == labels[300:]
    elif kind == "binary":
        assert logits.shape == (100, 1)
        found = expit(np.abs(logits[:, 0]))
        right = (logits[:, 0] > 0) == labels[300:]
    else:
        found, right = expit(np.abs(logits)), (logits > 0) == (labels[300:] == 1)
    assert right.mean() > 0.75
    assert abs(found.mean() - right.mean()) < 0.1


def test_few_of_many_images_are_landmarks(monkeypatch):
    monkeypatch.setattr(closed_form, "MAX_LANDMARKS", 60)
    monkeypatch.setattr(closed_form, "MAX_LANDMARKS_SEARCHED", 40)
    monkeypatch.setattr(closed_form, "MAX_SEARCHED", 150)
    rows, labels = quadrants()
    solved = solve_closed_form(task_for(rows, labels))
    assert solved.kernel.shape == (60, 2)
    assert np.isfinite(solved.out_of_fold).all(axis=1).sum() == 150
    assert (solved.logits(rows).argmax(1) == labels).mean() > 0.75


def test_without_folds_defaults_are_used():
    rows, labels = quadrants(12)
    solved = solve_closed_form(task_for(rows, labels, folds=[]))
    assert solved.chosen_by == "default: too few images"
    assert (solved.logits(rows).argmax(1) == labels).all()
    assert np.isnan(solved.out_of_fold).all()


def test_the_layers_compute_the_kernel_values_also_of_a_constant_feature():
    generator = np.random.default_rng(0)
    mean, scale = generator.normal(size=5), np.r_[np.inf, generator.uniform(0.5, 2, 4)]
    landmarks = directions(generator.normal(size=(7, 5)), mean, scale)
    kernel_map = KernelMap(mean, scale, landmarks, 2.0)
    features = generator.normal(size=(9, 5)).astype("float32")
    x = features
    for layer in kernel_map.layers():
        assert not layer.trainable_variables
        x = layer(x)
    np.testing.assert_allclose(x, kernel_map.values(features), atol=1e-6)
    by_distance = np.square(
        directions(features, mean, scale)[:, np.newaxis] - landmarks[np.newaxis]
    ).sum(axis=2)
    np.testing.assert_allclose(x, np.exp(-2.0 * by_distance), atol=1e-6)


def test_the_comparison_counts_each_image_once_with_its_weight():
    labels = np.array([0, 0, 1, 1, 0])
    right, wrong = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]
    linear = np.array([right[0], wrong[0], right[1], wrong[1], [np.nan, np.nan]])
    closed = np.array([right[0], right[0], right[1], right[1], right[0]])
    weights = np.array([1.0, 1.0, 1.0, 3.0, 1.0])
    compared = compare_heads(
        linear,
        closed,
        LabelledFeatures(linear, labels, weights=weights),
        kind="softmax",
        image_of=np.array([0, 0, 1, 2, 3]),  # two views of the first image; the last has no fold
        images="images",
    )
    assert compared.num_images == 3
    assert compared.linear == pytest.approx(2 / 6)  # half of 2, all of 1, nothing of 3
    assert compared.closed_form == 1.0
    shares, gains = np.array([2, 1, 3]) / 6, np.array([0.5, 0, 1])
    error = np.sqrt(np.sum((shares * (gains - shares @ gains)) ** 2))
    assert compared.error == pytest.approx(error)
    assert not compared.prefers_linear


def of_features(rows, labels, num_classes=2, *, splits=(0.8, 0.2, 0)):
    """Returns data whose images are the features, and a model whose features they are."""
    images = np.clip(127 + 40 * rows.reshape(len(rows), 1, 1, -1), 0, 255)
    images = np.repeat(images, 3, axis=1)[..., :3].astype("uint8")
    data = tlkit.load_arrays(images, labels, [f"c{i}" for i in range(num_classes)], splits=splits)
    pixels = keras.Input((3, 1, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 40, offset=-127 / 40, name="scaled")(pixels)
    x = keras.layers.Conv2D(4, 1, name="conv1")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(pixels, keras.layers.Dense(num_classes, name="logits")(x))
    return data, model


@pytest.fixture
def nonlinear():
    return of_features(*quadrants(400, num_features=3))


def test_auto_takes_the_closed_form_where_a_linear_head_cannot_learn(nonlinear):
    data, model = nonlinear
    features, compiled = model.get_layer("pool"), model.compiled
    report = tlkit.train_head(model, data, head="linear")
    linear = report.accuracy_after
    assert not any(layer.name == "head_landmarks" for layer in model.layers)
    report = tlkit.train_head(model, data)
    assert report.accuracy_after > linear + 0.1
    assert report.accuracy_before == linear
    assert model.get_layer("pool") is features
    assert (compiled, model.compiled) == (False, True)
    assert "solved in closed form: 3" in report.stages[0].notes[-1]
    assert "training images out of fold" in report.stages[0].notes[-1]
    assert tlkit.evaluate(model, data.validation).accuracy == report.accuracy_after
    assert report.stages[0].trainable.layers == ("logits",)


def test_both_accuracies_are_reported_whichever_head_is_taken():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(400, 3))
    noisy = rows @ [1.0, -1.0, 0.5] + 0.3 * generator.normal(size=400) > 0
    data, model = of_features(rows, noisy.astype(int))
    report = tlkit.train_head(model, data)
    note = report.stages[0].notes[-1]
    compared = "linear" in note and "in closed form" in note
    assert compared
    has_landmarks = any(layer.name == "head_landmarks" for layer in model.layers)
    assert note.startswith("solved in closed form" if has_landmarks else "solved with C=")


def test_a_linear_head_is_taken_where_it_is_better(nonlinear, monkeypatch):
    data, model = nonlinear
    better = HeadComparison(0.9, 0.5, 0.1, 320, "images")
    monkeypatch.setattr(head_solution, "compare_heads", lambda *given, **others: better)
    note = tlkit.train_head(model, data).stages[0].notes[-1]
    assert note.startswith("solved with C=")
    assert str(better) in note
    assert not any(layer.name == "head_landmarks" for layer in model.layers)


@pytest.mark.parametrize(
    ("linear", "closed_form", "error", "prefers_linear"),
    [
        (0.9, 0.8, 0.04, True),
        (0.9, 0.8, 0.06, False),  # within two standard errors
        (0.8, 0.8, 0.0, False),
        (0.7, 0.9, 0.05, False),
        (1.0, 1.0, 0.0, True),  # nothing to gain: the smaller model
    ],
)
def test_the_closed_form_is_taken_in_doubt(linear, closed_form, error, prefers_linear):
    comparison = HeadComparison(linear, closed_form, error, 50, "images")
    assert comparison.prefers_linear == prefers_linear


def test_rare_classes_count_the_same_with_balanced_weights():
    """Sixteen images are of one class, and some hundreds of the other."""
    rows, labels = quadrants(900, num_features=3)
    rare = np.flatnonzero(labels == 0)[16:]
    rows, labels = np.delete(rows, rare, axis=0), np.delete(labels, rare)
    data, plain = of_features(rows, labels, splits=(0.7, 0.3, 0))
    _, balanced = of_features(rows, labels)
    balanced.set_weights(plain.get_weights())
    tlkit.train_head(plain, data, head="closed-form")
    tlkit.train_head(balanced, data, head="closed-form", class_weight="balanced")
    recalls = [
        tlkit.evaluate(model, data.train, data.class_names).per_class[0].recall
        for model in (plain, balanced)
    ]
    assert recalls[1] > recalls[0]


def test_a_saved_closed_form_head_loads_in_plain_keras(nonlinear, tmp_path):
    data, model = nonlinear
    tlkit.train_head(model, data, head="closed-form")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).uniform(0, 255, (5, 3, 1, 3)).astype("float32")
    np.testing.assert_array_equal(loaded.predict(images), model.predict(images))
    modules = {type(layer).__module__ for layer in loaded.layers}
    assert all(module.startswith("keras.") for module in modules)


def test_training_again_replaces_a_closed_form_head(nonlinear):
    data, model = nonlinear
    tlkit.train_head(model, data, head="closed-form")
    names = [layer.name for layer in model.layers]
    tlkit.train_head(model, data, head="closed-form", solve_head=True, seed=1)
    assert [layer.name for layer in model.layers] == names
    report = tlkit.train_head(model, data, head="linear", solve_head=True)
    assert [layer.name for layer in model.layers] == [*names[:-4], "logits"]
    assert report.stages[0].weight_change["head"] == np.inf


def test_a_better_closed_form_head_is_kept_with_its_layers(nonlinear):
    data, model = nonlinear
    tlkit.train_head(model, data, head="closed-form")
    before = model.predict(data.validation.dataset().map(lambda x, y: x))
    report = tlkit.train_head(model, data, head="linear")
    assert "the old head is kept" in report.stages[0].notes[-1]
    after = model.predict(data.validation.dataset().map(lambda x, y: x))
    np.testing.assert_array_equal(after, before)


def test_fine_tuning_starts_from_a_linear_head(nonlinear, tmp_path):
    data, model = nonlinear
    before = tlkit.train_head(model, data, head="closed-form").accuracy_after
    report = tlkit.fine_tune(model, data, epochs=2, augment="none", run_directory=tmp_path / "run")
    assert [stage.name for stage in report.stages] == ["head", "fine-tune"]
    assert report.accuracy_before == before
    assert model.compiled


@pytest.mark.parametrize("stops", [False, True])
def test_a_better_closed_form_head_is_restored_with_all_weights(nonlinear, tmp_path, stops):
    data, model = nonlinear
    tlkit.train_head(model, data, head="closed-form")
    names, weights = [layer.name for layer in model.layers], model.get_weights()
    given = {"unfreeze": "all", "epochs": 2, "learning_rate": 1e-7, "augment": "none"}
    given["run_directory"] = tmp_path
    model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    if stops:
        with pytest.raises(KeyboardInterrupt):
            tlkit.fine_tune(model, data, callbacks=[Stop(1, 0)], **given)
        model = keras.saving.load_model(tmp_path / "model.keras")
    report = tlkit.fine_tune(model, data, **given)  # nothing is learned at this rate
    assert [layer.name for layer in model.layers] == names
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert report.accuracy_after == report.accuracy_before
    last = report.stages[-1]
    assert (last.kept_fraction, set(last.weight_change.values())) == (0.0, {0.0})
    assert "the model with its closed-form head is restored" in last.notes[-1]
    assert model.compiled
    assert tlkit.fine_tune(model, data, **given).stages == report.stages  # it is finished
    again = tlkit.fine_tune(model, data, epochs=1, augment="none")  # it can be trained on
    assert np.isfinite(again.accuracy_after)


def test_fine_tuning_that_is_better_replaces_the_closed_form_head(nonlinear, monkeypatch):
    data, model = nonlinear
    tlkit.train_head(model, data, head="closed-form")
    monkeypatch.setattr("tlkit.training.tuner.prefers_other", lambda *args, **given: False)
    report = tlkit.fine_tune(model, data, epochs=1, augment="none")
    assert not any(layer.name == "head_landmarks" for layer in model.layers)
    assert "kept in place of the model with" in report.stages[-1].notes[-1]
    assert tlkit.evaluate(model, data.validation).accuracy == report.accuracy_after


def test_training_after_added_classes_keeps_the_closed_form_head_of_the_old_ones(nonlinear):
    data, model = nonlinear
    tlkit.train_head(model, data, head="closed-form")
    names = data.class_names

    def with_new(images, labels):
        number = tf.range(tf.shape(labels)[0], dtype=labels.dtype)
        return images, tf.where(number % 3 == 0, tf.constant(2, labels.dtype), labels)

    batches = data.train.dataset().map(with_new)
    for train in (tlkit.fine_tune, tlkit.train_head):
        grown = tlkit.add_classes(model, ["new"], names)
        given = {"epochs": 1} if train is tlkit.fine_tune else {}
        report = train(grown, batches, **given)
        assert grown.output_shape[-1] == len(names) + 1
        assert any(layer.name == "head_landmarks" for layer in grown.layers)
        assert report.stages[-1].weight_change["head"] > 0


def test_a_training_that_replaced_the_head_is_resumed(nonlinear, tmp_path):
    data, model = nonlinear
    tlkit.train_head(model, data, head="closed-form")
    model.save(tmp_path / "model.keras")
    given = {"unfreeze": "all", "epochs": 3, "augment": "none"}
    tlkit.fine_tune(model, data, **given)

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    for callbacks in ([Interrupt()], []):
        resumed = keras.saving.load_model(tmp_path / "model.keras")
        with contextlib.suppress(KeyboardInterrupt):
            tlkit.fine_tune(
                resumed, data, run_directory=tmp_path / "run", callbacks=callbacks, **given
            )
    for one, other in zip(resumed.weights, model.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_fine_tuning_leaves_the_landmarks_unchanged(nonlinear):
    data, model = nonlinear
    tlkit.train_head(model, data, head="closed-form")
    landmarks = [weight.numpy() for weight in model.get_layer("head_landmarks").weights]
    report = tlkit.fine_tune(model, data, epochs=2, solve_head=False, augment="none")
    assert report.stages[0].trainable.frozen_groups == ()
    for weight, before in zip(model.get_layer("head_landmarks").weights, landmarks, strict=True):
        np.testing.assert_array_equal(weight, before)


def test_classes_are_added_to_a_closed_form_head(nonlinear):
    data, model = nonlinear
    tlkit.train_head(model, data, head="closed-form")
    images = np.random.default_rng(0).uniform(0, 255, (5, 3, 1, 3)).astype("float32")
    wider = tlkit.add_classes(model, ["new"])
    np.testing.assert_array_equal(wider(images)[:, :2], model(images))


def test_a_head_that_cannot_be_replaced_is_refused_before_anything(data):
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(3, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    with pytest.raises(ArgumentError, match="not a plain functional model") as error:
        tlkit.train_head(model, data, head="closed-form")
    assert "Received: head='closed-form'" in str(error.value)
    hidden = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, hidden=(8,))
    with pytest.raises(ArgumentError, match="2 of its layers are trainable"):
        tlkit.train_head(hidden, data, head="closed-form")
    flat = tlkit.build_classifier(
        "tiny_resnet", data.class_names, weights=None, pooling="flatten", image_size=64
    )
    with pytest.raises(ArgumentError, match="layer 'logits' reads 8,192 features"):
        tlkit.train_head(flat, data.at_size((64, 64)), head="closed-form")
    with pytest.raises(ArgumentError, match="`head` must be"):
        tlkit.train_head(model, data, head="kernel")
    tlkit.train_head(model, data)  # linear
