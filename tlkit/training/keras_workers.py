"""A workaround for two bugs of Keras 3, which cannot train on several machines.

Under `MultiWorkerMirroredStrategy`, `fit` raises «Attempt to convert a value (PerReplica...)»:
before training it averages a batch over the workers outside any traced function, and after each
step it averages scalars over an axis that they do not have. See
https://github.com/keras-team/keras/issues/20585. The first bug also occurs on several devices of
one machine if their shards of a batch differ in size.

This file can be removed when `fit` of a plain Keras model trains under that strategy and on shards
of different sizes; tests/distribution/test_two_workers.py fails then.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


class WorkersModel(keras.Model):
    """A Keras model whose `fit` and `evaluate` run on several replicas, also on several machines.

    Its `train_step` and `test_step` must return the same on every replica.
    """

    train_function: Any
    test_function: Any

    def make_train_function(self, force: bool = False) -> Any:
        """Returns Keras's function; on several replicas, one that returns the first one's logs."""
        if not _is_distributed(self):
            return super().make_train_function(force)
        if self.train_function is None or force:
            self.train_function = _on_all_replicas(self, self.train_step)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """Returns the same for `evaluate`."""
        if not _is_distributed(self):
            return super().make_test_function(force)
        if self.test_function is None or force:
            self.test_function = _on_all_replicas(self, self.test_step)
        return self.test_function

    def build_from(self, batch: Any) -> None:
        """Creates the variables of metrics and losses, as `fit` does before its first step."""
        super()._maybe_symbolic_build(data_batch=batch)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds the model as Keras does; one replica's shard of a batch has the shapes."""
        if iterator is not None and _is_distributed(self):
            strategy = self.distribute_strategy
            for _, _, batches in iterator:
                batch = next(batches)
                data_batch = tf.nest.map_structure(
                    lambda value: strategy.experimental_local_results(value)[0], batch
                )
                break
            iterator = None
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)


def _is_distributed(model: keras.Model) -> bool:
    return int(model.distribute_strategy.num_replicas_in_sync) > 1


def _on_all_replicas(
    model: keras.Model, step: Callable[[Any], dict[str, tf.Tensor]]
) -> Callable[[Any], dict[str, tf.Tensor]]:
    strategy = model.distribute_strategy

    def one_step(iterator: Any) -> dict[str, tf.Tensor]:
        logs = strategy.run(step, args=(next(iterator),))
        return {name: strategy.experimental_local_results(value)[0] for name, value in logs.items()}

    if model.run_eagerly:
        return one_step
    plain = tf.autograph.experimental.do_not_convert
    return tf.function(plain(one_step), reduce_retracing=True)
