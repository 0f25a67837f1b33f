"""Rates: schedules by name, and one optimizer with a rate for each group of layers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from tlkit.errors import ArgumentError
from tlkit.models.graph import parameters
from tlkit.models.groups import group_layers
from tlkit.models.variable_names import variable_names

SCHEDULES = ("cosine", "constant", "step")
WARM_UP = 0.1
"""Share of all steps in which the rate rises from zero."""

Rate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule


def schedule_of(name: str, peak: float, num_steps: int) -> Rate:
    """Returns a rate over `num_steps` steps by the name of its course.

    Args:
        name: "cosine": rises linearly over the first tenth of the steps to `peak`, then falls
            along half a cosine to zero. "constant": `peak` throughout, which callbacks such as
            `ReduceLROnPlateau` may change. "step": `peak`, a tenth of it from half of the steps
            on, a hundredth from three quarters on.
        peak: The highest rate.
        num_steps: Steps in all.
    """
    if name == "constant":
        return peak
    if name == "step":
        half, three_quarters = -(-num_steps // 2), -(-3 * num_steps // 4)
        return keras.optimizers.schedules.PiecewiseConstantDecay(
            [half - 1, three_quarters - 1],  # the last steps at the rate before
            [peak, peak / 10, peak / 100],
        )
    return warm_up_then_cosine(peak, num_steps)


def warm_up_then_cosine(
    peak: float, num_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns a rate that rises linearly to `peak` and falls along half a cosine to zero."""
    warm_up = int(WARM_UP * num_steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warm_up else peak,
        decay_steps=max(num_steps - warm_up, 1),
        warmup_target=peak if warm_up else None,
        warmup_steps=warm_up,
    )


def layer_multipliers(model: keras.Model, decay: float) -> dict[str, float]:
    """Returns decay ** (distance from the head) for each variable that trains, by its name.

    Distance counts groups of layers: 0 for the head, 1 for the group before it. Names are those of
    `variable_names(model)`: a variable's path, where no other one has the same.

    Reference:
        Discriminative rates: Howard and Ruder (2018), section 3.1,
        https://arxiv.org/abs/1801.06146 (there a rate for each layer, decay 1/2.6).
    """
    groups, names = group_layers(model), variable_names(model)
    return {
        names[id(variable)]: decay ** (len(groups) - 1 - index)
        for index, layers in enumerate(groups)
        for layer in layers
        for variable in parameters(layer)
        if variable.trainable
    }


def rates_of(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> list[tf.Tensor]:
    """Returns the rate at which the next step moves each variable, as scalars."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of loss scaling
    rate = tf.convert_to_tensor(optimizer.learning_rate, tf.float32)
    if not isinstance(optimizer, LayerwiseAdamW):
        return [rate] * len(variables)
    return [rate * optimizer.multiplier_of(variable) for variable in variables]


class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW whose rate and decoupled decay have a multiplier for each variable.

    Everything else is Keras's: one global clip norm, loss scaling, callbacks that change
    `learning_rate`, and slots that checkpoints hold.

    Args:
        learning_rate: The rate where the multiplier is 1.
        multipliers: From a variable's name to its multiplier; 1 for those that are left out.
        names: From the id of each variable to its name, as `variable_names(model)` returns it; its
            path by default.
        **arguments: See `keras.optimizers.AdamW`.

    Raises:
        ArgumentError: When it is built: several variables have the name of one multiplier.
    """

    weight_decay: float | None

    def __init__(
        self,
        learning_rate: Rate,
        *,
        multipliers: Mapping[str, float],
        names: Mapping[int, str] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(learning_rate, **arguments)
        self.multipliers = dict(multipliers)
        self._names = dict(names or {})
        self._by_index: list[float] = []

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Takes up the variables that will train."""
        names = [self._names.get(id(variable), variable.path) for variable in variables]
        repeated = [
            name for name, count in Counter(names).items() if count > 1 and name in self.multipliers
        ]
        if repeated:
            raise ArgumentError(
                "`multipliers` must each be of one variable. Received: multipliers of "
                f"{', '.join(repeated[:3])}, a name that several variables have. Give "
                "names=variable_names(model), which tells them apart."
            )
        super().build(variables)
        self._by_index = [self.multipliers.get(name, 1.0) for name in names]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Lets one variable decay, then moves it."""
        rate = learning_rate * self.multiplier_of(variable)
        if self.weight_decay and self._use_weight_decay(variable):
            decay = tf.cast(self.weight_decay, variable.dtype) * tf.cast(rate, variable.dtype)
            variable.assign_sub(variable * decay)
        super().update_step(gradient, variable, rate)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Does nothing: Keras's decay knows one rate for all, `update_step` has each one's own."""

    def multiplier_of(self, variable: Any) -> float:
        """Returns the multiplier of a variable that the optimizer was built with."""
        return self._by_index[self._get_variable_index(variable)]

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs."""
        return {**super().get_config(), "multipliers": self.multipliers}
