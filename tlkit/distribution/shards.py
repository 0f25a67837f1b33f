"""Which images of a batch each replica takes, and the batches made of that."""

from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

from tlkit.distribution.workers import Workers

Shard: TypeAlias = tuple[int, int]
"""(index, number): of each batch the images from `index` on, every `number`-th."""

ONLY_SHARD: Shard = (0, 1)

ShardedBatches: TypeAlias = Callable[[Shard], tf.data.Dataset]
"""From a shard to the batches with that shard of each."""


def distribute_batches(
    workers: Workers, batches: ShardedBatches
) -> tf.distribute.DistributedDataset:
    """Returns batches that each replica sees its shard of, with nothing lost or seen twice.

    Where a batch has fewer images than there are replicas, some see an empty one.

    Args:
        workers: With several replicas.
        batches: What each of them is to see. Nobody must read to an end: where there is none, the
            workers need not ask each other before each batch whether there is one more.
    """

    def of_this_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        dataset = batches((workers.index, workers.num_workers))
        if workers.num_local_replicas > 1:
            dataset = _shard_by_shard(dataset, workers.num_local_replicas)
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return dataset.apply(endless).prefetch(2)

    return workers.strategy.distribute_datasets_from_function(of_this_worker)


def _shard_by_shard(dataset: tf.data.Dataset, number: int) -> tf.data.Dataset:
    """All shards of the first batch, then all of the second: each device takes the next one."""

    def shards(*batch: tf.Tensor) -> tf.data.Dataset:
        indices = tf.data.Dataset.range(number)
        return indices.map(lambda index: tuple(part[index::number] for part in batch))

    return dataset.flat_map(shards)
