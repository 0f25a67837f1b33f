"""The random state of a model's layers: dropout, noise and what else draws numbers in training."""

from collections.abc import Iterator

import keras
import numpy as np

from tlkit.models.graph import with_nested
from tlkit.utils.keras_private import seed_generators

_WORDS = 2**31  # what fits into the state whatever its type is


def seed_random_layers(model: keras.Model, seed: int) -> int:
    """Sets the state of all random generators in a model, by their position in it.

    Keras keeps no such state in a file: a layer without a seed of its own draws a new one at each
    loading, and two trainings of one saved model differ. After this they draw the same numbers.
    A seed that a layer was given counts too, so layers with other seeds draw other numbers.

    Weights stay as they are, and so does what `model.save` writes.

    Args:
        model: Its generators, those of nested models and layers included, are changed.
        seed: 0 to 2**32 - 1; another one, other numbers.

    Returns:
        How many generators there are.

    Example:
        >>> import keras
        >>> from tlkit.models.random_state import seed_random_layers
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5)])
        >>> seed_random_layers(model, 0)
        1
    """
    position = -1
    for position, (generator, own) in enumerate(_generators(model)):
        words = (seed, position) if own is None else (seed, position, own % 2**32)
        drawn = int(np.random.SeedSequence(words).generate_state(1, np.uint32)[0])
        generator.state.assign([drawn % _WORDS, 0])
    return position + 1


def _generators(model: keras.Model) -> Iterator[tuple[keras.random.SeedGenerator, int | None]]:
    """Each generator once, and the seed that its layer was given, if it was."""
    seen: set[int] = set()
    for layer in with_nested(model):
        for generator in seed_generators(layer):
            if id(generator) not in seen:
                seen.add(id(generator))
                yield generator, _own_seed(layer)


def _own_seed(layer: keras.layers.Layer) -> int | None:
    """The seed in a layer's config: one that is drawn at each loading does not stand there."""
    try:
        seed = layer.get_config().get("seed")
    except NotImplementedError:  # a layer of the user's own need not be saved
        return None
    return seed if isinstance(seed, int) else None
