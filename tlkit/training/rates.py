"""Learning rates: schedules by name, and an optimizer with a rate for each group of layers."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from tlkit.errors import ArgumentError
from tlkit.models.graph import parameters
from tlkit.models.groups import group_layers
from tlkit.models.variable_names import variable_names

SCHEDULES = ("cosine", "constant", "step")
WARM_UP = 0.1
"""Fraction of all steps during which the rate rises from zero."""

Rate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule


@dataclass(frozen=True)
class NamedRate:
    """A learning rate as messages name it.

    Attributes:
        value: The peak rate; `None` for a schedule of the user's optimizer.
        optimizer: Class and rate of the user's optimizer, in words; "" without one.
    """

    value: float | None
    optimizer: str = ""

    @property
    def rule(self) -> str:
        """The beginning of a message, up to the rule that the rate must follow."""
        if self.optimizer:
            return "`optimizer` must have a learning rate that is"
        return "`learning_rate` must be"

    @property
    def received(self) -> str:
        """What was received, in a message."""
        return self.optimizer or f"learning_rate={self.value!r}"

    @property
    def lower(self) -> str:
        """What to try if the rate is too high."""
        if self.value is None:
            return "Try a schedule of lower rates"
        return f"Try learning_rate={self.value / 10:.2g}"


def schedule_of(name: str, peak: float, num_steps: int) -> Rate:
    """Returns a learning-rate schedule over `num_steps` steps.

    Args:
        name: "cosine": rises linearly over the first tenth of the steps to `peak`, then falls
            along half a cosine to zero. "constant": `peak` throughout, which callbacks such as
            `ReduceLROnPlateau` may change. "step": `peak`, a tenth of it after half of the steps,
            a hundredth after three quarters.
        peak: The highest rate.
        num_steps: Total number of steps.
    """
    if name == "constant":
        return peak
    if name == "step":
        half, three_quarters = -(-num_steps // 2), -(-3 * num_steps // 4)
        return keras.optimizers.schedules.PiecewiseConstantDecay(
            [half - 1, three_quarters - 1],  # the last step at each rate
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
    """Returns decay ** (distance from the head) for each trainable variable, by name.

    The distance counts groups of layers: 0 for the head, 1 for the group before it. The names are
    those of `variable_names(model)`: a variable's path, if it is unique.

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
    """Returns the learning rate of each variable in the next step, as scalars."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of loss scaling
    rate = tf.convert_to_tensor(optimizer.learning_rate, tf.float32)
    if not isinstance(optimizer, Layerwise):
        return [rate] * len(variables)
    return [rate * optimizer.multiplier_of(variable) for variable in variables]


@dataclass(frozen=True)
class _Rule:
    """How one variable is updated: the multiplier of its rate, and whether it decays."""

    multiplier: float
    decays: bool


# Keras tracks variables in an optimizer's lists and dictionaries as its state, not in these
# classes.


@dataclass(frozen=True, eq=False)
class _Undecayed:
    """The variables without weight decay: given ones, and those whose name matches a pattern."""

    variables: tuple[Any, ...] = ()
    patterns: tuple[str, ...] = ()

    def has(self, variable: keras.Variable) -> bool:
        """Whether a variable is one of them."""
        parts = {part.ref() for one in self.variables for part in _parts(one)}
        return any(part.ref() in parts for part in _parts(variable)) or any(
            re.search(pattern, variable.value.name) for pattern in self.patterns
        )


class _Rules:
    """The rule of each variable."""

    def __init__(self, rules: Sequence[tuple[keras.Variable, _Rule]]) -> None:
        # TensorFlow's references to one variable are equal, and keep it alive
        self._by_part = {part.ref(): rule for variable, rule in rules for part in _parts(variable)}

    def of(self, variable: Any) -> _Rule:
        """Returns the rule of a variable, or of its part on one device."""
        return self._by_part[_parts(variable)[0].ref()]


def _parts(variable: Any) -> tuple[tf.Variable, ...]:
    """Returns the TensorFlow variables behind a variable: one on each device."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if isinstance(value, tf.distribute.DistributedValues):
        return tuple(value.distribute_strategy.experimental_local_results(value))
    return (value,)


class Layerwise(keras.optimizers.Optimizer):
    """The part of an optimizer that multiplies the rate of each variable.

    A class that inherits from this one first, and then from a Keras optimizer, has a multiplier of
    the rate and of the decoupled decay for each variable. Everything else works as in Keras: one
    global clip norm, loss scaling, callbacks that change `learning_rate`, and slots in checkpoints.

    Args:
        learning_rate: The rate of variables whose multiplier is 1.
        multipliers: From a variable's name to its multiplier; 1 for names that are left out.
        names: From the id of each variable to its name, as `variable_names(model)` returns them;
            by default its path.
        **arguments: Arguments of the Keras optimizer.

    Raises:
        ArgumentError: In `build`, if several variables have the name of one multiplier.
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
        super().__init__(learning_rate=learning_rate, **arguments)
        self.multipliers = dict(multipliers)
        self._names = dict(names or {})
        self._undecayed = _Undecayed()
        self._rules = _Rules(())

    def exclude_from_weight_decay(
        self, var_list: Sequence[Any] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Excludes variables from weight decay, as in Keras; call it before the first step.

        Args:
            var_list: Variables to exclude.
            var_names: Patterns; a variable whose name matches one is excluded too.
        """
        super().exclude_from_weight_decay(var_list, var_names)
        self._undecayed = _Undecayed(tuple(var_list or ()), tuple(var_names or ()))

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the optimizer's state for the trainable variables."""
        if self.built:
            return
        names = [self._names.get(id(variable), variable.path) for variable in variables]
        repeated = [
            name for name, count in Counter(names).items() if count > 1 and name in self.multipliers
        ]
        if repeated:
            raise ArgumentError(
                "`multipliers` must each refer to one variable. Received: multipliers of "
                f"{', '.join(repeated[:3])}, a name that several variables have. Give "
                "names=variable_names(model), which are unique."
            )
        self._rules = _Rules(
            [
                (
                    variable,
                    _Rule(self.multipliers.get(name, 1.0), not self._undecayed.has(variable)),
                )
                for variable, name in zip(variables, names, strict=True)
            ]
        )
        # Keras's decay uses one rate for all variables; `update_step` applies each one's own
        super().exclude_from_weight_decay(var_list=variables)
        super().build(variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Applies the weight decay and the update to one variable."""
        rule = self._rules.of(variable)
        rate = learning_rate * rule.multiplier
        if self.weight_decay and rule.decays:
            decay = tf.cast(self.weight_decay, variable.dtype) * tf.cast(rate, variable.dtype)
            variable.assign_sub(variable * decay)
        super().update_step(gradient, variable, rate)

    def multiplier_of(self, variable: Any) -> float:
        """Returns the multiplier of a variable."""
        return self._rules.of(variable).multiplier

    def get_config(self) -> dict[str, object]:
        """Returns the arguments of `from_config`."""
        return {**super().get_config(), "multipliers": self.multipliers}


class LayerwiseAdamW(Layerwise, keras.optimizers.AdamW):
    """AdamW with a multiplier of the rate and the decoupled decay for each variable."""


def layerwise(
    kind: type[keras.optimizers.Optimizer],
) -> type[keras.optimizers.Optimizer]:
    """Returns a class of optimizers with a multiplier for each variable, see `Layerwise`.

    Args:
        kind: A class of optimizers whose updates use the `learning_rate` of `update_step`.

    Example:
        >>> import keras
        >>> from tlkit.training.rates import layerwise
        >>> layerwise(keras.optimizers.SGD)(0.1, multipliers={"kernel": 0.5}).multipliers
        {'kernel': 0.5}
    """
    return type(f"Layerwise{kind.__name__}", (Layerwise, kind), {})
