"""One training step on several replicas, each of which sees a share of the batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf


class Replicas:
    """What a step must do so that the replicas together do what one device does alone.

    Gradients are added up over the replicas by the optimizer. So each replica's loss is its part of
    the whole one: the sum over its own images, divided by the number of all images. Keras divides
    by the number of its own and by that of replicas, which differs where shares are uneven; weights
    of the samples make up for it. Penalties Keras divides by the number of replicas, which adds up
    to each once.

    With one replica everything stays as it is.

    Args:
        images: Those that this replica is to see, perhaps none.

    Attributes:
        are_several: Whether there is more than one replica.
        images: Those that it sees: where there is none, a blank one, for TensorFlow's fused kernels
            fail on empty batches.
        mean_num_images: Images per replica, a scalar.
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
        """Returns what the model gave for this replica's own images, without the blank one."""
        return outputs[: self._num_own] if self.are_several else outputs

    @contextmanager
    def not_counting_blank(self, metrics: Sequence[keras.metrics.Metric]) -> Iterator[None]:
        """Takes back what metrics note of a blank image."""
        found = [v for metric in metrics for v in metric.variables] if self.are_several else []
        before = [tf.identity(variable.value) for variable in found]
        yield
        for variable, value in zip(found, before, strict=True):
            variable.assign(tf.where(self._num_own > 0, tf.identity(variable.value), value))

    def weights(self, sample_weight: Any) -> Any:
        """Returns weights under which each image counts the same, whatever share it is in."""
        if not self.are_several:
            return sample_weight
        factor = self._own / self.mean_num_images
        if sample_weight is None:
            return tf.fill([self._num_own], factor)
        return tf.cast(sample_weight, tf.float32) * factor

    def part(self, mean: tf.Tensor) -> tf.Tensor:
        """Returns what a mean over this replica's images, or a penalty, adds to the whole one."""
        if not self.are_several:
            return mean
        share = self._own / (self.mean_num_images * self._number)
        return mean * tf.cast(share, mean.dtype)

    def whole(self, part: tf.Tensor) -> tf.Tensor:
        """Returns a replica's part of the loss on the scale of the whole one."""
        return part * self._number if self.are_several else part

    def total(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the sums over all replicas."""
        if not self.are_several:
            return list(tensors)
        return list(_summed(tensors))


def is_distributed() -> bool:
    """Whether this is a step on one of several replicas."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync) > 1


def logs_of_all(model: keras.Model) -> dict[str, Any]:
    """Returns the model's metrics over the images of all replicas, the same on each."""
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
    tensors = [tf.identity(tensor) for tensor in tensors]  # what a variable reads has no device
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)  # type: ignore[no-any-return]
