"""Group sparsity: the weights of a unit become zero together."""

from collections.abc import Sequence
from math import prod

import keras
import tensorflow as tf

from tlkit.errors import ArgumentError, check_not_negative
from tlkit.training.step import StepHook


class GroupSparsity(StepHook):
    """Shrinks the weights of each unit together, by a proximal step after each update.

    A unit's group w consists of all values of several variables at its position on the last axis.
    With batch normalisation after a layer, its scale and shift must be included: it divides by the
    size of its inputs, so that shrinking the weights alone changes nothing until they are zero.
    After a step of rate r the group becomes max(0, 1 - r * strength * sqrt(size) / |w|) * w, the
    exact minimum of |v - w|**2 / 2 + r * strength * sqrt(size) * |v|: zeros are exact. Adam changes
    a value by about its rate, whatever the gradient; `strength` is the fraction of that change by
    which weights are shrunk, and from 1 on no group can leave zero.

    The epoch's log has `dead_units`, the mean number of units that are zero after a step.

    Args:
        groups: For each layer the variables whose last axis corresponds to its units.
        strength: 0 or more.

    Raises:
        ArgumentError: `strength` is negative, or variables of one layer differ in their units.

    Reference:
        Yuan and Lin (2006), Model selection and estimation in regression with grouped variables
        (the square root of the size), and Yoon et al. (2018), https://arxiv.org/abs/1708.01547,
        equation 4. The step: Parikh and Boyd (2014), Proximal Algorithms, section 6.5.1.
    """

    def __init__(self, groups: Sequence[Sequence[keras.Variable]], strength: float) -> None:
        check_not_negative("strength", strength)
        for variables in groups:
            if len({variable.shape[-1] for variable in variables}) != 1:
                raise ArgumentError(
                    "`groups` must have, for each layer, variables with values for each unit on "
                    f"the last axis. Received: shapes {[tuple(v.shape) for v in variables]}. Give "
                    "variables of one layer."
                )
        self._groups, self.strength = [tuple(variables) for variables in groups], float(strength)
        self._dead = keras.metrics.Mean(name="dead_units")
        self.metrics = (self._dead,)
        self.notes = (f"group sparsity on new units with strength {strength:g}",)

    def identity(self) -> dict[str, object]:
        """Returns the strength and the number of layers."""
        return {**super().identity(), "strength": self.strength, "layers": len(self._groups)}

    def after_update(self, variables: Sequence[keras.Variable], rates: Sequence[tf.Tensor]) -> None:
        """Shrinks each group; small groups become exactly zero."""
        rate_of = {id(v): rate for v, rate in zip(variables, rates, strict=True)}
        dead = []
        for group in self._groups:
            updated = [variable for variable in group if id(variable) in rate_of]
            if not updated:
                continue
            squares = tf.add_n([tf.reduce_sum(tf.square(_by_unit(v)), axis=0) for v in updated])
            size = sum(prod(v.shape[:-1]) for v in updated)
            norms = tf.sqrt(squares)
            threshold = rate_of[id(updated[0])] * self.strength * size**0.5
            factor = tf.where(norms > threshold, 1.0 - tf.math.divide_no_nan(threshold, norms), 0.0)
            for variable in updated:
                variable.assign(variable.value * tf.cast(factor, variable.dtype))
            dead.append(tf.reduce_sum(tf.cast(norms <= threshold, tf.float32)))
        if dead:
            self._dead.update_state(tf.add_n(dead))


def _by_unit(variable: keras.Variable) -> tf.Tensor:
    value = tf.cast(keras.ops.convert_to_tensor(variable), tf.float32)
    return tf.reshape(value, (-1, variable.shape[-1]))
