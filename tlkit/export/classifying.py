"""The functions of formats without image files and strings: from pixels to probabilities."""

from typing import Any

import keras
import tensorflow as tf

from tlkit.evaluation.prediction import image_shape_of
from tlkit.models.heads import probabilities as probabilities_of


def classifying_function(model: keras.Model) -> Any:
    """Returns a `tf.function` from pixels to probabilities, with the preprocessing inside.

    It takes `images`, uint8 `(n, height, width, channels)`, 0...255, RGB, and returns
    "probabilities", float32 `(n, num_classes)`, and "class_id", int64 `(n,)`, the most probable
    class.

    Args:
        model: From pixels 0...255 of a fixed image size to logits or probabilities, in float32.

    Example:
        >>> import keras, numpy as np
        >>> from tlkit.export.classifying import classifying_function
        >>> model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(),
        ...     keras.layers.Dense(2, kernel_initializer="zeros")])
        >>> classifying_function(model)(np.zeros((1, 2, 2, 3), np.uint8))["probabilities"].numpy()
        array([[0.5, 0.5]], dtype=float32)
    """
    images_spec = tf.TensorSpec([None, *image_shape_of(model)], tf.uint8, "images")

    @tf.function(input_signature=[images_spec], autograph=False)
    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = model(tf.cast(images, tf.float32), training=False)
        probabilities = probabilities_of(outputs, model)
        return {"probabilities": probabilities, "class_id": tf.argmax(probabilities, axis=1)}

    return classify


def probabilities_function(model: keras.Model, *, is_integer: bool = False) -> Any:
    """Returns a `tf.function` from pixels to "probabilities" alone, float32 `(n, num_classes)`.

    It takes `images`, as `classifying_function` does. One output of float32 is what image
    classifiers of phones and browsers expect of a LiteRT file.

    Args:
        model: As for `classifying_function`.
        is_integer: Whether the function is to be converted to integers: it then takes one image,
            float32 `(1, height, width, channels)`, which the converter replaces by integers.
    """
    batch, dtype = (1, tf.float32) if is_integer else (None, tf.uint8)
    images_spec = tf.TensorSpec([batch, *image_shape_of(model)], dtype, "images")

    @tf.function(input_signature=[images_spec], autograph=False)
    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = model(tf.cast(images, tf.float32), training=False)
        return {"probabilities": probabilities_of(outputs, model)}

    return classify
