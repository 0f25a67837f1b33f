"""One training step on several replicas, each on a shard of the batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf


class Replicas:
    """The corrections with which several replicas together compute what one device computes.

    The optimizer sums gradients over the replicas. So each replica's loss must be its part of the
    total loss: the sum over its own images, divided by the number of all images. Keras divides by
    the number of the replica's images and by the number of replicas, which differs if shards are
    uneven; sample weights correct this. Keras divides penalties by the number of replicas, so that
    each counts once in the sum.

    With one replica nothing is changed.

    Args:
        images: The images of this replica, possibly none.

    Attributes:
        are_several: Whether there is more than one replica.
        images: The images that the model is run on: one blank image if there is none, because
            TensorFlow's fused kernels fail on empty batches.
        mean_num_images: The mean number of images per replica, a scalar.
    """

    def __init__(self, images: Any) -> None:
        self._number = int(tf.distribute.get_strategy().num_replicas_in_sync)
        self.are_several = self._number > 1
        self.images = images
        self._num_own = self.mean_num_images = tf.shape(tf.nest.flatten(images)[0])[0]
        if self.are_several:
            self.images = tf.nest.map_structure(_not_empty, images)
            self._own = tf.cast(self._num_own, tf.float32)
            (whole,) = self.total([self._own])
            self.mean_num_images = whole / self._number

    def own(self, outputs: Any) -> Any:
        """Returns the outputs for this replica's own images, without the blank image."""
        return outputs[: self._num_own] if self.are_several else outputs

    @contextmanager
    def not_counting_blank(self, metrics: Sequence[keras.metrics.Metric]) -> Iterator[None]:
        """Undoes the updates of metrics by a blank image."""
        found = [v for metric in metrics for v in metric.variables] if self.are_several else []
        before = [tf.identity(variable.value) for variable in found]
        yield
        for variable, value in zip(found, before, strict=True):
            variable.assign(tf.where(self._num_own > 0, tf.identity(variable.value), value))

    def weights(self, sample_weight: Any) -> Any:
        """Returns sample weights with which each image counts the same in shards of any size."""
        if not self.are_several:
            return sample_weight
        factor = self._own / self.mean_num_images
        if sample_weight is None:
            return tf.fill([self._num_own], factor)
        return tf.cast(sample_weight, tf.float32) * factor

    def part(self, mean: tf.Tensor) -> tf.Tensor:
        """Returns the part that this replica's mean or penalty adds to the total."""
        if not self.are_several:
            return mean
        fraction = self._own / (self.mean_num_images * self._number)
        return mean * tf.cast(fraction, mean.dtype)

    def whole(self, part: tf.Tensor) -> tf.Tensor:
        """Returns a replica's part of the loss, scaled to the total loss."""
        return part * self._number if self.are_several else part

    def total(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the sum of each tensor over all replicas."""
        if not self.are_several:
            return list(tensors)
        return list(_summed(tensors))


def is_distributed() -> bool:
    """Whether the current step runs on one of several replicas."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync) > 1


def logs_of_all(model: keras.Model) -> dict[str, tf.Tensor]:
    """Returns the model's metrics over the images of all replicas, equal on each replica."""
    variables = model.metrics_variables
    summed = _summed([tf.convert_to_tensor(variable.value) for variable in variables])
    number = tf.distribute.get_strategy().num_replicas_in_sync
    values = [
        total / number if variable.aggregation == "mean" else total
        for variable, total in zip(variables, summed, strict=True)
    ]
    with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
        return dict(model.get_metrics_result())


def _not_empty(images: tf.Tensor) -> tf.Tensor:
    missing = tf.maximum(1 - tf.shape(images)[0], 0)
    return tf.pad(images, [[0, missing], *[[0, 0]] * (images.shape.rank - 1)])


def _summed(tensors: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    context = tf.distribute.get_replica_context()
    tensors = [tf.identity(tensor) for tensor in tensors]  # a variable's value has no device
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)  # type: ignore[no-any-return]
