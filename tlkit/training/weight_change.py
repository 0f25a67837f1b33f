"""Weight change in training, measured on the weights themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np

from tlkit.errors import TrainingError
from tlkit.models.graph import parameters
from tlkit.models.groups import TrainableReport, group_layers, layer_groups
from tlkit.models.trainable import Flags, trains
from tlkit.models.variable_names import variable_names
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
    flags = Flags.of(model)
    kept = values_of(model.variables)
    try:
        yield
    finally:
        flags.put_back()
        assign_all(model.variables, kept)


def relative_weight_change(before: Weights, after: Weights) -> dict[str, float]:
    """Returns |after - before| / |before| of each group; 0.0 only where no bit changed."""
    return {
        name: _relative_change(values, after[name]) for name, values in before.items() if values
    }


class WatchedWeights:
    """A model's weights as they are now, and later how far each group has come from there.

    Attributes:
        model: Whose weights.
        before: Those weights, by group.
        weight_change: The relative weight change of each group at the time of the last `measure`.
        loose: Names of the weights that were frozen when this was made, and changed all the same.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model, self.before = model, weights_by_group(model)
        self.weight_change: dict[str, float] = {}
        self.loose: tuple[str, ...] = ()
        pairs = zip(parameters(model), trains(model), strict=True)
        self._frozen = {id(variable) for variable, does_train in pairs if not does_train}

    def measure(self) -> None:
        """Compares the weights as they are now with those before."""
        self.weight_change = relative_weight_change(self.before, weights_by_group(self.model))
        names = variable_names(self.model)
        self.loose = tuple(
            names[id(variable)]
            for group, variables in _variables_by_group(self.model).items()
            for variable, value in zip(variables, self.before[group], strict=True)
            if id(variable) in self._frozen and not np.array_equal(variable.numpy(), value)
        )


def check_weight_change(
    watched: WatchedWeights, trainable: TrainableReport, learning_rate: float
) -> None:
    """Raises `TrainingError`, the weights put back, unless what changed is what trains."""
    still = [name for name in trainable.groups if not watched.weight_change[name]]
    if still:
        restore_weights(watched.model, watched.before)
        raise TrainingError(
            "`learning_rate` must be high enough to change every group that trains. Received: "
            f"learning_rate={learning_rate!r}, and not a bit of {', '.join(still)} has changed. "
            "Raise it, or unfreeze fewer groups."
        )
    loose = [name for name in trainable.frozen_groups if watched.weight_change.get(name)]
    if loose := loose or list(watched.loose):
        restore_weights(watched.model, watched.before)
        raise TrainingError(
            f"Frozen weights must not change, and {', '.join(loose[:5])} did: a layer changes its "
            "own weights, or a callback does. The model is as it was given."
        )


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
