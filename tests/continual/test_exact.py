"""A head that equals the one of all images, for models and images."""

import dataclasses

import keras
import numpy as np
import pytest

import tlkit
from tlkit.continual.exact import (
    add_to_statistics,
    gather_statistics,
    remove_from_statistics,
    with_exact_head,
)
from tlkit.errors import ArgumentError, DataError

NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def model():
    return tlkit.build_classifier("tiny_resnet", ["a", "b"], weights=None, hidden=(6,), dropout=0.5)


@pytest.fixture(scope="module")
def images():
    """Four classes by their colour, as one split."""
    random = np.random.default_rng(0)
    labels = np.arange(160) % 4
    pixels = random.integers(0, 90, (160, 32, 32, 3), "uint8")
    pixels[labels % 2 == 1, ..., 0] += 120
    pixels[labels > 1, ..., 2] += 120
    return tlkit.load_arrays(pixels, labels, NAMES, splits=(1, 0, 0)).train


def of_classes(images, *labels):
    """Returns the images of some classes, with labels that number these."""
    split = images.subset(np.flatnonzero(np.isin(images.labels, labels)))
    return dataclasses.replace(split, labels=np.searchsorted(labels, split.labels))


def test_classes_in_steps_give_the_head_of_all_images(model, images, tmp_path):
    first = gather_statistics(model, of_classes(images, 0, 1), NAMES[:2], num_landmarks=60)
    steps = add_to_statistics(first, model, of_classes(images, 2), ["c"])
    steps = add_to_statistics(steps, model, of_classes(images, 3), ["d"])
    joint = add_to_statistics(first, model, of_classes(images, 1, 2, 3), NAMES[1:])
    assert steps.class_names == joint.class_names == NAMES
    assert steps.images == joint.images
    before = model.get_weights()
    (grown, head), (other, _) = (
        with_exact_head(model, some, images, NAMES) for some in (steps, joint)
    )
    pixels = np.concatenate([batch for batch, _ in images.dataset(shuffle=False)])
    logits = grown.predict(pixels, verbose=0)
    np.testing.assert_allclose(logits, other.predict(pixels, verbose=0), atol=1e-3)
    assert (logits.argmax(axis=1) == images.labels).mean() > 0.9
    assert all(map(np.array_equal, before, model.get_weights()))
    assert head.statistics.factor != steps.factor
    grown.save(tmp_path / "grown.keras")
    loaded = keras.saving.load_model(tmp_path / "grown.keras")
    np.testing.assert_array_equal(loaded.predict(pixels, verbose=0), logits)
    # what is below the head is the same network, so that more can be added to the grown model
    again = add_to_statistics(head.statistics, grown, of_classes(images, 3), ["d"])
    assert again.images == steps.images


def test_removed_images_leave_the_head_of_the_others(model, images):
    everything = gather_statistics(model, images, NAMES, num_landmarks=60)
    gone = images.subset(np.flatnonzero(images.labels == 3))
    kept = images.subset(np.flatnonzero(images.labels < 3))
    removed = remove_from_statistics(everything, model, gone, NAMES).without_classes(["d"])
    never = remove_from_statistics(everything, model, images, NAMES)
    never = add_to_statistics(never, model, kept, NAMES).without_classes(["d"])
    one, other = (
        with_exact_head(model, some, kept, NAMES[:3])[1].kernel for some in (removed, never)
    )
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-3 * np.abs(one).max())
    with pytest.raises(DataError, match="`images` must be counted"):
        remove_from_statistics(removed, model, of_classes(images, 0), ["b"])
    with pytest.raises(ArgumentError, match="`class_names` must be classes of the statistics"):
        remove_from_statistics(removed, model, gone, NAMES)


def test_statistics_of_other_features_are_refused(model, images):
    statistics = gather_statistics(model, images, NAMES, num_landmarks=5)
    other = tlkit.build_classifier("tiny_resnet", ["a", "b"], weights=None, seed=1)
    for change in (
        lambda: add_to_statistics(statistics, other, images, NAMES),
        lambda: remove_from_statistics(statistics, other, images, NAMES),
        lambda: with_exact_head(other, statistics),
    ):
        with pytest.raises(ArgumentError, match="`statistics` must be of the features of `model`"):
            change()
    with pytest.raises(ArgumentError, match="`num_landmarks`"):
        gather_statistics(model, images, NAMES, num_landmarks=0)
    with pytest.raises(DataError, match="`images`"):
        gather_statistics(model, images, NAMES[:2], num_landmarks=5)
