"""The criterion that models are compared by, weighted on validation images as the loss is."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.class_weighting import ClassWeighting
from tlkit.data.images import ImageSplit
from tlkit.errors import DataError
from tlkit.evaluation.data_checks import Images
from tlkit.evaluation.metrics import evaluate_probabilities
from tlkit.evaluation.names import num_classes_of
from tlkit.evaluation.outputs import (
    collect_weighted,
    decision_accuracies,
    decision_losses,
)
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.training.best import is_better
from tlkit.training.class_losses import label_metrics
from tlkit.training.objective import metrics_of, targets_of


@dataclass(frozen=True)
class Criterion:
    """The criterion between two models, or two epochs: an accuracy, and a loss if it is equal.

    With class weights or sample weights both are weighted, as the training loss is. Class weights
    come from the class frequencies of the evaluated images themselves, so that the accuracy is the
    mean recall.

    Attributes:
        weighting: How classes count.
        has_weights: Whether the evaluated images have sample weights.
    """

    weighting: ClassWeighting = field(default_factory=ClassWeighting)
    has_weights: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether all images have the same weight."""
        return self.weighting.is_plain and not self.has_weights

    @property
    def name(self) -> str:
        """The name of the accuracy that decides."""
        is_weighted = self.has_weights and self.weighting.is_plain
        return "weighted accuracy" if is_weighted else self.weighting.criterion

    def weights(
        self, labels: np.ndarray, own: np.ndarray | None, num_classes: int
    ) -> np.ndarray | None:
        """Returns the weight of each image, `(n,)`; `None` if all have the same weight.

        Class weights of several labels are those of decisions, see `of_images`.

        Args:
            labels: Integers `(n,)`; for a multi-label head rows of 0/1.
            own: Sample weights, `(n,)`, or `None`.
            num_classes: Number of classes.

        Raises:
            DataError: A weight is negative or not finite, or none is above zero.
        """
        if self.is_plain or (own is None and self.weighting.is_plain):
            return None
        weights = np.ones(len(labels)) if own is None else np.asarray(own, np.float64).reshape(-1)
        if not np.isfinite(weights).all() or np.any(weights < 0) or not np.any(weights > 0):
            raise DataError(
                "`validation` must have finite weights of at least 0, and some above 0. Received: "
                f"weights from {weights.min()} to {weights.max()}. Leave the weights out to give "
                "every image the same."
            )
        if self.weighting.is_plain or labels.ndim == 2:
            return weights
        return weights * self.weighting.factors(np.bincount(labels, minlength=num_classes))[labels]

    def weighs_labels(self, labels: np.ndarray) -> bool:
        """Whether the labels of an image have different weights."""
        return labels.ndim == 2 and not self.weighting.is_plain

    def of_images(self, decisions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns the mean over the labels of each image, weighted by class weights, `(n,)`.

        Args:
            decisions: Accuracies or losses, `(n, 1)` or `(n, num_labels)`.
            labels: See `weights`.
        """
        if not self.weighs_labels(labels):
            return np.asarray(decisions.mean(axis=1))
        weights = self.weighting.decision_weights(labels)
        return np.asarray((decisions * (weights / weights.mean())).mean(axis=1))

    def metrics(
        self, model: keras.Model, labels: np.ndarray | None, *, one_hot: bool = False
    ) -> list[keras.metrics.Metric]:
        """Returns the accuracy and the cross-entropy that decide, to be weighted by Keras.

        Empty if the metrics that are always measured decide.

        Args:
            model: A classifier.
            labels: The labels of the validation images, see `plain_labels`; needed for class
                weights of several labels.
            one_hot: Whether the labels of a softmax head are one-hot.
        """
        if self.is_plain:
            return []
        prefix = self.name.replace("accuracy", "").replace(" ", "_")
        if labels is not None and self.weighs_labels(labels):
            mean = self.weighting.decision_weights(labels).mean()
            return label_metrics(model, self.weighting.label_factors(labels) / mean, prefix)
        return metrics_of(model, one_hot=one_hot, prefix=prefix)


@dataclass(frozen=True)
class Score:
    """A model's figures on the images that decide.

    Attributes:
        value: The accuracy that decides, see `Criterion`, 0...1.
        loss: The cross-entropy with the same weights, in nats.
        accuracy: The unweighted accuracy, 0...1.
        num_images: Number of images.
    """

    value: float
    loss: float
    accuracy: float
    num_images: int

    def is_better_than(self, other: "Score") -> bool:
        """Whether the accuracy is higher or, if equal, the loss is lower."""
        return is_better((self.value, self.loss), (other.value, other.loss))

    def record(self) -> list[float]:
        """Returns the score as a JSON list."""
        return [self.value, self.loss, self.num_images, self.accuracy]

    @classmethod
    def from_record(cls, record: float | Sequence[float] | None) -> "Score | None":
        """Reads what `record` returned; earlier versions wrote one accuracy, or a bare number."""
        if record is None:
            return None
        if not isinstance(record, Sequence):  # an accuracy alone
            return cls(record, 0.0, record, 0)
        value, loss, num_images, *accuracy = record
        return cls(value, loss, accuracy[0] if accuracy else value, int(num_images))


def criterion_for(images: Images | None, weighting: ClassWeighting) -> Criterion:
    """Returns the criterion for validation images."""
    has_weights = isinstance(images, tf.data.Dataset) and len(images.element_spec) > 2
    return Criterion(weighting, has_weights)


def score_on(model: keras.Model, images: Images, weighting: ClassWeighting) -> Score:
    """Evaluates a model on the images that decide, in one pass."""
    criterion = criterion_for(images, weighting)
    (outputs,), labels, own = collect_weighted([model], images)
    return score_of(model, outputs, labels, own, criterion)


def score_of(
    model: keras.Model,
    outputs: np.ndarray,
    labels: np.ndarray,
    own: np.ndarray | None,
    criterion: Criterion,
) -> Score:
    """Evaluates the outputs of a model.

    Args:
        model: The model, for its kind of head.
        outputs: `(n, num_outputs)`; for a binary head with a sigmoid both columns.
        labels: As the images' source gives them.
        own: Sample weights, `(n,)`, or `None`.
        criterion: The criterion that decides.
    """
    kind, num_classes = head_kind(model), num_classes_of(model)
    report = evaluate_probabilities(
        outputs,
        plain_labels(labels, model),
        [str(index) for index in range(num_classes)],
        kind=kind,
        from_logits=outputs_logits(model),
    )
    value, loss = report.accuracy, report.loss
    targets = plain_labels(labels, model)
    weights = criterion.weights(targets, own, num_classes)
    if weights is not None or criterion.weighs_labels(targets):
        given = (outputs, targets, kind, outputs_logits(model))
        accuracies = criterion.of_images(decision_accuracies(*given), targets)
        value = float(np.average(accuracies, weights=weights))
        losses = criterion.of_images(decision_losses(*given), targets)
        loss = float(np.average(losses, weights=weights))
    return Score(value, loss, report.accuracy, report.num_images)


def plain_labels(labels: np.ndarray, model: keras.Model) -> np.ndarray:
    """Returns labels in scikit-learn's form: integers `(n,)`, or 0/1 `(n, num_labels)`."""
    targets = targets_of(labels, model).numpy().astype(np.int64)
    return targets[:, 0] if head_kind(model) == "binary" else targets


def labels_of(images: Images, model: keras.Model) -> np.ndarray:
    """Returns the labels of all images in the same form; reads a `tf.data.Dataset` to its end."""
    if isinstance(images, ImageSplit):
        return plain_labels(images.labels, model)
    labels: Sequence[np.ndarray] = [batch[1].numpy() for batch in images]
    return plain_labels(np.concatenate(labels), model)
