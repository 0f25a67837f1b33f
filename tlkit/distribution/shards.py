"""Shards of batches: the images of each batch that a replica gets."""

from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

from tlkit.distribution.workers import Workers

Shard: TypeAlias = tuple[int, int]
"""(index, number): every `number`-th image of each batch, starting with `index`."""

ONLY_SHARD: Shard = (0, 1)

ShardedBatches: TypeAlias = Callable[[Shard], tf.data.Dataset]
"""Takes a shard, and returns that shard of each batch."""


def distribute_batches(
    workers: Workers, batches: ShardedBatches
) -> tf.distribute.DistributedDataset:
    """Returns batches of which each replica gets its shard, every image exactly once.

    If a batch has fewer images than there are replicas, some shards are empty.

    Args:
        workers: The workers of a strategy with several replicas.
        batches: The batches to shard, which are treated as infinite, so that the workers need not
            synchronise before each batch on whether there is another; stop reading before the end.
    """

    def of_this_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        dataset = batches((workers.index, workers.num_workers))
        if workers.num_local_replicas > 1:
            dataset = _shard_by_shard(dataset, workers.num_local_replicas)
        infinite = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return dataset.apply(infinite).prefetch(2)

    return workers.strategy.distribute_datasets_from_function(of_this_worker)


def _shard_by_shard(dataset: tf.data.Dataset, number: int) -> tf.data.Dataset:
    """Returns all shards of the first batch, then all of the second, for the devices in turn."""

    def shards(*batch: tf.Tensor) -> tf.data.Dataset:
        indices = tf.data.Dataset.range(number)
        return indices.map(lambda index: tuple(part[index::number] for part in batch))

    return dataset.flat_map(shards)
