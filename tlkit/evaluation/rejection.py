"""Detection of out-of-distribution (OOD) images by the distance of their features."""

import json
import math
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
from tlkit.utils.array_files import read_arrays, write_arrays
from tlkit.utils.formatting import interval, percent
from tlkit.utils.text_repr import ShownAsParagraphs

NUM_NEIGHBOURS = 5
MAX_STORED = 10_000
"""Maximum number of training images whose features are stored."""


@dataclass(frozen=True, eq=False)
class Rejection(ShownAsParagraphs):
    """A threshold on the OOD score: the distance of an image's features from training images.

    Attributes:
        signature: The signature of the part of the model that computes the features; after further
            training of this part it differs, and a new threshold is needed.
        neighbours: Feature vectors of training images, scaled to length one, float32 `(num_stored,
            num_features)`.
        num_neighbours: The k of the k-th nearest neighbour whose distance is the score: 5.
        threshold: OOD score above which an image is rejected.
        keep: Fraction of in-distribution images that was to be accepted, 0...1.
        num_images: Number of validation images that the threshold was chosen on.
        wrongly_rejected: Fraction of them above the threshold.
        interval: 95 % confidence interval of the fraction of new in-distribution images that will
            be rejected, given these validation images.
        by_class: For each class the number of rejected validation images, and of all; empty for
            multi-label data.
        notes: Further notes.
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
        """Number of training images whose features are stored."""
        return len(self.neighbours)

    def save(self, path: Path) -> None:
        """Writes an `.npz` file atomically."""
        record = json.dumps({**self.as_dict(), "signature": self.signature})
        write_arrays(path, {"neighbours": self.neighbours, "record": np.array(record)})

    @classmethod
    def load(cls, path: Path) -> "Rejection":
        """Reads a file that `save` wrote.

        Raises:
            RunError: The file is damaged.
        """
        return read_arrays(
            path,
            cls._from_arrays,
            lambda: RunError(
                f"{path.name} must be intact. Received: {str(path)!r}, which is damaged. Train the "
                "run again, in another folder."
            ),
        )

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Rejection":
        record = json.loads(str(arrays["record"]))
        del record["num_stored"]
        low, high = record.pop("interval")
        by_class = {name: tuple(counts) for name, counts in record.pop("by_class").items()}
        notes = tuple(record.pop("notes"))
        return cls(
            neighbours=arrays["neighbours"],
            interval=(low, high),
            by_class=by_class,
            notes=notes,
            **record,
        )

    def __str__(self) -> str:
        lines = [
            f"OOD score threshold {self.threshold:.4f}: rejects "
            f"{percent(self.wrongly_rejected)} of the in-distribution validation images "
            f"(n = {self.num_images:,}, 95 % CI for new images {interval(self.interval)})"
        ]
        return "\n".join([*lines, *self.notes])


def fit_threshold(scores: np.ndarray, keep: float) -> tuple[float, Interval]:
    """Returns the OOD threshold that accepts the fraction `keep`, and the interval of rejections.

    The threshold is the ⌈(n + 1) · keep⌉-th smallest of n scores: on average at least the fraction
    `keep` of new in-distribution images is below it, whatever their distribution. The fraction
    rejected, given these n images, has a beta distribution, whose 95 % interval is returned.

    Args:
        scores: OOD scores of images that were not trained on, `(n,)`.
        keep: The fraction to accept, from 0 to less than 1.

    Raises:
        ArgumentError: If `keep` is not in this range.
        DataError: If there are too few images for this fraction: 19 are needed for 95 %.

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
    num_images = len(scores)
    rank = max(1, math.ceil((num_images + 1) * keep - 1e-9))
    check_enough(num_images, keep)
    low, high = 1 - beta.ppf([0.975, 0.025], rank, num_images + 1 - rank)
    return float(np.sort(scores)[rank - 1]), (float(low), float(high))


def check_enough(
    num_images: int, keep: float, remedy: str = "Add images, or lower `keep`."
) -> None:
    """Raises `DataError` if there are too few validation images to choose a threshold.

    Args:
        num_images: Number of validation images.
        keep: The fraction of in-distribution images to accept.
        remedy: The remedy in the error message.

    Example:
        >>> from tlkit.evaluation.rejection import check_enough
        >>> check_enough(19, 0.95)
    """
    needed = math.ceil(keep / (1 - keep) - 1e-9)
    if num_images < needed:
        raise DataError(
            f"`validation` must have at least {needed} images to accept {100 * keep:g} %. "
            f"Received: {num_images}. {remedy}"
        )


def unit_vectors(features: tf.Tensor | np.ndarray) -> tf.Tensor:
    """Returns features as unit vectors, float32 `(n, num_features)`.

    Feature maps `(n, height, width, channels)` are first averaged over positions.
    """
    features = tf.cast(features, tf.float32)
    if features.shape.rank > 2:
        features = tf.reduce_mean(features, axis=range(1, features.shape.rank - 1))
    return tf.math.l2_normalize(features, axis=1)


def ood_scores(
    features: tf.Tensor | np.ndarray, neighbours: tf.Tensor | np.ndarray, num_neighbours: int
) -> tf.Tensor:
    """Returns the OOD scores of images by their features, float32 `(n,)`.

    The score is one minus the cosine similarity to the features of the `num_neighbours`-th nearest
    training image: 0 for the same direction, 1 for orthogonal features.

    Args:
        features: The model's features, `(n, num_features)` or feature maps.
        neighbours: Unit vectors, `(num_stored, num_features)`.
        num_neighbours: The k of the k-th nearest neighbour, at most `num_stored`.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.rejection import ood_scores
        >>> stored = np.array([[1, 0], [0.6, 0.8]], np.float32)
        >>> ood_scores(np.array([[2.0, 0.0], [0.0, 9.0]]), stored, 1).numpy().round(2)
        array([0. , 0.2], dtype=float32)

    Reference:
        Sun et al. (2022), Out-of-Distribution Detection with Deep Nearest Neighbors,
        https://arxiv.org/abs/2204.06507; which uses the Euclidean distance of unit vectors, whose
        square is twice this score.
    """
    cosines = tf.matmul(unit_vectors(features), neighbours, transpose_b=True)
    return 1 - tf.math.top_k(cosines, num_neighbours).values[:, -1]


def with_features(model: keras.Model) -> keras.Model:
    """Returns a model with two outputs: the input features of the head, and the model's output."""
    return below(model, [feature_cut(model), flat(model).output])


def check_rejection(rejection: Rejection, model: keras.Model) -> Rejection:
    """Returns `rejection` if the model still computes the features that it was fitted to.

    Raises:
        ArgumentError: If it does not, or `rejection` has another type.
    """
    if not isinstance(rejection, Rejection):
        raise ArgumentError(
            "`rejection` must be the result of `fit_rejection`. Received: an object of type "
            f"{type(rejection).__name__}. Call `fit_rejection(model, data)`."
        )
    if signature(below(model, feature_cut(model))) != rejection.signature:
        raise ArgumentError(
            "`rejection` must have been fitted to the current features of this model. Received: "
            "a rejection of other features. Call `fit_rejection(model, data)` again after training."
        )
    return rejection
