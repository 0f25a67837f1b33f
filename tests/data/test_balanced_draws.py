"""Epochs in which each class is drawn equally often."""

import numpy as np
import pytest

import tlkit
from tlkit.errors import ArgumentError

LABELS = np.repeat([0, 1, 2], [13, 4, 2])


@pytest.fixture(scope="module")
def data():
    images = np.zeros((19, 8, 8, 3), "uint8")
    images[:, 0, 0, 0] = np.arange(19)
    return tlkit.load_arrays(images, LABELS, splits=(1, 0, 0), batch_size=5)


def rows_of(split, **given):
    given = {"epochs": range(4), "is_balanced": True, "shuffle": True} | given
    images = np.concatenate([batch for batch, _ in split.dataset(**given)])
    return images[:, 0, 0, 0].astype(int)


def test_each_class_is_drawn_equally_often_and_each_image_of_it_as_often(data):
    labels = data.train.labels[
        np.argsort(rows_of(data.train, is_balanced=False, shuffle=False)[:19])
    ]
    epochs = rows_of(data.train).reshape(4, 19)
    for epoch in epochs:
        assert np.bincount(labels[epoch]).tolist() == [7, 6, 6]
        counts = np.bincount(epoch, minlength=19)
        for label, (low, high) in enumerate([(0, 1), (1, 2), (3, 3)]):
            assert counts[labels == label].min() == low
            assert counts[labels == label].max() == high
    assert len({tuple(sorted(epoch)) for epoch in epochs.tolist()}) > 1  # others of the large class


def test_any_epoch_and_step_and_shard_can_be_started_with(data):
    whole = rows_of(data.train)
    np.testing.assert_array_equal(rows_of(data.train, epochs=range(2, 4)), whole[38:])
    resumed = rows_of(data.train, epochs=range(1, 4), first_batch=2)
    np.testing.assert_array_equal(resumed, whole[19 + 10 :])
    shards = [rows_of(data.train, epochs=range(1), shard=(i, 2)) for i in (0, 1)]
    assert sorted(np.concatenate(shards)) == sorted(whole[:19])
    first = np.concatenate([whole[:19][start : start + 5 : 2] for start in range(0, 19, 5)])
    np.testing.assert_array_equal(shards[0], first)


def test_copies_of_an_image_have_different_views():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (12, 16, 16, 3), "uint8")
    data = tlkit.load_arrays(images, [0] * 10 + [1, 1], splits=(1, 0, 0), batch_size=12)
    dataset = data.train.dataset(augment="strong", epochs=range(1), is_balanced=True)
    batch, labels = next(iter(dataset))
    rare = batch.numpy()[labels.numpy() == 1]
    assert len(rare) == 6
    assert len({view.tobytes() for view in rare}) == 6


def test_several_labels_cannot_be_drawn():
    images = np.arange(6 * 8 * 8 * 3).reshape(6, 8, 8, 3) % 251
    data = tlkit.load_arrays(images, np.eye(2)[[0, 1] * 3], splits=(1, 0, 0))
    with pytest.raises(ArgumentError, match="`is_balanced` must be False with several labels"):
        data.train.dataset(is_balanced=True)
