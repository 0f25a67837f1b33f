"""One forward pass, as evaluation and prediction use it."""

from collections.abc import Callable

import keras
import tensorflow as tf


def forward_of(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the model's inference as a traced function, from pixels to float32 outputs.

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
    images = tf.TensorSpec((None, *model.input_shape[1:]), dtype)
    # A concrete function: TensorFlow warns of many traces where each is of another model.
    traced = tf.function(lambda images: model(images, training=False)).get_concrete_function(images)
    return lambda images: tf.cast(traced(tf.cast(images, dtype)), tf.float32)
