"""One forward pass, as evaluation and prediction use it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any
from weakref import WeakKeyDictionary

import keras
import tensorflow as tf

from tlkit.distribution.strategies import workers_of
from tlkit.errors import ArgumentError
from tlkit.models.graph import with_nested
from tlkit.models.signature import graph_signature


def forward_of(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the model's inference as a traced function, from pixels to float32 outputs.

    A model that was made under a strategy runs on all devices of this machine, each with a shard
    of the images.

    Tracing takes longer than a look at some hundred images, so the function is kept beside the
    model and serves again for as long as the graph, the layers' settings and the variables are the
    same; new values of the variables need no new one. `model.predict` keeps one of its own, which
    notices no change and is compiled by XLA where the model allows it: that slows depthwise
    convolutions down on a processor.

    Example:
        >>> import keras, tensorflow as tf
        >>> from tlkit.evaluation.forward import forward_of
        >>> model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
        >>> forward_of(model)(tf.zeros((2, 4, 4, 3), tf.uint8)).shape
        TensorShape([2, 48])
    """
    dtype = model.inputs[0].dtype
    if (number := workers_of(model).num_local_replicas) > 1:
        return _on_all_devices(model, number)
    traced = _traced(model)
    return lambda images: tf.cast(traced(tf.cast(images, dtype)), tf.float32)


@dataclass(frozen=True, eq=False)
class _Kept:
    """A trace of a model, and what it was made from; none of it keeps the model alive."""

    function: tf.types.experimental.ConcreteFunction
    graph: str
    read: Sequence[Any]

    def is_of(self, graph: str, read: Sequence[Any]) -> bool:
        """Whether it is what this graph gives of these variables and constants."""
        same = len(read) == len(self.read) and all(map(is_, read, self.read))
        return same and graph == self.graph


_KEPT: WeakKeyDictionary[keras.Model, _Kept] = WeakKeyDictionary()


def _traced(model: keras.Model) -> tf.types.experimental.ConcreteFunction:
    graph, read = _graph_of(model), _read_by(model)
    kept = _KEPT.get(model)
    if graph and kept is not None and kept.is_of(graph, read):
        return kept.function
    images = tf.TensorSpec((None, *model.input_shape[1:]), model.inputs[0].dtype)
    # A concrete function: TensorFlow warns of many traces where each is of another model.
    forward = tf.function(lambda images: model(images, training=False), autograph=False)
    traced = forward.get_concrete_function(images)
    if graph:
        _KEPT[model] = _Kept(traced, graph, read)
    return traced


def _graph_of(model: keras.Model) -> str | None:
    """Names what is traced; `None` where a layer may compute what its settings do not tell."""
    if not all(map(_is_of_keras, with_nested(model))):
        return None
    try:
        return graph_signature(model)
    except ArgumentError:  # not functional, or settings that cannot be read
        return None


def _is_of_keras(layer: keras.layers.Layer) -> bool:
    """Whether no code of a user's is in it."""
    parts = (layer, getattr(layer, "activation", None))
    return not isinstance(layer, keras.layers.Lambda) and all(
        part is None or part.__module__.startswith("keras.") for part in parts
    )


def _read_by(model: keras.Model) -> list[Any]:
    """The objects that a trace reads or holds: variables, and what `adapt` left as constants."""
    held = [
        constant
        for layer in with_nested(model)
        if isinstance(layer, keras.layers.Normalization)
        for constant in (layer.mean, layer.variance)
    ]
    return [*model.variables, *held]


def _on_all_devices(model: keras.Model, number: int) -> Callable[[tf.Tensor], tf.Tensor]:
    strategy, dtype = workers_of(model).strategy, model.inputs[0].dtype

    @tf.function(reduce_retracing=True, autograph=False)
    def run(images: tf.Tensor) -> tf.Tensor:
        return strategy.run(lambda shard: model(shard, training=False), args=(images,))

    def forward(images: tf.Tensor) -> tf.Tensor:
        num_images = len(images)
        images = tf.cast(images, dtype)
        if num_images < number:  # fused kernels fail on empty batches
            images = tf.concat([images, tf.repeat(images[:1], number - num_images, axis=0)], 0)
        shards = strategy.experimental_distribute_values_from_function(
            lambda context: images[context.replica_id_in_sync_group % number :: number]
        )
        outputs = strategy.experimental_local_results(run(shards))
        order = tf.argsort(tf.concat([tf.range(len(images))[i::number] for i in range(number)], 0))
        return tf.cast(tf.gather(tf.concat(outputs, 0), order)[:num_images], tf.float32)

    return forward
