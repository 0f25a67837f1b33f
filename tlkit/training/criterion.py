"""By what models are compared: validation images count in it as training images do in the loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.images import ImageSplit
from tlkit.data.splits import class_weights
from tlkit.errors import DataError
from tlkit.evaluation.data_checks import Images
from tlkit.evaluation.metrics import evaluate_probabilities
from tlkit.evaluation.names import num_classes_of
from tlkit.evaluation.outputs import (
    collect_weighed,
    image_accuracies,
    image_losses,
)
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.training.best import is_better
from tlkit.training.objective import metrics_of, targets_of


@dataclass(frozen=True)
class Criterion:
    """What decides between two models, or two epochs of one: an accuracy, and at the same a loss.

    With weights of classes or of images both are weighed by them, as the loss of training is.
    Classes are weighed by how often they come among the very images that are measured on: the
    accuracy is then the mean of the recalls.

    Attributes:
        class_weight: "balanced" or `None`.
        has_weights: Whether the images measured on have weights of their own.
    """

    class_weight: str | None = None
    has_weights: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether every image counts once."""
        return self.class_weight is None and not self.has_weights

    @property
    def name(self) -> str:
        """The accuracy that decides, in words."""
        if self.is_plain:
            return "accuracy"
        return "balanced accuracy" if self.class_weight else "weighted accuracy"

    def weights(
        self, labels: np.ndarray, own: np.ndarray | None, num_classes: int
    ) -> np.ndarray | None:
        """Returns how much each image counts, `(n,)`; `None` where each counts once.

        Args:
            labels: Whole numbers `(n,)`; with several labels rows of 0/1.
            own: The images' own weights, `(n,)`, or `None`.
            num_classes: How many classes there are.

        Raises:
            DataError: Weights are negative or not finite, or none is above zero.
        """
        if self.is_plain or (own is None and self.class_weight is None):
            return None
        weights = np.ones(len(labels)) if own is None else np.asarray(own, np.float64).reshape(-1)
        if not np.isfinite(weights).all() or np.any(weights < 0) or not np.any(weights > 0):
            raise DataError(
                "`validation` must have finite weights of at least 0, and some above. Received: "
                f"weights from {weights.min()} to {weights.max()}. Leave them out to let every "
                "image count once."
            )
        if self.class_weight is not None:
            weights = weights * class_weights(labels, num_classes)[labels]
        return weights

    def metrics(self, model: keras.Model, *, one_hot: bool = False) -> list[keras.metrics.Metric]:
        """Returns the accuracy and the cross-entropy that decide, to be weighed by Keras.

        None where they are those that are measured anyway.
        """
        if self.is_plain:
            return []
        prefix = "balanced" if self.class_weight else "weighted"
        return metrics_of(model, one_hot=one_hot, prefix=f"{prefix}_")


@dataclass(frozen=True)
class Score:
    """What a model reached on images that decide.

    Attributes:
        value: The accuracy that decides, see `Criterion`, 0...1.
        loss: The cross-entropy, weighed likewise, in nats.
        accuracy: That of images that each count once, 0...1.
        num_images: How many there are.
    """

    value: float
    loss: float
    accuracy: float
    num_images: int

    def is_better_than(self, other: "Score") -> bool:
        """Whether the accuracy is higher or, where it is the same, the loss lower."""
        return is_better((self.value, self.loss), (other.value, other.loss))

    def record(self) -> list[float]:
        """Returns what JSON can hold of it."""
        return [self.value, self.loss, self.num_images, self.accuracy]

    @classmethod
    def from_record(cls, record: float | Sequence[float] | None) -> "Score | None":
        """Makes a score of that again, or of what was written before there were two accuracies."""
        if record is None:
            return None
        if not isinstance(record, Sequence):  # an accuracy alone
            return cls(record, 0.0, record, 0)
        value, loss, num_images, *accuracy = record
        return cls(value, loss, accuracy[0] if accuracy else value, int(num_images))


def criterion_for(images: Images | None, class_weight: str | None) -> Criterion:
    """Returns what decides on images that a training is measured on."""
    has_weights = isinstance(images, tf.data.Dataset) and len(images.element_spec) > 2
    return Criterion(class_weight, has_weights)


def score_on(model: keras.Model, images: Images, class_weight: str | None) -> Score:
    """Measures a model on images that decide, in one pass."""
    criterion = criterion_for(images, class_weight)
    (outputs,), labels, own = collect_weighed([model], images)
    return score_of(model, outputs, labels, own, criterion)


def score_of(
    model: keras.Model,
    outputs: np.ndarray,
    labels: np.ndarray,
    own: np.ndarray | None,
    criterion: Criterion,
) -> Score:
    """Measures outputs that a model gave.

    Args:
        model: Says what its outputs mean.
        outputs: `(n, num_outputs)`; of a binary head with a sigmoid both columns.
        labels: As the images' source gives them.
        own: The images' own weights, `(n,)`, or `None`.
        criterion: What decides.
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
    if weights is not None:
        given = (outputs, targets, kind, outputs_logits(model))
        value = float(np.average(image_accuracies(*given), weights=weights))
        loss = float(np.average(image_losses(*given), weights=weights))
    return Score(value, loss, report.accuracy, report.num_images)


def plain_labels(labels: np.ndarray, model: keras.Model) -> np.ndarray:
    """Returns labels as scikit-learn takes them: integers `(n,)`, or 0/1 `(n, num_labels)`."""
    targets = targets_of(labels, model).numpy().astype(np.int64)
    return targets[:, 0] if head_kind(model) == "binary" else targets


def labels_of(images: Images, model: keras.Model) -> np.ndarray:
    """Returns the labels of all images, likewise; a `tf.data.Dataset` is read through."""
    if isinstance(images, ImageSplit):
        return plain_labels(images.labels, model)
    labels: Sequence[np.ndarray] = [batch[1].numpy() for batch in images]
    return plain_labels(np.concatenate(labels), model)
