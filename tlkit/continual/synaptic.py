"""Synaptic importance: each weight's contribution to the decrease of the loss in training."""

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
    """Records each weight's path integral; pass it to `fine_tune`, then to `estimate_importance`.

    In every step the product of -gradient and weight change is summed for each weight: its
    contribution to the decrease of the loss. The importance is
    max(0, path / (change**2 + damping)), `change` being the weight's total change since this object
    was created. Gradients are those of the new task's loss, without the gradients of anchors. A
    step with non-finite gradients, which loss scaling skips, is not counted. The path includes all
    steps; if `fine_tune` restores the weights of an earlier epoch, the change is measured to those.

    Args:
        model: A functional model, built.
        damping: Keeps the importance of weights that hardly changed small.

    Raises:
        ArgumentError: `damping` is not positive.

    Example:
        >>> import tlkit
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> path = tlkit.SynapticPath(model)
        >>> float(path.importance()["logits/kernel"].max())  # nothing has changed
        0.0

    Reference:
        Zenke et al. (2017), https://arxiv.org/abs/1703.04200, equations 3 and 5, without clipping.
        The authors' code (https://github.com/ganguli-lab/pathint) clips the sum over tasks at 0,
        after each of them; here each task is clipped separately, so that a negative value of one
        task does not offset a positive value of another.
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
        """Raises `ArgumentError` if it was created for another model."""
        if not any(id(variable) in self._index for variable in model.variables):
            raise ArgumentError(
                "`anchor` must be a SynapticPath of the model that is trained. Received: one of "
                f"another model than {model.name!r}. Create it for this model: "
                "tlkit.SynapticPath(model)."
            )

    @property
    def num_steps(self) -> int:
        """The number of recorded steps."""
        return int(self._steps.numpy())

    def importance(self) -> dict[str, np.ndarray]:
        """Returns the current importance by path."""
        return {
            self._names[id(weight)]: np.maximum(
                path.numpy() / ((weight.numpy() - start.numpy()) ** 2 + self.damping), 0.0
            ).astype(np.float32)
            for weight, path, start in zip(self._weights, self._path, self._start, strict=True)
        }

    def identity(self) -> dict[str, object]:
        """Returns the damping."""
        return {"name": "SynapticPath", "damping": self.damping}

    def before_update(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
    ) -> None:
        """Stores the weights and the gradient of the loss."""
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
        """Adds the contribution of the weight change in this step."""
        self._steps.assign_add(tf.cast(self._is_finite, tf.int32))
        for variable in variables:
            if (i := self._index.get(id(variable))) is None:
                continue
            change = tf.cast(variable.value, tf.float32) - self._before[i]
            product = tf.where(self._is_finite, self._gradient[i] * change, 0.0)
            self._path[i].assign_sub(product)


def _like(weight: keras.Variable, value: Any) -> tf.Variable:
    return tf.Variable(
        np.broadcast_to(np.asarray(value, np.float32), weight.shape), trainable=False
    )
