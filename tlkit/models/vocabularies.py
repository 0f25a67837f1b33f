"""Vocabularies of layers that look words up: whether they are set, and copies that keep them.

`adapt` sets a vocabulary that is neither a weight nor in the layer's config, so that a layer made
from its config alone has none: https://keras.io/api/layers/preprocessing_layers/text/
"""

from typing import Any

import keras

from tlkit.errors import ArgumentError
from tlkit.models.graph import with_nested
from tlkit.utils.keras_private import inverse_document_frequencies

_LOOKUPS = (
    keras.layers.TextVectorization,
    keras.layers.StringLookup,
    keras.layers.IntegerLookup,
)
_MAX_SPECIAL = 1000  # a larger vocabulary has more than special tokens: no need to read it


def config_with_vocabulary(operation: keras.Operation) -> dict[str, Any]:
    """Returns the config of a layer; the vocabulary that it was adapted to is part of it.

    Example:
        >>> import keras
        >>> from tlkit.models.vocabularies import config_with_vocabulary
        >>> layer = keras.layers.TextVectorization()
        >>> layer.adapt(["good film", "bad film"])
        >>> print(layer.get_config()["vocabulary"], *config_with_vocabulary(layer)["vocabulary"])
        None film good bad
    """
    config: dict[str, Any] = operation.get_config()
    if not isinstance(operation, _LOOKUPS) or not has_vocabulary(operation):
        return config
    words = operation.get_vocabulary(include_special_tokens=False)
    config["vocabulary"] = [word if isinstance(word, str) else int(word) for word in words]
    weights = inverse_document_frequencies(operation)
    if weights is not None:  # Keras itself adds those of special tokens before, and padding behind
        first = operation.vocabulary_size() - len(words)
        values = keras.ops.convert_to_numpy(weights)[first : first + len(words)]
        config["idf_weights"] = [float(value) for value in values]
    return config


def with_same_vocabularies(model: keras.Model) -> keras.Model:
    """Returns what `keras.models.clone_model` makes of a model, with its vocabularies.

    As there, the weights are new.

    Example:
        >>> import keras
        >>> from tlkit.models.vocabularies import with_same_vocabularies
        >>> lookup = keras.layers.StringLookup()
        >>> lookup.adapt(["good", "bad"])
        >>> words = keras.Input((1,), dtype="string")
        >>> copy = with_same_vocabularies(keras.Model(words, lookup(words)))
        >>> print(*copy.layers[-1].get_vocabulary())
        [UNK] good bad
    """
    if not any(isinstance(layer, _LOOKUPS) for layer in with_nested(model)):
        return keras.models.clone_model(model)

    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config(config_with_vocabulary(layer))

    return keras.models.clone_model(model, clone_function=copied, recursive=True)


def has_vocabulary(layer: Any) -> bool:
    """Whether a layer that looks words up has words to look up."""
    if layer.vocabulary_size() > _MAX_SPECIAL:
        return True
    return bool(layer.get_vocabulary(include_special_tokens=False))


def check_vocabularies(model: keras.Model) -> None:
    """Raises `ArgumentError` if a layer of a model has no vocabulary yet.

    Args:
        model: A functional model.
    """
    for layer in with_nested(model):
        if isinstance(layer, _LOOKUPS) and not has_vocabulary(layer):
            raise ArgumentError(
                "`model` must have a vocabulary in each layer that looks words up. Received: "
                f"model={model.name!r}, whose {type(layer).__name__} {layer.name!r} has none. "
                "Call its adapt(texts) on the training texts, or set_vocabulary(words); "
                "keras.models.clone_model leaves it out."
            )
