"""One training step, with hooks for what constraints do in it."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tlkit.errors import ArgumentError
from tlkit.models.flattening import flat, told_apart
from tlkit.training.keras_workers import WorkersModel
from tlkit.training.rates import rates_of
from tlkit.training.replicas import Replicas, is_distributed, logs_of_all
from tlkit.training.still import StillPart


class StepHook:
    """What a constraint does in every training step; each method does nothing by default.

    The methods run inside the traced step, between Keras's own parts of it.

    Attributes:
        metrics: Shown in every epoch's log under their names.
        variables: State that a resumed run must find again.
        undecayed: Variables that weight decay is to leave alone.
        needs_images: Whether `loss` must see the images themselves, not activations at a cut.
        works_on_replicas: Whether it does its work where several devices each see a share of the
            batch: `loss` is called on each with its share, and what it returns counts by the
            share's size (an empty share shows one blank image, which counts for nothing);
            `before_update` sees the gradients of the whole batch.
        notes: What it does, in words.
    """

    metrics: Sequence[keras.metrics.Metric] = ()
    variables: Sequence[tf.Variable | keras.Variable] = ()
    undecayed: Sequence[keras.Variable] = ()
    needs_images: bool = False
    works_on_replicas: bool = False
    notes: Sequence[str] = ()

    def check(self, model: keras.Model) -> None:
        """Raises `ArgumentError` where it can do nothing for this model; before any training."""

    def notes_of_stage(self) -> Sequence[str]:
        """Returns what the report of a stage is to say of it; what trains is set by then."""
        return self.notes

    def identity(self) -> dict[str, Any]:
        """Returns, in plain values, what a run with another constraint must not be taken for."""
        return {"name": type(self).__name__}

    def loss(self, images: Any, outputs: Any, loss: tf.Tensor) -> tf.Tensor | None:
        """Sees Keras's loss, penalties included; returns a scalar to add to it, or `None`.

        On several replicas what it sees is the part of their share, times their number: the mean
        over the replicas is the loss of the batch.
        """
        return None

    def before_update(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
    ) -> None:
        """Sees the gradients of the loss; nothing has moved."""

    def after_update(self, variables: Sequence[keras.Variable], rates: Sequence[tf.Tensor]) -> None:
        """Sees the variables after they have moved, each at its rate, and may move them further."""


class HookedModel(WorkersModel):
    """The same layers and weights as another model, trained by a step that calls hooks.

    Made from the other model's inputs and outputs; what trains is what trains in that model.

    Under a strategy with several replicas a step does what one device does with the whole batch,
    however unevenly it is shared out: every image counts the same, penalties count once, and the
    logs are those of all.
    """

    hooks: tuple[StepHook, ...] = ()
    still: StillPart | None = None

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Keras's forward pass; in training what is frozen computes as in inference."""
        if not training or self.still is None:
            return super().call(inputs, training=training, mask=mask)
        return self.still.run(self, inputs)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Keras's own metrics, then those of the hooks."""
        return [*super().metrics, *(metric for hook in self.hooks for metric in hook.metrics)]

    def train_step(self, data: Any) -> dict[str, Any]:
        """Keras's step, with the hooks in it."""
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
            rates = rates_of(self.optimizer, variables)  # a schedule moves on with the update
            unscaled = _unscaled(gradients, scale=self.optimizer.scale_loss(tf.constant(1.0)))
            if any(_sees_gradients(hook) for hook in self.hooks):
                unscaled = replicas.total(unscaled)
            for hook in self.hooks:
                hook.before_update(unscaled, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        for hook in self.hooks:
            hook.after_update(variables, rates)
        logs = self.compute_metrics(x, y, outputs, sample_weight=sample_weight)
        return logs_of_all(self) if replicas.are_several else logs

    def test_step(self, data: Any) -> dict[str, Any]:
        """Keras's step; what the hooks measure in training has no value here."""
        of_hooks = {metric.name for hook in self.hooks for metric in hook.metrics}
        logs = self._measured(data) if is_distributed() else super().test_step(data)
        return {name: value for name, value in logs.items() if name not in of_hooks}

    def _measured(self, data: Any) -> dict[str, Any]:
        """Keras's test step on several replicas."""
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
        """Counts a batch's loss in the mean that Keras shows, a compiled model's first metric."""
        mean_loss = self.metrics[0]
        mean_loss.update_state(replicas.whole(loss), sample_weight=replicas.mean_num_images)


def hooks_of(anchor: Any, model: keras.Model) -> tuple[StepHook, ...]:
    """Returns the constraints that `fine_tune` was given, and those that hold the model already.

    A regularizer of a weight may name its constraints (`hooks`): it is part of the loss in any
    case, and so its log, its state and what it says of weight decay are too.

    Raises:
        ArgumentError: One of them is no constraint, or none for this model.
    """
    hooks = () if anchor is None else (anchor,) if isinstance(anchor, StepHook) else anchor
    if not isinstance(hooks, Sequence) or not all(isinstance(hook, StepHook) for hook in hooks):
        raise ArgumentError(
            "`anchor` must be what tlkit.anchor_weights, tlkit.choose_anchor or tlkit.distill_from "
            f"returned, or a list of those. Received: anchor={anchor!r}. "
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
    """Returns dense gradients without loss scaling; without it `scale` is the constant 1."""
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
    return [gradient / tf.cast(scale, gradient.dtype) for gradient in dense]


def hooked(
    model: keras.Model, hooks: Sequence[StepHook] = (), still: StillPart | None = None
) -> HookedModel:
    """Returns a model of the same layers that trains with hooks, and with what is to stay still.

    Models nested in it are reached into, so that each of their layers can stay still by itself.
    """
    graph = flat(model)
    with told_apart([graph.output]):
        trainee = HookedModel(graph.input, graph.output, name=model.name)
    trainee.hooks = tuple(hooks)
    trainee.still = still
    return trainee
