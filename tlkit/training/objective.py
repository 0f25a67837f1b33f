"""Loss, metric and targets that belong to each kind of head."""

import keras
import numpy as np
import tensorflow as tf

from tlkit.models.heads import head_kind, outputs_logits


def loss_of(model: keras.Model) -> keras.losses.Loss:
    """Returns the cross-entropy that fits the model's head."""
    from_logits = outputs_logits(model)
    if head_kind(model) == "softmax":
        return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    return keras.losses.BinaryCrossentropy(from_logits=from_logits)


def accuracy_of(model: keras.Model) -> keras.metrics.Metric:
    """Returns the accuracy, named "accuracy", that fits the model's head."""
    if head_kind(model) == "softmax":
        return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    threshold = 0.0 if outputs_logits(model) else 0.5
    return keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold)


def targets_of(labels: tf.Tensor | np.ndarray, model: keras.Model) -> tf.Tensor:
    """Returns labels in the form that the loss takes.

    Args:
        labels: Integers, shape `(n,)` or `(n, 1)`; or one row per image, `(n, num_classes)`:
            one-hot for a softmax or binary head, 0/1 for each label of a multi-label head.
        model: Decides between them.

    Returns:
        int64 `(n,)` for a softmax head, float32 `(n, 1)` or `(n, num_labels)` otherwise.
    """
    labels = tf.convert_to_tensor(labels)
    kind = head_kind(model)
    if kind == "multi_label":
        return tf.cast(labels, tf.float32)
    if labels.shape.rank == 2 and labels.shape[1] != 1:
        labels = tf.argmax(labels, axis=1)
    labels = tf.reshape(labels, [-1])
    return tf.cast(labels, tf.float32)[:, None] if kind == "binary" else tf.cast(labels, tf.int64)
