"""Random views of images by Keras layers of the user's, which depend only on a seed per image."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.errors import ArgumentError
from tlkit.utils.formatting import reason_of
from tlkit.utils.keras_private import seed_generators, with_inner_layers

_TOLERANCE = 0.5
"""Values may exceed 0...255 by this much, as by rounding."""

_NOT_SETTINGS = ("name", "seed", "build_config")
"""Entries of a configuration that do not change the views: names are numbered anew in each process,
and all random numbers come from the seed of the training."""


class FunctionLayer(keras.layers.Layer):
    """A layer that calls a function of the user's.

    Args:
        function: Takes images, `(1, height, width, channels)`, and, if it has two arguments, a seed
            for stateless random numbers, `(2,)`; returns images. Its settings are its name and its
            source text, so that a training is resumed with the same function; what it reads from
            outside is not known.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(name=_layer_name(function), dtype="float32")
        self._function, self._source = function, _source(function)
        self._takes_seed = len(inspect.signature(function).parameters) > 1
        self.generator = keras.random.SeedGenerator(0)

    def call(self, images: Any) -> Any:
        """Returns the images that the function returns."""
        if self._takes_seed:
            return self._function(images, self.generator.next())
        return self._function(images)

    def get_config(self) -> dict[str, Any]:
        """Returns what identifies the function."""
        return {**super().get_config(), "function": self.name, "source": self._source}


def _layer_name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__).strip("<>")


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError) as error:
        raise ArgumentError(
            "`augment` must contain functions whose source text can be read, which identifies them "
            f"when a training is resumed. Received: {function!r:.80}. Define it with `def` in a "
            "file or a notebook, or write a subclass of keras.layers.Layer."
        ) from error


def checked_layer(layer: Any) -> keras.layers.Layer:
    """Returns a layer that may augment images, as far as can be told without running it.

    A function becomes a layer.

    Raises:
        ArgumentError: It is no Keras layer, or one whose settings are unknown or that changes
            labels.
    """
    if inspect.isclass(layer) and issubclass(layer, keras.layers.Layer):
        raise ArgumentError(
            f"`augment` must contain layers, not classes. Received: {layer.__name__}. Create one: "
            f"keras.layers.{layer.__name__}(...)."
        )
    if not isinstance(layer, keras.layers.Layer) and callable(layer):
        layer = FunctionLayer(layer)
    if not isinstance(layer, keras.layers.Layer):
        raise ArgumentError(
            "`augment` must be the name of a preset, a Keras layer, a function or a list of these. "
            f"Received: {layer!r:.80} of type {type(layer).__name__}. Give one of them."
        )
    if isinstance(layer, keras.Model):
        raise ArgumentError(
            "`augment` must consist of single layers, a keras.Sequential or a "
            f"keras.layers.Pipeline. Received: {layer.name!r} of type {type(layer).__name__}. "
            "Give its layers as a list."
        )
    for inner in with_inner_layers(layer):
        if isinstance(inner, keras.layers.MixUp | keras.layers.CutMix):
            raise ArgumentError(
                "`augment` must contain layers that change each image by itself. Received: "
                f"{type(inner).__name__}, which mixes images and their labels. Leave it out; "
                "augment='mixup' and augment='cutmix' mix, and so can a tf.data.Dataset of your "
                "own, given as `data`."
            )
        if isinstance(inner, keras.layers.Lambda):
            raise ArgumentError(
                "`augment` must contain layers whose settings identify what they compute. "
                f"Received: {inner.name!r}, a Lambda. Write a subclass of keras.layers.Layer."
            )
    return layer


def settings_of(layer: keras.layers.Layer) -> str:
    """Returns the class and the settings of a layer as JSON, without its name and its seed.

    Raises:
        ArgumentError: Its configuration cannot be written.
    """
    try:
        return json.dumps(_settings(keras.saving.serialize_keras_object(layer)), sort_keys=True)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ArgumentError(
            "`augment` must contain layers whose configuration can be written, so that a training "
            f"is resumed with the same. Received: {layer.name!r} of type {type(layer).__name__} "
            f"({reason_of(error)}). Give its class a `get_config`."
        ) from error


def layer_view(
    image: tf.Tensor, layers: Sequence[keras.layers.Layer], seed: tf.Tensor
) -> tf.Tensor:
    """Augments one image by layers that draw all random numbers from `seed`.

    The state of each of their random generators is replaced by numbers that depend on `seed` and on
    the generator's position only. So a view depends neither on the batch nor on other calls, and
    the layers' own states are unchanged.

    Args:
        image: `(height, width, channels)`, 0...255.
        layers: Keras layers, which are built.
        seed: Two whole numbers, `(2,)`.

    Returns:
        The view, float32, of the image's shape.

    Raises:
        ArgumentError: The layers return another shape.
    """
    generators = [
        generator
        for layer in layers
        for inner in with_inner_layers(layer)
        for generator in seed_generators(inner)
    ]
    states = [
        (generator.state, tf.random.fold_in(seed, number))
        for number, generator in enumerate(generators)
    ]
    view = tf.cast(image, tf.float32)[tf.newaxis]
    with keras.StatelessScope(state_mapping=states):
        for layer in layers:
            view = layer(view, training=True)
    if not tf.is_tensor(view):
        raise ArgumentError(
            "`augment` must return images, like its input. Received: a "
            f"{type(view).__name__}. Let the layer return one tensor."
        )
    expected = (1, *image.shape)
    if not view.shape.is_compatible_with(expected):
        raise ArgumentError(
            "`augment` must return images of the shape of its input. Received: "
            f"{tuple(view.shape)} for images {expected}. End with keras.layers.Resizing"
            f"{tuple(image.shape[:2])}, and keep the channels."
        )
    return tf.ensure_shape(tf.cast(view[0], tf.float32), image.shape)


def build_layers(layers: Sequence[keras.layers.Layer], image_shape: tuple[int, int, int]) -> None:
    """Builds layers that are not built, by running them on a blank image."""
    if all(layer.built for layer in layers):
        return
    view = tf.zeros((1, *image_shape))
    for layer in layers:
        view = layer(view, training=True)


def check_layers(layers: Sequence[keras.layers.Layer], images: np.ndarray) -> None:
    """Checks what layers return for some images.

    Args:
        layers: Keras layers.
        images: `(n, height, width, channels)`, 0...255, float32.

    Raises:
        ArgumentError: The layers fail, have weights, return another shape, values that are not
            finite or not in 0...255, or other values with the same seed.
    """
    try:
        build_layers(layers, images.shape[1:])
        keras.random.uniform(())  # the state of Keras's global generator exists, and then changes
        numbers = np.arange(len(images))
        views = _views(layers, images, numbers)
        keras.random.uniform(())
        # In another order: a generator with a state may start anew in each data set
        again = _views(layers, images[::-1], numbers[::-1])[::-1]
    except ArgumentError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
        raise _failed(error) from error
    except tf.errors.OpError as error:
        raise _failed(error) from error
    _check_no_weights(layers)
    if not np.isfinite(views).all():
        raise ArgumentError(
            "`augment` must return finite values. Received: NaN or infinite values for images "
            "0...255. Look for a division by zero in its layers."
        )
    low, high = float(views.min()), float(views.max())
    received = f"values from {low:.3g} to {high:.3g} for images {images.min():g}...{images.max():g}"
    if low < -_TOLERANCE or high > 255 + _TOLERANCE:
        raise ArgumentError(
            "`augment` must return values in 0...255, because the model contains its own "
            f"preprocessing. Received: {received}. Leave rescaling and normalisation out; end with "
            "keras.layers.ReLU(max_value=255) to clip values that exceed the range a little."
        )
    if high <= 1 < images.max():
        raise ArgumentError(
            "`augment` must return values in 0...255, because the model contains its own "
            f"preprocessing. Received: {received}. Leave the rescaling out, and give layers "
            "value_range=(0, 255)."
        )
    if not np.allclose(views, again, rtol=0, atol=0.01):
        raise ArgumentError(
            "`augment` must draw its random numbers from keras.random.SeedGenerator objects that "
            "its layers have as attributes, so that a training can be repeated and resumed. "
            f"Received: {', '.join(type(layer).__name__ for layer in layers)}, whose result "
            "differs for equal seeds. Draw with keras.random and seed=self.generator (AugMix draws "
            "with Python's random: use RandAugment)."
        )


def _views(
    layers: Sequence[keras.layers.Layer], images: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """Returns one view of each image, by its number, computed in a newly traced data set."""

    @tf.autograph.experimental.do_not_convert
    def view(number: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        return layer_view(image, layers, tf.stack([tf.constant(0, tf.int64), number]))

    dataset = tf.data.Dataset.from_tensor_slices((numbers, images)).map(view)
    return np.stack(list(dataset.as_numpy_iterator()))


def _check_no_weights(layers: Sequence[keras.layers.Layer]) -> None:
    for layer in layers:
        states = {
            id(generator.state)
            for inner in with_inner_layers(layer)
            for generator in seed_generators(inner)
        }
        weights = [one.path for one in layer.variables if id(one) not in states]
        if weights:
            raise ArgumentError(
                "`augment` must contain layers without weights, which would not be trained or "
                f"saved. Received: {type(layer).__name__} with {', '.join(weights[:3])}. Put it "
                "into the model."
            )


def _failed(error: Exception) -> ArgumentError:
    return ArgumentError(
        "`augment` must work in a tf.data pipeline on images (1, height, width, 3), float32. "
        f"Received: layers that fail with {type(error).__name__}: {reason_of(error)}. Use "
        "operations of keras.ops or TensorFlow."
    )


def _settings(value: Any) -> Any:
    """Returns a serialized object without the entries that do not change the views."""
    if isinstance(value, Mapping):
        return {
            name: part if name == "dtype" else _settings(part)
            for name, part in value.items()
            if name not in _NOT_SETTINGS
        }
    return [_settings(part) for part in value] if isinstance(value, list | tuple) else value
