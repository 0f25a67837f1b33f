"""The callback that passes on the figures of each epoch."""

from collections.abc import Callable, Mapping

import keras


class EpochEnd(keras.callbacks.Callback):
    """Calls a function at the end of each epoch.

    Args:
        call: Takes the number of the epoch, from 1 on, and its figures: those of Keras, and
            "learning_rate" at the end of the epoch, before multipliers of layers.
    """

    def __init__(self, call: Callable[[int, Mapping[str, float]], None]) -> None:
        super().__init__()
        self._call = call

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Calls the function."""
        figures = {name: float(value) for name, value in (logs or {}).items()}
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._call(epoch + 1, {**figures, "learning_rate": rate})
