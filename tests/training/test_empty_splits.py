"""Splits without images: a missing validation split is reported, an empty one is refused."""

import dataclasses

import keras
import numpy as np
import pytest

import tlkit
from tlkit.errors import DataError


def classifier(data):
    return tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)


def empty(split):
    return split.subset(np.array([], np.int64))


@pytest.mark.parametrize("augment", ["none", "default"])
def test_without_a_validation_split_the_last_epoch_is_mixed_and_reported(photos, augment):
    data = tlkit.load_folder(photos, image_size=32, batch_size=16, splits=(0.8, 0.0, 0.2))
    assert data.validation is None
    model, last = classifier(data), []
    tlkit.train_head(model, data, head="linear")
    first = model.get_weights()
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: last.append(model.get_weights())
    )
    report = tlkit.fine_tune(
        model, data, unfreeze="stage3", epochs=2, augment=augment, callbacks=[keep]
    )
    assert any("no validation images" in note for note in report.stages[-1].notes)
    assert (report.accuracy_before, report.accuracy_after, report.num_validation) == (None, None, 0)
    assert "validation accuracy" not in str(report)
    for start, end, kept in zip(first, last[-1], model.get_weights(), strict=True):
        np.testing.assert_allclose(kept, start + 0.75 * (end - start), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("train", [tlkit.fine_tune, tlkit.train_head])
@pytest.mark.parametrize("is_trained", [False, True])
def test_an_empty_validation_split_is_refused(data, train, is_trained):
    model = classifier(data)
    if is_trained:
        tlkit.train_head(model, data)
    before = model.get_weights()
    none_left = dataclasses.replace(data, validation=empty(data.validation))
    with pytest.raises(DataError, match=r"`data\.validation` must contain images"):
        train(model, none_left)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("train", [tlkit.fine_tune, tlkit.train_head])
def test_an_empty_validation_dataset_is_refused(data, train):
    nothing = data.validation.dataset().take(0)
    with pytest.raises(DataError, match="`validation` must contain images"):
        train(classifier(data), data.train.dataset(), validation=nothing)
    with pytest.raises(DataError, match="`validation` must contain images"):
        train(classifier(data), data.train.dataset(), validation=empty(data.validation))


@pytest.mark.parametrize("train", [tlkit.fine_tune, tlkit.train_head, tlkit.find_learning_rate])
def test_nothing_to_train_on_is_refused(data, train):
    with pytest.raises(DataError, match="`data` must contain images"):
        train(classifier(data), data.train.dataset().take(0))
    with pytest.raises(DataError, match=r"`data\.train` must contain images"):
        train(classifier(data), dataclasses.replace(data, train=empty(data.train)))
