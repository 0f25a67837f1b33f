"""A split that can be passed to Keras's `fit`, `evaluate` and `predict`."""

from collections.abc import Callable
from functools import cached_property

import keras
import numpy as np

from tlkit.data.images import ImageSplit
from tlkit.data.pipeline import batch_reader, shuffled


class KerasSplit(ImageSplit, keras.utils.PyDataset):  # type: ignore[misc]
    """An `ImageSplit` as a Keras data set, as loaders return it.

    Keras requests batches by index, signals the beginning of an epoch, and applies `class_weight`
    itself.

    Reference:
        https://keras.io/api/utils/python_utils/#pydataset-class
    """

    workers = 1  # images of a batch are decoded in parallel, and the next batch is prefetched
    use_multiprocessing = False
    max_queue_size = 10

    @property
    def num_batches(self) -> int:
        """Number of batches per epoch; the last one may be smaller."""
        return -(-self.num_images // self._batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns batch `index` of the current epoch, `(images, labels)` as in `dataset`.

        Raises:
            IndexError: There is no such batch.
        """
        if not 0 <= index < self.num_batches:
            raise IndexError(f"there are {self.num_batches} batches, and no batch {index}")
        return self._read(self._order[index * self._batch_size :][: self._batch_size])

    def __getstate__(self) -> dict[str, object]:
        # a traced function cannot be pickled
        return {name: value for name, value in self.__dict__.items() if name != "_read"}

    def on_epoch_begin(self) -> None:
        """Shuffles the images of the training split for the next epoch."""
        if self.name != "train":
            return
        state = self.__dict__
        state["_num_epochs"] = state.get("_num_epochs", 0) + 1
        rows = np.arange(self.num_images)
        state["_order"] = shuffled(rows, self.seed, state["_num_epochs"] - 1).numpy()

    @cached_property
    def _order(self) -> np.ndarray:
        """The rows in the order of the current epoch."""
        return np.arange(self.num_images)

    @cached_property
    def _read(self) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        return batch_reader(self.source)

    @property
    def _batch_size(self) -> int:
        return max(min(self.batch_size, self.num_images), 1)
