"""The one function that formats without files and strings hold: pixels in, probabilities out."""

from typing import Any

import keras
import tensorflow as tf

from tlkit.evaluation.prediction import image_size_of
from tlkit.models.heads import probabilities


def classifying_function(model: keras.Model) -> Any:
    """Returns a `tf.function` from pixels to probabilities, with the preprocessing inside.

    It takes `images`, uint8 `(n, height, width, 3)`, 0...255, RGB, and returns "probabilities",
    float32 `(n, num_classes)`, and "class_id", int64 `(n,)`, the most probable class.

    Args:
        model: Takes pixels 0...255 of one fixed size; gives logits or probabilities. Computes in
            float32.

    Example:
        >>> import keras, numpy as np
        >>> from tlkit.export.classifying import classifying_function
        >>> model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(),
        ...     keras.layers.Dense(2, kernel_initializer="zeros")])
        >>> classifying_function(model)(np.zeros((1, 2, 2, 3), np.uint8))["probabilities"].numpy()
        array([[0.5, 0.5]], dtype=float32)
    """
    images_spec = tf.TensorSpec([None, *image_size_of(model), 3], tf.uint8, "images")

    @tf.function(input_signature=[images_spec], autograph=False)
    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = model(tf.cast(images, tf.float32), training=False)
        shares = probabilities(outputs, model)
        return {"probabilities": shares, "class_id": tf.argmax(shares, axis=1)}

    return classify
