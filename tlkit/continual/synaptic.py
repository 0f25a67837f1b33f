"""Importance gathered while training: what each weight's way contributed to the loss's fall."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.continual.anchors import anchorable, anchors_of
from tlkit.errors import ArgumentError, check_positive
from tlkit.models.variable_names import variable_names
from tlkit.training.step import StepHook

DEFAULT_DAMPING = 0.1


class SynapticPath(StepHook):
    """Gathers each weight's path integral; hand it to `fine_tune`, then to `estimate_importance`.

    In every step the product of -gradient and movement is added up for each weight: its share of
    what the loss fell by. The importance is max(0, path / (way**2 + damping)), `way` being how far
    the weight has come since this was made. Gradients are those of the new task's loss: the pull of
    anchors is taken out. A step whose gradients are not finite, which loss scaling skips, counts
    nothing. The path runs to the last step; where `fine_tune` puts the weights of an
    earlier epoch back, the way is measured to those.

    Args:
        model: A functional model, built.
        damping: Keeps weights that hardly moved from counting much.

    Raises:
        ArgumentError: `damping` is not positive.

    Example:
        >>> import tlkit
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> path = tlkit.SynapticPath(model)
        >>> float(path.importance()["logits/kernel"].max())  # nothing has moved
        0.0

    Reference:
        Zenke et al. (2017), https://arxiv.org/abs/1703.04200, equations 3 and 5, where nothing is
        clipped. The authors' code (https://github.com/ganguli-lab/pathint) takes the maximum with 0
        of the sum over tasks, after each of them; here it is taken of each task by itself, so that
        what one task lowered does not offset what another one raised.
    """

    def __init__(self, model: keras.Model, damping: float = DEFAULT_DAMPING) -> None:
        check_positive("damping", damping)
        self.damping = damping
        weights = [v for some in anchorable(model, "all").values() for v in some]
        self._weights = weights
        self._names = variable_names(model)
        self._start = [_like(weight, weight.numpy()) for weight in weights]
        self._before = [_like(weight, weight.numpy()) for weight in weights]
        self._gradient = [_like(weight, 0.0) for weight in weights]
        self._path = [_like(weight, 0.0) for weight in weights]
        self._steps = tf.Variable(0, trainable=False, name="steps")
        self._is_finite = tf.Variable(True, trainable=False, name="is_finite")
        self._index = {id(weight): i for i, weight in enumerate(weights)}
        self.variables = [*self._start, *self._path, self._steps]

    def check(self, model: keras.Model) -> None:
        """Raises `ArgumentError` where it was made for another model."""
        if not any(id(variable) in self._index for variable in model.variables):
            raise ArgumentError(
                "`anchor` must be the path of the model that is trained. Received: a SynapticPath "
                f"of another one than {model.name!r}. Make it of this one: "
                "tlkit.SynapticPath(model)."
            )

    @property
    def num_steps(self) -> int:
        """Steps gathered."""
        return int(self._steps.numpy())

    def importance(self) -> dict[str, np.ndarray]:
        """Returns the importance by path, as it is now."""
        return {
            self._names[id(weight)]: np.maximum(
                path.numpy() / ((weight.numpy() - start.numpy()) ** 2 + self.damping), 0.0
            ).astype(np.float32)
            for weight, path, start in zip(self._weights, self._path, self._start, strict=True)
        }

    def identity(self) -> dict[str, Any]:
        """Returns the damping."""
        return {"name": "SynapticPath", "damping": self.damping}

    def before_update(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
    ) -> None:
        """Notes where the weights are and what the loss's gradient is there."""
        finite = [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients]
        self._is_finite.assign(tf.reduce_all(finite))
        for gradient, variable in zip(gradients, variables, strict=True):
            if (i := self._index.get(id(variable))) is None:
                continue
            self._before[i].assign(tf.cast(variable.value, tf.float32))
            self._gradient[i].assign(tf.cast(gradient, tf.float32))
            for anchor in anchors_of(variable):
                self._gradient[i].assign_sub(anchor.gradient(variable))

    def after_update(self, variables: Sequence[keras.Variable], rates: Sequence[tf.Tensor]) -> None:
        """Adds what the movement was worth."""
        self._steps.assign_add(tf.cast(self._is_finite, tf.int32))
        for variable in variables:
            if (i := self._index.get(id(variable))) is None:
                continue
            moved = tf.cast(variable.value, tf.float32) - self._before[i]
            worth = tf.where(self._is_finite, self._gradient[i] * moved, 0.0)
            self._path[i].assign_sub(worth)


def _like(weight: keras.Variable, value: Any) -> tf.Variable:
    return tf.Variable(
        np.broadcast_to(np.asarray(value, np.float32), weight.shape), trainable=False
    )
