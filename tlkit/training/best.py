"""The callback that keeps the weights of the last or the best epoch, and stops training early."""

import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np

DIGITS = 6
"""Decimals to which accuracies are compared: Keras computes them in float32, and a mean of recalls
has rounding errors of its own."""


def is_better(reached: tuple[float, float], best: tuple[float, float]) -> bool:
    """Whether the accuracy is higher than the best or, if equal, the cross-entropy is lower."""
    return (-round(reached[0], DIGITS), reached[1]) < (-round(best[0], DIGITS), best[1])


class EpochGuard(keras.callbacks.Callback):
    """A callback that can prevent an epoch's weights from being kept.

    Attributes:
        allowed: Whether the weights of the epoch that has just ended may be kept.
    """

    allowed: bool = True


class KeepBest(keras.callbacks.Callback):
    """Records every epoch, and keeps the weights of the last one or, with `patience`, the best one.

    The best epoch has the highest validation accuracy and, among ties, which are frequent with few
    validation images, the lowest cross-entropy. Without validation the last epoch counts as the
    best. An epoch that a guard does not allow is never kept.

    Args:
        whole_model: The model whose weights are kept.
        patience: Number of epochs without improvement after which training stops; `None` keeps the
            last epoch, whatever it reached.
        best: Accuracy and cross-entropy to beat.
        guards: Callbacks that can reject an epoch.
        names: The log's names of that accuracy and cross-entropy, without the prefix "val_".
    """

    def __init__(
        self,
        whole_model: keras.Model,
        patience: int | None,
        best: tuple[float, float] | None = None,
        guards: Sequence[EpochGuard] = (),
        names: tuple[str, str] = ("accuracy", "cross_entropy"),
    ) -> None:
        super().__init__()
        self._whole, self._guards = whole_model, guards
        self._names = tuple(f"val_{name}" for name in names)
        self.patience = patience
        self.best = best
        self.improved = False
        self.kept_epoch: int | None = None
        self.exploded_at: int | None = None
        self.epochs_since = 0
        self.history: list[dict[str, float]] = []
        self.weights: list[np.ndarray] = whole_model.get_weights()

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.epochs_since >= self.patience

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Compares the epoch with the best so far."""
        logs = {name: float(value) for name, value in (logs or {}).items()}
        if not self._is_finite(logs):
            self.exploded_at = epoch + 1
            self.model.stop_training = True
            return
        self.history.append(logs)
        if all(guard.allowed for guard in self._guards) and self._is_better(logs):
            self.improved, self.epochs_since = True, 0
            self.kept_epoch = len(self.history)
            self.weights = self._whole.get_weights()
            return
        self.epochs_since += 1
        if self.is_over:
            self.model.stop_training = True

    def restore(self) -> None:
        """Sets the model's weights to the best ones."""
        self._whole.set_weights(self.weights)

    def _is_finite(self, logs: dict[str, float]) -> bool:
        """Whether the losses are finite and, without a validation loss, the weights' norms too."""
        if not all(math.isfinite(logs.get(name, 0.0)) for name in ("loss", "val_loss")):
            return False
        if "val_loss" in logs:
            return True
        with np.errstate(over="ignore"):
            norms = [np.linalg.norm(weight) for weight in self._whole.get_weights()]
        return all(math.isfinite(norm) for norm in norms)

    def _is_better(self, logs: dict[str, float]) -> bool:
        accuracy, cross_entropy = self._names
        if accuracy not in logs or self.patience is None:
            return True
        reached = (logs[accuracy], logs[cross_entropy])
        if self.best is not None and not is_better(reached, self.best):
            return False
        self.best = reached
        return True
