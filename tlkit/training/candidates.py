"""Models that are compared on validation images, by their calibrated cross-entropy."""

from dataclasses import dataclass

import keras
import numpy as np

from tlkit.data.class_weighting import ClassWeighting
from tlkit.evaluation.calibration import best_factor, logits_of
from tlkit.evaluation.data_checks import Images
from tlkit.evaluation.intervals import mean_with_error
from tlkit.evaluation.names import num_classes_of
from tlkit.evaluation.outputs import collect_weighted, decision_accuracies, decision_losses
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.training.criterion import Score, criterion_for, plain_labels, score_of

_LOG_FACTORS = (-3.0, 3.0)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model's figures on the images that decide.

    Attributes:
        score: The score, of the model as it is.
        losses: The cross-entropy of each image at the temperature that fits best, `(n,)`; with
            class weights and several labels, the weighted mean over its labels.
        accuracies: The accuracy that decides, of each image, `(n,)`.
        weights: The weight of each image in the criterion, `(n,)`.
    """

    score: Score
    losses: np.ndarray
    accuracies: np.ndarray
    weights: np.ndarray

    @property
    def loss(self) -> float:
        """The mean of `losses`, in nats."""
        return mean_with_error(self.losses, self.weights)[0]

    def gain_over(self, other: "Candidate") -> tuple[float, float]:
        """Returns how much lower the mean loss is than the other's, and the standard error."""
        return mean_with_error(other.losses - self.losses, self.weights)

    def accuracy_gain_over(self, other: "Candidate") -> tuple[float, float]:
        """Returns how much higher the accuracy is than the other's, and the standard error."""
        return mean_with_error(self.accuracies - other.accuracies, self.weights)


def prefers_other(gain: float, error: float, *, is_unchanged: bool) -> bool:
    """Whether the model that was there is preferred to a fine-tuned one.

    The fine-tuned one is taken unless the other is better by more than one standard error; if it
    has its initial weights, it must be better by more than one itself.

    Args:
        gain: See `Candidate.gain_over`, of the fine-tuned model.
        error: Its standard error.
        is_unchanged: Whether fine-tuning has kept the initial weights.

    Example:
        >>> from tlkit.training.candidates import prefers_other
        >>> prefers_other(-0.1, 0.2, is_unchanged=False), prefers_other(0.1, 0.2, is_unchanged=True)
        (False, True)
    """
    return gain <= error if is_unchanged else gain < -error


def evaluate_candidate(model: keras.Model, images: Images, weighting: ClassWeighting) -> Candidate:
    """Evaluates a model that is compared with others for the same classes on the same images.

    It has the temperature that fits it best: label smoothing makes a model underconfident, which
    is no reason to prefer another.

    Args:
        model: A model from pixels 0...255 to logits or probabilities.
        images: Validation images.
        weighting: How classes count, see `criterion_for`.
    """
    criterion = criterion_for(images, weighting)
    (outputs,), labels, own = collect_weighted([model], images, description="validation")
    kind, targets = head_kind(model), plain_labels(labels, model)
    weights = criterion.weights(targets, own, num_classes_of(model))
    weights = np.ones(len(targets)) if weights is None else weights
    logits = outputs.astype(np.float64) if outputs_logits(model) else logits_of(outputs, kind)
    if criterion.weighs_labels(targets):  # each label of each image is a decision of its own
        of_labels = weights[:, np.newaxis] * weighting.decision_weights(targets)
        decisions = (logits.reshape(-1, 1), targets.reshape(-1), "binary", of_labels.reshape(-1))
        factor = best_factor(*decisions, _LOG_FACTORS)
    else:
        factor = best_factor(logits, targets, kind, weights, _LOG_FACTORS)
    losses = criterion.of_images(decision_losses(factor * logits, targets, kind, True), targets)
    accuracies = criterion.of_images(decision_accuracies(logits, targets, kind, True), targets)
    return Candidate(score_of(model, outputs, labels, own, criterion), losses, accuracies, weights)
