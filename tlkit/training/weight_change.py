"""Weight change in training: measures it, checks it and restores weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np

from tlkit.errors import TrainingError
from tlkit.models.graph import parameters
from tlkit.models.groups import TrainableReport, group_layers, layer_groups
from tlkit.models.trainable import Flags, trainable_mask
from tlkit.models.variable_names import variable_names
from tlkit.training.rates import NamedRate
from tlkit.training.resume import assign_all, values_of

Weights = dict[str, list[np.ndarray]]


def weights_by_group(model: keras.Model) -> Weights:
    """Returns a copy of every group's weights, batch-norm statistics included."""
    return {
        name: [variable.numpy() for variable in variables]
        for name, variables in _variables_by_group(model).items()
    }


def restore_weights(model: keras.Model, weights: Weights) -> None:
    """Restores the weights that `weights_by_group` returned."""
    for name, variables in _variables_by_group(model).items():
        for variable, value in zip(variables, weights[name], strict=True):
            variable.assign(value)


@contextmanager
def restored_afterwards(model: keras.Model) -> Iterator[None]:
    """Restores a model after the block: weights, random state and `trainable` flags."""
    flags = Flags.of(model)
    kept = values_of(model.variables)
    try:
        yield
    finally:
        flags.restore()
        assign_all(model.variables, kept)


def relative_weight_change(before: Weights, after: Weights) -> dict[str, float]:
    """Returns |after - before| / |before| of each group; 0.0 only if it is bit-identical.

    Infinite if the layers of a group were replaced, or all its weights were zero.
    """
    return {
        name: _relative_change(values, after[name]) for name, values in before.items() if values
    }


class WatchedWeights:
    """A model's initial weights, to measure the weight change of each group later.

    Attributes:
        model: The model.
        before: The initial weights, by group.
        weight_change: The relative weight change of each group at the last `measure`.
        changed_frozen: Names of weights that were frozen initially, and have changed nonetheless.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model, self.before = model, weights_by_group(model)
        self.weight_change: dict[str, float] = {}
        self.changed_frozen: tuple[str, ...] = ()
        pairs = zip(parameters(model), trainable_mask(model), strict=True)
        self._frozen = {id(variable) for variable, does_train in pairs if not does_train}

    def measure(self) -> None:
        """Compares the current weights with the initial ones."""
        self.weight_change = relative_weight_change(self.before, weights_by_group(self.model))
        names = variable_names(self.model)
        self.changed_frozen = tuple(
            names[id(variable)]
            for group, variables in _variables_by_group(self.model).items()
            for variable, value in zip(variables, self.before[group], strict=True)
            if id(variable) in self._frozen and not np.array_equal(variable.numpy(), value)
        )


def check_weight_change(
    watched: WatchedWeights, trainable: TrainableReport, rate: NamedRate
) -> None:
    """Raises `TrainingError` after restoring the weights unless exactly what trains has changed."""
    unchanged = [name for name in trainable.groups if not watched.weight_change[name]]
    if unchanged:
        restore_weights(watched.model, watched.before)
        raise TrainingError(
            f"{rate.rule} high enough to change every trainable group. Received: "
            f"{rate.received}, with which {', '.join(unchanged)} stayed "
            "bit-identical. Raise it, or unfreeze fewer groups."
        )
    changed_frozen = [name for name in trainable.frozen_groups if watched.weight_change.get(name)]
    if changed_frozen := changed_frozen or list(watched.changed_frozen):
        restore_weights(watched.model, watched.before)
        raise TrainingError(
            "Frozen weights must stay unchanged in training. Received: changes in "
            f"{', '.join(changed_frozen[:5])}. A layer updates its own weights, or a callback "
            "does: remove it, or unfreeze its group. The model's weights are restored."
        )


def _variables_by_group(model: keras.Model) -> dict[str, list[keras.Variable]]:
    names = [group.name for group in layer_groups(model)]
    return {
        name: [variable for layer in layers for variable in layer.weights]
        for name, layers in zip(names, group_layers(model), strict=True)
    }


def _relative_change(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    if [value.shape for value in before] != [value.shape for value in after]:
        return float("inf")
    if all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)):
        return 0.0
    pairs = zip(before, after, strict=True)
    change = sum(float(np.square(b - a, dtype=np.float64).sum()) for a, b in pairs)
    size = sum(float(np.square(a, dtype=np.float64).sum()) for a in before)
    if not size:
        return float("inf")
    return max(float(np.sqrt(change / size)), float(np.finfo(np.float32).tiny))
