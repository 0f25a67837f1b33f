"""Evaluation of a classifier: accuracy, ROC-AUC, calibration, confusion and mistakes."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import confusion_matrix

from tlkit.data.images import ImageSplit
from tlkit.errors import ArgumentError, check_choice, check_count, quoted
from tlkit.evaluation.checks import check_outputs, check_targets
from tlkit.evaluation.class_scores import balanced_accuracy, score_classes
from tlkit.evaluation.intervals import wilson_interval
from tlkit.evaluation.label_scores import score_labels
from tlkit.evaluation.names import check_class_names, num_classes_of
from tlkit.evaluation.outputs import (
    collect_outputs,
    mean_loss,
    probabilities_from,
)
from tlkit.evaluation.ranking import RankingScore, score_ranking
from tlkit.evaluation.reliability import measure_reliability
from tlkit.evaluation.reports import ClassScore, EvaluationReport, Mistake
from tlkit.evaluation.thresholds import THRESHOLD, check_threshold, is_label
from tlkit.models.heads import head_kind, outputs_logits

KINDS = ("softmax", "binary", "multi_label")
DEFAULT_TOP_K = 5
"""The default `top_k` for more classes than that."""


def evaluate(
    model: keras.Model,
    images: ImageSplit | tf.data.Dataset,
    class_names: Sequence[str] | None = None,
    *,
    top_k: int | None = None,
    threshold: float | Sequence[float] = THRESHOLD,
    batch_size: int | None = None,
) -> EvaluationReport:
    """Evaluates `model` on labelled images in one pass.

    Every figure has a 95 % confidence interval where one can be computed, see `EvaluationReport`. A
    model created under a strategy runs on all its devices; several machines each evaluate a shard
    of a split's images, and all return the complete report. Pixels are not kept in memory.

    Args:
        model: A model from pixels 0...255 to logits or probabilities.
        images: A split; or a dataset of batches `(images, labels)` or `(images, labels, weights)`,
            with images `(batch, height, width, 3)` and labels that are whole numbers `(batch,)`,
            one-hot rows, or rows of 0/1 for a multi-label head. Weights are ignored: every image
            counts once.
        class_names: The class names in the order of the model's outputs; "0", "1", ... by default.
        top_k: The k of the top-k accuracy; by default 5 if there are more than 5 classes.
        threshold: The probability, 0...1, from which a multi-label head assigns a label: one for
            all labels, or one for each in the order of the outputs.
        batch_size: Images per forward pass; the split's own by default. Not for a dataset, which
            has its own batches.

    Raises:
        ArgumentError: If there are too many or too few `class_names`; if a dataset is not batched
            or is infinite; if the model's outputs are not finite; if `top_k` is not below the
            number of classes, or the head is not a softmax head.
        DataError: If there are no images; if labels are not among the model's classes.

    Example:
        >>> import keras, tensorflow as tf, tlkit
        >>> model = keras.Sequential(
        ...     [keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
        >>> dataset = tf.data.Dataset.from_tensor_slices((tf.zeros((4, 2, 2, 3)), [0, 0, 0, 2]))
        >>> report = tlkit.evaluate(model, dataset.batch(2), ["cat", "dog", "owl"])
        >>> report.accuracy, report.balanced_accuracy
        (0.75, 0.5)
    """
    kind, num_classes = head_kind(model), num_classes_of(model)
    if class_names is None:
        class_names = [str(index) for index in range(num_classes)]
    names = check_class_names(class_names, num_classes)
    _check_top_k(top_k, kind, num_classes)
    check_threshold(threshold, num_classes)
    (outputs,), labels = collect_outputs([model], images, batch_size=batch_size)
    return evaluate_probabilities(
        outputs,
        labels,
        names,
        kind=kind,
        from_logits=outputs_logits(model),
        paths=images.paths if isinstance(images, ImageSplit) else None,
        top_k=top_k,
        threshold=threshold,
    )


def evaluate_probabilities(
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    kind: str = "softmax",
    from_logits: bool = False,
    paths: Sequence[str] | None = None,
    top_k: int | None = None,
    threshold: float | Sequence[float] = THRESHOLD,
) -> EvaluationReport:
    """Evaluates given outputs against labels.

    The loss is computed in float64, from the logits where they are given; from probabilities,
    which are first clipped to 1e-7...1, as Keras does.

    Args:
        probabilities: `(n, num_classes)`, 0...1; for a binary head `(n, 2)`, [1 - p, p]. With
            `from_logits=True` logits: `(n, num_classes)`, for a binary head `(n, 1)`.
        labels: Whole numbers `(n,)` or one-hot rows; for a multi-label head rows of 0/1.
        class_names: The class names in the order of the outputs.
        kind: The kind of head: "softmax", "binary" or "multi_label".
        from_logits: Whether `probabilities` are logits.
        paths: The file of each image, for the list of mistakes.
        top_k: As for `evaluate`.
        threshold: As for `evaluate`.

    Raises:
        ArgumentError: If the outputs do not match `class_names` or are not finite; if `top_k` or
            `threshold` is invalid.
        DataError: If there are no images; if labels are not among the classes.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.metrics import evaluate_probabilities
        >>> print(evaluate_probabilities(
        ...     np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), ["ant", "bee"]))
        accuracy 50.0 % (n = 2, 95 % CI 9.5-90.5), loss 0.8574
        balanced accuracy 50.0 % (95 % CI 2.6-97.4)
        ROC-AUC 1.000
        expected calibration error 45.0 % (too few images to compare it with chance)
        class  precision  recall         95 % CI      F1  images
        ant        0.500   1.000  0.207 to 1.000   0.667       1
        bee        0.000   0.000  0.000 to 0.793   0.000       1
        no interval for ROC-AUC: it needs 10 images of each class and 10 others
    """
    check_choice("kind", kind, KINDS)
    outputs = np.asarray(probabilities)
    check_outputs(outputs, 1 if kind == "binary" and from_logits else len(class_names), kind)
    names = check_class_names(class_names, 2 if kind == "binary" else outputs.shape[1])
    _check_top_k(top_k, kind, len(names))
    targets = check_targets(labels, kind, len(outputs), len(names))
    scores = probabilities_from(outputs, kind, from_logits)
    thresholds, of_labels = check_threshold(threshold, len(names)), None
    if kind == "multi_label":
        is_class = targets == 1
        predicted = is_label(scores, thresholds).astype(np.int64)
        of_labels = score_labels(targets, scores, thresholds)
        confidence = np.where(predicted == targets, 0, np.where(predicted, scores, 1 - scores))
        reliability = measure_reliability(scores.ravel(), is_class.ravel(), independent=False)
    else:
        is_class = targets[:, np.newaxis] == np.arange(len(names))
        predicted = scores.argmax(axis=1)
        confidence = scores
        reliability = measure_reliability(scores.max(axis=1), predicted == targets)
        if top_k is None and kind == "softmax" and len(names) > DEFAULT_TOP_K:
            top_k = DEFAULT_TOP_K
    accuracy = float(np.mean(predicted == targets))
    ranking = score_ranking(is_class, scores)
    per_class = score_classes(targets, predicted, names, ranking.per_class)
    balanced, balanced_interval = balanced_accuracy(is_class, predicted, kind)
    top_k_accuracy = None if top_k is None else _top_k_accuracy(scores, targets, top_k)
    return EvaluationReport(
        kind=kind,
        num_images=len(targets),
        accuracy=accuracy,
        interval=wilson_interval(accuracy, len(targets)),
        loss=mean_loss(outputs, targets, kind, from_logits),
        balanced_accuracy=balanced,
        balanced_interval=balanced_interval,
        top_k=top_k,
        top_k_accuracy=top_k_accuracy,
        top_k_interval=(
            None if top_k_accuracy is None else wilson_interval(top_k_accuracy, len(targets))
        ),
        roc_auc=ranking.mean,
        roc_auc_interval=ranking.interval,
        reliability=reliability,
        per_class=per_class,
        confusion=None if kind == "multi_label" else _confusion(targets, predicted, len(names)),
        mistakes=_mistakes(targets, predicted, confidence.max(axis=1), names, paths),
        notes=tuple(_notes(per_class, ranking)),
        labels=of_labels,
    )


def _check_top_k(top_k: int | None, kind: str, num_classes: int) -> None:
    if top_k is None:
        return
    check_count("top_k", top_k)
    if kind != "softmax":
        raise ArgumentError(
            f"`top_k` must be left out for a head of the kind {kind!r}, as top-k accuracy is "
            f"defined for softmax heads only. Received: top_k={top_k}. Leave it out."
        )
    if top_k >= num_classes:
        raise ArgumentError(
            f"`top_k` must be below the number of classes, {num_classes}. Received: "
            f"top_k={top_k}. Give a smaller one: all images would count as correct."
        )


def _top_k_accuracy(scores: np.ndarray, targets: np.ndarray, top_k: int) -> float:
    highest = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return float((highest == targets[:, np.newaxis]).any(axis=1).mean())


def _notes(per_class: tuple[ClassScore, ...], ranking: RankingScore) -> list[str]:
    notes = []
    absent = [score.name for score in per_class if not score.num_images]
    if absent:
        notes.append(
            f"no images of {quoted(absent, 3)}: balanced accuracy and ROC-AUC are means over the "
            "other classes"
        )
    if ranking.remark:
        notes.append(ranking.remark)
    return notes


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
    is_correct = (targets == predicted).reshape(len(targets), -1).all(axis=1)
    wrong = np.flatnonzero(~is_correct)
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
    """Returns the name of a class number, or the joined names of a row of 0/1."""
    if label.ndim == 0:
        return names[label]
    return ", ".join(names[index] for index in np.flatnonzero(label))
