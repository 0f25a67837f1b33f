"""Communication between the workers of a strategy, outside the training step."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tlkit.errors import ArgumentError

_WORD = np.int64
_WORDS_AT_ONCE = 2**23  # 64 MiB in one message
_CHIEF = 0


class Workers:
    """The processes that a strategy runs in: one, or one on each machine.

    Every worker must make the same calls in the same order, because they wait for each other. All
    calls are based on one operation, a sum of 64-bit words in which each bit comes from one worker
    and is zero on the others, so that values are transferred bit-identically.

    Args:
        strategy: The strategy of the model.

    Attributes:
        index: Index of this worker.
        num_workers: Number of workers.
        num_replicas: Number of devices of all workers.
        num_local_replicas: Number of devices of each worker.
        strategy: The given strategy.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.strategy = strategy
        self.index, self.num_workers = _CHIEF, 1
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            by_type = resolver.cluster_spec().as_dict()
            num_chiefs = len(by_type.get("chief", []))
            self.num_workers = num_chiefs + len(by_type.get("worker", []))
            self.index = resolver.task_id + (0 if resolver.task_type == "chief" else num_chiefs)
        self.num_replicas = int(strategy.num_replicas_in_sync)
        self.num_local_replicas = self.num_replicas // self.num_workers

    @property
    def is_chief(self) -> bool:
        """Whether this is the worker that writes files."""
        return self.index == _CHIEF

    def from_chief(self, arrays: Sequence[np.ndarray] | None) -> list[np.ndarray]:
        """Returns the chief's arrays on every worker; those of the others are ignored."""
        if self.num_workers == 1:
            return list(arrays or ())
        content = b""
        if self.is_chief:
            content = _packed(list(arrays or ()))
        (size,) = self._sum(np.array([len(content)], _WORD))
        words = np.zeros(-(-int(size) // _WORD().itemsize), _WORD)
        words.view(np.uint8)[: len(content)] = np.frombuffer(content, np.uint8)
        return _unpacked(self._sum(words).view(np.uint8)[: int(size)].tobytes())

    def bytes_from_chief(self, content: bytes | None) -> bytes | None:
        """Returns the chief's bytes, or `None` if it has none."""
        received = self.from_chief([] if content is None else [np.frombuffer(content, np.uint8)])
        return received[0].tobytes() if received else None

    def merge(self, array: np.ndarray) -> np.ndarray:
        """Returns on every worker the array that combines the parts of all.

        Args:
            array: An array of the same shape on each worker, zero in the parts of the others.
        """
        if self.num_workers == 1:
            return array
        own = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        words = np.zeros(-(-own.size // _WORD().itemsize), _WORD)
        words.view(np.uint8)[: own.size] = own
        return self._sum(words).view(np.uint8)[: own.size].view(array.dtype).reshape(array.shape)

    def any(self, flags: np.ndarray | bool) -> np.ndarray:
        """Returns for each flag whether it is true on any worker."""
        if self.num_workers == 1:
            return np.asarray(flags)
        return self._sum(np.asarray(flags).astype(_WORD)) > 0

    def all(self, flag: bool) -> bool:
        """Returns whether a flag is true on every worker."""
        return not bool(self.any(not flag))

    def chief_says(self, flag: bool) -> bool:
        """Returns the chief's flag."""
        return bool(self.any(flag and self.is_chief))

    def check_same(self, argument: str, value: Any) -> None:
        """Raises `ArgumentError` on every worker unless all have the same plain value."""
        if self.num_workers == 1:
            return
        text = json.dumps(value, sort_keys=True, default=str)
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        digests = np.zeros(self.num_workers, _WORD)
        digests[self.index] = np.frombuffer(digest, _WORD)[0]
        digests = self.merge(digests)
        differing = np.flatnonzero(digests != digests[_CHIEF])
        if len(differing):
            raise ArgumentError(
                f"`{argument}` must be the same on every worker. Received: {text[:300]} on worker "
                f"{self.index}, and a different value on worker "
                f"{differing[0] if self.is_chief else _CHIEF}. Give every worker the same program, "
                "arguments and images."
            )

    def _sum(self, words: np.ndarray) -> np.ndarray:
        flat = words.reshape(-1)
        parts = [
            self._sum_some(flat[start : start + _WORDS_AT_ONCE])
            for start in range(0, len(flat), _WORDS_AT_ONCE)
        ]
        return np.concatenate([np.zeros(0, _WORD), *parts]).reshape(words.shape)

    def _sum_some(self, words: np.ndarray) -> np.ndarray:
        # the first replica has the values of its worker, the others zeros
        def value_of(context: tf.distribute.InputContext) -> tf.Tensor:
            is_first = context.replica_id_in_sync_group % self.num_local_replicas == 0
            return tf.constant(words if is_first else np.zeros_like(words))

        values = self.strategy.experimental_distribute_values_from_function(value_of)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None).numpy()


def check_can_be_sharded(argument: str, workers: Workers) -> None:
    """Raises `ArgumentError` if a `tf.data.Dataset` would have to be sharded over workers."""
    if workers.num_workers > 1:
        raise ArgumentError(
            f"`{argument}` must be the result of load_folder, load_arrays or load_tfds if there "
            "are several workers, which may read a tf.data.Dataset in different orders. "
            f"Received: a tf.data.Dataset and {workers.num_workers} workers. Load a folder, "
            "or use one machine."
        )


def _packed(arrays: Sequence[np.ndarray]) -> bytes:
    specs = [(array.dtype.str, array.shape) for array in arrays]
    head = json.dumps(specs).encode()
    parts = [np.ascontiguousarray(array).tobytes() for array in arrays]
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def _unpacked(content: bytes) -> list[np.ndarray]:
    start = 8 + int.from_bytes(content[:8], "little")
    arrays = []
    for dtype, shape in json.loads(content[8:start]):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        values = np.frombuffer(content, np.uint8, size, start).copy()
        arrays.append(values.view(dtype).reshape(shape))
        start += size
    return arrays
