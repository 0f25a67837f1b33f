"""«None of these»: images whose features lie far from all that a model was trained on."""

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import beta

from tlkit.errors import ArgumentError, DataError, RunError, check_fraction
from tlkit.evaluation.intervals import Interval
from tlkit.models.flattening import below, flat
from tlkit.models.heads import feature_cut
from tlkit.models.signature import signature
from tlkit.utils.files import written_aside
from tlkit.utils.formatting import interval, percent
from tlkit.utils.text_repr import ShownAsParagraphs

NUM_NEIGHBOURS = 5
MAX_STORED = 10_000
"""Most training images that are kept to compare with."""


@dataclass(frozen=True, eq=False)
class Rejection(ShownAsParagraphs):
    """A threshold on how far an image's features lie from the training images'.

    Attributes:
        signature: Of the part of the model that computes the features; a part that was trained
            further has another one, and needs another threshold.
        neighbours: Unit vectors of training images, float32 `(num_stored, num_features)`.
        num_neighbours: Which neighbour's distance counts: the 5th nearest.
        threshold: Novelty above which an image is called unknown.
        keep: Share of known images that was to be kept, 0...1.
        num_images: Validation images that the threshold was chosen on.
        wrongly_rejected: Share of them that lies above it.
        interval: 95 % interval of the share of new known images that will be rejected, given
            these validation images; holds for images of the same kind as they are.
        by_class: For each class the validation images rejected, and how many there are; empty
            with several labels an image.
        notes: What is to be known besides.
    """

    _left_out = ("signature", "neighbours")
    _derived = ("num_stored",)

    signature: str
    neighbours: np.ndarray
    num_neighbours: int
    threshold: float
    keep: float
    num_images: int
    wrongly_rejected: float
    interval: Interval
    by_class: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...] = ()

    @property
    def num_stored(self) -> int:
        """How many training images are kept to compare with."""
        return len(self.neighbours)

    def save(self, path: Path) -> None:
        """Writes an `.npz` file, which appears whole."""
        record = json.dumps({**self.as_dict(), "signature": self.signature})
        with written_aside(path) as aside, aside.open("wb") as file:
            np.savez(file, neighbours=self.neighbours, record=np.array(record))

    @classmethod
    def load(cls, path: Path) -> "Rejection":
        """Reads what `save` wrote.

        Raises:
            RunError: The file is damaged.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                record = json.loads(str(arrays["record"]))
                neighbours = arrays["neighbours"]
            del record["num_stored"]
            low, high = record.pop("interval")
            by_class = {name: tuple(counts) for name, counts in record.pop("by_class").items()}
            notes = tuple(record.pop("notes"))
            return cls(
                neighbours=neighbours,
                interval=(low, high),
                by_class=by_class,
                notes=notes,
                **record,
            )
        except (
            OSError,
            EOFError,
            ValueError,
            RecursionError,
            KeyError,
            TypeError,
            zipfile.BadZipFile,
        ) as error:
            raise RunError(
                f"{path.name} must be whole. Received: {str(path)!r}, which is damaged. Train the "
                "run again, in another folder."
            ) from error

    def __str__(self) -> str:
        lines = [
            f"unknown above a novelty of {self.threshold:.4f}: wrongly rejects "
            f"{percent(self.wrongly_rejected)} of {self.num_images:,} validation images "
            f"({interval(self.interval)} of new ones, 95 % interval)"
        ]
        return "\n".join([*lines, *self.notes])


def fit_threshold(novelties: np.ndarray, keep: float) -> tuple[float, Interval]:
    """Returns the novelty that keeps `keep` of known images, and what to expect of new ones.

    The threshold is the ⌈(n + 1) · keep⌉-th smallest of n: of new images of the same kind at
    least the share `keep` stays below it on average, whatever their distribution. The share
    rejected, given these n images, follows a beta distribution, whose 95 % interval is given.

    Args:
        novelties: Of images that were not trained on, `(n,)`.
        keep: From 0 to less than 1.

    Raises:
        ArgumentError: If `keep` is no such number.
        DataError: If there are too few images to keep so many: 19 for 95 %.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.rejection import fit_threshold
        >>> threshold, (low, high) = fit_threshold(np.arange(99) / 100, 0.9)
        >>> threshold, round(low, 3), round(high, 3)
        (0.89, 0.05, 0.166)

    Reference:
        Split conformal prediction: Angelopoulos and Bates (2021), section 1 and, for the beta
        distribution, section 3.2, https://arxiv.org/abs/2107.07511.
    """
    check_fraction("keep", keep, example=0.95)
    num_images = len(novelties)
    rank = max(1, math.ceil((num_images + 1) * keep - 1e-9))
    check_enough(num_images, keep)
    low, high = 1 - beta.ppf([0.975, 0.025], rank, num_images + 1 - rank)
    return float(np.sort(novelties)[rank - 1]), (float(low), float(high))


def check_enough(num_images: int, keep: float, remedy: str = "Add some, or keep fewer.") -> None:
    """Raises `DataError` unless a threshold can be chosen on so many validation images.

    Args:
        num_images: How many there are.
        keep: The share of known images to keep.
        remedy: What whoever reads it can do.

    Example:
        >>> from tlkit.evaluation.rejection import check_enough
        >>> check_enough(19, 0.95)
    """
    needed = math.ceil(keep / (1 - keep) - 1e-9)
    if num_images < needed:
        raise DataError(
            f"`validation` must hold at least {needed} images to keep {100 * keep:g} %. Received: "
            f"{num_images}. {remedy}"
        )


def unit_vectors(features: tf.Tensor | np.ndarray) -> tf.Tensor:
    """Returns features as rows of length one, float32 `(n, num_features)`.

    Of features with positions, `(n, height, width, channels)`, it is the mean over them.
    """
    features = tf.cast(features, tf.float32)
    if features.shape.rank > 2:
        features = tf.reduce_mean(features, axis=range(1, features.shape.rank - 1))
    return tf.math.l2_normalize(features, axis=1)


def novelty(
    features: tf.Tensor | np.ndarray, neighbours: tf.Tensor | np.ndarray, num_neighbours: int
) -> tf.Tensor:
    """Returns how far features lie from the nearest training images, float32 `(n,)`.

    One minus the cosine between an image's features and those of its `num_neighbours`-th nearest
    training image: 0 for the same direction, 1 for a right angle.

    Args:
        features: As the model computes them, `(n, num_features)` or with positions.
        neighbours: Unit vectors, `(num_stored, num_features)`.
        num_neighbours: At most as many as are stored.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.rejection import novelty
        >>> stored = np.array([[1, 0], [0.6, 0.8]], np.float32)
        >>> novelty(np.array([[2.0, 0.0], [0.0, 9.0]]), stored, 1).numpy().round(2)
        array([0. , 0.2], dtype=float32)

    Reference:
        Sun et al. (2022), Out-of-Distribution Detection with Deep Nearest Neighbors,
        https://arxiv.org/abs/2204.06507; there the Euclidean distance of unit vectors, whose
        square is twice this.
    """
    cosines = tf.matmul(unit_vectors(features), neighbours, transpose_b=True)
    return 1 - tf.math.top_k(cosines, num_neighbours).values[:, -1]


def with_features(model: keras.Model) -> keras.Model:
    """Returns the model with two outputs: the features that its head reads, and its own."""
    return below(model, [feature_cut(model), flat(model).output])


def check_rejection(rejection: Rejection, model: keras.Model) -> Rejection:
    """Returns `rejection` where the model still computes the features that it was fitted to.

    Raises:
        ArgumentError: If it does not, or `rejection` is something else.
    """
    if not isinstance(rejection, Rejection):
        raise ArgumentError(
            "`rejection` must be what `fit_rejection` returned. Received: an object of type "
            f"{type(rejection).__name__}."
        )
    if signature(below(model, feature_cut(model))) != rejection.signature:
        raise ArgumentError(
            "`rejection` must have been fitted to this model as it is below its head. Received: "
            "one of other features. Call `fit_rejection(model, data)` again after training."
        )
    return rejection
