"""Batches of stored features: epochs in a given order, or one pass."""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from tlkit.distribution.shards import Shard, ShardedBatches
from tlkit.training.features import MAX_BYTES_IN_MEMORY, Features
from tlkit.training.fitting import Batches


def batches_in_order(
    features: Features,
    targets: np.ndarray,
    order_of: Callable[[int], np.ndarray],
    *,
    batch_size: int,
) -> Batches:
    """Returns batches whose order depends on the epoch's number only, so that any can be resumed.

    Args:
        features: The rows; loaded into memory if they fit, else read as needed.
        targets: One target for each row.
        order_of: From an epoch's number to the positions of its rows, the same number in each.
        batch_size: Number of rows in a batch.
    """
    rows = _Rows(features, targets)

    def starting_at(epoch: int, step: int, shard: Shard) -> tf.data.Dataset:
        def generate() -> Iterator[tuple[np.ndarray, ...]]:
            first, number = step, epoch
            while True:  # Keras stops after its last epoch
                yield from rows.batches(order_of(number), batch_size, first, shard)
                first, number = 0, number + 1

        return rows.dataset(generate).prefetch(2)

    return Batches(starting_at, -(-len(order_of(0)) // batch_size))


def one_pass(features: Features, targets: np.ndarray, *, batch_size: int) -> ShardedBatches:
    """Returns one pass over all rows in their order, or over a shard of each batch."""
    rows = _Rows(features, targets)
    num_batches = -(-len(targets) // batch_size)

    def batches(shard: Shard) -> tf.data.Dataset:
        dataset = rows.dataset(lambda: rows.batches(np.arange(len(targets)), batch_size, 0, shard))
        return dataset.apply(tf.data.experimental.assert_cardinality(num_batches)).prefetch(2)

    return batches


class _Rows:
    """Features, targets and optional weights, by position."""

    def __init__(self, features: Features, targets: np.ndarray) -> None:
        self._features, self._targets = features, targets
        fits = features.num_bytes <= MAX_BYTES_IN_MEMORY
        self._loaded = features.load() if fits else None

    def batches(
        self, order: np.ndarray, batch_size: int, first: int, shard: Shard
    ) -> Iterator[tuple[np.ndarray, ...]]:
        index, number = shard
        for start in range(first * batch_size, len(order), batch_size):
            some = order[start : start + batch_size][index::number]
            rows = self._features.read(some) if self._loaded is None else self._loaded[some]
            weights = self._features.weights
            yield (rows, self._targets[some], *(() if weights is None else (weights[some],)))

    def dataset(self, generate: Callable[[], Iterator[tuple[np.ndarray, ...]]]) -> tf.data.Dataset:
        store = self._features.store
        signature: list[tf.TensorSpec] = [
            tf.TensorSpec((None, *store.row_shape), tf.as_dtype(store.dtype)),
            tf.TensorSpec((None, *self._targets.shape[1:]), self._targets.dtype),
        ]
        if self._features.weights is not None:
            signature.append(tf.TensorSpec((None,), self._features.weights.dtype))
        batches = tf.data.Dataset.from_generator(generate, output_signature=tuple(signature))
        plain = tf.autograph.experimental.do_not_convert
        return batches.map(plain(lambda rows, *others: (tf.cast(rows, tf.float32), *others)))
