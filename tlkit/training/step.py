"""One training step, with hooks for what constraints do in it."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


class StepHook:
    """What a constraint does in every training step; each method does nothing by default.

    The methods run inside the traced step, between Keras's own parts of it.

    Attributes:
        metrics: Shown in every epoch's log under their names.
        variables: State that a resumed run must find again.
    """

    metrics: Sequence[keras.metrics.Metric] = ()
    variables: Sequence[tf.Variable | keras.Variable] = ()

    def loss(self, images: Any, outputs: Any) -> tf.Tensor | None:
        """Returns what is added to the loss, a scalar, or `None`."""
        return None

    def before_update(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
    ) -> None:
        """Sees the gradients (scaled, where the optimizer scales the loss); nothing has moved."""

    def after_update(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
    ) -> None:
        """Sees the variables after they have moved, and may move them further."""


class HookedModel(keras.Model):
    """The same layers and weights as another model, trained by a step that calls hooks.

    Made from the other model's inputs and outputs; what trains is what trains in that model.
    """

    hooks: tuple[StepHook, ...] = ()

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Keras's own metrics, then those of the hooks."""
        return [*super().metrics, *(metric for hook in self.hooks for metric in hook.metrics)]

    def train_step(self, data: Any) -> dict[str, Any]:
        """Keras's step, with the hooks in it."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            outputs = self(x, training=True)
            loss = self._compute_loss(
                x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=True
            )
            for hook in self.hooks:
                if (added := hook.loss(x, outputs)) is not None:
                    loss += added
            self._loss_tracker.update_state(loss, sample_weight=tf.shape(tf.nest.flatten(x)[0])[0])
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled, variables)
        for hook in self.hooks:
            hook.before_update(gradients, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        for hook in self.hooks:
            hook.after_update(gradients, variables)
        return self.compute_metrics(x, y, outputs, sample_weight=sample_weight)


def hooked(model: keras.Model, hooks: Sequence[StepHook] = ()) -> HookedModel:
    """Returns a model of the same layers that trains with hooks."""
    trainee = HookedModel(model.inputs, model.outputs, name=model.name)
    trainee.hooks = tuple(hooks)
    return trainee
