"""The head of a classifier: what it reads, what its outputs mean, and how to train it alone."""

from typing import Any

import keras

from tlkit.errors import ArgumentError
from tlkit.models.boundaries import head_feature_index, segment
from tlkit.models.flattening import above, flat
from tlkit.models.graph import model_ends
from tlkit.models.grown_names import parse_name
from tlkit.utils.keras_private import node_of, operation_of

# Names that `build_classifier` gives the last layer, so that its meaning survives saving
OUTPUT_NAMES = {"softmax": "logits", "binary": "binary_logit", "multi_label": "label_logits"}


def head_kind(model: keras.Model) -> str:
    """Returns how the outputs of a classifier are to be read.

    "softmax": one class per image, `(batch, num_classes)`; "binary": one logit or probability of
    the second class, `(batch, 1)`; "multi_label": each class on its own, `(batch, num_classes)`.

    Read from the last activation, else from the name that `build_classifier` gave the last layer
    (and that it keeps when classes are added) where it fits their number; else one output is binary
    and several are softmax.

    Raises:
        ArgumentError: The model is not functional, or has several inputs or outputs.

    Example:
        >>> import keras
        >>> from tlkit.models.heads import head_kind
        >>> head_kind(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "sigmoid")]))
        'binary'
    """
    output = flat(model).output
    activation = _last_activation(output)
    if activation == "softmax":
        return "softmax"
    if activation == "sigmoid":
        return "binary" if output.shape[-1] == 1 else "multi_label"
    name = parse_name(operation_of(output).name, OUTPUT_NAMES.values()).base
    for kind, output_name in OUTPUT_NAMES.items():
        fits = {"softmax": output.shape[-1] != 1, "binary": output.shape[-1] == 1}
        if name == output_name and fits.get(kind, True):
            return kind
    return "binary" if output.shape[-1] == 1 else "softmax"


def outputs_logits(model: keras.Model) -> bool:
    """Whether the model's outputs are logits and not yet probabilities.

    Example:
        >>> import tlkit
        >>> from tlkit.models.heads import outputs_logits
        >>> outputs_logits(tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None))
        True
    """
    return _last_activation(flat(model).output) not in {"softmax", "sigmoid"}


def probabilities(outputs: Any, model: keras.Model) -> Any:
    """Turns a model's outputs into probabilities `(batch, num_classes)`, float32, 0...1.

    Rows sum to one for the kinds "softmax" and "binary" (`[1 - p, p]`); each class stands on its
    own for "multi_label". Works on arrays and, inside a graph, on symbolic tensors.

    Args:
        outputs: What the model returns, `(batch, num_classes)` or `(batch, 1)`.
        model: The model, which says what its outputs mean.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.models.heads import probabilities
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None, binary=True)
        >>> probabilities(np.zeros((1, 1)), model).numpy().tolist()
        [[0.5, 0.5]]
    """
    kind = head_kind(model)
    outputs = keras.ops.cast(outputs, "float32")
    if outputs_logits(model):
        activate = keras.ops.softmax if kind == "softmax" else keras.ops.sigmoid
        outputs = activate(outputs)
    if kind == "binary":
        return keras.ops.concatenate([1 - outputs, outputs], axis=-1)
    return outputs


def feature_cut(model: keras.Model) -> keras.KerasTensor:
    """Returns the tensor that the first layer of the head with weights (or dropout) reads.

    Everything before it is the same for every training step of a frozen network, so that it can
    be computed once per image. Where layers that were added run beside those of the start up to
    the head, no single tensor holds what both compute, and it is the last one before they part.

    Raises:
        ArgumentError: The head has no layer with weights.

    Example:
        >>> import tlkit
        >>> from tlkit.models.heads import feature_cut
        >>> feature_cut(tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)).shape
        (None, 96)
    """
    segmentation = segment(model)
    index = head_feature_index(segmentation)
    if index is None:
        raise ArgumentError(
            "`model` must have a head with weights. Received: "
            f"model={model.name!r}, which ends without any. Put a Dense layer at its end."
        )
    return segmentation.whole_cut(index).tensor


def head_from_features(model: keras.Model) -> keras.Model:
    """Returns the model's head as a model of its own, from features to outputs.

    It shares the layers with `model`: training it trains `model`. On the features that
    `tlkit.models.flattening.below(model, feature_cut(model))` computes, it returns what `model`
    returns.

    Raises:
        ArgumentError: The head has no layer with weights.

    Example:
        >>> import tlkit
        >>> from tlkit.models.heads import head_from_features
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> head = head_from_features(model)
        >>> head.input_shape, head.layers[-1] is model.get_layer("logits")
        ((None, 96), True)
    """
    return above(model, feature_cut(model), name="head")


def _last_activation(output: keras.KerasTensor) -> str:
    """Returns "softmax", "sigmoid", or the name of whatever else comes last."""
    node = node_of(output)
    operation = node.operation
    if isinstance(operation, keras.Model):
        return _last_activation(model_ends(operation)[1])
    if isinstance(operation, keras.layers.Concatenate):  # of classes that were added
        activations = {_last_activation(tensor) for tensor in node.input_tensors}
        if len(activations) == 1:
            return activations.pop()
    function = getattr(operation, "activation", None)
    name = getattr(function, "__name__", None) or type(operation).__name__
    return name.lower()
