"""Exemplars: a few stored features of each class, replayed when new classes are learnt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tlkit.errors import ArgumentError, RunError, check_count
from tlkit.utils.array_files import read_arrays, write_arrays

DEFAULT_NUM_EXEMPLARS = 20

_SAME_IMAGE = 1e-3
"""Largest relative distance of two rows of one image, computed with different orders of sums."""


@dataclass(frozen=True, eq=False)
class Exemplars:
    """Features of some images of each class, the most representative first.

    Attributes:
        features: For each class that has any: float32 `(n, num_features)`.
        signature: Signature of the network that computes them from pixels, see
            `tlkit.models.signature.signature`.
    """

    features: Mapping[str, np.ndarray]
    signature: str

    def save(self, path: Path) -> None:
        """Writes an `.npz` file atomically."""
        names = list(self.features)
        arrays = {
            "names": np.array(names),
            "signature": np.array(self.signature),
            **{f"features_{row}": self.features[name] for row, name in enumerate(names)},
        }
        write_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path, signature: str) -> "Exemplars":
        """Reads a file that `save` wrote.

        Args:
            path: The file.
            signature: Signature of the network whose features are required.

        Raises:
            RunError: The file is damaged, or holds another network's features.
        """

        def parse(arrays: Mapping[str, np.ndarray]) -> "Exemplars":
            names = arrays["names"].tolist()
            features = {name: arrays[f"features_{row}"] for row, name in enumerate(names)}
            return cls(features, str(arrays["signature"]))

        read = read_arrays(path, parse, lambda: _unusable(path, "damaged"))
        if read.signature != signature:
            raise _unusable(path, "from another network")
        return read


def choose_exemplars(features: np.ndarray, num: int) -> np.ndarray:
    """Returns the rows that represent one class best, chosen by herding.

    Features are scaled to norm one. The k-th exemplar is the row that brings the mean of the k
    chosen rows nearest to the mean of all rows, so that the first exemplars are the best choice of
    any smaller number too. A row is chosen once.

    Args:
        features: Features of one class, `(n, num_features)`.
        num: Number of rows to choose; all, in the same order, if there are no more.

    Returns:
        int64 `(min(n, num),)`, positions of rows, the most representative first.

    Raises:
        ArgumentError: `features` are not finite rows, or `num` is not an integer of at least 0.

    Example:
        >>> import numpy as np
        >>> from tlkit.continual.exemplars import choose_exemplars
        >>> choose_exemplars(np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]]), 2).tolist()
        [1, 0]

    Reference:
        Rebuffi et al. (2017), iCaRL, algorithm 4, https://arxiv.org/abs/1611.07725 (there, too,
        features have norm one; section 2.1 normalises their means again, which is not done here;
        that a row is chosen once is not in the paper but in its code).
    """
    check_count("num", num, minimum=0)
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ArgumentError(
            "`features` must be finite, one row for each image. "
            f"Received: an array of shape {rows.shape}. Give the inputs of the network's head."
        )
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(norms > 0, norms, 1.0)
    mean = rows.mean(axis=0) if len(rows) else 0.0
    chosen: list[int] = []
    total = np.zeros(rows.shape[1])
    is_available = np.ones(len(rows), bool)
    for count in range(1, min(num, len(rows)) + 1):
        distances = np.linalg.norm(mean - (total + rows) / count, axis=1)
        best = int(np.argmin(np.where(is_available, distances, np.inf)))
        chosen.append(best)
        total += rows[best]
        is_available[best] = False
    return np.array(chosen, np.int64)


def choose_exemplars_by_class(
    features: np.ndarray, labels: np.ndarray, class_names: Sequence[str], num: int
) -> dict[str, np.ndarray]:
    """Returns the features of `num` exemplars of each class that has rows, float32.

    Args:
        features: `(n, num_features)`.
        labels: Integers `(n,)`, positions in `class_names`.
        class_names: The classes.
        num: Number of exemplars per class; 0 for none.
    """
    exemplars = {}
    for label, name in enumerate(class_names):
        own = features[labels == label]
        if num and len(own):
            exemplars[name] = own[choose_exemplars(own, num)].astype(np.float32)
    return exemplars


def unseen_rows(stored: np.ndarray, known: np.ndarray, num: int) -> np.ndarray:
    """Returns the first `num` stored rows whose images are not among the known rows.

    Args:
        stored: Features of one class, the most representative first, `(n, num_features)`.
        known: Features of the same class, `(m, num_features)`; m may be 0.
        num: Maximum number of rows.

    Example:
        >>> import numpy as np
        >>> from tlkit.continual.exemplars import unseen_rows
        >>> unseen_rows(np.array([[1.0], [2.0], [3.0]]), np.array([[2.0]]), 5).tolist()
        [[1.0], [3.0]]
    """
    is_other = [
        not len(known)
        or np.linalg.norm(known - row, axis=1).min() > _SAME_IMAGE * np.linalg.norm(row)
        for row in stored
    ]
    return stored[np.flatnonzero(is_other)[: max(num, 0)]]


def _unusable(path: Path, problem: str) -> RunError:
    return RunError(
        f"`run` must have valid exemplars. Received: {str(path.parent)!r}, whose {path.name} is "
        f"{problem}. Remove the file: exemplars are then chosen anew from the available images."
    )
