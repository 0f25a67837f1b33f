"""The weights that a stage of training keeps: the initial ones, the last ones, or between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tlkit.data.class_weighting import ClassWeighting
from tlkit.evaluation.data_checks import Images
from tlkit.training.candidates import Candidate, evaluate_candidate
from tlkit.training.criterion import Score, criterion_for
from tlkit.training.resume import assign_all, values_of
from tlkit.utils.formatting import percent

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
USUAL = 0.75
"""The fraction that is kept unless validation tells another one apart, see benchmarks/README.md."""


@dataclass(frozen=True)
class Mixture:
    """The choice between the initial weights, the last ones and those between them.

    Attributes:
        fraction: The fraction of the weight change that is kept, 0...1.
        score: The score on validation images with it.
        note: The choice in words, with the figures of all candidates.
    """

    fraction: float
    score: Score
    note: str


def choose_mixture(
    model: keras.Model, start: Sequence[np.ndarray], images: Images, weighting: ClassWeighting
) -> Mixture:
    """Chooses by validation how much of a weight change is kept, and sets the model's weights.

    The weights start + fraction (last - start) are evaluated for some fractions. `USUAL` is kept
    unless another fraction has a calibrated cross-entropy that is lower by more than one standard
    error of the paired difference; then the one with the lowest is.

    Args:
        model: The model with the last weights; it gets the chosen ones.
        start: The initial values of `model.weights`.
        images: Validation images.
        weighting: How classes count, see `criterion_for`.

    Reference:
        Wortsman et al. (2022), https://arxiv.org/abs/2109.01903, equation 1 (WiSE-FT).
    """
    last = values_of(model.weights)
    candidates = {}
    for fraction in FRACTIONS:
        assign_all(model.weights, between(start, last, fraction))
        candidates[fraction] = evaluate_candidate(model, images, weighting)
    chosen = best_of(candidates)
    assign_all(model.weights, between(start, last, chosen))
    name = criterion_for(images, weighting).name
    figures = ", ".join(
        f"{percent(one.score.value)} at {percent(fraction, 0)}"
        for fraction, one in candidates.items()
    )
    kept = f"{percent(chosen, 0)} of the weight change is kept"
    if not chosen:
        kept = "the initial weights are restored"
    score = candidates[chosen].score
    note = f"{kept}, chosen on {score.num_images:,} validation images ({name} {figures})"
    return Mixture(chosen, score, note)


def best_of(candidates: Mapping[float, Candidate]) -> float:
    """Returns the fraction with the lowest loss, if it is lower by more than a standard error.

    The difference is that from the fraction `USUAL`, which is returned otherwise.
    """
    best, lowest = USUAL, 0.0
    for fraction, one in candidates.items():
        gain, error = one.gain_over(candidates[USUAL])
        if gain > error and gain > lowest:
            best, lowest = fraction, gain
    return best


def keep_fraction(model: keras.Model, start: Sequence[np.ndarray], fraction: float) -> None:
    """Sets the model's weights to start + fraction (last - start).

    Args:
        model: The model with the last weights.
        start: The initial values of `model.weights`.
        fraction: The fraction of the weight change that is kept, 0...1.
    """
    assign_all(model.weights, between(start, values_of(model.weights), fraction))


def between(
    start: Sequence[np.ndarray], last: Sequence[np.ndarray], fraction: float
) -> list[np.ndarray]:
    """Returns the weights between two sets of them; exact where both are equal, and at the ends."""
    if fraction == 1.0:
        return list(last)
    return [
        (first + fraction * (end - first)).astype(first.dtype)
        for first, end in zip(start, last, strict=True)
    ]
