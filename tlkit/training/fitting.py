"""A resumable call of Keras's `fit` with step hooks, keeping the best weights."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.class_weighting import ClassWeighting
from tlkit.displays.activity import duration
from tlkit.distribution.shards import ONLY_SHARD, Shard, ShardedBatches
from tlkit.distribution.strategies import scope_of, workers_of
from tlkit.errors import TrainingError
from tlkit.training.adapters import LowRankUpdates
from tlkit.training.best import EpochGuard, KeepBest
from tlkit.training.epoch_end import pass_earlier_epochs
from tlkit.training.fit_data import fit_data, with_class_weights
from tlkit.training.inference_mode import FrozenCalls
from tlkit.training.rates import NamedRate
from tlkit.training.resume import Position, SaveProgress, StageCheckpoint, assign_all, values_of
from tlkit.training.saved_state import FitState
from tlkit.training.step import HookedModel, StepHook, hooked
from tlkit.utils.formatting import percent
from tlkit.utils.progress import Advance, bar, note

_DEFAULT_DECIDING = ("accuracy", "cross_entropy")


@dataclass(frozen=True)
class Batches:
    """Training images, labels and optional weights, epoch by epoch.

    Attributes:
        starting_at: Takes an epoch, a step in it and a shard; returns that shard of all batches
            from there on, over all following epochs.
        num_steps: Number of batches in one epoch.
    """

    starting_at: Callable[[int, int, Shard], tf.data.Dataset]
    num_steps: int


@dataclass(frozen=True)
class Objective:
    """The loss to minimise, its optimizer, and the metrics.

    Attributes:
        optimizer: A Keras optimizer, not built.
        loss: A Keras loss.
        metrics: Keras metrics; with validation images "accuracy" and "cross_entropy" among them.
        deciding: An accuracy and a cross-entropy with the weights of the loss, which then decide
            instead of those two; the validation batches then have weights.
        class_factors: The weight of an image of each class, `(num_classes,)`; `None` for 1.
    """

    optimizer: keras.optimizers.Optimizer
    loss: Any
    metrics: Sequence[Any]
    deciding: Sequence[keras.metrics.Metric] = ()
    class_factors: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """The settings of a training apart from the objective: its length, callbacks and hooks.

    Attributes:
        epochs: Maximum number of epochs.
        patience: Number of epochs without improvement after which training stops; `None` trains all
            epochs and keeps the weights of the last one.
        best: Validation accuracy and cross-entropy to beat; if `None`, the first epoch is an
            improvement. Ignored without `patience`.
        callbacks: The user's callbacks.
        hooks: The constraints' hooks in each step.
        frozen_calls: The calls of operations that compute in inference mode.
        adapters: The factors that are trained instead of some kernels.
        at_end: Called after the last step, before the best weights are restored.
        checkpoint: The checkpoint to save progress to and to resume from.
    """

    epochs: int
    patience: int | None
    best: tuple[float, float] | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    hooks: Sequence[StepHook] = ()
    frozen_calls: FrozenCalls | None = None
    adapters: LowRankUpdates | None = None
    at_end: Callable[[], None] = lambda: None
    checkpoint: StageCheckpoint | None = None


@dataclass(frozen=True)
class Fitted:
    """The result of a training.

    Attributes:
        history: One mapping per epoch from Keras's names to values.
        improved: Whether any epoch is kept.
        kept_epoch: The epoch whose weights are kept, from 1 on; `None` if none is.
        state_bytes: Size of the optimizer's state; 0 without one.
    """

    history: tuple[dict[str, float], ...]
    improved: bool
    kept_epoch: int | None
    state_bytes: int = 0


def fit_model(
    model: keras.Model,
    batches: Batches,
    validation: ShardedBatches | None,
    objective: Objective,
    plan: FitPlan,
    *,
    whole_model: keras.Model | None = None,
) -> Fitted:
    """Trains the trainable weights of a model, and keeps the weights of the last or the best epoch.

    Without validation images the weights of the last epoch are kept. A model created under a
    strategy is trained on all its replicas, each on a shard of every batch.

    Args:
        model: The model to train; its weights are changed, and it is not compiled.
        batches: Training batches.
        validation: Takes a shard and returns its validation batches, without augmentation.
        objective: The loss to minimise, its optimizer, and the metrics.
        plan: The other settings of the training.
        whole_model: The model whose upper part `model` is, if it is a part.

    Raises:
        TrainingError: The loss became NaN or infinite; the best weights have been restored.
    """
    whole_model = model if whole_model is None else whole_model
    workers, checkpoint, epochs = workers_of(whole_model), plan.checkpoint, plan.epochs
    with scope_of(whole_model):
        trainee = _compiled(model, objective, plan)
    guards = [callback for callback in plan.callbacks if isinstance(callback, EpochGuard)]
    accuracy, cross_entropy = [metric.name for metric in objective.deciding] or _DEFAULT_DECIDING
    keeper = KeepBest(
        whole_model, plan.patience, plan.best, guards, names=(accuracy, cross_entropy)
    )
    guard, finish = _StopAtNaN(), _AtEnd(plan.at_end)
    own: list[keras.callbacks.Callback] = [keeper, guard]
    epoch, step, was_stopped = 0, 0, False
    if checkpoint is not None:
        state = _State(whole_model, trainee, keeper, plan.hooks)
        saver = SaveProgress(checkpoint, state.saver(checkpoint), batches.num_steps, workers)
        own.append(saver)
        if (saved := checkpoint.saved) is not None and saved.state.fit is not None:
            epoch, step = saved.position.epoch, saved.position.step
            state.restore(saved.state.fit, saved.arrays)
            pass_earlier_epochs(plan.callbacks, saved.state.fit.history)
            was_stopped = saved.state.fit.stopped
            saver.first_step = guard.first_step = step
            if step:
                _build_metrics(trainee, batches)
                own.append(_RestoreMetrics(saved.arrays["metrics"]))
        else:
            saver.save_now(0, 0)

    def run(first: int, end: int, skipped: int) -> None:
        def batches_from_position(shard: Shard) -> tf.data.Dataset:
            dataset = batches.starting_at(first, skipped, shard)
            factors = objective.class_factors
            return dataset if factors is None else with_class_weights(dataset, factors)

        data = fit_data(workers, batches_from_position, validation)
        trainee.fit(
            data.training,
            validation_data=data.validation,
            validation_steps=data.validation_steps,
            initial_epoch=first,
            epochs=end,
            steps_per_epoch=batches.num_steps - skipped,
            callbacks=[finish, *plan.callbacks, *own],
            shuffle=False,  # the batches come shuffled
            verbose=0,
        )

    with bar("epochs", epochs) as advance, _ShowEpochs(advance, epochs, batches.num_steps) as shown:
        own.insert(0, shown)
        shown.first_step = step
        advance(epoch)
        if step:  # finish the interrupted epoch first
            run(epoch, epoch + 1, step)
            epoch += 1
        if epoch < epochs and not (trainee.stop_training or was_stopped):
            run(epoch, epochs, 0)
    if not finish.was_reached:
        plan.at_end()
    keeper.restore()
    if guard.stopped_at:
        raise NotFiniteError(guard.stopped_at)
    if keeper.exploded_at:  # in the update of an epoch's last step, whose loss was finite
        raise NotFiniteError((keeper.exploded_at, batches.num_steps))
    state = objective.optimizer.variables
    num_bytes = sum(math.prod(one.shape) * tf.as_dtype(one.dtype).size for one in state)
    return Fitted(tuple(keeper.history), keeper.improved, keeper.kept_epoch, num_bytes)


def _compiled(model: keras.Model, objective: Objective, plan: FitPlan) -> HookedModel:
    """Returns the model that is trained, with the optimizer's state."""
    trainee = hooked(model, plan.hooks, plan.frozen_calls)
    trainee.compile(
        optimizer=objective.optimizer,
        loss=objective.loss,
        metrics=list(objective.metrics),
        weighted_metrics=list(objective.deciding) or None,
        jit_compile=False,
    )
    trained = trainee.trainable_variables
    if plan.adapters is not None:
        trainee.adapters, trained = plan.adapters, plan.adapters.trained(trained)
    objective.optimizer.build(trained)
    return trainee


class NotFiniteError(TrainingError):
    """The loss became NaN or infinite; `stopped_at` holds the epoch and the step, from 1."""

    def __init__(self, stopped_at: tuple[int, int]) -> None:
        epoch, step = stopped_at
        super().__init__(f"The loss became NaN or infinite at step {step} of epoch {epoch}.")
        self.stopped_at = stopped_at

    def at_rate(self, rate: NamedRate, left: str) -> TrainingError:
        """Returns the error that names the argument to change and the model's state, `left`."""
        epoch, step = self.stopped_at
        return TrainingError(
            f"{rate.rule} low enough for the loss to stay finite. Received: {rate.received}; the "
            f"loss became NaN or infinite at step {step} of epoch {epoch}. {left} {rate.lower}."
        )


class _State:
    """The full state of a training, written to and restored from a checkpoint."""

    def __init__(
        self,
        whole_model: keras.Model,
        trainee: HookedModel,
        keeper: KeepBest,
        hooks: Sequence[StepHook],
    ) -> None:
        self._whole, self._trainee, self._keeper, self._hooks = whole_model, trainee, keeper, hooks

    def saver(self, checkpoint: StageCheckpoint) -> Callable[[Position], None]:
        """Returns a function that saves this state for a given position."""

        def save(position: Position) -> None:
            keeper = self._keeper
            fit = FitState(
                keeper.best,
                keeper.improved,
                keeper.kept_epoch,
                keeper.epochs_since,
                keeper.history,
                self._trainee.stop_training,
            )
            arrays = {name: values_of(some) for name, some in self._variables().items()}
            arrays["best"] = keeper.weights
            arrays["start"] = list(checkpoint.start)
            arrays["metrics"] = values_of(self._trainee.metrics_variables)
            state = dataclasses.replace(checkpoint.state, fit=fit, seconds=checkpoint.seconds())
            checkpoint.checkpoint.save(position, state, arrays)

        return save

    def restore(self, fit: FitState, arrays: Mapping[str, list[np.ndarray]]) -> None:
        keeper = self._keeper
        keeper.best, keeper.improved = fit.best, fit.improved
        keeper.kept_epoch, keeper.epochs_since = fit.kept_epoch, fit.epochs_since
        keeper.history, keeper.weights = fit.history, arrays["best"]
        for name, variables in self._variables().items():
            assign_all(variables, arrays[name])

    def _variables(self) -> dict[str, Sequence[Any]]:
        adapters = self._trainee.adapters
        return {
            "model": self._whole.variables,
            "optimizer": self._trainee.optimizer.variables,
            "hooks": [variable for hook in self._hooks for variable in hook.variables],
            **({} if adapters is None else {"adapters": adapters.variables}),
        }


def _build_metrics(trainee: HookedModel, batches: Batches) -> None:
    """Creates the metrics' variables, which otherwise happens in the first step."""
    some = tf.nest.map_structure(
        lambda spec: tf.zeros([1, *spec.shape[1:]], spec.dtype),
        batches.starting_at(0, 0, ONLY_SHARD).element_spec,
    )
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(some)
    if trainee.distribute_strategy.num_replicas_in_sync > 1:
        trainee.build_from(some)
        return
    trainee.compute_metrics(x, y, trainee(x, training=False), sample_weight=sample_weight)
    trainee.reset_metrics()


class _RestoreMetrics(keras.callbacks.Callback):
    """Restores the metrics of a resumed epoch once, after Keras has reset them."""

    def __init__(self, values: list[np.ndarray]) -> None:
        super().__init__()
        self._values: list[np.ndarray] | None = values

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self._values is not None:
            assign_all(self.model.metrics_variables, self._values)
            self._values = None


class _AtEnd(keras.callbacks.Callback):
    """Calls a function after the last step, before `on_train_end` of the other callbacks."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self._call, self.was_reached = call, False

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        self._call()
        self.was_reached = True


class _StopAtNaN(keras.callbacks.Callback):
    """Stops training at the first loss that is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped_at: tuple[int, int] | None = None
        self.first_step = 0
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        if not math.isfinite(float((logs or {})["loss"])):
            self.stopped_at = self._epoch + 1, self.first_step + batch + 1
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self.first_step = 0


class _ShowEpochs(keras.callbacks.Callback):
    """Shows the progress of each epoch's steps, and one line when the epoch ends."""

    def __init__(self, advance: Advance, epochs: int, num_steps: int) -> None:
        super().__init__()
        self._advance, self._epochs, self._num_steps = advance, epochs, num_steps
        self._steps = ExitStack()
        self._step: Advance | None = None
        self._started = 0.0
        self.first_step = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._steps.close()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._started = time.monotonic()
        self._step = self._steps.enter_context(bar("steps", self._num_steps))
        self._step(self.first_step)
        self.first_step = 0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        if self._step is not None:
            self._step(1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._steps.close()
        self._advance(1)
        seconds = duration(time.monotonic() - self._started)
        note(f"epoch {epoch + 1} of {self._epochs}: {epoch_in_words(logs or {})}, {seconds}")


def epoch_in_words(logs: Mapping[str, float]) -> str:
    """Returns the losses and accuracies of an epoch's log in one line; ignores other entries.

    Example:
        >>> from tlkit.training.fitting import epoch_in_words
        >>> epoch_in_words({"loss": 0.41234, "accuracy": 0.9, "val_accuracy": 0.86})
        'loss 0.4123, accuracy 90.0 %, validation accuracy 86.0 %'
    """
    shown = []
    for prefix, words in (("", ""), ("val_", "validation ")):
        if (loss := logs.get(f"{prefix}loss")) is not None:
            shown.append(f"{words}loss {loss:.4g}")
        if (accuracy := logs.get(f"{prefix}accuracy")) is not None:
            shown.append(f"{words}accuracy {percent(accuracy)}")
    return ", ".join(shown)


def class_factors_of(
    labels: np.ndarray, num_classes: int, weighting: ClassWeighting
) -> np.ndarray | None:
    """Returns the weight of an image of each class, by its number among some images.

    `None` if all count the same, and for rows of several labels, whose weights are in the loss.
    """
    if weighting.is_plain or labels.ndim > 1:
        return None
    return weighting.factors(np.bincount(labels, minlength=num_classes))


def label_factors_of(labels: np.ndarray, weighting: ClassWeighting) -> np.ndarray | None:
    """Returns the weights without and with each label, `(num_labels, 2)`; `None` if all are 1."""
    if weighting.is_plain or labels.ndim == 1:
        return None
    return weighting.label_factors(labels)
