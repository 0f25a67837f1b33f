"""Batches in the form that Keras's `fit` takes, on one replica or several."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from tlkit.distribution.shards import ONLY_SHARD, Shard, ShardedBatches, distribute_batches
from tlkit.distribution.workers import Workers
from tlkit.training.sources import steps_in_epoch


@dataclass(frozen=True)
class FitData:
    """Batches in the form that Keras's `fit` takes.

    Attributes:
        training: Batches, whole or sharded over the replicas.
        validation: Batches, whole or sharded; `None` without validation images.
        validation_steps: Number of batches in one pass over `validation`, if it repeats
            indefinitely.
    """

    training: Any
    validation: Any = None
    validation_steps: int | None = None


def fit_data(
    workers: Workers, training: ShardedBatches, validation: ShardedBatches | None
) -> FitData:
    """Returns batches for Keras's `fit`, whole or sharded over the replicas."""
    if workers.num_replicas == 1:
        return FitData(training(ONLY_SHARD), validation and validation(ONLY_SHARD))
    distributed = distribute_batches(workers, training)
    if validation is None:
        return FitData(distributed)
    num_steps = steps_in_epoch(validation(ONLY_SHARD))
    repeated = partial(_repeated, validation)
    return FitData(distributed, distribute_batches(workers, repeated), num_steps)


def with_class_weights(dataset: tf.data.Dataset, class_factors: np.ndarray) -> tf.data.Dataset:
    """Multiplies each image's sample weight by its class weight.

    Keras does not apply class weights to distributed batches.

    Args:
        dataset: Batches `(images, targets)`, or `(images, targets, weights)`.
        class_factors: The weight of an image of each class, `(num_classes,)`.
    """
    weights = tf.constant(class_factors, tf.float32)

    @tf.autograph.experimental.do_not_convert
    def with_weights(images: tf.Tensor, targets: tf.Tensor, *own: tf.Tensor) -> tuple[Any, ...]:
        if targets.shape.rank == 1:
            weight = tf.gather(weights, tf.cast(targets, tf.int32))
        else:  # one-hot, one column of 0 and 1, or shares of mixed images
            shares = tf.cast(targets, tf.float32)
            shares = tf.concat([1 - shares, shares], axis=1) if shares.shape[1] == 1 else shares
            weight = tf.linalg.matvec(shares, weights)
        for one in own:
            weight *= tf.cast(tf.reshape(one, [-1]), tf.float32)
        return images, targets, weight

    return dataset.map(with_weights)


def shards_with_class_weights(
    batches_of_shard: ShardedBatches, class_factors: np.ndarray | None
) -> ShardedBatches:
    """Applies `with_class_weights` to each shard of some batches; unchanged for `None`."""
    if class_factors is None:
        return batches_of_shard
    return lambda shard: with_class_weights(batches_of_shard(shard), class_factors)


def _repeated(batches_of_shard: ShardedBatches, shard: Shard) -> tf.data.Dataset:
    return batches_of_shard(shard).repeat()
