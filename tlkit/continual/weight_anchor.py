"""The penalty of an anchor on the distance of weights from a reference."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.errors import ArgumentError, check_not_negative
from tlkit.training.step import StepHook

MAX_STRENGTH = 1e30
"""Penalties are computed in float32, whose largest value is 3.4e38."""


@keras.saving.register_keras_serializable("tlkit")
class WeightAnchor(keras.regularizers.Regularizer):
    """Penalises the distance of a weight: strength * sum(importance * (w - reference)**2).

    There is no factor 1/2, it is a sum and not a mean, and it is computed in float32. Reference and
    importance are variables rather than constants, so that traced graphs contain no copy of them.

    Args:
        strength: The factor before the sum, 0 or more.
        reference: The reference values; an array of the weight's shape.
        importance: The importance of each value, of the same shape, 0 or more; 1 everywhere by
            default.

    Raises:
        ArgumentError: `strength` is negative or above `MAX_STRENGTH`, or `importance` has another
            shape, or values that are negative or not finite.

    Example:
        >>> import numpy as np, tlkit
        >>> anchor = tlkit.WeightAnchor(0.5, reference=np.zeros(2))
        >>> float(anchor(np.array([1.0, 3.0])))  # 0.5 * (1 + 9)
        5.0

    Reference:
        Without importance: L2-SP, Li et al. (2018), https://arxiv.org/abs/1802.01483, equation 2,
        which has a 1/2. With the Fisher information: elastic weight consolidation, Kirkpatrick et
        al. (2017), https://arxiv.org/abs/1612.00796, equation 3, which has one too.
    """

    def __init__(
        self, strength: float, reference: np.ndarray, importance: np.ndarray | None = None
    ) -> None:
        check_strength(strength)
        self.strength = float(strength)
        self.reference = _constant_variable(reference, "reference")
        self.importance = None
        if importance is not None:
            _check_importance(importance, self.reference.shape)
            self.importance = _constant_variable(importance, "importance")
        self.latest: tf.Tensor | None = None
        self.hooks: tuple[StepHook, ...] = ()

    def __call__(self, x: Any) -> tf.Tensor:
        """Returns the penalty of a weight, a float32 scalar."""
        penalty = self.strength * tf.reduce_sum(self._weighted(tf.square(self.difference(x))))
        self.latest = penalty
        return penalty

    def take_latest(self) -> tf.Tensor:
        """Returns the penalty computed last, once, so that logging need not compute it again."""
        latest, self.latest = self.latest, None
        if latest is None:
            raise RuntimeError("the penalty has not been computed in this step")
        return latest

    def difference(self, x: Any) -> tf.Tensor:
        """Returns w - reference in float32."""
        return tf.cast(keras.ops.convert_to_tensor(x), tf.float32) - self.reference.value

    def gradient(self, x: Any) -> tf.Tensor:
        """Returns 2 * strength * importance * (w - reference), the gradient of the penalty."""
        return 2.0 * self.strength * self._weighted(self.difference(x))

    def proximal_step(self, x: Any, rate: tf.Tensor) -> tf.Tensor:
        """Returns the weight after a proximal step of size `rate`.

        (w + rate * s * importance * reference) / (1 + rate * s * importance) with s = 2 * strength:
        the exact minimum of |v - w|**2 / 2 + rate * penalty(v), stable at any strength. Under plain
        gradient descent it agrees with the penalty to first order in `rate`.

        Reference:
            Parikh and Boyd (2014), Proximal Algorithms, section 1.1 and 6.1.1 (their quadratic has
            a 1/2, which is where the 2 comes from).
        """
        pull = 2.0 * self.strength * rate * self._weighted(tf.ones_like(self.reference.value))
        fraction = tf.where(tf.math.is_inf(pull), 1.0, pull / (1.0 + pull))
        weight = tf.cast(keras.ops.convert_to_tensor(x), tf.float32)
        return weight - fraction * (weight - self.reference.value)

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of the reference and the importance."""
        return [v for v in (self.reference, self.importance) if v is not None]

    def get_config(self) -> dict[str, object]:
        """Returns the arguments of `from_config`, arrays included."""
        arrays = {"reference": self.reference, "importance": self.importance}
        return {
            "strength": self.strength,
            **{name: None if v is None else v.numpy().tolist() for name, v in arrays.items()},
        }

    def _weighted(self, values: tf.Tensor) -> tf.Tensor:
        return values if self.importance is None else self.importance.value * values


# The name in models saved with earlier versions
@keras.saving.register_keras_serializable("tlkit", name="Together")
class RegularizerSum(keras.regularizers.Regularizer):
    """The sum of two regularizers of one weight."""

    def __init__(
        self, first: keras.regularizers.Regularizer, second: keras.regularizers.Regularizer
    ) -> None:
        self.first, self.second = first, second

    def __call__(self, x: Any) -> tf.Tensor:
        """Returns the sum of both penalties."""
        return self.first(x) + self.second(x)

    @property
    def hooks(self) -> tuple[StepHook, ...]:
        """The constraints of both regularizers."""
        return tuple(
            hook for one in (self.first, self.second) for hook in getattr(one, "hooks", ())
        )

    def get_config(self) -> dict[str, object]:
        """Returns the arguments of `from_config`."""
        return {
            name: keras.regularizers.serialize(one)
            for name, one in (("first", self.first), ("second", self.second))
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "RegularizerSum":
        """Returns the regularizer from what `get_config` returned."""
        return cls(**{name: keras.regularizers.get(one) for name, one in config.items()})


def check_strength(strength: float) -> None:
    """Raises `ArgumentError` if the strength is negative or too large."""
    check_not_negative("strength", strength)
    if strength > MAX_STRENGTH:
        raise ArgumentError(
            f"`strength` must be at most {MAX_STRENGTH:g}, as penalties are computed in float32. "
            f"Received: strength={strength!r}. Give at most 1e6, above which weights hardly "
            "change in any case."
        )


def anchors_in(regularizer: keras.regularizers.Regularizer | None) -> list[WeightAnchor]:
    """Returns the anchors in a weight's regularizer, oldest first."""
    if isinstance(regularizer, RegularizerSum):
        return anchors_in(regularizer.first) + anchors_in(regularizer.second)
    return [regularizer] if isinstance(regularizer, WeightAnchor) else []


def _constant_variable(array: Any, name: str) -> keras.Variable:
    # not trainable and not part of a layer: saved models do not contain it
    return keras.Variable(np.asarray(array, np.float32), trainable=False, name=name)


def _check_importance(importance: Any, shape: tuple[int, ...]) -> None:
    values = np.asarray(importance)
    if values.shape != tuple(shape):
        raise ArgumentError(
            "`importance` must have the shape of the weight. "
            f"Received: importance of shape {values.shape} for a weight of shape {tuple(shape)}. "
            "Estimate it on this model (tlkit.estimate_importance)."
        )
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        raise ArgumentError(
            "`importance` must be finite and at least 0 everywhere. "
            f"Received: importance with values from {values.min()!r} to {values.max()!r}. "
            "Estimate it again (tlkit.estimate_importance)."
        )
