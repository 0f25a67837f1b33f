"""How many batches a data set has, and that it ends."""

import weakref
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tlkit.errors import ArgumentError
from tlkit.utils.progress import bar
from tlkit.utils.tensorflow_private import dataset_graphs, datasets_read

MAX_BATCHES = 10_000
"""So many batches of a data set that may be endless are counted before it is refused."""

_ENDLESS = frozenset({"GeneratorDataset", "RepeatDataset", "RandomDataset", "RandomDatasetV2"})
"""Operations that may go on for ever without TensorFlow's knowing it."""

_COUNTED: "weakref.WeakKeyDictionary[tf.data.Dataset, int]" = weakref.WeakKeyDictionary()


def num_batches(argument: str, dataset: tf.data.Dataset) -> int:
    """Returns how many batches one pass has; read once where the data set does not say.

    Raises:
        ArgumentError: It has no end, or none within `MAX_BATCHES` where it may have none.
    """
    known = int(dataset.cardinality())
    if known == tf.data.INFINITE_CARDINALITY:
        raise ArgumentError(
            f"`{argument}` must end after one pass over the images. Received: an infinite "
            "dataset. Leave out `repeat()`, or use `dataset.take(...)`."
        )
    if known != tf.data.UNKNOWN_CARDINALITY:
        return known
    if dataset not in _COUNTED:
        _COUNTED[dataset] = _counted(argument, dataset)
    return _COUNTED[dataset]


def check_end(argument: str, dataset: tf.data.Dataset) -> None:
    """Checks that a data set from which a batch has come ends, and can be read again.

    One of unknown length is read for that only where it may be endless: where a Python generator,
    or `repeat` within `flat_map` or `interleave`, gives its elements. Files end.

    Raises:
        ArgumentError: See `num_batches`; or the second pass gives nothing.
    """
    is_known = int(dataset.cardinality()) != tf.data.UNKNOWN_CARDINALITY
    if (is_known or _may_be_endless(dataset)) and not num_batches(argument, dataset):
        raise ArgumentError(
            f"`{argument}` must give its batches at each pass. Received: a dataset that gave some "
            "at the first and none at the second. Let the function of `from_generator` make a new "
            "generator each time."
        )


def _counted(argument: str, dataset: tf.data.Dataset) -> int:
    limit = MAX_BATCHES if _may_be_endless(dataset) else None
    count = 0
    with bar("counting batches", None) as advance:
        for _ in dataset:
            count += 1
            advance(1)
            if limit is not None and count > limit:
                raise ArgumentError(
                    f"`{argument}` must end, or say how many batches it has. Received: a dataset "
                    f"of unknown length that has not ended after {limit:,} batches. Use "
                    "`dataset.take(n)`, or `dataset.apply(tf.data.experimental.assert_cardinality("
                    "n))` where it ends after as many."
                )
    return count


def _may_be_endless(dataset: tf.data.Dataset) -> bool:
    """Whether something that a data set reads goes on for ever, or may."""
    return any(
        int(source.cardinality()) == tf.data.INFINITE_CARDINALITY or _ENDLESS & _operations(source)
        for source in _sources(dataset)
    )


def _sources(dataset: Any) -> Iterator[Any]:
    """A data set and all that it reads; a part that ends for certain stands for what it reads."""
    yield dataset
    for source in datasets_read(dataset):
        if int(source.cardinality()) < 0:
            yield from _sources(source)


def _operations(dataset: Any) -> set[str]:
    """The operations in the functions of a data set, of `flat_map` for instance."""
    return {
        node.op
        for graph in dataset_graphs(dataset)
        for nodes in (graph.node, *(inner.node_def for inner in graph.library.function))
        for node in nodes
    }
