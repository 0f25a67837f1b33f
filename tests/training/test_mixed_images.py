"""Fine-tuning on images that are mixed with others of their batch."""

import re

import keras
import numpy as np
import pytest

import tlkit
from tests.training.test_resume import Stop, tune
from tlkit.data.augmentation import augmentation_of
from tlkit.distribution.shards import ONLY_SHARD
from tlkit.errors import ArgumentError
from tlkit.runs.outputs import sample_training_images
from tlkit.training import resume
from tlkit.training.fit_data import with_class_weights
from tlkit.training.image_epochs import image_epochs


@pytest.mark.parametrize("augment", ["mixup", "cutmix"])
def test_a_stopped_training_on_mixed_images_is_resumed(data, tmp_path, monkeypatch, augment):
    monkeypatch.setattr(resume, "SAVE_SECONDS", 0.0)
    plan = {"stages": [tlkit.Stage("stage3", epochs=2)], "class_weight": "balanced"}
    whole, report = tune(data, None, augment=augment, **plan)
    with pytest.raises(KeyboardInterrupt):
        tune(data, tmp_path, [Stop(epoch=1, batch=0)], augment=augment, **plan)
    resumed, _ = tune(data, tmp_path, augment=augment, **plan)
    for one, two in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    history = report.stages[-1].history
    assert all(np.isfinite(epoch["loss"]) for epoch in history)
    plain, _ = tune(data, None, **plan)
    assert any(
        not np.array_equal(one, two)
        for one, two in zip(whole.get_weights(), plain.get_weights(), strict=True)
    )


def test_the_loss_gets_shares_of_the_classes(data):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    epochs = image_epochs(data.train, model, augmentation_of("mixup"), one_hot=True)
    _, targets = next(iter(epochs.starting_at(0, 0, ONLY_SHARD)))
    np.testing.assert_allclose(np.sum(targets, axis=1), 1, atol=1e-5)
    assert np.any((np.asarray(targets) > 0.01) & (np.asarray(targets) < 0.99))


def test_binary_and_multi_label_heads_train_on_mixed_images(data):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None, binary=True)
    report = tlkit.fine_tune(model, data, epochs=1, augment="mixup", class_weight="balanced")
    assert np.isfinite(report.stages[-1].history[-1]["loss"])


def test_weights_of_mixed_images_are_those_of_their_classes():
    import tensorflow as tf

    images = np.zeros((3, 1), "float32")
    for targets in ([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]], [[0.0], [1.0], [0.75]]):
        dataset = tf.data.Dataset.from_tensor_slices((images, np.float32(targets))).batch(3)
        (_, _, weights) = next(iter(with_class_weights(dataset, np.array([2.0, 10.0]))))
        np.testing.assert_allclose(weights, [2, 10, 8])


def test_what_cannot_mix_images_says_so(data):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    with pytest.raises(ArgumentError, match="`views` must be 0 with augment='mixup'"):
        tlkit.fine_tune(model, data, augment="mixup", views=2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ArgumentError, match="`loss` must be one for one-hot labels"):
        tlkit.fine_tune(model, data, augment="cutmix", loss=loss)
    for call, what in (
        (lambda: tlkit.train_head(model, data, augment="mixup", views=2), "a head that is solved"),
        (lambda: data.train.dataset(augment="mixup"), "a dataset"),
        (lambda: tlkit.expand(model, data, class_names=["x", "y"], augment="cutmix"), "expand"),
    ):
        with pytest.raises(ArgumentError, match=f"`augment` must change each image.*{what}"):
            call()
    with pytest.raises(ArgumentError, match=r"`augment` must change each image .*mode='head'"):
        tlkit.train_run("photos", mode="head", augment="mixup")
    with pytest.raises(ArgumentError, match=r"`augment` must change each image .*minutes=5"):
        tlkit.train_run("photos", minutes=5, augment="mixup")


def test_the_report_shows_mixed_images_with_their_shares(data):
    plain = sample_training_images(data, "default")
    mixed = sample_training_images(data, "mixup")
    assert {name for _, name in plain} <= {"green", "red"}
    assert all(re.fullmatch(r"\d+ % (green|red)(, \d+ % red)?", name) for _, name in mixed)
    assert any(
        not np.array_equal(one, two) for (one, _), (two, _) in zip(plain, mixed, strict=True)
    )
