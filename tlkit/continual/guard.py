"""A watch on the old task while the new one is learned."""

from collections.abc import Mapping
from typing import Any

import keras

from tlkit.continual.old_data import measured_split
from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import check_choice, check_unit
from tlkit.evaluation.metrics import evaluate
from tlkit.training.best import EpochGuard

ACTIONS = ("stop", "roll back")

_ROUNDING = 1e-9
"""Far less than one image counts, and more than a difference of two accuracies is off by."""


class ForgettingGuard(EpochGuard):
    """Ends training when accuracy on the old task has fallen by more than a budget.

    A Keras callback, for `fine_tune(..., callbacks=[guard])` or plain `fit`. The old task is
    measured before training and after every epoch (`old_accuracy` in the log); `fine_tune` keeps no
    epoch that broke the budget. Several stages and several trainings share the first measurement.

    Args:
        model: The whole model that is trained (a part of it may be what `fit` sees).
        old_data: Images of the old task that no training sees: what `load_folder` returned (its
            validation split counts), or a split.
        budget: How much of the old accuracy may be lost, 0...1: 0.02 allows 2 points,
            and exactly 2 points too.
        action: "stop" ends training at the first epoch that breaks the budget and leaves the
            weights as they are then; "roll back" puts the weights of the last epoch within the
            budget back as well, those before training if there is none. With several stages it is
            the stage that ends, and the next one begins from there.
        before: Old accuracy that the budget counts from, 0...1, where training goes on that began
            earlier; measured before the first epoch by default.

    Attributes:
        before: Old accuracy before training; `None` until then.
        accuracies: Old accuracy after each epoch.

    Raises:
        ArgumentError: An argument breaks its rule, or there are no validation images.

    Example:
        >>> import numpy as np, tlkit
        >>> images = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), "uint8")
        >>> old = tlkit.load_arrays(images, np.arange(20) % 2, ["even", "odd"])
        >>> model = tlkit.build_classifier("resnet20", old.class_names, weights=None)
        >>> guard = tlkit.ForgettingGuard(model, old.train, budget=0.02)
    """

    def __init__(
        self,
        model: keras.Model,
        old_data: ImageData | ImageSplit,
        budget: float,
        *,
        action: str = "roll back",
        before: float | None = None,
    ) -> None:
        super().__init__()
        check_unit("budget", budget)
        if before is not None:
            check_unit("before", before)
        check_choice("action", action, ACTIONS)
        self._whole, self._split = model, measured_split(old_data, model)
        self.budget, self.action = budget, action
        self.before = before
        self.accuracies: list[float] = []
        self._good: list[Any] = []

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Measures the old task as it is."""
        if self.before is None:
            self.before = self._measured()
        self._good = self._whole.get_weights()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Measures the old task, and ends training where too much is lost."""
        accuracy = self._measured()
        self.accuracies.append(accuracy)
        if logs is not None:
            logs["old_accuracy"] = accuracy
        self.allowed = accuracy >= (self.before or 0.0) - self.budget - _ROUNDING
        if self.allowed:
            self._good = self._whole.get_weights()
            return
        self.model.stop_training = True

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Puts the last good weights back, where that was asked for."""
        if not self.allowed and self.action == "roll back":
            self._whole.set_weights(self._good)

    def _measured(self) -> float:
        return evaluate(self._whole, self._split).accuracy
