"""The closed-form head as plain Keras layers, and replacing the last Dense layer by it, in place.

The layers between the features and the new last Dense layer are "head_normalization"
(`Normalization`), "head_unit_length" (`UnitNormalization`) and "head_landmarks", a frozen `Dense`
layer with an exponential activation: its outputs are the Gaussian kernel of an image and each
landmark.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.models.graph import FIRST_OF_KERNEL, FIXED_LAYER, nodes_between
from tlkit.models.recompiling import become

LARGEST_SCALE = 1e15
"""Scale of a feature that does not vary; its square is finite in float32."""

_UNIT_LENGTH = "head_unit_length"
_MIN_SQUARED_LENGTH = 1e-12


@dataclass(frozen=True, eq=False)
class KernelMap:
    """The map from features to kernel values; it is fixed before a head is solved.

    With u the direction of (x - mean) / scale for the features x, an image's kernel values are
    exp(2 sharpness (u . l - 1)) = exp(-sharpness |u - l|²) for the landmarks l.

    Attributes:
        mean: Mean of the training features, `(num_features,)`.
        scale: Their scale, `(num_features,)`.
        landmarks: The directions of some training images, `(num_landmarks, num_features)`.
        sharpness: The factor of the squared distance, above 0.
    """

    mean: np.ndarray
    scale: np.ndarray
    landmarks: np.ndarray
    sharpness: float

    def values(self, features: np.ndarray) -> np.ndarray:
        """Returns the kernel values of images with the given features, `(n, num_landmarks)`."""
        return self.values_at(directions(features, self.mean, self.scale))

    def values_at(self, units: np.ndarray) -> np.ndarray:
        """Returns the kernel values at some directions, each of length 1."""
        values: np.ndarray = np.exp(2 * self.sharpness * (units @ self.landmarks.T - 1))
        return values

    def layers(self) -> tuple[keras.layers.Layer, ...]:
        """Returns the layers that compute the kernel values, built, with their weights."""
        num_features = len(self.mean)
        normalization = keras.layers.Normalization(name=FIRST_OF_KERNEL, dtype="float32")
        normalization.build((None, num_features))
        scale = np.minimum(self.scale, LARGEST_SCALE)
        state = {"0": self.mean.astype("float32"), "1": np.square(scale).astype("float32"), "2": 1}
        normalization.load_own_variables(state)
        unit_length = keras.layers.UnitNormalization(name=_UNIT_LENGTH, dtype="float32")
        landmarks = keras.layers.Dense(
            len(self.landmarks), "exponential", name=FIXED_LAYER, dtype="float32"
        )
        landmarks.build((None, num_features))
        kernel = 2 * self.sharpness * self.landmarks.T
        bias = np.full(len(self.landmarks), -2 * self.sharpness)
        landmarks.set_weights([kernel.astype("float32"), bias.astype("float32")])
        landmarks.trainable = False
        return normalization, unit_length, landmarks


def directions(features: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Returns the standardised features, each row scaled to length 1."""
    rows = (features - mean) / np.minimum(scale, LARGEST_SCALE)
    squares = np.sum(np.square(rows), axis=1, keepdims=True)
    return rows / np.sqrt(np.maximum(squares, _MIN_SQUARED_LENGTH))


def has_kernel_head(model: keras.Model) -> bool:
    """Whether a model has a closed-form head."""
    return any(layer.name == FIXED_LAYER for layer in model.layers)


def why_not_replaceable(model: keras.Model, dense: keras.layers.Dense) -> str:
    """Returns why the last Dense layer cannot be replaced in place, else "".

    Args:
        model: A classifier.
        dense: The Dense layer that computes its logits.
    """
    if type(model) is not type(keras.Model(model.inputs, model.outputs)):
        return f"the model is a {type(model).__name__}, not a plain functional model"
    if not any(layer is dense for layer in model.layers):
        return f"layer {dense.name!r} is inside another layer"
    following = nodes_between(_call_of(model, dense).output_tensors[0], model.outputs[0])
    activations = (keras.layers.Activation, keras.layers.Softmax)
    if following is None or not all(isinstance(one.operation, activations) for one in following):
        return f"layer {dense.name!r} is followed by other layers than an activation"
    if len(_features(model, dense).shape) != 2 or not dense.use_bias:
        return f"layer {dense.name!r} has no bias, or is applied at several positions"
    return ""


def replace_head(
    model: keras.Model,
    dense: keras.layers.Dense,
    kernel_map: KernelMap | None,
    kernel: np.ndarray,
    bias: np.ndarray,
) -> Callable[[], None]:
    """Replaces the last Dense layer, and an earlier closed-form head's layers, in place.

    The new Dense layer has the settings of the old one. A model that is compiled stays compiled,
    with a new optimizer.

    Args:
        model: A classifier for which `why_not_replaceable` returns "".
        dense: The Dense layer that computes its logits.
        kernel_map: The map before the new layer; `None` for a linear head.
        kernel: The new layer's kernel, `(num_landmarks or num_features, units)`.
        bias: Its bias, `(units,)`.

    Returns:
        A function that restores the model's previous head.
    """
    x = _features(model, dense)
    following = nodes_between(_call_of(model, dense).output_tensors[0], model.outputs[0]) or []
    for layer in kernel_map.layers() if kernel_map is not None else ():
        x = layer(x)
    new = keras.layers.Dense.from_config(dense.get_config())
    new.activation = dense.activation  # the config may name one of Keras's for a custom function
    x = new(x)
    new.set_weights([kernel, bias])
    for node in following:
        x = node.operation(x)
    return become(model, keras.Model(model.input, x, name=model.name))


def is_kernel_head_grown(model: keras.Model) -> bool:
    """Whether classes were added to a closed-form head, so that several layers compute logits."""
    return len(_readers_of_kernel(model)) > 1


def make_head_linear(model: keras.Model) -> Callable[[], None]:
    """Replaces a closed-form head by a linear one whose weights are zero, in place.

    Args:
        model: A classifier with a closed-form head that is not grown.

    Returns:
        A function that restores the closed-form head.
    """
    (dense,) = _readers_of_kernel(model)
    num_features = model.get_layer(FIXED_LAYER).kernel.shape[0]
    kernel = np.zeros((num_features, dense.units), "float32")
    return replace_head(model, dense, None, kernel, np.zeros(dense.units, "float32"))


def _readers_of_kernel(model: keras.Model) -> list[Any]:
    """Returns the operations that read the kernel values of a closed-form head."""
    values = _call_of(model, model.get_layer(FIXED_LAYER)).output_tensors[0]
    nodes = nodes_between(values, model.outputs[0]) or []
    return [node.operation for node in nodes if node.input_tensors[0] is values]


def _features(model: keras.Model, dense: keras.layers.Dense) -> keras.KerasTensor:
    """Returns the tensor that the head's first layer reads, dropout not counted."""
    first = model.get_layer(FIRST_OF_KERNEL) if has_kernel_head(model) else dense
    tensor: keras.KerasTensor = _call_of(model, first).input_tensors[0]
    return tensor


def _call_of(model: keras.Model, layer: keras.layers.Layer) -> Any:
    """Returns the node of a layer's call in a model's graph."""
    nodes = nodes_between(model.inputs[0], model.outputs[0]) or []
    (call,) = (node for node in nodes if node.operation is layer)
    return call
