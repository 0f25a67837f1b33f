"""What moved in training, measured on the weights themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np

from tlkit.models.graph import with_nested
from tlkit.models.groups import group_layers, layer_groups
from tlkit.training.resume import assign_all, values_of

Weights = dict[str, list[np.ndarray]]


def weights_by_group(model: keras.Model) -> Weights:
    """Returns a copy of every group's weights, batch-norm statistics included."""
    return {
        name: [variable.numpy() for variable in variables]
        for name, variables in _variables_by_group(model).items()
    }


def restore_weights(model: keras.Model, weights: Weights) -> None:
    """Puts back what `weights_by_group` returned."""
    for name, variables in _variables_by_group(model).items():
        for variable, value in zip(variables, weights[name], strict=True):
            variable.assign(value)


@contextmanager
def left_as_it_is(model: keras.Model) -> Iterator[None]:
    """Gives a model back all that the block changed: weights, random state, and what trains."""
    flags = [(layer, layer.trainable) for layer in with_nested(model)]
    kept = values_of(model.variables)
    try:
        yield
    finally:
        for layer, trainable in flags:
            layer.trainable = trainable
        assign_all(model.variables, kept)


def relative_movement(before: Weights, after: Weights) -> dict[str, float]:
    """Returns |after - before| / |before| of each group; 0.0 only where no bit changed."""
    return {
        name: _relative_change(values, after[name]) for name, values in before.items() if values
    }


class WatchedWeights:
    """A model's weights as they are now, and later how far each group has come from there.

    Attributes:
        model: Whose weights.
        before: Those weights, by group.
        moved: The relative movement of each group at the time of the last `measure`.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model, self.before = model, weights_by_group(model)
        self.moved: dict[str, float] = {}

    def measure(self) -> None:
        """Compares the weights as they are now with those before."""
        self.moved = relative_movement(self.before, weights_by_group(self.model))


def _variables_by_group(model: keras.Model) -> dict[str, list[keras.Variable]]:
    names = [group.name for group in layer_groups(model)]
    return {
        name: [variable for layer in layers for variable in layer.weights]
        for name, layers in zip(names, group_layers(model), strict=True)
    }


def _relative_change(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    if all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)):
        return 0.0
    pairs = zip(before, after, strict=True)
    change = sum(float(np.square(b - a, dtype=np.float64).sum()) for a, b in pairs)
    size = sum(float(np.square(a, dtype=np.float64).sum()) for a in before)
    if not size:
        return float("inf")
    return max(float(np.sqrt(change / size)), float(np.finfo(np.float32).tiny))
