"""The random state of a model's layers that draw numbers in training, such as dropout."""

from collections.abc import Iterator

import keras
import numpy as np

from tlkit.models.graph import with_nested
from tlkit.utils.keras_private import seed_generators

_WORDS = 2**31  # fits into the state for any of its types


def seed_random_layers(model: keras.Model, seed: int) -> int:
    """Sets the state of all random generators in a model, by their position in it.

    Keras does not save this state: a layer without a seed of its own draws a new one when loaded,
    so that two trainings of one saved model differ. After this call they draw the same numbers.
    The seed of a layer is combined with it, so that layers with different seeds draw different
    numbers.

    Weights are unchanged, and so is the file that `model.save` writes.

    Args:
        model: The model; its generators, including those of nested layers, are changed.
        seed: 0 to 2**32 - 1.

    Returns:
        The number of generators.

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
    """Yields each generator once, with the seed of its layer or `None`."""
    seen: set[int] = set()
    for layer in with_nested(model):
        for generator in seed_generators(layer):
            if id(generator) not in seen:
                seen.add(id(generator))
                yield generator, _own_seed(layer)


def _own_seed(layer: keras.layers.Layer) -> int | None:
    """Returns the seed in a layer's config, which excludes seeds that are drawn when loaded."""
    try:
        seed = layer.get_config().get("seed")
    except NotImplementedError:  # a user-defined layer may have no config
        return None
    return seed if isinstance(seed, int) else None
