"""A split that Keras's own `fit`, `evaluate` and `predict` take as it is."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import keras
import numpy as np

from tlkit.data.images import ImageSplit
from tlkit.data.pipeline import batch_reader, shuffled


class KerasSplit(ImageSplit, keras.utils.PyDataset):  # type: ignore[misc]
    """What `load_folder` and the other loaders give as a split; see `ImageSplit`.

    Keras asks for batches by their number, says when an epoch begins, and weights classes by
    itself where it is given `class_weight`.

    Reference:
        https://keras.io/api/utils/python_utils/#pydataset-class
    """

    workers = 1  # images of a batch are decoded side by side, and the next batch meanwhile
    use_multiprocessing = False
    max_queue_size = 10

    @property
    def num_batches(self) -> int:
        """Batches in one pass; the last one may be smaller."""
        return -(-self.num_images // self._batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns a batch of the epoch that has begun: `(images, labels)` as `dataset` has them.

        Raises:
            IndexError: There are not so many batches.
        """
        if not 0 <= index < self.num_batches:
            raise IndexError(f"there are {self.num_batches} batches, and no batch {index}")
        return self._read(self._order[index * self._batch_size :][: self._batch_size])

    def __getstate__(self) -> dict[str, Any]:
        # a traced function is of this process alone
        return {name: value for name, value in self.__dict__.items() if name != "_read"}

    def on_epoch_begin(self) -> None:
        """Puts the images of the training split into a new order, that of the next epoch."""
        if self.name != "train":
            return
        state = self.__dict__
        state["_num_begun"] = state.get("_num_begun", 0) + 1
        rows = np.arange(self.num_images)
        state["_order"] = shuffled(rows, self.seed, state["_num_begun"] - 1).numpy()

    @cached_property
    def _order(self) -> np.ndarray:
        """The rows in the order of the epoch."""
        return np.arange(self.num_images)

    @cached_property
    def _read(self) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        return batch_reader(self.source)

    @property
    def _batch_size(self) -> int:
        return max(min(self.batch_size, self.num_images), 1)
