"""Which pictures of a batch each replica takes, and the batches made of that."""

from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

from tlkit.distribution.workers import Workers

Share: TypeAlias = tuple[int, int]
"""(index, number): of each batch the pictures from `index` on, every `number`-th."""

WHOLE: Share = (0, 1)

Shared: TypeAlias = Callable[[Share], tf.data.Dataset]
"""From a share to the batches with that share of each."""


def spread_batches(
    strategy: tf.distribute.Strategy, batches: Shared, *, has_end: bool
) -> tf.distribute.DistributedDataset:
    """Returns batches that each replica sees its share of, with nothing lost or seen twice.

    Where a batch has fewer pictures than there are replicas, some see an empty one.

    Args:
        strategy: With several replicas.
        batches: What each of them is to see.
        has_end: Whether somebody reads to the end. Otherwise the workers need not ask each other
            before each batch whether there is one.
    """

    def of_this_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        workers = Workers(strategy)
        num_replicas = context.num_replicas_in_sync
        num_local = num_replicas // workers.num_workers
        first = workers.index * num_local
        local = [batches((first + i, num_replicas)) for i in range(num_local)]
        dataset = local[0] if num_local == 1 else _in_turn(local)
        if not has_end:
            dataset = dataset.apply(
                tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
            )
        return dataset.prefetch(2)

    return strategy.distribute_datasets_from_function(of_this_worker)


def share_of(dataset: tf.data.Dataset, share: Share) -> tf.data.Dataset:
    """Returns a share of each batch of a data set that is read as a whole."""
    if share == WHOLE:
        return dataset
    index, number = share
    return dataset.map(
        lambda *batch: tuple(part[index::number] for part in batch),
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def _in_turn(datasets: list[tf.data.Dataset]) -> tf.data.Dataset:
    """The first batch of each, then the second of each, and so on."""

    def one_after_the_other(*batches: tuple[tf.Tensor, ...]) -> tf.data.Dataset:
        first, *others = (tf.data.Dataset.from_tensors(batch) for batch in batches)
        for other in others:
            first = first.concatenate(other)
        return first

    return tf.data.Dataset.zip(*datasets).flat_map(one_after_the_other)
