"""One call of Keras's `fit`, as both training functions make it."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.splits import class_weights
from tlkit.errors import ArgumentError, check_choice
from tlkit.models.heads import head_kind
from tlkit.progress import bar
from tlkit.training.objective import loss_of, metrics_of

WARM_UP = 0.1
"""Share of all steps in which the rate rises from zero."""


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


def fit_model(
    model: keras.Model,
    batches: tf.data.Dataset,
    validation: tf.data.Dataset | None,
    *,
    optimizer: keras.optimizers.Optimizer,
    epochs: int,
    steps_per_epoch: int | None,
    patience: int,
    label_smoothing: float = 0.0,
    class_weight: dict[int, float] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    best: tuple[float, float] | None = None,
) -> tuple[tuple[dict[str, float], ...], bool]:
    """Trains what is trainable; with validation images the best epoch's weights are kept.

    Args:
        model: Compiled here, and left so.
        batches: Images (or features), labels and perhaps weights.
        validation: The same, without augmentation.
        optimizer: Used as it is.
        epochs: How many at most.
        steps_per_epoch: For `batches` that go on over several epochs.
        patience: Epochs without a better one after which training stops.
        label_smoothing: See `loss_of`; a softmax head's labels are one-hot where it is not 0.
        class_weight: As Keras takes it.
        callbacks: The user's own.
        best: Validation accuracy and cross-entropy to beat; without it the first epoch is the
            first best.

    Returns:
        One mapping per epoch from Keras's names to values, and whether any epoch was better
        than `best` (if none was, the weights are those before training).
    """
    model.compile(
        optimizer=optimizer,
        loss=loss_of(model, label_smoothing),
        metrics=metrics_of(model, one_hot=bool(label_smoothing)),
        jit_compile=False,
    )
    keeper = KeepBest(patience, best)
    progress = _ShowEpochs(epochs)
    history = model.fit(
        batches,
        validation_data=validation,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        class_weight=class_weight,
        callbacks=[*callbacks, progress, *([keeper] if validation is not None else [])],
        shuffle=False,  # the batches come shuffled
        verbose=0,
    ).history
    by_epoch = tuple(
        {name: float(values[epoch]) for name, values in history.items()}
        for epoch in range(len(history["loss"]))
    )
    return by_epoch, keeper.improved


class KeepBest(keras.callbacks.Callback):
    """Stops when validation no longer gets better, and puts the best weights back at the end.

    Better is a higher validation accuracy or, at the same accuracy, a lower cross-entropy: few
    validation images give many ties.
    """

    def __init__(self, patience: int, best: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.patience = patience
        self.best = best
        self.improved = False
        self._weights: list[np.ndarray] = []
        self._epochs_since = 0

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Keeps the weights that training starts from."""
        self._weights = self.model.get_weights()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Compares the epoch with the best one so far."""
        logs = logs or {}
        reached = (logs["val_accuracy"], logs["val_cross_entropy"])
        if self.best is None or (-reached[0], reached[1]) < (-self.best[0], self.best[1]):
            self.best, self.improved, self._epochs_since = reached, True, 0
            self._weights = self.model.get_weights()
            return
        self._epochs_since += 1
        if self._epochs_since >= self.patience:
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Puts the best weights back."""
        self.model.set_weights(self._weights)


class _ShowEpochs(keras.callbacks.Callback):
    """A progress bar over epochs, with the latest validation accuracy."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs = epochs

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._bar = bar("training", self._epochs)
        self._advance = self._bar.__enter__()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        accuracy = (logs or {}).get("val_accuracy")
        shown = "" if accuracy is None else f", validation accuracy {100 * accuracy:.1f} %"
        self._advance(1, f"training{shown}")

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self._bar.__exit__(None, None, None)


def class_weight_of(
    labels: np.ndarray, num_classes: int, class_weight: str | None
) -> dict[int, float] | None:
    """Returns Keras's mapping from class to weight for "balanced", and `None` for `None`."""
    if class_weight is None:
        return None
    return dict(enumerate(class_weights(labels, num_classes).tolist()))


def check_class_weight(class_weight: str | None, model: keras.Model) -> None:
    """Raises `ArgumentError` unless `class_weight` is "balanced" or `None`, and fits the head."""
    if class_weight is None:
        return
    check_choice("class_weight", class_weight, ["balanced"])
    if head_kind(model) == "multi_label":
        raise ArgumentError(
            "`class_weight` must be None where an image may have several labels. "
            f"Received: class_weight={class_weight!r}."
        )
