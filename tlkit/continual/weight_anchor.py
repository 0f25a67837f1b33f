"""The penalty itself: how far weights have come from where they were."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.errors import ArgumentError, check_not_negative
from tlkit.training.step import StepHook

MAX_STRENGTH = 1e30
"""Float32, in which penalties are computed, ends at 3.4e38."""


@keras.saving.register_keras_serializable("tlkit")
class WeightAnchor(keras.regularizers.Regularizer):
    """Holds a weight near a reference: strength * sum(importance * (w - reference)**2).

    No 1/2 stands before it, it is a sum and no mean, and it is computed in float32. Reference and
    importance are kept in variables, not in constants, so that no traced graph holds a copy.

    Args:
        strength: The factor before the sum, 0 or more.
        reference: Where the weight is held; an array of its shape.
        importance: Per value, of the same shape, 0 or more; 1 everywhere by default.

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
        self.reference = _held(reference, "reference")
        self.importance = None
        if importance is not None:
            _check_importance(importance, self.reference.shape)
            self.importance = _held(importance, "importance")
        self.latest: tf.Tensor | None = None
        self.hooks: tuple[StepHook, ...] = ()

    def __call__(self, x: Any) -> tf.Tensor:
        """Returns the penalty of a weight, a float32 scalar."""
        penalty = self.strength * tf.reduce_sum(self._weighed(tf.square(self.difference(x))))
        self.latest = penalty
        return penalty

    def take_latest(self) -> tf.Tensor:
        """Returns the penalty computed last, once: a step's log need not compute it again."""
        latest, self.latest = self.latest, None
        if latest is None:
            raise RuntimeError("the penalty has not been computed in this step")
        return latest

    def difference(self, x: Any) -> tf.Tensor:
        """Returns w - reference in float32."""
        return tf.cast(keras.ops.convert_to_tensor(x), tf.float32) - self.reference.value

    def gradient(self, x: Any) -> tf.Tensor:
        """Returns 2 * strength * importance * (w - reference), the gradient of the penalty."""
        return 2.0 * self.strength * self._weighed(self.difference(x))

    def proximal_step(self, x: Any, rate: tf.Tensor) -> tf.Tensor:
        """Returns the weight after a proximal step of size `rate`.

        (w + rate * s * importance * reference) / (1 + rate * s * importance) with s = 2 * strength:
        the exact minimum of |v - w|**2 / 2 + rate * penalty(v), stable at any strength. Under plain
        gradient descent it agrees with the penalty to first order in `rate`.

        Reference:
            Parikh and Boyd (2014), Proximal Algorithms, section 1.1 and 6.1.1 (their quadratic has
            a 1/2, which is where the 2 comes from).
        """
        pull = 2.0 * self.strength * rate * self._weighed(tf.ones_like(self.reference.value))
        share = tf.where(tf.math.is_inf(pull), 1.0, pull / (1.0 + pull))
        moved = tf.cast(keras.ops.convert_to_tensor(x), tf.float32)
        return moved - share * (moved - self.reference.value)

    @property
    def variables(self) -> list[keras.Variable]:
        """Reference and importance."""
        return [v for v in (self.reference, self.importance) if v is not None]

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs, arrays included."""
        arrays = {"reference": self.reference, "importance": self.importance}
        return {
            "strength": self.strength,
            **{name: None if v is None else v.numpy().tolist() for name, v in arrays.items()},
        }

    def _weighed(self, values: tf.Tensor) -> tf.Tensor:
        return values if self.importance is None else self.importance.value * values


# Under the name that models saved with earlier versions hold
@keras.saving.register_keras_serializable("tlkit", name="Together")
class RegularizerSum(keras.regularizers.Regularizer):
    """The sum of two regularizers of one weight."""

    def __init__(
        self, first: keras.regularizers.Regularizer, second: keras.regularizers.Regularizer
    ) -> None:
        self.first, self.second = first, second

    def __call__(self, x: Any) -> tf.Tensor:
        """Returns both penalties' sum."""
        return self.first(x) + self.second(x)

    @property
    def hooks(self) -> tuple[StepHook, ...]:
        """The constraints that either of them belongs to."""
        return tuple(
            hook for one in (self.first, self.second) for hook in getattr(one, "hooks", ())
        )

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs."""
        return {
            name: keras.regularizers.serialize(one)
            for name, one in (("first", self.first), ("second", self.second))
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RegularizerSum":
        """Makes it again of what `get_config` returned."""
        return cls(**{name: keras.regularizers.get(one) for name, one in config.items()})


def check_strength(strength: float) -> None:
    """Raises `ArgumentError` where it is negative, or too large to compute with."""
    check_not_negative("strength", strength)
    if strength > MAX_STRENGTH:
        raise ArgumentError(
            f"`strength` must be at most {MAX_STRENGTH:g}, for penalties are float32. "
            f"Received: strength={strength!r}. From about 1e6 on nothing moves in any case."
        )


def anchors_in(regularizer: keras.regularizers.Regularizer | None) -> list[WeightAnchor]:
    """Returns the anchors in a weight's regularizer, oldest first."""
    if isinstance(regularizer, RegularizerSum):
        return anchors_in(regularizer.first) + anchors_in(regularizer.second)
    return [regularizer] if isinstance(regularizer, WeightAnchor) else []


def _held(array: Any, name: str) -> keras.Variable:
    # not `trainable`, and in no layer: saved models hold none of it
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
            "`importance` must be finite and 0 or more everywhere. "
            f"Received: importance with values from {values.min()!r} to {values.max()!r}. "
            "Estimate it anew (tlkit.estimate_importance)."
        )
