"""Data sets of unknown length must be finite."""

import numpy as np
import pytest
import tensorflow as tf

from tlkit.errors import ArgumentError
from tlkit.evaluation import dataset_length
from tlkit.evaluation.dataset_length import check_end, num_batches

NUMBERS = tf.data.Dataset.range(40)
plain = tf.autograph.experimental.do_not_convert


def from_generator(*, ends):
    def generate():
        number = 0
        while not ends or number < 3:
            number += 1
            yield np.float32(number)

    return tf.data.Dataset.from_generator(generate, output_signature=tf.TensorSpec((), tf.float32))


@pytest.mark.parametrize(
    "dataset",
    [
        from_generator(ends=False).batch(1),
        NUMBERS.repeat().filter(plain(lambda number: number >= 0)),
        NUMBERS.flat_map(plain(lambda number: tf.data.Dataset.from_tensors(number).repeat())),
    ],
    ids=["generator", "filter", "flat_map"],
)
def test_infinite_data_sets_of_unknown_length_raise(monkeypatch, dataset):
    monkeypatch.setattr(dataset_length, "MAX_BATCHES", 20)
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
    with pytest.raises(ArgumentError, match=r"has not ended after 20 batches. Use `dataset.take\("):
        check_end("data", dataset)
    assert num_batches("data", dataset.take(5)) == 5
    said = dataset.take(5).apply(tf.data.experimental.assert_cardinality(5))
    assert num_batches("data", said) == 5


def test_a_finite_generator_is_counted_once(monkeypatch):
    dataset = from_generator(ends=True)
    assert num_batches("data", dataset) == 3
    monkeypatch.setattr(dataset_length, "_count_batches", None)
    assert num_batches("data", dataset) == 3


def test_finite_sources_are_not_counted_to_check_the_end(monkeypatch):
    even = NUMBERS.filter(plain(lambda number: number % 2 == 0))
    monkeypatch.setattr(dataset_length, "MAX_BATCHES", 5)
    assert num_batches("data", even) == 20
    monkeypatch.setattr(dataset_length, "_count_batches", None)
    check_end("data", NUMBERS.filter(plain(lambda number: number > 3)))


def test_a_generator_that_can_be_read_only_once_raises():
    numbers = iter([np.float32(1)])
    dataset = tf.data.Dataset.from_generator(
        lambda: numbers, output_signature=tf.TensorSpec((), tf.float32)
    )
    next(iter(dataset))
    with pytest.raises(ArgumentError, match="must give its batches in each pass"):
        check_end("data", dataset)
