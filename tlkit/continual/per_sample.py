"""Sums over per-sample gradients, vectorised where TensorFlow supports it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import keras
import tensorflow as tf

from tlkit.continual.sample_convolutions import count_patch_values, vectorizable_convolutions
from tlkit.continual.vectorizing import reason_not_to_vectorize
from tlkit.utils.progress import bar

MAX_SCALARS = 16
"""Maximum number of backward passes that share one forward pass; more would make long graphs."""

_BATCH_BYTES = 2**29
_MAX_BATCH = 64
_FLOAT_BYTES = 4

Scalars: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""Takes one sample's outputs `(num_outputs,)` and its target; returns `k` scalars to differentiate
and `k` weights."""


@dataclass(frozen=True)
class SampleSums:
    """Sums over samples.

    Attributes:
        totals: For each variable the sum over samples and scalars of weight * measure(gradient).
        num_samples: Number of samples.
        not_vectorized: Why samples were processed one by one, or "".
    """

    totals: list[tf.Tensor]
    num_samples: int
    not_vectorized: str


def sum_over_samples(
    model: keras.Model,
    variables: Sequence[keras.Variable],
    samples: tf.data.Dataset,
    scalars: Scalars,
    measure: Callable[[tf.Tensor], tf.Tensor],
    *,
    num_scalars: int,
) -> SampleSums:
    """Sums a measure of each sample's gradients, in inference mode.

    Samples are vectorised if every operation of the model was tested to support it
    (`tlkit.continual.vectorizing`); else they are processed one by one in a compiled loop.

    Args:
        model: The model, not changed; batch normalisation uses its moving averages.
        variables: Weights to differentiate with respect to, also frozen ones.
        samples: Pairs of one image and its target, not batched.
        scalars: The function of the scalars to differentiate.
        measure: The measure of a gradient, such as `tf.square`.
        num_scalars: Number of scalars.
    """
    terms = _Terms(model, variables, scalars, measure, num_scalars)
    why = reason_not_to_vectorize(model)
    num_values = sum(prod(variable.shape) for variable in variables)
    size = (num_values + (0 if why else count_patch_values(model))) * _FLOAT_BYTES
    batch_size = int(min(max(_BATCH_BYTES // max(size, 1), 1), _MAX_BATCH))
    batches = samples.batch(batch_size).prefetch(2)
    signature = [
        tf.TensorSpec([batch_size, *spec.shape[1:]], spec.dtype) for spec in batches.element_spec
    ]
    signature += [tf.TensorSpec([batch_size], tf.float32), tf.TensorSpec([], tf.int32)]
    if not why:
        try:
            with _without_warnings(), vectorizable_convolutions(model):
                run = tf.function(terms.at_once, autograph=False).get_concrete_function(*signature)
        # errors with another cause are raised again by the loop
        except (ValueError, TypeError, LookupError, NotImplementedError) as error:
            why = str(error).strip().splitlines()[-1]
    if why:
        run = tf.function(terms.one_by_one, autograph=False).get_concrete_function(*signature)
    totals = [tf.zeros(variable.shape) for variable in variables]
    num_samples = 0
    with bar("importance", None, "images") as advance:
        for images, targets in batches:
            count = int(images.shape[0])
            full = [_padded(tensor, batch_size) for tensor in (images, targets)]
            present = tf.cast(tf.range(batch_size) < count, tf.float32)
            for first in range(0, num_scalars, MAX_SCALARS):
                added = run(*full, present, tf.constant(first))
                totals = [total + one for total, one in zip(totals, added, strict=True)]
            num_samples += count
            advance(count)
    return SampleSums(totals, num_samples, why)


class _Terms:
    """The contribution of one sample, and its sum over a batch."""

    def __init__(
        self,
        model: keras.Model,
        variables: Sequence[keras.Variable],
        scalars: Scalars,
        measure: Callable[[tf.Tensor], tf.Tensor],
        num_scalars: int,
    ) -> None:
        self._model, self._scalars, self._measure = model, scalars, measure
        self._weights = [variable.value for variable in variables]
        self._num_scalars = num_scalars
        self._num_together = min(num_scalars, MAX_SCALARS)

    def at_once(
        self, images: tf.Tensor, targets: tf.Tensor, present: tf.Tensor, first: tf.Tensor
    ) -> list[tf.Tensor]:
        each = tf.vectorized_map(
            lambda sample: self._of_sample(sample[0], sample[1], sample[2], first),
            (images, targets, present),
            fallback_to_while_loop=False,
        )
        return [tf.reduce_sum(values, axis=0) for values in each]

    def one_by_one(
        self, images: tf.Tensor, targets: tf.Tensor, present: tf.Tensor, first: tf.Tensor
    ) -> list[tf.Tensor]:
        def add(totals: list[tf.Tensor], sample: tuple[tf.Tensor, ...]) -> list[tf.Tensor]:
            added = self._of_sample(sample[0], sample[1], sample[2], first)
            return [total + one for total, one in zip(totals, added, strict=True)]

        zeros = [tf.zeros(weight.shape) for weight in self._weights]
        return tf.foldl(add, (images, targets, present), initializer=zeros)

    def _of_sample(
        self, image: tf.Tensor, target: tf.Tensor, present: tf.Tensor, first: tf.Tensor
    ) -> list[tf.Tensor]:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(self._weights)
            outputs = tf.cast(self._model(image[None], training=False)[0], tf.float32)
            values, weights = self._scalars(outputs, target)
            indices = [first + i for i in range(self._num_together)]
            chosen = [
                tf.gather(values, tf.minimum(index, self._num_scalars - 1)) for index in indices
            ]
        totals = [tf.zeros(weight.shape) for weight in self._weights]
        for index, value in zip(indices, chosen, strict=True):
            weight = tf.gather(weights, tf.minimum(index, self._num_scalars - 1))
            weight *= present * tf.cast(index < self._num_scalars, tf.float32)
            gradients = tape.gradient(
                value, self._weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            totals = [
                total + weight * self._measure(tf.cast(tf.convert_to_tensor(gradient), tf.float32))
                for total, gradient in zip(totals, gradients, strict=True)
            ]
        return totals


@contextmanager
def _without_warnings() -> Iterator[None]:
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.FATAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _padded(tensor: tf.Tensor, size: int) -> tf.Tensor:
    """Pads a tensor to `size` rows by repeating the first."""
    missing = size - int(tensor.shape[0])
    return (
        tf.concat([tensor, tf.repeat(tensor[:1], missing, axis=0)], axis=0) if missing else tensor
    )
