"""Which epoch's weights a training keeps."""

import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np

DIGITS = 6
"""Decimals of an accuracy that count: Keras has it in float32, and a mean of recalls is rounded."""


def is_better(reached: tuple[float, float], best: tuple[float, float]) -> bool:
    """Whether an accuracy is higher or, where both are the same, the cross-entropy lower."""
    accuracy, before = round(reached[0], DIGITS), round(best[0], DIGITS)
    return (-accuracy, reached[1]) < (-before, best[1])


class EpochGuard(keras.callbacks.Callback):
    """A callback that may forbid an epoch's weights to be kept.

    Attributes:
        allowed: Whether those of the epoch that has just ended may be.
    """

    allowed: bool = True


class KeepBest(keras.callbacks.Callback):
    """Notes every epoch, keeps the best one's weights, and stops when none gets better.

    Better is a higher validation accuracy or, at the same accuracy, a lower cross-entropy: few
    validation images give many ties. Without validation every epoch is better than the last. An
    epoch that a guard does not allow is never kept.

    Args:
        whole: The model whose weights are kept.
        patience: Epochs without a better one after which training stops.
        best: Accuracy and cross-entropy to beat.
        guards: What may forbid an epoch.
        names: Of that accuracy and cross-entropy in the log, without "val_".
    """

    def __init__(
        self,
        whole: keras.Model,
        patience: int,
        best: tuple[float, float] | None = None,
        guards: Sequence[EpochGuard] = (),
        names: tuple[str, str] = ("accuracy", "cross_entropy"),
    ) -> None:
        super().__init__()
        self._whole, self._guards = whole, guards
        self._names = tuple(f"val_{name}" for name in names)
        self.patience = patience
        self.best = best
        self.improved = False
        self.kept_epoch: int | None = None
        self.exploded_at: int | None = None
        self.epochs_since = 0
        self.history: list[dict[str, float]] = []
        self.weights: list[np.ndarray] = whole.get_weights()

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return self.epochs_since >= self.patience

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Compares the epoch with the best one so far."""
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

    def put_back(self) -> None:
        """Gives the model the best weights."""
        self._whole.set_weights(self.weights)

    def _is_finite(self, logs: dict[str, float]) -> bool:
        """Whether losses are and, where none was measured after the last step, norms of weights."""
        if not all(math.isfinite(logs.get(name, 0.0)) for name in ("loss", "val_loss")):
            return False
        if "val_loss" in logs:
            return True
        with np.errstate(over="ignore"):
            norms = [np.linalg.norm(weight) for weight in self._whole.get_weights()]
        return all(math.isfinite(norm) for norm in norms)

    def _is_better(self, logs: dict[str, float]) -> bool:
        accuracy, cross_entropy = self._names
        if accuracy not in logs:
            return True
        reached = (logs[accuracy], logs[cross_entropy])
        if self.best is not None and not is_better(reached, self.best):
            return False
        self.best = reached
        return True
