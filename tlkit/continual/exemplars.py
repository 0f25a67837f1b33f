"""A few stored features of each class, which stand for its images when further classes come."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.errors import ArgumentError, RunError, check_count
from tlkit.utils.files import written_aside

DEFAULT_NUM_EXEMPLARS = 20

_SAME_IMAGE = 1e-3
"""Relative distance of two rows of one image, computed twice in another order of sums at most."""


@dataclass(frozen=True, eq=False)
class Exemplars:
    """Features of some images of each class, the most telling ones of a class first.

    Attributes:
        features: For each class that has any: float32 `(n, num_features)`.
        signature: What computes them from pixels, see `tlkit.models.signature.signature`.
    """

    features: Mapping[str, np.ndarray]
    signature: str

    def save(self, path: Path) -> None:
        """Writes an `.npz` file, which appears whole."""
        names = list(self.features)
        arrays: dict[str, Any] = {
            "names": np.array(names),
            "signature": np.array(self.signature),
            **{f"features_{row}": self.features[name] for row, name in enumerate(names)},
        }
        with written_aside(path) as aside, aside.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path, signature: str) -> "Exemplars":
        """Reads what `save` wrote.

        Args:
            path: The file.
            signature: Of the network that features are wanted of.

        Raises:
            RunError: The file is damaged, or holds another network's features.
        """
        problem = "damaged"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                names = arrays["names"].tolist()
                features = {name: arrays[f"features_{row}"] for row, name in enumerate(names)}
                if str(arrays["signature"]) == signature:
                    return cls(features, signature)
            problem = "of another network"
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise _unusable(path, problem) from error
        raise _unusable(path, problem)


def choose_exemplars(features: np.ndarray, num: int) -> np.ndarray:
    """Returns which rows of one class stand for it best, by herding.

    Features are scaled to norm one. The k-th exemplar is the row that brings the mean of the k
    chosen ones nearest to the mean of all, so that any number of them, from the first on, is a
    choice as well. A row is chosen once.

    Args:
        features: Of one class, `(n, num_features)`.
        num: How many; all, in the same order, where there are no more.

    Returns:
        int64 `(min(n, num),)`, positions of rows, the most telling one first.

    Raises:
        ArgumentError: `features` are not finite rows, or `num` is no whole number, 0 or more.

    Example:
        >>> import numpy as np
        >>> from tlkit.continual.exemplars import choose_exemplars
        >>> choose_exemplars(np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]]), 2).tolist()
        [1, 0]

    Reference:
        Rebuffi et al. (2017), iCaRL, algorithm 4, https://arxiv.org/abs/1611.07725 (there, too,
        features have norm one; section 2.1 scales their means to norm one again, here they stay
        means; it does not say that a row is chosen once, its code does).
    """
    check_count("num", num, minimum=0)
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ArgumentError(
            "`features` must be finite, one row for each image. "
            f"Received: an array of shape {rows.shape}. Give what the head of the network reads."
        )
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(norms > 0, norms, 1.0)
    mean = rows.mean(axis=0) if len(rows) else 0.0
    chosen: list[int] = []
    total = np.zeros(rows.shape[1])
    is_free = np.ones(len(rows), bool)
    for count in range(1, min(num, len(rows)) + 1):
        distances = np.linalg.norm(mean - (total + rows) / count, axis=1)
        best = int(np.argmin(np.where(is_free, distances, np.inf)))
        chosen.append(best)
        total += rows[best]
        is_free[best] = False
    return np.array(chosen, np.int64)


def choose_from_each(
    features: np.ndarray, labels: np.ndarray, class_names: Sequence[str], num: int
) -> dict[str, np.ndarray]:
    """Returns the features of `num` exemplars of each class that has rows, float32.

    Args:
        features: `(n, num_features)`.
        labels: Whole numbers `(n,)`, positions in `class_names`.
        class_names: The classes.
        num: How many of each; 0 gives none.
    """
    found = {}
    for label, name in enumerate(class_names):
        own = features[labels == label]
        if num and len(own):
            found[name] = own[choose_exemplars(own, num)].astype(np.float32)
    return found


def unseen_rows(stored: np.ndarray, known: np.ndarray, num: int) -> np.ndarray:
    """Returns the first `num` stored rows that are of other images than some known rows.

    Args:
        stored: Features of one class, the most telling first, `(n, num_features)`.
        known: Features of the same class, `(m, num_features)`, m may be 0.
        num: How many at most.

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
        f"`run` must be whole. Received: {str(path.parent)!r}, whose {path.name} is {problem}. "
        "Remove the file: exemplars are then chosen anew from the images that are there."
    )
