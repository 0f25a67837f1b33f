"""Mixing of the images and labels of a batch."""

import numpy as np
import pytest
import tensorflow as tf

from tlkit.data.mixing import mix, mixed_batches

NUMBER, SIDE = 400, 10


@pytest.fixture(scope="module")
def batch():
    """Images of one value each, and their one-hot labels in ten classes, which follow from it."""
    values = np.arange(NUMBER) % 10
    images = np.broadcast_to(10.0 * values[:, None, None, None], (NUMBER, SIDE, SIDE, 3))
    return images.astype("float32"), np.eye(10, dtype="float32")[values]


def mixed(kind, batch, seed=(3, 5)):
    images, targets = mix(kind, *batch, tf.constant(seed, tf.int64))
    return images.numpy(), targets.numpy()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_labels_have_the_shares_of_the_pixels(kind, batch):
    images, targets = mixed(kind, batch)
    assert images.shape == batch[0].shape
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)
    assert ((targets > 0).sum(axis=1) <= 2).all()
    # the mean of an image is that of its label's values, in their shares
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), 10 * targets @ np.arange(10), atol=1e-2)
    again, other = mixed(kind, batch), mixed(kind, batch, seed=(3, 6))
    np.testing.assert_array_equal(images, again[0])
    np.testing.assert_array_equal(targets, again[1])
    assert not np.array_equal(targets, other[1])


def test_mixup_takes_means_with_shares_from_the_beta_distribution(batch):
    images, targets = mixed("mixup", batch)
    assert np.ptp(images, axis=(1, 2, 3)).max() < 1e-3
    shares = targets[np.arange(NUMBER), np.arange(NUMBER) % 10]
    different = (targets > 0).sum(axis=1) == 2
    assert different.mean() > 0.7
    # Beta(0.2, 0.2) has the mean 1/2 and the variance 1 / (4 * 1.4)
    assert np.mean(shares[different]) == pytest.approx(0.5, abs=0.08)
    assert np.var(shares[different]) == pytest.approx(1 / 5.6, abs=0.05)


def test_cutmix_replaces_a_rectangle(batch):
    images, _ = mixed("cutmix", batch)
    own = (np.arange(NUMBER) % 10 * 10.0)[:, None, None]
    foreign = images[..., 0] != own
    assert 0.3 < foreign.any(axis=(1, 2)).mean() < 0.95
    areas = []
    for one in foreign[foreign.any(axis=(1, 2))]:
        rows, columns = np.flatnonzero(one.any(axis=1)), np.flatnonzero(one.any(axis=0))
        assert one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        areas.append(one.mean())
    assert min(areas) < 0.1
    assert max(areas) > 0.5


def test_batches_depend_on_their_number_only_and_keep_their_weights(batch):
    images, targets = batch
    weights = np.arange(NUMBER, dtype="float32")
    dataset = tf.data.Dataset.from_tensor_slices((images, targets, weights)).batch(50)
    whole = list(mixed_batches(dataset, "mixup", seed=1, first=7).as_numpy_iterator())
    rest = list(mixed_batches(dataset.skip(3), "mixup", seed=1, first=10).as_numpy_iterator())
    assert len(rest) == len(whole) - 3
    for found, expected in zip(rest, whole[3:], strict=True):
        for one, two in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(np.concatenate([own for *_, own in whole]), weights)


def test_an_image_alone_stays_as_it_is(batch):
    images, targets = mixed("cutmix", (batch[0][3:4], batch[1][3:4]))
    np.testing.assert_array_equal(images, batch[0][3:4])
    np.testing.assert_array_equal(targets, batch[1][3:4])
