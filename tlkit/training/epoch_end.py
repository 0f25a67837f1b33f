"""The callback that passes on the figures of each epoch."""

from collections.abc import Callable, Mapping, Sequence

import keras


class EpochEnd(keras.callbacks.Callback):
    """Calls a function at the end of each epoch; in a resumed training first for earlier epochs.

    Args:
        call: Takes the number of the epoch, from 1 on, and its figures: those of Keras, and
            "learning_rate" at the end of the epoch, before multipliers of layers, unless the
            epoch is one of an earlier process.
    """

    def __init__(self, call: Callable[[int, Mapping[str, float]], None]) -> None:
        super().__init__()
        self._call = call

    def restore(self, history: Sequence[Mapping[str, float]]) -> None:
        """Calls the function for the epochs of earlier processes."""
        for epoch, figures in enumerate(history, start=1):
            self._call(epoch, figures)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Calls the function."""
        figures = {name: float(value) for name, value in (logs or {}).items()}
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._call(epoch + 1, {**figures, "learning_rate": rate})


def pass_earlier_epochs(
    callbacks: Sequence[keras.callbacks.Callback], history: Sequence[Mapping[str, float]]
) -> None:
    """Passes the epochs of earlier processes to those callbacks that are an `EpochEnd`."""
    for callback in callbacks:
        if isinstance(callback, EpochEnd):
            callback.restore(history)
