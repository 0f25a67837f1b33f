"""The number of batches of a data set, and a check that it is finite."""

import weakref
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tlkit.errors import ArgumentError
from tlkit.utils.progress import bar
from tlkit.utils.tensorflow_private import dataset_graphs, datasets_read

MAX_BATCHES = 10_000
"""Maximum number of batches counted in a data set that may be infinite."""

_POSSIBLY_ENDLESS = frozenset(
    {"GeneratorDataset", "RepeatDataset", "RandomDataset", "RandomDatasetV2"}
)
"""Operations that may be infinite without TensorFlow knowing."""

_NUM_BATCHES: "weakref.WeakKeyDictionary[tf.data.Dataset, int]" = weakref.WeakKeyDictionary()


def num_batches(argument: str, dataset: tf.data.Dataset) -> int:
    """Returns the number of batches per epoch; a data set of unknown length is read once.

    Raises:
        ArgumentError: The data set is infinite, or may be and has more than `MAX_BATCHES`.
    """
    known = int(dataset.cardinality())
    if known == tf.data.INFINITE_CARDINALITY:
        raise ArgumentError(
            f"`{argument}` must end after one pass over the images. Received: an infinite "
            "dataset. Leave out `repeat()`, or use `dataset.take(...)`."
        )
    if known != tf.data.UNKNOWN_CARDINALITY:
        return known
    if dataset not in _NUM_BATCHES:
        _NUM_BATCHES[dataset] = _count_batches(argument, dataset)
    return _NUM_BATCHES[dataset]


def check_end(argument: str, dataset: tf.data.Dataset) -> None:
    """Checks that a data set is finite and can be read again, after a first batch was read.

    A data set of unknown length is read for this only if it may be infinite: if its elements come
    from a Python generator, or from `repeat` within `flat_map` or `interleave`. Files are finite.

    Raises:
        ArgumentError: See `num_batches`; or the second pass is empty.
    """
    is_known = int(dataset.cardinality()) != tf.data.UNKNOWN_CARDINALITY
    if (is_known or _may_be_endless(dataset)) and not num_batches(argument, dataset):
        raise ArgumentError(
            f"`{argument}` must give its batches in each pass. Received: a dataset that gave "
            "batches in the first pass and none in the second. Make the function of "
            "`from_generator` create a new generator each time."
        )


def _count_batches(argument: str, dataset: tf.data.Dataset) -> int:
    limit = MAX_BATCHES if _may_be_endless(dataset) else None
    count = 0
    with bar("counting batches", None) as advance:
        for _ in dataset:
            count += 1
            advance(1)
            if limit is not None and count > limit:
                raise ArgumentError(
                    f"`{argument}` must be finite, or have a known number of batches. Received: a "
                    f"dataset of unknown length that has not ended after {limit:,} batches. Use "
                    "`dataset.take(n)`, or `dataset.apply(tf.data.experimental.assert_cardinality("
                    "n))` if it ends after n batches."
                )
    return count


def _may_be_endless(dataset: tf.data.Dataset) -> bool:
    """Whether a data set that this one reads is infinite, or may be."""
    return any(
        int(source.cardinality()) == tf.data.INFINITE_CARDINALITY
        or _POSSIBLY_ENDLESS & _operations(source)
        for source in _read_datasets(dataset)
    )


def _read_datasets(dataset: Any) -> Iterator[Any]:
    """Yields a data set and those that it reads, except behind data sets of known length."""
    yield dataset
    for source in datasets_read(dataset):
        if int(source.cardinality()) < 0:
            yield from _read_datasets(source)


def _operations(dataset: Any) -> set[str]:
    """Returns the operations in the functions of a data set, such as that of `flat_map`."""
    return {
        node.op
        for graph in dataset_graphs(dataset)
        for nodes in (graph.node, *(inner.node_def for inner in graph.library.function))
        for node in nodes
    }
