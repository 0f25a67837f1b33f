"""Adding classes: new units in parallel with those of the logits."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import keras
import numpy as np

from tlkit.errors import ArgumentError, as_tuple
from tlkit.models.initial_weights import keep_initial_weights, norms, zero_reader
from tlkit.models.layer_spec import Call, Fill, GraphSpec, LayerSpec
from tlkit.models.rebuild import is_mixing
from tlkit.models.routing import is_elementwise


def check_new_names(
    new_names: Sequence[str], class_names: Sequence[str] | None, num_classes: int
) -> list[str]:
    """Returns the new names.

    Raises:
        ArgumentError: There is none, one is empty or repeated, or one is an old class.
    """
    names = list(as_tuple(new_names))
    repeated = sorted({str(name) for name in names if names.count(name) > 1})
    usable = all(isinstance(name, str) and name.strip() for name in names)
    if not names or repeated or not usable or isinstance(new_names, str):
        raise ArgumentError(
            "`new_names` must be a list of one or more distinct names of classes, none of them "
            f"empty. Received: new_names={new_names!r}"
            f"{f', with {repeated} repeated' if repeated else ''}. "
            'Write new_names=["cat", "dog"].'
        )
    if class_names is None:
        return names
    old = [class_names] if isinstance(class_names, str) else list(class_names)
    if len(old) != num_classes:
        raise ArgumentError(
            f"`class_names` must be the names of the {num_classes} classes that the model has, in "
            f"the order of its outputs. Received: {len(old)} names: {old!r}. Give all of them."
        )
    existing = [name for name in names if name in old]
    if existing:
        raise ArgumentError(
            "`new_names` must be names of classes that the model does not have. "
            f"Received: new_names={names!r}, and it has {existing}. "
            "Leave them out: use fine_tune for further images of an existing class."
        )
    return names


def find_head(graph_spec: GraphSpec) -> tuple[Call, list[Call]]:
    """Returns the call of the logits' Dense layer, and the activations after it, in order.

    Raises:
        ArgumentError: The model does not end with one Dense layer of `(batch, classes)`.
    """
    call = graph_spec.output.call
    following: list[Call] = []
    while not _is_dense(call) and _is_activation(call):
        following.insert(0, call)
        call = call.inputs[0].call
    if not _is_dense(call) or len(call.shapes[0]) != 2 or graph_spec.is_shared(call):
        raise ArgumentError(
            "`model` must have one classification head: a Dense layer at the end, called once, "
            "with outputs (batch, classes), and nothing but an activation after it. Received: "
            f"model={graph_spec.name!r}, which ends with {call.name!r} of class "
            f"{type(call.operation).__name__} and outputs {call.shapes[0]}. "
            "tlkit.build_classifier builds such models."
        )
    if not is_elementwise(call.activation) and not is_mixing(call.activation):
        raise ArgumentError(
            "`model` must have a head whose activation is known to be elementwise, or a softmax "
            f"over all classes. Received: model={graph_spec.name!r}, whose {call.name!r} has the "
            f"activation {call.activation!r}. Let the layer return logits, without an activation."
        )
    return call, following


def add_units(
    graph_spec: GraphSpec,
    num_new: int,
    *,
    is_binary: bool,
    fill: Fill,
) -> None:
    """Adds a part of `num_new` units to the head, in place, concatenated with the old ones.

    Args:
        graph_spec: The parsed model.
        num_new: Number of new classes.
        is_binary: Whether the head has one unit, for the second of two classes. It then gains
            another unit for the first class, whose logit is zero.
        fill: Sets the new layer's weights.
    """
    head, following = find_head(graph_spec)
    if is_binary:
        order: tuple[int, ...] = (_make_two_classes(graph_spec, head, following), 0)
        chain = [head]
    else:
        # an activation over all classes needs them concatenated, and so do all calls after it
        chain = (
            [head] if is_mixing(head.activation) else [head, *takewhile(_acts_on_each, following)]
        )
        joined = next((call for call in chain if call.joined), chain[-1])
        chain = chain[: chain.index(joined) + 1]
        order = joined.joined or (0,)
    part = graph_spec.next_part
    settings = {"units": num_new, "trainable": True}
    head.layer_specs[0, part] = LayerSpec(head.operation, settings, fill=fill)
    for earlier in graph_spec.parts_at(head.inputs[0])[1:]:
        head.layer_specs[earlier, part] = zero_reader(head.layer_specs[0, part])
    for call in chain[1:]:
        call.layer_specs[part, part] = LayerSpec(call.operation, fill=keep_initial_weights)
    chain[-1].joined = (*order, part)


def initialized(initializer: Any, seed: int) -> Fill:
    """Returns a function that fills the rows of new classes by a Keras initializer.

    Raises:
        ArgumentError: Keras does not have it.
    """
    try:
        resolved = keras.initializers.get(initializer)
    except ValueError as error:
        raise ArgumentError(
            "`initializer` must be a Keras initializer or the name of one. "
            f"Received: initializer={initializer!r}. Write initializer='glorot_uniform'."
        ) from error
    if isinstance(initializer, str) and "seed" in resolved.get_config():
        resolved = type(resolved).from_config({**resolved.get_config(), "seed": seed})

    def fill(layer: keras.layers.Dense) -> None:
        layer.kernel.assign(resolved(layer.kernel.shape, dtype=layer.kernel.dtype))

    return fill


def imprinted(head: Call, class_means: np.ndarray) -> Fill:
    """Returns a function that fills the rows of new classes with their scaled mean features.

    A row is the class's mean feature, scaled to the mean Euclidean norm of the old rows; the bias
    is the mean of the old biases.

    Reference:
        Qi, Brown and Lowe (2018), Low-Shot Learning with Imprinted Weights,
        https://arxiv.org/abs/1712.07136 (there features and rows have norm one, times one learned
        scale, and there is no bias).
    """

    def fill(layer: keras.layers.Dense) -> None:
        old = head.operation
        scale = np.mean(norms(keras.ops.convert_to_numpy(old.kernel)))
        rows = class_means / np.linalg.norm(class_means, axis=1, keepdims=True)
        layer.kernel.assign(scale * rows.T)
        if layer.bias is not None:
            layer.bias.assign(np.full(layer.units, np.mean(keras.ops.convert_to_numpy(old.bias))))

    return fill


def check_class_means(head: Call, class_means: Any, num_new: int) -> np.ndarray:
    """Returns the mean features as float64.

    Raises:
        ArgumentError: They are not one finite, nonzero row for each new class.
    """
    means = np.asarray(class_means, dtype=np.float64)
    shape = (num_new, head.operation.kernel.shape[0])
    if means.shape != shape or not np.isfinite(means).all() or not means.any(axis=-1).all():
        raise ArgumentError(
            f"`class_means` must be one row of {shape[1]} finite features, not all zero, for each "
            f"of the {num_new} new classes. Received: an array of shape {means.shape}. Give what "
            "tlkit.mean_features(model, images) returns."
        )
    return means


def row_norms(head: Call, part: int) -> np.ndarray:
    """Returns the Euclidean norm of each class's weights, over all parts that it reads."""
    squares = [
        norms(keras.ops.convert_to_numpy(layer_spec.operation.kernel)) ** 2
        for (_, own), layer_spec in head.layer_specs.items()
        if own == part
    ]
    return np.sqrt(np.sum(squares, axis=0))


def scaled_rows(layer_spec: LayerSpec, factor: float) -> LayerSpec:
    """Returns the spec of a Dense layer with its kernel multiplied by a factor."""
    kernel, *bias = layer_spec.operation.get_weights()
    return replace(layer_spec, weights=((factor * kernel).astype(kernel.dtype), *bias))


def _make_two_classes(graph_spec: GraphSpec, head: Call, following: list[Call]) -> int:
    """Adds a logit 0 to a head with one logit z, and replaces its sigmoid by a softmax, in place.

    softmax([0, z]) is [1 - p, p] with p = sigmoid(z).

    Returns:
        The number of the part with the zero logit.
    """
    first = graph_spec.next_part
    zeros = {"kernel_initializer": "zeros", "bias_initializer": "zeros", "trainable": True}
    head.layer_specs[0, first] = LayerSpec(head.operation, zeros, fill=keep_initial_weights)
    if head.activation == "sigmoid":
        head.activation = "softmax"
    for call in following:
        call.layer_specs = {(0, 0): _as_softmax(call)}
    return first


def _as_softmax(call: Call) -> LayerSpec:
    if _activation_of(call) != "sigmoid":
        return call.layer_spec
    dtype = getattr(call.operation, "dtype_policy", "float32")
    return LayerSpec(keras.layers.Activation("softmax", name=call.name, dtype=dtype))


def _is_dense(call: Call) -> bool:
    return type(call.operation) is keras.layers.Dense


def _is_activation(call: Call) -> bool:
    activation = _activation_of(call)
    is_known = is_elementwise(activation) or is_mixing(activation)
    return len(call.inputs) == 1 and activation is not None and is_known


def _acts_on_each(call: Call) -> bool:
    return is_elementwise(_activation_of(call))


def _activation_of(call: Call) -> Any:
    """Returns the name of a call's activation if it is an activation layer, else `None`."""
    operation = call.operation
    if isinstance(operation, keras.layers.Activation):
        return operation.get_config()["activation"]
    kind = type(operation).__name__
    return kind.lower() if kind in ("Softmax", "Sigmoid") else None
