"""Signatures of networks: digests that are equal for networks that compute the same."""

import json
import warnings
from hashlib import blake2b
from typing import Any

import keras
import numpy as np

from tlkit.errors import ArgumentError
from tlkit.models.graph import model_ends, sorted_nodes
from tlkit.utils.keras_private import inverse_document_frequencies

# Settings that do not change the outputs in inference, or depend on what else was built
_IRRELEVANT = ("name", "trainable", "seed", "shared_object_id", "build_config")
_IRRELEVANT_ENDINGS = ("_initializer", "_regularizer", "_constraint")


def signature(model: keras.Model) -> str:
    """Returns a digest of what a functional model computes, 32 hexadecimal characters.

    It depends on the graph (each operation with its settings, precision and inputs), on the input
    size and on every byte of every weight. It does not depend on names of layers, on `trainable`
    flags, or on the state of random generators, and is the same for a saved and loaded model.

    Args:
        model: A functional model with one input and one output, such as the prefix
            `keras.Model(model.input, cut)`.

    Raises:
        ArgumentError: The model is not functional, has several inputs or outputs, or has a layer
            without `get_config`.

    Example:
        >>> import keras
        >>> from tlkit.models.signature import signature
        >>> x = keras.Input((4,))
        >>> model = keras.Model(x, keras.layers.Dense(2)(x))
        >>> before = signature(model)
        >>> model.layers[-1].set_weights([2 * w + 1 for w in model.layers[-1].get_weights()])
        >>> len(before), before == signature(model)
        (32, False)
    """
    return _digest(model, with_weights=True)


def graph_signature(model: keras.Model) -> str:
    """Returns such a digest of the graph only, independent of the weights.

    Args:
        model: As for `signature`.

    Raises:
        ArgumentError: See `signature`.
    """
    return _digest(model, with_weights=False)


def _digest(model: keras.Model, *, with_weights: bool) -> str:
    digest = blake2b(digest_size=16)
    _add_graph(digest, model, with_weights)
    return digest.hexdigest()


def _add_graph(digest: Any, model: keras.Model, with_weights: bool) -> None:
    _, output = model_ends(model)
    positions: dict[int, tuple[int, int]] = {}  # of each tensor: its node, and which output
    first_calls: dict[int, int] = {}  # of each operation: the node that calls it first
    for index, node in enumerate(sorted_nodes(output)):
        operation = node.operation
        is_new = id(operation) not in first_calls
        description = {
            "class": f"{type(operation).__module__}.{type(operation).__name__}",
            "first_call": first_calls.setdefault(id(operation), index),
            "arguments": _plain([node.arguments.args, node.arguments.kwargs], positions),
        }
        for position, tensor in enumerate(node.output_tensors):
            positions[id(tensor)] = (index, position)
        is_model = isinstance(operation, keras.Model)
        if is_new and not is_model:
            description["config"] = _plain(_config(operation), positions)
        digest.update(json.dumps(description, sort_keys=True).encode())
        if is_new and is_model:
            _add_graph(digest, operation, with_weights)
        elif is_new and with_weights:
            _add_weights(digest, operation)


def _add_weights(digest: Any, operation: keras.Operation) -> None:
    for weight in getattr(operation, "weights", ()):
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{array.dtype.name}{array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)


def _config(operation: keras.Operation) -> dict[str, object]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # about layers that could not be loaded again
            config = dict(operation.get_config())
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise ArgumentError(
            "`model` must have layers with a config. Received: a model with the layer "
            f"{operation.name!r} of class {type(operation).__name__}. Give the class a get_config."
        ) from error
    if isinstance(operation, keras.layers.InputLayer):
        config["batch_shape"] = list(operation.batch_shape[1:])
    if callable(vocabulary := getattr(operation, "get_vocabulary", None)):
        # set by `adapt`, and not stored in a weight
        weights = inverse_document_frequencies(operation)
        config["vocabulary"] = [str(word) for word in vocabulary()]
        config["idf_weights"] = None if weights is None else np.asarray(weights).tolist()
    return config


def _plain(value: Any, positions: dict[int, tuple[int, int]]) -> Any:
    """Returns `value` as JSON: tensors by their position in the graph, objects by their config."""
    if isinstance(value, keras.KerasTensor):
        return {"tensor": positions[id(value)]}
    if isinstance(value, dict):
        is_policy = "DTypePolicy" in str(value.get("class_name"))  # its name is the precision
        return {
            str(key): _plain(item, positions) if not is_policy else json.dumps(item, default=str)
            for key, item in value.items()
            if is_policy or not _is_irrelevant(str(key))
        }
    if isinstance(value, list | tuple):
        return [_plain(item, positions) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return _plain(keras.saving.serialize_keras_object(value), positions)


def _is_irrelevant(key: str) -> bool:
    return key in _IRRELEVANT or key.endswith(_IRRELEVANT_ENDINGS)
