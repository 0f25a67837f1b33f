"""Fine-tuning: trainable groups change, frozen ones do not, and no model gets worse."""

import dataclasses
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.conftest import set_seeds
from tlkit.data import kept_pixels
from tlkit.errors import ArgumentError
from tlkit.training import fine_tuning
from tlkit.training.fine_tuning import default_epochs
from tlkit.training.weight_change import weights_by_group


def classifier(data, **arguments):
    return tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, **arguments)


def test_only_the_unfrozen_groups_change(data):
    noise = noisy(data.class_names)
    model = classifier(noise)
    before = weights_by_group(model)
    report = tlkit.fine_tune(model, noise, unfreeze="stage3", epochs=2, patience=2)
    stage = report.stages[-1]
    # restored if no epoch was better, which noise does not say
    assert stage.weight_change["stage3"] > 0 or stage.put_back["stage3"] > 0
    assert [stage.name for stage in report.stages] == ["head", "fine-tune"]
    after = weights_by_group(model)
    for group in ("stage1", "stage2"):
        assert stage.weight_change[group] == 0.0
        for a, b in zip(before[group], after[group], strict=True):
            np.testing.assert_array_equal(a, b)


def noisy(class_names, n=80):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (n, 32, 32, 3), "uint8")
    return tlkit.load_arrays(images, np.arange(n) % 2, class_names, batch_size=16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solve_head", "is_trained", "stages"),
    [
        ("auto", False, ["head", "fine-tune"]),
        (False, False, ["fine-tune"]),
        ("auto", True, ["fine-tune"]),
        (True, True, ["head", "fine-tune"]),
    ],
)
def test_the_head_is_solved_first_if_it_is_new_or_declared_new(
    data, solve_head, is_trained, stages
):
    model = classifier(data)
    if is_trained:
        model.get_layer("logits").bias.assign([1.0, 0.0])
    report = tlkit.fine_tune(
        model, data, unfreeze="head", epochs=1, augment="none", solve_head=solve_head
    )
    assert [stage.name for stage in report.stages] == stages
    assert (report.accuracy_before is None) == ("head" in stages)


def test_the_identity_of_a_training_has_solve_head_only_if_it_was_given(data, monkeypatch):
    """So that trainings started before it was an argument can be resumed."""
    seen = []

    def checkpoint(folder, identity, workers):
        seen.append(identity)
        raise InterruptedError

    monkeypatch.setattr(fine_tuning, "Checkpoint", checkpoint)
    for given in ({}, {"solve_head": False}):
        with pytest.raises(InterruptedError):
            tlkit.fine_tune(classifier(data), data, run_directory="none", **given)
    assert "solve_head" not in seen[0]
    assert seen[0]["data"].endswith(f"image size {data.image_size}")
    padded = dataclasses.replace(data, resize="pad")
    with pytest.raises(InterruptedError):
        tlkit.fine_tune(classifier(data), padded, run_directory="none")
    assert seen[-1]["data"].endswith(f"image size {data.image_size}, resize pad")
    assert seen[1]["solve_head"] is False


def test_a_head_that_flags_freeze_cannot_be_solved(data):
    model = classifier(data)
    model.get_layer("logits").trainable = False
    with pytest.raises(ArgumentError, match=r"`solve_head` must be 'auto' or False.*freeze it"):
        tlkit.fine_tune(model, data, unfreeze="as_is", epochs=1, solve_head=True)


def test_all_groups_change_without_validation(data):
    """Without validation nothing can be restored, so every group must have changed."""
    model = classifier(data)
    train = data.train.dataset(shuffle=True)
    report = tlkit.fine_tune(model, train, unfreeze="all", epochs=1)
    assert set(report.stages[-1].weight_change) == {"stage1", "stage2", "stage3", "head"}
    assert all(change > 0 for change in report.stages[-1].weight_change.values())
    assert report.accuracy_after is None
    assert any("no validation images" in note for note in report.stages[-1].notes)


@pytest.mark.parametrize("batch_norm", ["frozen", "affine", "train"])
def test_batch_normalisation_changes_only_on_request(data, batch_norm):
    model = classifier(data)
    layer = model.get_layer("stage3_1_bn")
    before = [weight.numpy() for weight in layer.weights]
    tlkit.fine_tune(model, data.train.dataset(), unfreeze="all", epochs=1, batch_norm=batch_norm)
    changed = [not np.array_equal(a, b.numpy()) for a, b in zip(before, layer.weights, strict=True)]
    is_trained, has_new_statistics = batch_norm != "frozen", batch_norm == "train"
    assert changed == [is_trained, is_trained, has_new_statistics, has_new_statistics]


def test_a_model_never_gets_worse_on_validation(data):
    model = classifier(data)
    tlkit.train_head(model, data)
    before = [variable.numpy() for variable in model.weights]
    flipped = data.train.dataset().map(lambda images, labels: (images, 1 - labels))
    report = tlkit.fine_tune(
        model, flipped, validation=data.validation, epochs=2, learning_rate=0.01
    )
    assert report.accuracy_before == report.accuracy_after == 1.0
    for value, variable in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())
    assert any("the initial weights are restored" in note for note in report.stages[-1].notes)


def test_training_stops_early(data):
    model = classifier(data)
    tlkit.train_head(model, data)
    flipped = data.train.dataset().map(lambda images, labels: (images, 1 - labels))
    report = tlkit.fine_tune(
        model, flipped, validation=data.validation, epochs=9, patience=2, learning_rate=0.01
    )
    assert len(report.stages[-1].history) < 9


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{"binary": True}, {"hidden": (8,)}])
def test_other_heads(data, arguments):
    model = classifier(data, **arguments)
    report = tlkit.fine_tune(model, data, unfreeze="stage3", epochs=1, augment="none")
    assert report.accuracy_after == tlkit.evaluate(model, data.validation).accuracy == 1.0


def test_users_callbacks_are_called(data):
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    tlkit.fine_tune(classifier(data), data, epochs=2, callbacks=[callback], patience=2)
    assert seen == [0, 1]


def test_balanced_weights_reach_the_loss():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (100, 32, 32, 3), "uint8")
    rare = tlkit.load_arrays(images, (np.arange(100) % 10 == 0).astype(int), ["common", "rare"])
    ratios = []
    for class_weight in (None, "balanced"):
        set_seeds(0)
        model = classifier(rare)
        tlkit.train_head(model, rare, head="linear")
        stage = tlkit.fine_tune(
            model,
            rare.train.dataset(),
            epochs=1,
            class_weight=class_weight,
            learning_rate=1e-5,
            label_smoothing=0.0,
        ).stages[-1]
        ratios.append(stage.history[0]["loss"] / stage.history[0]["cross_entropy"])
    assert ratios[0] == pytest.approx(1, rel=1e-3)  # the metric is not weighted, the loss is
    assert abs(ratios[1] - 1) > 0.05


def test_weights_of_images_and_of_classes_are_multiplied(data):
    model = classifier(data, dropout=0.0)
    tlkit.train_head(model, data)
    halved = data.train.dataset().map(lambda x, y: (x, y, tf.fill(tf.shape(y), 0.5)))
    given = {"epochs": 1, "learning_rate": 1e-6, "label_smoothing": 0.0, "class_weight": "balanced"}
    half, whole = (
        tlkit.fine_tune(model, images, **given).stages[-1].history[0]["loss"]
        for images in (halved, data.train.dataset())
    )
    assert half == pytest.approx(whole / 2, rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": -1e-3}, "learning_rate=-0.001"),
        ({"unfreeze": "stage4"}, "stage3"),
        ({"unfreeze": 7}, "unfreeze=7"),
        ({"augment": "heavy"}, "augment='heavy'"),
        ({"batch_norm": "thaw"}, "'train'"),
        ({"patience": 0}, "patience=0"),
        ({"class_weight": "auto"}, "balanced"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"seed": 0.5}, "`seed` must be a whole number .* seed=0.5"),
    ],
)
def test_bad_arguments(data, arguments, message):
    model = classifier(data)
    before = [variable.numpy() for variable in model.weights]
    with pytest.raises(tlkit.ArgumentError, match=message):
        tlkit.fine_tune(model, data, **arguments)
    for value, variable in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("views", [0, 1])
def test_a_removed_image_is_named(photos, views, monkeypatch):
    monkeypatch.setattr(kept_pixels, "MAX_IMAGES", 0)  # so that all images are read anew
    data = tlkit.load_folder(photos, image_size=32, batch_size=16)
    model = classifier(data)
    tlkit.train_head(model, data)
    lost = data.train.paths[3]
    os.unlink(lost)
    with pytest.raises(tlkit.DataError, match=f"Images must not change .*{os.path.basename(lost)}"):
        tlkit.fine_tune(model, data, unfreeze="stage3", epochs=2, views=views)
    os.unlink(data.test.paths[0])
    with pytest.raises(tlkit.DataError, match="Images must not change"):
        tlkit.evaluate(model, data.test)


def test_an_infinite_dataset_is_refused(data):
    for train in (tlkit.fine_tune, tlkit.train_head):
        with pytest.raises(tlkit.ArgumentError, match=r"`data` must end .* infinite"):
            train(classifier(data), data.train.dataset().repeat())
    with pytest.raises(tlkit.ArgumentError, match="`validation` must end"):
        tlkit.fine_tune(
            classifier(data), data.train.dataset(), validation=data.validation.dataset().repeat()
        )


def test_a_trainable_group_that_does_not_change_is_an_error(data):
    model = classifier(data)
    tlkit.train_head(model, data)
    before = weights_by_group(model)
    with pytest.raises(tlkit.errors.TrainingError, match="which stage3, head stayed bit-identical"):
        tlkit.fine_tune(
            model,
            data,
            unfreeze="stage3",
            epochs=1,
            learning_rate=1e-30,
            weight_decay=0,
            batch_norm="frozen",  # whose offsets are zero, and would change
        )
    for name, weights in weights_by_group(model).items():
        for a, b in zip(before[name], weights, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("validated", [True, False])
def test_a_diverging_last_step_is_an_error_and_the_model_is_restored(data, validated):
    """The loss of the only step is finite, but the weights after it are not."""
    model = classifier(data)
    tlkit.train_head(model, data)
    before = model.get_weights()
    batch = data.train.dataset().unbatch().batch(48)
    with pytest.raises(tlkit.TrainingError, match="Try learning_rate=1e\\+37"):
        tlkit.fine_tune(
            model,
            batch,
            validation=data.validation if validated else None,
            unfreeze="stage3",
            epochs=1,
            learning_rate=1e38,
            schedule="constant",
        )
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_another_seed_gives_other_views_and_orders(data):
    histories = []
    for seed in (0, 0, 1):
        set_seeds(0)
        model = classifier(data, dropout=0.0)
        tlkit.train_head(model, data)
        stage = tlkit.fine_tune(model, data, epochs=1, views=0, seed=seed).stages[-1]
        histories.append(stage.history[0]["loss"])
    assert histories[0] == pytest.approx(histories[1], rel=1e-4)
    assert histories[0] != pytest.approx(histories[2], rel=1e-4)


def test_smoothed_labels_change_the_loss_and_not_the_cross_entropy(data):
    histories = []
    for label_smoothing in (0.0, 0.2):
        set_seeds(0)
        model = classifier(data)
        stage = tlkit.fine_tune(
            model, data, epochs=1, augment="none", label_smoothing=label_smoothing
        ).stages[-1]
        histories.append(stage.history[0])
    plain, smoothed = histories
    np.testing.assert_allclose(plain["loss"], plain["cross_entropy"], rtol=1e-5)
    assert smoothed["loss"] > smoothed["cross_entropy"] + 0.1


def test_few_images_get_more_epochs_and_all_groups_train_by_default(data):
    model = classifier(data)
    stage = tlkit.fine_tune(model, data, epochs=1).stages[-1]
    assert stage.trainable.groups == ("stage1", "stage2", "stage3", "head")
    # 48 images in batches of 16 would make 500 epochs of 1,500 steps
    assert default_epochs(num_steps=3) == 60
    assert default_epochs(num_steps=25) == 60
    assert default_epochs(num_steps=40) == 38
    assert default_epochs(num_steps=1000) == 20


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0, "much", float("nan")])
def test_label_smoothing_must_be_a_fraction(data, label_smoothing):
    with pytest.raises(tlkit.errors.ArgumentError, match="`label_smoothing` must be a number from"):
        tlkit.fine_tune(classifier(data), data, label_smoothing=label_smoothing)
