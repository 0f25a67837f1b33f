"""Epochs of training images that can start at any epoch and step."""

from itertools import islice

import numpy as np
import pytest

import tlkit
from tlkit.data.augmentation import augmentation_of
from tlkit.distribution.shards import ONLY_SHARD
from tlkit.training.image_epochs import image_epochs


@pytest.fixture
def model(data):
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    model.compile(loss="sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("stage", [0, 2])
def test_batches_from_any_position_are_those_of_the_split(data, model, stage):
    batches = image_epochs(data.train, model, augmentation_of("default"), stage=stage)
    first = stage * 1_000_000
    epochs = data.train.dataset(True, "default", epochs=range(first, first + 4))
    expected = list(epochs.as_numpy_iterator())
    assert len(expected) == 4 * batches.num_steps
    for epoch, step in ((0, 0), (2, batches.num_steps - 1), (3, 1)):
        rest = expected[epoch * batches.num_steps + step :]
        found = batches.starting_at(epoch, step, ONLY_SHARD).as_numpy_iterator()
        for (images, labels), (others, other_labels) in zip(
            islice(found, len(rest)), rest, strict=True
        ):
            np.testing.assert_array_equal(images, others)
            np.testing.assert_array_equal(labels, other_labels)


def test_batches_of_a_dataset_are_repeated_as_they_are(data, model):
    dataset = data.train.dataset(shuffle=False)
    batches = image_epochs(dataset, model, augmentation_of("default"))
    found = batches.starting_at(0, 1, ONLY_SHARD).as_numpy_iterator()
    expected = [*dataset.as_numpy_iterator()] * 2
    for (images, _), (others, _) in zip(
        islice(found, len(expected) - 1), expected[1:], strict=True
    ):
        np.testing.assert_array_equal(images, others)
