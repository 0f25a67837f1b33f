"""The traced forward pass of evaluation and prediction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any
from weakref import WeakKeyDictionary, ref

import keras
import tensorflow as tf

from tlkit.distribution.strategies import workers_of
from tlkit.errors import ArgumentError
from tlkit.models.graph import with_nested
from tlkit.models.signature import graph_signature


def forward_of(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the model's inference as a traced function, from pixels to float32 outputs.

    A model created under a strategy runs on all devices of this machine, each with a shard of the
    images.

    Tracing takes longer than predicting some hundred images, so the function is cached and reused
    while the graph, the layers' configuration and the variables are the same objects; new values of
    variables need no new trace. The function that `model.predict` caches does not notice changes,
    and is compiled by XLA if possible, which slows down depthwise convolutions on a CPU.

    Example:
        >>> import keras, tensorflow as tf
        >>> from tlkit.evaluation.forward import forward_of
        >>> model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
        >>> forward_of(model)(tf.zeros((2, 4, 4, 3), tf.uint8)).shape
        TensorShape([2, 48])
    """
    dtype = model.inputs[0].dtype
    if (num_devices := workers_of(model).num_local_replicas) > 1:
        return _forward_on_all_devices(model, num_devices)
    traced = _cached(model, _trace)
    return lambda images: tf.cast(traced(tf.cast(images, dtype)), tf.float32)


@dataclass(frozen=True, eq=False)
class _CachedTrace:
    """A trace of a model with the graph and the objects that it depends on."""

    function: tf.types.experimental.Callable
    graph: str
    captured: Sequence[Any]

    def matches(self, graph: str, captured: Sequence[Any]) -> bool:
        """Whether the trace is valid for this graph with these variables and constants."""
        reads_same = len(captured) == len(self.captured) and all(map(is_, captured, self.captured))
        return reads_same and graph == self.graph


_TRACES: WeakKeyDictionary[keras.Model, _CachedTrace] = WeakKeyDictionary()


def _cached(
    model: keras.Model, make: Callable[[keras.Model], tf.types.experimental.Callable]
) -> tf.types.experimental.Callable:
    """Returns the function made for this model before, unless the model has changed."""
    graph, captured = _graph_of(model), _captured_objects(model)
    cached = _TRACES.get(model)
    if graph and cached is not None and cached.matches(graph, captured):
        return cached.function
    function = make(model)
    if graph:
        _TRACES[model] = _CachedTrace(function, graph, captured)
    return function


def _trace(model: keras.Model) -> tf.types.experimental.ConcreteFunction:
    images = tf.TensorSpec((None, *model.input_shape[1:]), model.inputs[0].dtype)
    # A concrete function: TensorFlow would warn of retracing, although the models differ.
    forward = tf.function(lambda images: model(images, training=False), autograph=False)
    return forward.get_concrete_function(images)


def _trace_on_shards(model: keras.Model) -> tf.types.experimental.PolymorphicFunction:
    strategy, reference = workers_of(model).strategy, ref(model)  # the cache keeps no model alive

    @tf.function(reduce_retracing=True, autograph=False)
    def run(images: tf.Tensor) -> tf.Tensor:
        traced = reference()
        assert traced is not None  # whoever calls it holds the model
        return strategy.run(lambda shard: traced(shard, training=False), args=(images,))

    return run


def _graph_of(model: keras.Model) -> str | None:
    """Returns the graph's signature; `None` if a layer may depend on more than its config."""
    if not all(map(_is_keras_layer, with_nested(model))):
        return None
    try:
        return graph_signature(model)
    except ArgumentError:  # not functional, or a config that cannot be read
        return None


def _is_keras_layer(layer: keras.layers.Layer) -> bool:
    """Whether a layer contains no user code."""
    parts = (layer, getattr(layer, "activation", None))
    return not isinstance(layer, keras.layers.Lambda) and all(
        part is None or part.__module__.startswith("keras.") for part in parts
    )


def _captured_objects(model: keras.Model) -> list[Any]:
    """Returns the objects that a trace captures: variables, and constants set by `adapt`."""
    constants = [
        constant
        for layer in with_nested(model)
        if isinstance(layer, keras.layers.Normalization)
        for constant in (layer.mean, layer.variance)
    ]
    return [*model.variables, *constants]


def _forward_on_all_devices(
    model: keras.Model, num_devices: int
) -> Callable[[tf.Tensor], tf.Tensor]:
    strategy, dtype = workers_of(model).strategy, model.inputs[0].dtype
    run = _cached(model, _trace_on_shards)

    def forward(images: tf.Tensor) -> tf.Tensor:
        num_images = len(images)
        images = tf.cast(images, dtype)
        if num_images < num_devices:  # fused kernels fail on empty batches
            images = tf.concat([images, tf.repeat(images[:1], num_devices - num_images, axis=0)], 0)
        shards = strategy.experimental_distribute_values_from_function(
            lambda context: images[context.replica_id_in_sync_group % num_devices :: num_devices]
        )
        outputs = strategy.experimental_local_results(run(shards))
        order = tf.argsort(
            tf.concat([tf.range(len(images))[i::num_devices] for i in range(num_devices)], 0)
        )
        return tf.cast(tf.gather(tf.concat(outputs, 0), order)[:num_images], tf.float32)

    return forward
