"""Loss, metric and targets that belong to each kind of head."""

import keras
import numpy as np
import tensorflow as tf

from tlkit.models.heads import head_kind, outputs_logits


def loss_of(model: keras.Model, label_smoothing: float = 0.0) -> keras.losses.Loss:
    """Returns the cross-entropy that fits the model's head.

    With `label_smoothing` (0...1, the share of each label that is spread over all classes) a
    softmax head's takes one-hot labels, see `targets_of`.
    """
    from_logits = outputs_logits(model)
    if head_kind(model) != "softmax":
        return keras.losses.BinaryCrossentropy(
            from_logits=from_logits, label_smoothing=label_smoothing
        )
    if label_smoothing:
        return keras.losses.CategoricalCrossentropy(
            from_logits=from_logits, label_smoothing=label_smoothing
        )
    return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)


def takes_one_hot(loss: keras.losses.Loss) -> bool:
    """Whether the loss is one of Keras's for one-hot labels."""
    categorical = (keras.losses.CategoricalCrossentropy, keras.losses.CategoricalFocalCrossentropy)
    return isinstance(loss, categorical)


def metrics_of(model: keras.Model, *, one_hot: bool = False) -> list[keras.metrics.Metric]:
    """Returns "accuracy" and "cross_entropy", the latter without smoothing, for the head's kind."""
    from_logits = outputs_logits(model)
    crossed = {"from_logits": from_logits, "name": "cross_entropy"}
    if head_kind(model) != "softmax":
        threshold = 0.0 if from_logits else 0.5
        return [
            keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold),
            keras.metrics.BinaryCrossentropy(**crossed),
        ]
    if one_hot:
        return [
            keras.metrics.CategoricalAccuracy(name="accuracy"),
            keras.metrics.CategoricalCrossentropy(**crossed),
        ]
    return [
        keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
        keras.metrics.SparseCategoricalCrossentropy(**crossed),
    ]


def targets_of(
    labels: tf.Tensor | np.ndarray, model: keras.Model, *, one_hot: bool = False
) -> tf.Tensor:
    """Returns labels in the form that the loss takes.

    Args:
        labels: Integers, shape `(n,)` or `(n, 1)`; or one row per image, `(n, num_classes)`:
            one-hot for a softmax or binary head, 0/1 for each label of a multi-label head.
        model: Decides between them.
        one_hot: Whether a softmax head's are wanted in that form.

    Returns:
        int64 `(n,)` or float32 `(n, num_classes)` for a softmax head, float32 `(n, 1)` or
        `(n, num_labels)` otherwise.
    """
    labels = tf.convert_to_tensor(labels)
    kind = head_kind(model)
    if kind == "multi_label":
        return tf.cast(labels, tf.float32)
    if labels.shape.rank == 2 and labels.shape[1] != 1:
        labels = tf.argmax(labels, axis=1)
    labels = tf.reshape(labels, [-1])
    if kind == "binary":
        return tf.cast(labels, tf.float32)[:, None]
    if one_hot:
        return tf.one_hot(tf.cast(labels, tf.int64), model.output_shape[-1])
    return tf.cast(labels, tf.int64)
