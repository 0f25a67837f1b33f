"""Outliers among images: those whose features are far from those of all others."""

from dataclasses import dataclass

import numpy as np

from tlkit.evaluation.rejection import MAX_STORED, NUM_NEIGHBOURS, ood_scores, unit_vectors

FENCE = 3.0
"""Number of interquartile ranges above the third quartile from which a score is far out."""

_CHUNK_SIZE = 1024


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Features of images, to which others are compared.

    Attributes:
        vectors: Unit vectors of at most 10,000 of the images, float32 `(num_stored, num_features)`.
        scores: OOD score of each image among the others, `(n,)`.
        threshold: Score above which an image is an outlier.
    """

    vectors: np.ndarray
    scores: np.ndarray
    threshold: float

    def scores_of(self, features: np.ndarray) -> np.ndarray:
        """Returns the OOD scores of other images by their features, `(n,)`."""
        return _scores(unit_vectors(features).numpy(), self.vectors, NUM_NEIGHBOURS)


def find_outliers(features: np.ndarray, *, seed: int = 0) -> Neighbourhood:
    """Scores each image by its distance from the others, see `tlkit.evaluation.rejection`.

    The OOD score is one minus the cosine similarity to the 5th nearest other image, or to the
    farthest of fewer. The threshold is Tukey's outer fence: `FENCE` interquartile ranges above the
    third quartile of the scores.

    Args:
        features: `(n, num_features)`, at least two.
        seed: Seed of the choice among more than 10,000 images to compare with.

    Example:
        >>> import numpy as np
        >>> from tlkit.advice.outliers import find_outliers
        >>> features = np.random.default_rng(0).uniform(0, 1, (30, 8)) + 5
        >>> features[7] = [9, 0, 0, 0, 0, 0, 0, 0]
        >>> found = find_outliers(features)
        >>> np.flatnonzero(found.scores > found.threshold).tolist()
        [7]

    Reference:
        Sun et al. (2022), https://arxiv.org/abs/2204.06507, for the score; Tukey (1977),
        Exploratory Data Analysis, chapter 2, for the fence.
    """
    units: np.ndarray = unit_vectors(features).numpy()
    chosen = np.arange(len(units))
    if len(units) > MAX_STORED:
        chosen = np.sort(np.random.default_rng(seed).permutation(chosen)[:MAX_STORED])
    vectors = units[chosen]
    is_stored = np.isin(np.arange(len(units)), chosen)
    scores = np.empty(len(units))
    # a stored image is its own nearest neighbour
    for rows, own in ((np.flatnonzero(is_stored), 1), (np.flatnonzero(~is_stored), 0)):
        if len(rows):
            scores[rows] = _scores(units[rows], vectors, NUM_NEIGHBOURS + own)
    first, third = np.quantile(scores, [0.25, 0.75])
    return Neighbourhood(vectors, scores, float(third + FENCE * (third - first)))


def _scores(units: np.ndarray, vectors: np.ndarray, num_neighbours: int) -> np.ndarray:
    number = min(num_neighbours, len(vectors))
    return np.concatenate(
        [
            ood_scores(units[start : start + _CHUNK_SIZE], vectors, number).numpy()
            for start in range(0, len(units), _CHUNK_SIZE)
        ]
    )
