"""A model's outputs on images, and probabilities and losses computed from them."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.images import ImageSplit
from tlkit.data.missing_files import missing_files_named
from tlkit.distribution.lost_workers import lost_worker_named
from tlkit.distribution.strategies import workers_of
from tlkit.distribution.workers import Workers, check_can_be_sharded
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.data_checks import check_images
from tlkit.evaluation.forward import forward_of
from tlkit.evaluation.thresholds import THRESHOLD
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.utils.progress import bar

"""Probability from which a multi-label head assigns a label."""


def collect_outputs(
    models: Sequence[keras.Model],
    images: ImageSplit | tf.data.Dataset,
    *,
    batch_size: int | None = None,
    description: str = "evaluation",
) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns each model's outputs for the same images, and their labels, in one pass.

    Several workers each process a shard of the images, and all return the outputs of all images.

    Args:
        models: Models of pixels 0...255; all take images of the same size.
        images: A split, or a dataset of batches `(images, labels)` or `(images, labels, weights)`.
        batch_size: Images per forward pass; for a split only.
        description: The label of the progress bar.

    Returns:
        The outputs of each model, `(n, num_outputs)`; for a binary head with a sigmoid `(n, 2)`, [1
        - p, p]. And the labels as given.

    Raises:
        ArgumentError: If images and models do not fit, a dataset is not batched or is infinite, or
            workers have different images.
        DataError: If there are no images.
    """
    outputs, labels, _ = collect_weighted(
        models, images, batch_size=batch_size, description=description
    )
    return outputs, labels


def collect_weighted(
    models: Sequence[keras.Model],
    images: ImageSplit | tf.data.Dataset,
    *,
    batch_size: int | None = None,
    description: str = "evaluation",
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray | None]:
    """Returns the result of `collect_outputs` and the images' weights, `(n,)`, if there are any.

    Everything comes from one pass, as a dataset may have another order in the next.
    """
    workers = max(map(workers_of, models), key=lambda one: one.num_replicas)
    for model in models:
        images = check_images("images", images, model)
    if isinstance(images, ImageSplit):
        with lost_worker_named(workers):
            workers.check_same("images", [images.digests, images.labels.tolist()])
        rows = np.arange(images.num_images)[workers.index :: workers.num_workers]
        with missing_files_named([images]):
            dataset = images.dataset(shuffle=False, indices=rows, batch_size=batch_size)
        total: int | None = len(rows)
    else:
        check_can_be_sharded("images", workers)
        if batch_size is not None:
            raise ArgumentError(
                "`batch_size` must be left out for a dataset, which has its own batches. "
                f"Received: batch_size={batch_size!r}. Use `dataset.rebatch(...)`."
            )
        dataset, total = images, None
    forwards = [forward_of(model) for model in models]
    outputs: list[list[np.ndarray]] = [[] for _ in models]
    labels: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    with missing_files_named([images]), bar(description, total, "images") as advance:
        for batch, batch_labels, *extras in dataset:
            for forward, collected in zip(forwards, outputs, strict=True):
                collected.append(forward(batch).numpy())
            labels.append(np.asarray(batch_labels))
            weights.extend(np.asarray(one).reshape(-1) for one in extras)
            advance(len(labels[-1]))
    if isinstance(images, ImageSplit) and workers.num_workers > 1 and images.num_images:
        with lost_worker_named(workers):
            merged = [
                _merge_workers(workers, collected, images.num_images, model)
                for collected, model in zip(outputs, models, strict=True)
            ]
        return merged, images.labels, None
    if not labels:
        raise DataError("`images` must contain at least one image. Received: none. Add images.")
    columns = [
        as_two_columns(np.concatenate(collected), model)
        for collected, model in zip(outputs, models, strict=True)
    ]
    return columns, np.concatenate(labels), np.concatenate(weights) if weights else None


def _merge_workers(
    workers: Workers, extras: Sequence[np.ndarray], num_images: int, model: keras.Model
) -> np.ndarray:
    """Merges the outputs of all workers, each of which has every n-th image."""
    merged = np.zeros((num_images, model.output_shape[-1]), np.float32)
    if extras:
        merged[workers.index :: workers.num_workers] = np.concatenate(extras)
    return as_two_columns(workers.merge(merged), model)


def probabilities_from(outputs: np.ndarray, kind: str, from_logits: bool) -> np.ndarray:
    """Returns probabilities `(n, num_classes)`; those from logits are float64.

    Args:
        outputs: `(n, num_classes)`; logits of a binary head `(n, 1)`.
        kind: The head: "softmax", "binary" or "multi_label".
        from_logits: Whether `outputs` are logits; otherwise they are returned unchanged.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.outputs import probabilities_from
        >>> probabilities_from(np.array([[0.0]]), "binary", True).tolist()
        [[0.5, 0.5]]
    """
    if not from_logits:
        return outputs
    if kind == "softmax":
        return np.exp(log_softmax(outputs.astype(np.float64)))
    if kind == "binary":
        outputs = np.concatenate([-outputs, outputs], axis=1)
    return np.exp(-np.logaddexp(0, -outputs.astype(np.float64)))


def mean_loss(outputs: np.ndarray, targets: np.ndarray, kind: str, from_logits: bool) -> float:
    """Returns the mean cross-entropy in nats, computed in float64.

    Probabilities are first clipped to 1e-7...1, as in Keras. For a multi-label head the mean is
    over label decisions, otherwise over images.

    Args:
        outputs: As for `probabilities_from`.
        targets: Whole numbers `(n,)`; for a multi-label head rows of 0/1.
        kind: The head: "softmax", "binary" or "multi_label".
        from_logits: Whether `outputs` are logits.
    """
    return float(decision_losses(outputs, targets, kind, from_logits).mean())


def image_losses(
    outputs: np.ndarray, targets: np.ndarray, kind: str, from_logits: bool
) -> np.ndarray:
    """Returns the cross-entropy of each image, `(n,)`, of which `mean_loss` is the mean."""
    return decision_losses(outputs, targets, kind, from_logits).mean(axis=1)


def image_accuracies(
    outputs: np.ndarray, targets: np.ndarray, kind: str, from_logits: bool
) -> np.ndarray:
    """Returns the accuracy of each image, `(n,)`: 0 or 1, or the fraction of correct labels.

    A multi-label head assigns a label from a probability of 0.5.
    """
    return decision_accuracies(outputs, targets, kind, from_logits).mean(axis=1)


def decision_accuracies(
    outputs: np.ndarray, targets: np.ndarray, kind: str, from_logits: bool
) -> np.ndarray:
    """Returns 1 for each correct decision, else 0: `(n, 1)`, or `(n, num_labels)`."""
    probabilities = probabilities_from(outputs, kind, from_logits)
    if kind == "multi_label":
        return ((probabilities >= THRESHOLD) == (targets == 1)).astype(np.float64)
    return (probabilities.argmax(axis=1) == targets).astype(np.float64)[:, np.newaxis]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the log-softmax of each row, `(n, num_classes)`."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def decision_losses(
    outputs: np.ndarray, targets: np.ndarray, kind: str, from_logits: bool
) -> np.ndarray:
    """Returns the loss of each decision: `(n, 1)`, or `(n, num_labels)`."""
    outputs = outputs.astype(np.float64)
    if kind == "softmax" or (kind == "binary" and not from_logits):
        log_probabilities = log_softmax(outputs) if from_logits else _clipped_log(outputs)
        return -np.take_along_axis(log_probabilities, targets[:, np.newaxis], axis=1)
    is_positive = targets.reshape(outputs.shape) == 1
    if from_logits:
        return np.asarray(np.logaddexp(0, np.where(is_positive, -outputs, outputs)))
    return -np.where(is_positive, _clipped_log(outputs), _clipped_log(1 - outputs))


def as_two_columns(outputs: np.ndarray, model: keras.Model) -> np.ndarray:
    """Returns the outputs of a binary head with a sigmoid as [1 - p, p], others unchanged."""
    if head_kind(model) == "binary" and not outputs_logits(model):
        return np.concatenate([1 - outputs, outputs], axis=1)
    return outputs


def _clipped_log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.clip(probabilities, 1e-7, 1))
