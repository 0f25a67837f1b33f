"""How often a model is right."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from tlkit.data.images import ImageSplit
from tlkit.errors import DataError, check_choice
from tlkit.evaluation.checks import check_dataset, check_indices, check_outputs, check_rows
from tlkit.evaluation.forward import forward_of
from tlkit.evaluation.names import check_class_names, num_classes_of
from tlkit.evaluation.reports import ClassScore, EvaluationReport, Mistake
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.progress import bar

THRESHOLD = 0.5
"""From this probability on, a label of a multi-label head counts as given."""


def evaluate(
    model: keras.Model,
    images: ImageSplit | tf.data.Dataset,
    class_names: Sequence[str] | None = None,
    *,
    batch_size: int | None = None,
) -> EvaluationReport:
    """Measures how often `model` is right, in one pass that keeps its outputs and no pixels.

    Args:
        model: From pixels 0...255 to logits or probabilities.
        images: A split; or a dataset of batches `(images, labels)` or `(images, labels, weights)`,
            images `(batch, height, width, 3)`, labels whole numbers `(batch,)`, one-hot rows, or
            rows of 0/1 for a multi-label head. Weights are left out: every image counts once.
        class_names: In the order of the model's outputs; "0", "1", ... when not given.
        batch_size: Images in one forward pass; the split's own when not given. A dataset brings
            its own batches.

    Raises:
        ArgumentError: If `class_names` are too many or too few; if a dataset is not batched or
            has no end; if the model gives outputs that are not finite.
        DataError: If there is no image; if labels are not among the model's classes.

    Example:
        >>> import keras, tensorflow as tf, tlkit
        >>> model = keras.Sequential(
        ...     [keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
        >>> dataset = tf.data.Dataset.from_tensor_slices((tf.zeros((4, 2, 2, 3)), [0, 0, 0, 2]))
        >>> report = tlkit.evaluate(model, dataset.batch(2), ["cat", "dog", "owl"])
        >>> report.accuracy, [score.num_images for score in report.per_class]
        (0.75, [3, 0, 1])
    """
    num_classes = num_classes_of(model)
    if class_names is None:
        class_names = [str(index) for index in range(num_classes)]
    names = check_class_names(class_names, num_classes)
    if isinstance(images, ImageSplit):
        paths: Sequence[str] | None = images.paths
        dataset = images.dataset(batch_size=batch_size)
        total = math.ceil(images.num_images / (batch_size or images.batch_size))
    else:
        paths, dataset = None, images
        check_dataset(dataset, batch_size, model.input_shape)
        total = int(dataset.cardinality())
    outputs, labels = _outputs_and_labels(model, dataset, total)
    if head_kind(model) == "binary" and not outputs_logits(model):
        outputs = np.concatenate([1 - outputs, outputs], axis=1)
    return evaluate_probabilities(
        outputs,
        labels,
        names,
        kind=head_kind(model),
        from_logits=outputs_logits(model),
        paths=paths,
    )


def evaluate_probabilities(
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    kind: str = "softmax",
    from_logits: bool = False,
    paths: Sequence[str] | None = None,
) -> EvaluationReport:
    """Measures how often given outputs are right.

    The loss is computed in float64, from the logits where they are given; from probabilities,
    which are first clipped to 1e-7...1, as Keras does.

    Args:
        probabilities: `(n, num_classes)`, 0...1; for a binary head `(n, 2)`, [1 - p, p]. With
            `from_logits=True` logits: `(n, num_classes)`, for a binary head `(n, 1)`.
        labels: Whole numbers `(n,)` or one-hot rows; with several labels rows of 0/1.
        class_names: In the order of the outputs.
        kind: The head: "softmax", "binary" or "multi_label".
        from_logits: Whether `probabilities` are logits.
        paths: Each image's file, for the list of mistakes.

    Raises:
        ArgumentError: If outputs do not fit `class_names` or are not finite.
        DataError: If there is no image; if labels are not among the classes.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.metrics import evaluate_probabilities
        >>> print(evaluate_probabilities(
        ...     np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), ["ant", "bee"]))
        50.0 % of 2 images right (95 % interval 9.5 to 90.5 %), loss 0.8574
        class  precision  recall      F1  images
        ant        0.500   1.000   0.667       1
        bee        0.000   0.000   0.000       1
    """
    check_choice("kind", kind, ("softmax", "binary", "multi_label"))
    outputs = np.asarray(probabilities)
    check_outputs(outputs, 1 if kind == "binary" and from_logits else len(class_names), kind)
    names = check_class_names(class_names, 2 if kind == "binary" else outputs.shape[1])
    labels = np.asarray(labels)
    if kind == "multi_label":
        targets = check_rows(labels, outputs.shape)
        shares = _sigmoid(outputs) if from_logits else outputs
        predicted = (shares >= THRESHOLD).astype(np.int64)
        confidence = np.where(predicted == targets, 0, np.where(predicted, shares, 1 - shares))
    else:
        targets = check_indices(labels, len(outputs), len(names))
        shares = _shares(outputs, kind, from_logits)
        predicted = shares.argmax(axis=1)
        confidence = shares
    accuracy = float(np.mean(predicted == targets))
    return EvaluationReport(
        kind=kind,
        num_images=len(targets),
        accuracy=accuracy,
        interval=wilson_interval(accuracy, len(targets)),
        loss=_mean_loss(outputs, targets, kind, from_logits),
        per_class=_class_scores(targets, predicted, names),
        confusion=None if kind == "multi_label" else _confusion(targets, predicted, len(names)),
        mistakes=_mistakes(targets, predicted, confidence.max(axis=1), names, paths),
    )


def wilson_interval(accuracy: float, num_trials: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share, which stays inside 0...1 and serves small numbers.

    Args:
        accuracy: Share of successes, 0...1.
        num_trials: Number of trials, at least 1.

    Example:
        >>> low, high = wilson_interval(0.85, 100)
        >>> round(low, 3), round(high, 3)
        (0.767, 0.907)

    Reference:
        Wilson (1927), as recommended in section 3.1.1 of Brown, Cai and DasGupta, Interval
        Estimation for a Binomial Proportion, https://doi.org/10.1214/ss/1009213286; without the
        continuity correction.
    """
    z = 1.959963984540054  # the normal distribution's 97.5 % quantile
    scale = 1 + z**2 / num_trials
    centre = (accuracy + z**2 / (2 * num_trials)) / scale
    spread = accuracy * (1 - accuracy) / num_trials + z**2 / (4 * num_trials**2)
    half = z * math.sqrt(spread) / scale
    # at 0 and at 1 the formula's end is the share itself, up to rounding
    return max(0.0, min(centre - half, accuracy)), min(1.0, max(centre + half, accuracy))


def _class_scores(
    targets: np.ndarray, predicted: np.ndarray, names: tuple[str, ...]
) -> tuple[ClassScore, ...]:
    columns = precision_recall_fscore_support(
        targets, predicted, labels=np.arange(len(names)), zero_division=0
    )
    return tuple(
        ClassScore(name, float(precision), float(recall), float(f1), int(count))
        for name, precision, recall, f1, count in zip(names, *columns, strict=True)
    )


def _confusion(targets: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    counts = confusion_matrix(targets, predicted, labels=np.arange(num_classes))
    return np.asarray(counts, np.int64)


def _mistakes(
    targets: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    names: tuple[str, ...],
    paths: Sequence[str] | None,
) -> tuple[Mistake, ...]:
    is_right = (targets == predicted).reshape(len(targets), -1).all(axis=1)
    wrong = np.flatnonzero(~is_right)
    worst_first = wrong[np.argsort(-confidence[wrong], kind="stable")]
    return tuple(
        Mistake(
            index=int(index),
            path=None if paths is None else paths[index],
            truth=_name(targets[index], names),
            predicted=_name(predicted[index], names),
            probability=float(confidence[index]),
        )
        for index in worst_first
    )


def _name(label: np.ndarray, names: tuple[str, ...]) -> str:
    """The name of a class number; of a row of 0/1 all names, joined."""
    if label.ndim == 0:
        return names[label]
    return ", ".join(names[index] for index in np.flatnonzero(label))


def _outputs_and_labels(
    model: keras.Model, dataset: tf.data.Dataset, total: int
) -> tuple[np.ndarray, np.ndarray]:
    forward = forward_of(model)
    outputs, labels = [], []
    with bar("evaluation", max(total, 0)) as advance:
        for images, batch_labels, *_ in dataset:
            outputs.append(forward(images).numpy())
            labels.append(np.asarray(batch_labels))
            advance(1)
    if not outputs:
        raise DataError("`images` must hold at least one image. Received: none.")
    return np.concatenate(outputs), np.concatenate(labels)


def _mean_loss(outputs: np.ndarray, targets: np.ndarray, kind: str, from_logits: bool) -> float:
    outputs = outputs.astype(np.float64)
    if kind == "softmax" or (kind == "binary" and not from_logits):
        log_shares = _log_softmax(outputs) if from_logits else _clipped_log(outputs)
        return float(-np.take_along_axis(log_shares, targets[:, np.newaxis], axis=1).mean())
    is_given = targets.reshape(outputs.shape) == 1
    if from_logits:
        return float(np.logaddexp(0, np.where(is_given, -outputs, outputs)).mean())
    return float(-np.where(is_given, _clipped_log(outputs), _clipped_log(1 - outputs)).mean())


def _shares(outputs: np.ndarray, kind: str, from_logits: bool) -> np.ndarray:
    """Probabilities of classes that exclude each other, `(n, num_classes)`."""
    if not from_logits:
        return outputs
    if kind == "binary":
        return _sigmoid(np.concatenate([-outputs, outputs], axis=1))
    return np.exp(_log_softmax(outputs.astype(np.float64)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


def _clipped_log(shares: np.ndarray) -> np.ndarray:
    return np.log(np.clip(shares, 1e-7, 1))
