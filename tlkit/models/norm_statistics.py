"""Whether the batch normalisation of a model has stored statistics, or was folded into its weights.

Some published weights have batch normalisation folded in: each layer's statistics are mean 0 and
variance 1, and what they were is part of the kernels and offsets. Features and fine-tuning are the
same, but nothing can be learned from these statistics, and training with the statistics of batches
would change what the network computes.
"""

from collections.abc import Sequence

import keras
import numpy as np

from tlkit.errors import ArgumentError, check_choice
from tlkit.models.graph import with_nested

BATCH_NORM = ("frozen", "affine", "train")
"""What may be trained of batch normalisation: nothing, scales and offsets, or also statistics."""


def has_statistics(layer: keras.layers.BatchNormalization) -> bool:
    """Whether the stored mean and variance differ from 0 and 1, in any channel.

    A variance of 1 - epsilon, to which the layer adds epsilon, counts as 1.

    Example:
        >>> import keras
        >>> from tlkit.models.norm_statistics import has_statistics
        >>> layer = keras.layers.BatchNormalization()
        >>> layer.build((None, 4))
        >>> has_statistics(layer)
        False
    """
    mean, variance = (
        keras.ops.convert_to_numpy(value) for value in (layer.moving_mean, layer.moving_variance)
    )
    allowed = 1.5 * layer.epsilon
    return bool(np.any(np.abs(mean) > 1e-6) or np.any(np.abs(variance - 1) > allowed))


def is_folded(model: keras.Model) -> bool:
    """Whether batch normalisation is folded into the weights of a model.

    No layer of it has statistics, and the scales or offsets of one are trained. A newly initialised
    network has neither.
    """
    norms = _norms(model)
    return not any(map(has_statistics, norms)) and any(map(_is_trained, norms))


def check_batch_norm(batch_norm: str, model: keras.Model) -> None:
    """Raises `ArgumentError` unless a value of `batch_norm` is valid for a model."""
    check_choice("batch_norm", batch_norm, BATCH_NORM)
    if batch_norm == "train" and is_folded(model):
        raise ArgumentError(
            "`batch_norm` must be 'affine' or 'frozen' for a network whose batch normalisation is "
            "folded into its weights: statistics of batches would change what it computes. "
            f"Received: batch_norm='train', and all stored statistics of {model.name!r} are mean 0 "
            "and variance 1. Leave it out."
        )


def _norms(model: keras.Model) -> Sequence[keras.layers.BatchNormalization]:
    return [one for one in with_nested(model) if isinstance(one, keras.layers.BatchNormalization)]


def _is_trained(layer: keras.layers.BatchNormalization) -> bool:
    """Whether scales differ from 1 or offsets from 0."""
    pairs = ((layer.gamma, 1.0), (layer.beta, 0.0))
    return any(
        variable is not None and bool(np.any(keras.ops.convert_to_numpy(variable) != initial))
        for variable, initial in pairs
    )
