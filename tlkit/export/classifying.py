"""The functions of formats without image files and strings: from pixels to probabilities."""

from typing import Any

import keras
import tensorflow as tf

from tlkit.evaluation.prediction import image_shape_of
from tlkit.models.heads import probabilities as probabilities_of
from tlkit.models.model_spec import describe_model


def classifying_function(model: keras.Model) -> Any:
    """Returns a `tf.function` from pixels to probabilities, with the preprocessing inside.

    For a model of images, it takes `images`, uint8 `(n, height, width, channels)`, 0...255, RGB,
    and for another model `inputs`, see `input_spec_of`. It returns "probabilities", float32 `(n,
    num_classes)`, and "class_id", int64 `(n,)`, the most probable class.

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

    @tf.function(input_signature=[input_spec_of(model)], autograph=False)
    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = _probabilities(model, inputs)
        return {"probabilities": probabilities, "class_id": tf.argmax(probabilities, axis=1)}

    return classify


def input_spec_of(model: keras.Model) -> tf.TensorSpec:
    """Returns what an exported model takes: "images", uint8, or "inputs" as the model takes them.

    Raises:
        ArgumentError: It takes images that are not of one fixed size, see `image_shape_of`.

    Example:
        >>> import keras
        >>> from tlkit.export.classifying import input_spec_of
        >>> spectra = keras.Input((64, 1))
        >>> flat = keras.layers.Flatten()(spectra)
        >>> input_spec_of(keras.Model(spectra, keras.layers.Dense(2)(flat)))
        TensorSpec(shape=(None, 64, 1), dtype=tf.float32, name='inputs')
    """
    spec = describe_model(model)
    if spec.takes_images:
        return tf.TensorSpec([None, *image_shape_of(model)], tf.uint8, "images")
    return tf.TensorSpec(spec.input_shape, spec.input_dtype, "inputs")


def probabilities_function(model: keras.Model, *, is_integer: bool = False) -> Any:
    """Returns a `tf.function` from pixels to "probabilities" alone, float32 `(n, num_classes)`.

    It takes what `classifying_function` does. One output of float32 is what image classifiers of
    phones and browsers expect of a LiteRT file.

    Args:
        model: As for `classifying_function`.
        is_integer: Whether the function is to be converted to integers: it then takes one image,
            float32 `(1, height, width, channels)`, which the converter replaces by integers.
    """
    spec = input_spec_of(model)
    if is_integer:
        spec = tf.TensorSpec([1, *spec.shape[1:]], tf.float32, spec.name)

    @tf.function(input_signature=[spec], autograph=False)
    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": _probabilities(model, inputs)}

    return classify


def _probabilities(model: keras.Model, inputs: tf.Tensor) -> tf.Tensor:
    given = tf.cast(inputs, tf.float32) if inputs.dtype == tf.uint8 else inputs
    return probabilities_of(model(given, training=False), model)
