"""The head of a classifier: its features, the meaning of its outputs, and the head as a model."""

from typing import Any

import keras

from tlkit.errors import ArgumentError
from tlkit.models.boundaries import head_feature_index, segment
from tlkit.models.flattening import above, flat
from tlkit.models.graph import model_ends
from tlkit.models.grown_names import parse_name
from tlkit.utils.keras_private import node_of, operation_of

# Names of the last layer in `build_classifier`, which preserve its meaning when saved
OUTPUT_NAMES = {"softmax": "logits", "binary": "binary_logit", "multi_label": "label_logits"}


def head_kind(model: keras.Model) -> str:
    """Returns the kind of a classifier's head.

    "softmax": one class per image, `(batch, num_classes)`; "binary": one logit or probability of
    the second class, `(batch, 1)`; "multi_label": independent classes, `(batch, num_classes)`.

    It is derived from the last activation, else from the name that `build_classifier` gives the
    last layer (and that it keeps when classes are added) if that fits the number of outputs; else
    one output is binary and several are softmax.

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
    """Whether the model's outputs are logits rather than probabilities.

    Example:
        >>> import tlkit
        >>> from tlkit.models.heads import outputs_logits
        >>> outputs_logits(tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None))
        True
    """
    return _last_activation(flat(model).output) not in {"softmax", "sigmoid"}


def probabilities(outputs: Any, model: keras.Model) -> Any:
    """Converts a model's outputs to probabilities `(batch, num_classes)`, float32, 0...1.

    Rows sum to one for the kinds "softmax" and "binary" (`[1 - p, p]`), and classes are independent
    for "multi_label". Works on arrays and, inside a graph, on symbolic tensors.

    Args:
        outputs: The model's outputs, `(batch, num_classes)` or `(batch, 1)`.
        model: The model, for its kind of head.

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

    Everything before it is constant while only the head is trained, so that it can be computed once
    per image. If added layers run in parallel with the original ones up to the head, no single
    tensor contains the outputs of both, and it is the last tensor before they branch.

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
            f"model={model.name!r}, whose head has none. Add a Dense layer at its end."
        )
    return segmentation.whole_cut(index).tensor


def head_from_features(model: keras.Model) -> keras.Model:
    """Returns the model's head as a separate model, from features to outputs.

    It shares the layers with `model`: training it trains `model`. On the features that
    `tlkit.models.flattening.below(model, feature_cut(model))` computes, its outputs are those of
    `model`.

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
    """Returns "softmax", "sigmoid", or the name of the last operation or activation."""
    node = node_of(output)
    operation = node.operation
    if isinstance(operation, keras.Model):
        return _last_activation(model_ends(operation)[1])
    if isinstance(operation, keras.layers.Concatenate | keras.layers.Average):  # classes, or views
        activations = {_last_activation(tensor) for tensor in node.input_tensors}
        if len(activations) == 1:
            return activations.pop()
    function = getattr(operation, "activation", None)
    name = getattr(function, "__name__", None) or type(operation).__name__
    return name.lower()
