"""The weights that a stage of training keeps: the initial ones, the last ones, or between them."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tlkit.evaluation.calibration import best_factor, logits_of
from tlkit.evaluation.data_checks import Images
from tlkit.evaluation.intervals import mean_with_error
from tlkit.evaluation.names import num_classes_of
from tlkit.evaluation.outputs import collect_weighted, image_losses
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.training.criterion import Score, criterion_for, plain_labels, score_of
from tlkit.training.resume import assign_all, values_of
from tlkit.utils.formatting import percent

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
USUAL = 0.75
"""The fraction that is kept unless validation tells another one apart, see benchmarks/README.md."""

_LOG_FACTORS = (-3.0, 3.0)


@dataclass(frozen=True, eq=False)
class Candidate:
    """The weights at one fraction of the way from the initial to the last ones.

    Attributes:
        fraction: 0 for the initial weights, 1 for the last ones.
        score: The score on validation images.
        losses: The cross-entropy of each image at the temperature that fits best, `(n,)`.
        weights: The weight of each image in the criterion, `(n,)`.
    """

    fraction: float
    score: Score
    losses: np.ndarray
    weights: np.ndarray

    def gain_over(self, other: "Candidate") -> tuple[float, float]:
        """Returns how much lower the mean loss is than the other's, and the standard error."""
        return mean_with_error(other.losses - self.losses, self.weights)


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
    model: keras.Model, start: Sequence[np.ndarray], images: Images, class_weight: str | None
) -> Mixture:
    """Chooses by validation how much of a weight change is kept, and sets the model's weights.

    The weights start + fraction (last - start) are evaluated for some fractions. `USUAL` is kept
    unless another fraction has a cross-entropy that is lower by more than one standard error of the
    paired difference; then the one with the lowest is. Each is compared at the temperature that
    fits it best, as label smoothing makes the last weights underconfident.

    Args:
        model: The model with the last weights; it gets the chosen ones.
        start: The initial values of `model.weights`.
        images: Validation images.
        class_weight: "balanced" or `None`, see `criterion_for`.

    Reference:
        Wortsman et al. (2022), https://arxiv.org/abs/2109.01903, equation 1 (WiSE-FT).
    """
    last = values_of(model.weights)
    candidates = []
    for fraction in FRACTIONS:
        assign_all(model.weights, _between(start, last, fraction))
        candidates.append(_evaluated(model, fraction, images, class_weight))
    chosen = best_of(candidates)
    assign_all(model.weights, _between(start, last, chosen.fraction))
    name = criterion_for(images, class_weight).name
    figures = ", ".join(
        f"{percent(one.score.value)} at {percent(one.fraction, 0)}" for one in candidates
    )
    kept = f"{percent(chosen.fraction, 0)} of the weight change is kept"
    if not chosen.fraction:
        kept = "the initial weights are restored"
    note = f"{kept}, chosen on {chosen.score.num_images:,} validation images ({name} {figures})"
    return Mixture(chosen.fraction, chosen.score, note)


def best_of(candidates: Sequence[Candidate]) -> Candidate:
    """Returns the candidate with the lowest loss, if it is lower by more than a standard error.

    The difference is that from the candidate of the fraction `USUAL`, which is returned otherwise.
    """
    (usual,) = (one for one in candidates if one.fraction == USUAL)
    best, lowest = usual, 0.0
    for one in candidates:
        gain, error = one.gain_over(usual)
        if gain > error and gain > lowest:
            best, lowest = one, gain
    return best


def _between(
    start: Sequence[np.ndarray], last: Sequence[np.ndarray], fraction: float
) -> list[np.ndarray]:
    """Returns the weights between two sets of them; exact where both are equal, and at the ends."""
    if fraction == 1.0:
        return list(last)
    return [
        (first + fraction * (end - first)).astype(first.dtype)
        for first, end in zip(start, last, strict=True)
    ]


def _evaluated(
    model: keras.Model, fraction: float, images: Images, class_weight: str | None
) -> Candidate:
    criterion = criterion_for(images, class_weight)
    (outputs,), labels, own = collect_weighted([model], images, description="validation")
    score = score_of(model, outputs, labels, own, criterion)
    kind, targets = head_kind(model), plain_labels(labels, model)
    weights = criterion.weights(targets, own, num_classes_of(model))
    weights = np.ones(len(targets)) if weights is None else weights
    logits = outputs.astype(np.float64) if outputs_logits(model) else logits_of(outputs, kind)
    return Candidate(fraction, score, _calibrated_losses(logits, targets, kind, weights), weights)


def _calibrated_losses(
    logits: np.ndarray, targets: np.ndarray, kind: str, weights: np.ndarray
) -> np.ndarray:
    factor = best_factor(logits, targets, kind, weights, _LOG_FACTORS)
    return image_losses(factor * logits, targets, kind, True)
