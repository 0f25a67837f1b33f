"""The callback that limits forgetting of the old task during training."""

from collections.abc import Mapping
from typing import Any

import keras

from tlkit.continual.old_data import evaluation_split
from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import check_choice, check_unit
from tlkit.evaluation.metrics import evaluate
from tlkit.training.best import EpochGuard

ACTIONS = ("stop", "roll back")

_ROUNDING = 1e-9
"""Far less than the accuracy of one image, and more than the rounding of a difference."""


class ForgettingGuard(EpochGuard):
    """Stops training when accuracy on the old task has fallen by more than a budget.

    A Keras callback, for `fine_tune(..., callbacks=[guard])` or plain `fit`. The old task is
    evaluated before training and after every epoch (`old_accuracy` in the log); `fine_tune` does
    not keep an epoch that exceeds the budget. Several stages and several trainings share the first
    measurement.

    Args:
        model: The whole model that is trained (`fit` may be called on a part of it).
        old_data: Images of the old task that are not trained on: the result of `load_folder` (its
            validation split is used), or a split.
        budget: Accuracy on the old task that may be lost, 0...1: 0.02 allows up to 2 points,
            inclusive.
        action: "stop" stops training at the first epoch that exceeds the budget and keeps its
            weights; "roll back" also restores the weights of the last epoch within the budget, or
            those before training if there is none. With several stages only the stage is stopped,
            and the next one starts from these weights.
        before: Old accuracy that the budget is relative to, 0...1, for a training that continues an
            earlier one; by default measured before the first epoch.

    Attributes:
        before: Old accuracy before training; `None` until then.
        accuracies: Old accuracy after each epoch.

    Raises:
        ArgumentError: An argument is invalid, or there are no validation images.

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
        self._whole, self._split = model, evaluation_split(old_data, model)
        self.budget, self.action = budget, action
        self.before = before
        self.accuracies: list[float] = []
        self._good: list[Any] = []

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Evaluates the old task before training."""
        if self.before is None:
            self.before = self._evaluate()
        self._good = self._whole.get_weights()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Evaluates the old task, and stops training if the budget is exceeded."""
        accuracy = self._evaluate()
        self.accuracies.append(accuracy)
        if logs is not None:
            logs["old_accuracy"] = accuracy
        self.allowed = accuracy >= (self.before or 0.0) - self.budget - _ROUNDING
        if self.allowed:
            self._good = self._whole.get_weights()
            return
        self.model.stop_training = True

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Restores the last weights within the budget, for the action "roll back"."""
        if not self.allowed and self.action == "roll back":
            self._whole.set_weights(self._good)

    def _evaluate(self) -> float:
        return evaluate(self._whole, self._split).accuracy
