"""The criterion that models are compared by, weighted on validation images as the loss is."""

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
    collect_weighted,
    image_accuracies,
    image_losses,
)
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.training.best import is_better
from tlkit.training.objective import metrics_of, targets_of


@dataclass(frozen=True)
class Criterion:
    """The criterion between two models, or two epochs: an accuracy, and a loss if it is equal.

    With class weights or sample weights both are weighted, as the training loss is. Class weights
    come from the class frequencies of the evaluated images themselves, so that the accuracy is the
    mean recall.

    Attributes:
        class_weight: "balanced" or `None`.
        has_weights: Whether the evaluated images have sample weights.
    """

    class_weight: str | None = None
    has_weights: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether all images have the same weight."""
        return self.class_weight is None and not self.has_weights

    @property
    def name(self) -> str:
        """The name of the accuracy that decides."""
        if self.is_plain:
            return "accuracy"
        return "balanced accuracy" if self.class_weight else "weighted accuracy"

    def weights(
        self, labels: np.ndarray, own: np.ndarray | None, num_classes: int
    ) -> np.ndarray | None:
        """Returns the weight of each image, `(n,)`; `None` if all have the same weight.

        Args:
            labels: Integers `(n,)`; for a multi-label head rows of 0/1.
            own: Sample weights, `(n,)`, or `None`.
            num_classes: Number of classes.

        Raises:
            DataError: A weight is negative or not finite, or none is above zero.
        """
        if self.is_plain or (own is None and self.class_weight is None):
            return None
        weights = np.ones(len(labels)) if own is None else np.asarray(own, np.float64).reshape(-1)
        if not np.isfinite(weights).all() or np.any(weights < 0) or not np.any(weights > 0):
            raise DataError(
                "`validation` must have finite weights of at least 0, and some above 0. Received: "
                f"weights from {weights.min()} to {weights.max()}. Leave the weights out to give "
                "every image the same."
            )
        if self.class_weight is not None:
            weights = weights * class_weights(labels, num_classes)[labels]
        return weights

    def metrics(self, model: keras.Model, *, one_hot: bool = False) -> list[keras.metrics.Metric]:
        """Returns the accuracy and the cross-entropy that decide, to be weighted by Keras.

        Empty if the metrics that are always measured decide.
        """
        if self.is_plain:
            return []
        prefix = "balanced" if self.class_weight else "weighted"
        return metrics_of(model, one_hot=one_hot, prefix=f"{prefix}_")


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


def criterion_for(images: Images | None, class_weight: str | None) -> Criterion:
    """Returns the criterion for validation images."""
    has_weights = isinstance(images, tf.data.Dataset) and len(images.element_spec) > 2
    return Criterion(class_weight, has_weights)


def score_on(model: keras.Model, images: Images, class_weight: str | None) -> Score:
    """Evaluates a model on the images that decide, in one pass."""
    criterion = criterion_for(images, class_weight)
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
    if weights is not None:
        given = (outputs, targets, kind, outputs_logits(model))
        value = float(np.average(image_accuracies(*given), weights=weights))
        loss = float(np.average(image_losses(*given), weights=weights))
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
