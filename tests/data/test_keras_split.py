"""Splits can be passed to Keras's `fit`, `evaluate` and `predict`."""

import pickle

import keras
import numpy as np
import pytest

import tlkit
from tests.conftest import write_photos
from tlkit.data.images import ImageSplit


class Recorder(keras.Model):
    """Records the batches that Keras passes; its output is the mean of the pixels."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, images):
        return keras.ops.mean(images, axis=(1, 2))

    def train_step(self, batch):
        self.seen.append(tuple(part.numpy() for part in batch))
        return {"loss": 0.0}


def recorded(images, **settings):
    """Returns the batches of each of three epochs of `fit`."""
    model = Recorder()
    model.compile(run_eagerly=True)
    model.fit(images, epochs=3, verbose=0, **settings)
    num_batches = len(model.seen) // 3
    return [model.seen[i * num_batches :][:num_batches] for i in range(3)]


def rows_of(split, batch):
    """Returns the rows of a split that are in a batch."""
    everything = next(iter(split.dataset(shuffle=False, batch_size=len(split))))[0].numpy()
    return [int(np.flatnonzero((everything == image).all(axis=(1, 2, 3)))[0]) for image in batch]


@pytest.mark.parametrize("place", ["memory", "files"])
def test_fit_gets_every_image_once_per_epoch_in_new_orders(data, tmp_path, place):
    if place == "files":
        write_photos(tmp_path / "photos", {"green": 30, "red": 30})
        data = tlkit.load_folder(tmp_path / "photos", image_size=32, batch_size=16)
    split = data.train
    assert len(split) == split.num_images == len(split.paths)
    orders = []
    for epoch in recorded(split):
        assert sorted(len(images) for images, _ in epoch) == [len(split) - 32, 16, 16]
        rows = [row for images, _ in epoch for row in rows_of(split, images)]
        labels = np.concatenate([labels for _, labels in epoch])
        assert sorted(rows) == list(range(len(split)))
        assert labels.tolist() == split.labels[rows].tolist()
        assert all(0 < np.mean(labels) < 1 for _, labels in epoch)  # both classes in each batch
        orders.append(rows)
    assert len({tuple(order) for order in orders}) == 3


def test_batches_equal_those_of_dataset(data):
    keras.utils.set_random_seed(0)
    split = data.train
    for epoch in range(2):
        split.on_epoch_begin()
        expected = split.dataset(shuffle=True, epochs=range(epoch, epoch + 1))
        for index, (images, labels) in enumerate(expected):
            given, said = split[index]
            assert given.dtype == np.float32
            np.testing.assert_array_equal(given, images)
            np.testing.assert_array_equal(said, labels)
        assert index == split.num_batches - 1
    again = pickle.loads(pickle.dumps(split))
    np.testing.assert_array_equal(again[1][0], split[1][0])
    with pytest.raises(IndexError, match="there are 3 batches, and no batch 3"):
        _ = split[3]


def test_validation_and_test_keep_their_order(data):
    split = data.validation
    split.on_epoch_begin()
    split.on_epoch_begin()
    given = np.concatenate([split[index][0] for index in range(split.num_batches)])
    np.testing.assert_array_equal(given, np.concatenate([one for one, _ in split.dataset()]))
    model = Recorder()
    np.testing.assert_allclose(model.predict(split, verbose=0), given.mean(axis=(1, 2)), rtol=1e-5)


def linear(data):
    model = keras.Sequential(
        [keras.layers.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    model.compile(
        keras.optimizers.SGD(0.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def test_fit_evaluates_a_split_and_weights_its_classes(data):
    model = linear(data)
    history = model.fit(data.train, validation_data=data.validation, verbose=0).history
    alone = model.evaluate(data.train, verbose=0, return_dict=True)
    held_out = model.evaluate(data.validation.dataset(), verbose=0, return_dict=True)
    assert history["loss"][0] == pytest.approx(alone["loss"], rel=1e-5)
    assert history["accuracy"][0] == pytest.approx(alone["accuracy"])
    assert history["val_loss"][0] == pytest.approx(held_out["loss"], rel=1e-5)
    assert history["val_accuracy"][0] == pytest.approx(held_out["accuracy"])
    weighted = model.fit(data.train, class_weight={0: 0.0, 1: 0.0}, verbose=0).history
    assert weighted["loss"] == [0.0]


def test_multi_label_targets_are_rows():
    rows = np.eye(3, dtype=np.float32)[np.arange(30) % 3]
    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 3), "uint8")
    split = tlkit.load_arrays(images, rows, batch_size=8, splits=(1, 0, 0)).train
    assert [len(split[index][1]) for index in range(4)] == [8, 8, 8, 6]
    assert split[0][1].shape == (8, 3)
    assert str(split) == "train: 30 images with up to 3 labels each, 8 × 8 pixels, in batches of 8"


def test_a_split_has_a_readable_text(data):
    text = "train: 42 images of 2 classes, 32 × 32 pixels, in batches of 16"
    assert str(data.train) == repr(data.train) == text
    assert data.train._repr_html_() == f"<pre>{text}</pre>"
    assert isinstance(data.train.subset(np.arange(3)), ImageSplit)
    assert len(data.train.subset(np.arange(3))) == 3
    assert str(data).splitlines()[0] == text
    assert str(data).splitlines()[-1] == "2 classes: green, red"
    assert data.train.as_dict()["num_images"] == 42
