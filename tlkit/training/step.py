"""The training step, with hooks for constraints."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tlkit.errors import ArgumentError
from tlkit.models.flattening import flat, unique_operation_names
from tlkit.training.adapters import LowRankUpdates
from tlkit.training.inference_mode import FrozenCalls
from tlkit.training.keras_workers import WorkersModel
from tlkit.training.rates import rates_of
from tlkit.training.replicas import Replicas, is_distributed, logs_of_all


class StepHook:
    """The work of a constraint in every training step; by default each method does nothing.

    The methods run inside the traced step, between Keras's own parts of it.

    Attributes:
        metrics: Metrics that are logged in every epoch under their names.
        variables: State that is restored when a run is resumed.
        undecayed: Variables that are excluded from weight decay.
        needs_images: Whether `loss` needs the images themselves, not activations at a cut.
        works_on_replicas: Whether it supports several devices with a shard of the batch each:
            `loss` is called on each with its shard, and its result is weighted by the shard's size
            (for an empty shard it gets one blank image, with weight 0); `before_update` gets the
            gradients of the whole batch.
        notes: A description for the report.
    """

    metrics: Sequence[keras.metrics.Metric] = ()
    variables: Sequence[tf.Variable | keras.Variable] = ()
    undecayed: Sequence[keras.Variable] = ()
    needs_images: bool = False
    works_on_replicas: bool = False
    notes: Sequence[str] = ()

    def check(self, model: keras.Model) -> None:
        """Raises `ArgumentError` if it does not fit the model; called before any training."""

    def notes_of_stage(self) -> Sequence[str]:
        """Returns notes for the report of a stage; called with the `trainable` flags set."""
        return self.notes

    def identity(self) -> dict[str, object]:
        """Returns plain values that identify the constraint, to refuse resuming with another."""
        return {"name": type(self).__name__}

    def loss(self, images: Any, outputs: Any, loss: tf.Tensor) -> tf.Tensor | None:
        """Gets Keras's loss, penalties included; returns a scalar to add to it, or `None`.

        On several replicas it gets the part of the replica's shard, times the number of replicas:
        the mean over the replicas is the loss of the batch.
        """
        return None

    def before_update(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
    ) -> None:
        """Gets the gradients of the loss, before any variable is updated."""

    def after_update(self, variables: Sequence[keras.Variable], rates: Sequence[tf.Tensor]) -> None:
        """Gets the variables after their update, and each one's rate; may change them further."""


class HookedModel(WorkersModel):
    """A model with the layers and weights of another, trained by a step that calls hooks.

    It is made from the other model's inputs and outputs, and has its trainable variables.

    Under a strategy with several replicas a step computes what one device computes on the whole
    batch, even if its shards differ in size: every image counts the same, penalties count once, and
    the logs are those of all replicas.
    """

    hooks: tuple[StepHook, ...] = ()
    frozen_calls: FrozenCalls | None = None
    adapters: LowRankUpdates | None = None

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Runs Keras's forward pass; in training, frozen calls run in inference mode."""
        if not training or self.frozen_calls is None:
            return super().call(inputs, training=training, mask=mask)
        return self.frozen_calls.run(self, inputs)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics of Keras, then those of the hooks."""
        return [*super().metrics, *(metric for hook in self.hooks for metric in hook.metrics)]

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Runs Keras's training step with the hooks."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        replicas = Replicas(x)
        with tf.GradientTape() as tape:
            seen = self(replicas.images, training=True)
            outputs = replicas.own(seen)
            loss = self.compute_loss(
                x=x,
                y=y,
                y_pred=outputs,
                sample_weight=replicas.weights(sample_weight),
                training=True,
            )
            for hook in self.hooks:
                with replicas.not_counting_blank(hook.metrics):
                    added = hook.loss(replicas.images, seen, replicas.whole(loss))
                if added is not None:
                    loss += replicas.part(added)
            self._note_loss(loss, replicas)
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled, variables)
        if self.hooks:
            rates = rates_of(self.optimizer, variables)  # a schedule advances with the update
            unscaled = _unscaled(gradients, scale=self.optimizer.scale_loss(tf.constant(1.0)))
            if any(_sees_gradients(hook) for hook in self.hooks):
                unscaled = replicas.total(unscaled)
            for hook in self.hooks:
                hook.before_update(unscaled, variables)
        if self.adapters is None:
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        else:
            self.adapters.update(self.optimizer, gradients, variables)
        for hook in self.hooks:
            hook.after_update(variables, rates)
        logs = self.compute_metrics(x, y, outputs, sample_weight=sample_weight)
        return logs_of_all(self) if replicas.are_several else logs

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Runs Keras's test step; the hooks' metrics have no value in it."""
        of_hooks = {metric.name for hook in self.hooks for metric in hook.metrics}
        logs = self._measured(data) if is_distributed() else super().test_step(data)
        return {name: value for name, value in logs.items() if name not in of_hooks}

    def _measured(self, data: Any) -> dict[str, tf.Tensor]:
        """Runs Keras's test step on several replicas."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        replicas = Replicas(x)
        outputs = replicas.own(self(replicas.images, training=False))
        loss = self.compute_loss(
            x=x,
            y=y,
            y_pred=outputs,
            sample_weight=replicas.weights(sample_weight),
            training=False,
        )
        self._note_loss(loss, replicas)
        self.compute_metrics(x, y, outputs, sample_weight=sample_weight)
        return logs_of_all(self)

    def _note_loss(self, loss: tf.Tensor, replicas: Replicas) -> None:
        """Adds a batch's loss to the mean that Keras logs, a compiled model's first metric."""
        mean_loss = self.metrics[0]
        mean_loss.update_state(replicas.whole(loss), sample_weight=replicas.mean_num_images)


def hooks_of(anchor: Any, model: keras.Model) -> tuple[StepHook, ...]:
    """Returns the constraints passed to `fine_tune`, and those already attached to the model.

    A weight's regularizer may have constraints (`hooks`): as it is part of the loss in any case,
    its log, state and exclusions from weight decay must be used too.

    Raises:
        ArgumentError: One of them is not a constraint, or does not fit this model.
    """
    hooks = () if anchor is None else (anchor,) if isinstance(anchor, StepHook) else anchor
    if not isinstance(hooks, Sequence) or not all(isinstance(hook, StepHook) for hook in hooks):
        raise ArgumentError(
            "`anchor` must be what tlkit.anchor_weights, tlkit.choose_anchor or tlkit.distill_from "
            f"returns, or a list of these. Received: anchor={anchor!r}. "
            "Write anchor=tlkit.anchor_weights(model, strength=0.01)."
        )
    found = {id(hook): hook for hook in hooks}
    for variable in model.variables:
        for hook in getattr(getattr(variable, "regularizer", None), "hooks", ()):
            found.setdefault(id(hook), hook)
    for hook in found.values():
        hook.check(model)
    return tuple(found.values())


def _sees_gradients(hook: StepHook) -> bool:
    return type(hook).before_update is not StepHook.before_update


def _unscaled(gradients: Sequence[Any], scale: tf.Tensor) -> list[tf.Tensor]:
    """Returns dense gradients, divided by the loss scale; `scale` is 1 without loss scaling."""
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
    return [gradient / tf.cast(scale, gradient.dtype) for gradient in dense]


def hooked(
    model: keras.Model, hooks: Sequence[StepHook] = (), frozen_calls: FrozenCalls | None = None
) -> HookedModel:
    """Returns a model of the same layers that trains with hooks and frozen calls.

    Nested models are flattened, so that each of their layers can run in inference mode by itself.
    """
    graph = flat(model)
    with unique_operation_names([graph.output]):
        trainee = HookedModel(graph.input, graph.output, name=model.name)
    trainee.hooks = tuple(hooks)
    trainee.frozen_calls = frozen_calls
    return trainee
