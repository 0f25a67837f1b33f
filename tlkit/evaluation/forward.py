"""One forward pass, as evaluation and prediction use it."""

from collections.abc import Callable

import keras
import tensorflow as tf

from tlkit.distribution.strategies import strategy_of
from tlkit.distribution.workers import Workers


def forward_of(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the model's inference as a traced function, from pixels to float32 outputs.

    A model that was made under a strategy runs on all devices of this machine, each with a share
    of the images.

    It leaves the model as it is, which `model.predict` does not: that keeps a function of its
    own, compiled by XLA where the model allows it, which slows depthwise convolutions down on a
    processor.

    Example:
        >>> import keras, tensorflow as tf
        >>> from tlkit.evaluation.forward import forward_of
        >>> model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
        >>> forward_of(model)(tf.zeros((2, 4, 4, 3), tf.uint8)).shape
        TensorShape([2, 48])
    """
    dtype = model.inputs[0].dtype
    if (number := Workers(strategy_of(model)).num_local_replicas) > 1:
        return _on_all_devices(model, number)
    images = tf.TensorSpec((None, *model.input_shape[1:]), dtype)
    # A concrete function: TensorFlow warns of many traces where each is of another model.
    traced = tf.function(lambda images: model(images, training=False)).get_concrete_function(images)
    return lambda images: tf.cast(traced(tf.cast(images, dtype)), tf.float32)


def _on_all_devices(model: keras.Model, number: int) -> Callable[[tf.Tensor], tf.Tensor]:
    strategy, dtype = strategy_of(model), model.inputs[0].dtype

    @tf.function(reduce_retracing=True)
    def run(images: tf.Tensor) -> tf.Tensor:
        return strategy.run(lambda share: model(share, training=False), args=(images,))

    def forward(images: tf.Tensor) -> tf.Tensor:
        num_images = len(images)
        images = tf.cast(images, dtype)
        if num_images < number:  # fused kernels fail on empty batches
            images = tf.pad(images, [[0, number - num_images], [0, 0], [0, 0], [0, 0]])
        shares = strategy.experimental_distribute_values_from_function(
            lambda context: images[context.replica_id_in_sync_group % number :: number]
        )
        outputs = strategy.experimental_local_results(run(shares))
        order = tf.argsort(tf.concat([tf.range(len(images))[i::number] for i in range(number)], 0))
        return tf.cast(tf.gather(tf.concat(outputs, 0), order)[:num_images], tf.float32)

    return forward
