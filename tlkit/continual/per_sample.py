"""Gradients of one sample at a time, summed over many, as fast as TensorFlow can."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import keras
import tensorflow as tf

from tlkit.continual.sample_convolutions import count_patch_values, vectorizable_convolutions
from tlkit.continual.vectorizing import why_one_by_one
from tlkit.utils.progress import bar

MAX_SCALARS = 16
"""So many backward passes share one forward pass; more would make long graphs."""

_BATCH_BYTES = 2**29
_MAX_BATCH = 64
_FLOAT_BYTES = 4

Scalars: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""From one sample's outputs `(num_outputs,)` and its target to `k` scalars to differentiate and
`k` weights."""


@dataclass(frozen=True)
class SampleSums:
    """Sums over samples.

    Attributes:
        totals: For each weight the sum over samples and scalars of weight * measure(gradient).
        num_samples: How many samples.
        not_vectorized: Why TensorFlow took one sample after the other, or "".
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
    """Sums a measure of each sample's own gradients, in inference mode.

    Several samples are taken at once where every operation of the model was proven to allow it
    (`tlkit.continual.vectorizing`); else one after the other, in one compiled loop.

    Args:
        model: Not changed; batch normalisation uses its moving averages.
        variables: Weights to differentiate by, frozen ones too.
        samples: Pairs of one image and its target, not batched.
        scalars: What is differentiated.
        measure: Of a gradient, such as `tf.square`.
        num_scalars: How many scalars there are.
    """
    terms = _Terms(model, variables, scalars, measure, num_scalars)
    why = why_one_by_one(model)
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
        # what else is wrong is raised again one by one
        except (ValueError, TypeError, LookupError, NotImplementedError) as error:
            why = str(error).strip().splitlines()[-1]
    if why:
        run = tf.function(terms.one_by_one, autograph=False).get_concrete_function(*signature)
    totals = [tf.zeros(variable.shape) for variable in variables]
    num_samples = 0
    with bar("importance", None, "images") as advance:
        for images, targets in batches:
            count = int(images.shape[0])
            full = [_filled(tensor, batch_size) for tensor in (images, targets)]
            present = tf.cast(tf.range(batch_size) < count, tf.float32)
            for first in range(0, num_scalars, MAX_SCALARS):
                added = run(*full, present, tf.constant(first))
                totals = [total + one for total, one in zip(totals, added, strict=True)]
            num_samples += count
            advance(count)
    return SampleSums(totals, num_samples, why)


class _Terms:
    """What one sample adds, and how a batch of samples is summed."""

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
            share = tf.gather(weights, tf.minimum(index, self._num_scalars - 1))
            share *= present * tf.cast(index < self._num_scalars, tf.float32)
            gradients = tape.gradient(
                value, self._weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            totals = [
                total + share * self._measure(tf.cast(tf.convert_to_tensor(gradient), tf.float32))
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


def _filled(tensor: tf.Tensor, size: int) -> tf.Tensor:
    """Repeats the first row until there are `size`."""
    missing = size - int(tensor.shape[0])
    return (
        tf.concat([tensor, tf.repeat(tensor[:1], missing, axis=0)], axis=0) if missing else tensor
    )
