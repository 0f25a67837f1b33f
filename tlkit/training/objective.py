"""The loss, metrics and targets for each kind of head."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.errors import ArgumentError, as_tuple
from tlkit.models.compiling import accuracy_of, cross_entropy_of
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.training.class_losses import FocalCrossentropy


def loss_of(
    model: keras.Model,
    label_smoothing: float = 0.0,
    *,
    mixes_labels: bool = False,
    gamma: float = 0.0,
    label_factors: np.ndarray | None = None,
) -> keras.losses.Loss:
    """Returns the loss that fits the model's head and the labels from `targets_of`.

    Args:
        model: A classifier.
        label_smoothing: Fraction of each label's probability that is distributed over all classes,
            0...1.
        mixes_labels: Whether the labels of a softmax head are rows of shares of the classes.
        gamma: Exponent of the focal loss; 0 for the cross-entropy.
        label_factors: Weights of images without and with each label of a multi-label head,
            `(num_labels, 2)`; `None` if all count the same.
    """
    if gamma or label_factors is not None:
        return FocalCrossentropy(
            head_kind(model),
            gamma=gamma,
            from_logits=outputs_logits(model),
            label_smoothing=label_smoothing,
            label_factors=label_factors,
            one_hot=mixes_labels,
        )
    if mixes_labels and head_kind(model) == "softmax":
        return keras.losses.CategoricalCrossentropy(
            from_logits=outputs_logits(model), label_smoothing=label_smoothing
        )
    if not label_smoothing:
        return cross_entropy_of(model)
    from_logits = outputs_logits(model)
    if head_kind(model) == "softmax":
        return SmoothedCrossentropy(label_smoothing, from_logits=from_logits)
    return keras.losses.BinaryCrossentropy(from_logits=from_logits, label_smoothing=label_smoothing)


class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy with label smoothing that takes integer labels, as the metrics do."""

    def __init__(self, label_smoothing: float, *, from_logits: bool) -> None:
        super().__init__(name="smoothed_crossentropy")
        self._settings = {"from_logits": from_logits, "label_smoothing": label_smoothing}

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each image, `(batch,)`."""
        labels = keras.ops.cast(keras.ops.reshape(y_true, [-1]), "int32")
        one_hot = keras.ops.one_hot(labels, y_pred.shape[-1])
        return keras.losses.categorical_crossentropy(one_hot, y_pred, **self._settings)

    def get_config(self) -> dict[str, object]:
        """Returns the arguments of `__init__`."""
        return dict(self._settings)


def check_loss(loss: Any, model: keras.Model) -> None:
    """Raises `ArgumentError` unless `loss` is `None` or a Keras loss that fits the outputs."""
    if loss is None:
        return
    if not isinstance(loss, keras.losses.Loss):
        raise ArgumentError(
            "`loss` must be a keras.losses.Loss, or None for the cross-entropy that fits the "
            f"head. Received: loss={loss!r}. Write for example loss=keras.losses.Hinge(), or wrap "
            "a function in a subclass."
        )
    from_logits = loss.get_config().get("from_logits")
    if from_logits is not None and from_logits != outputs_logits(model):
        wanted = "logits" if outputs_logits(model) else "probabilities"
        raise ArgumentError(
            f"`loss` must take the model's outputs, which are {wanted}. Received: "
            f"{type(loss).__name__} with from_logits={from_logits}. Create it with "
            f"from_logits={not from_logits}."
        )


def check_metrics(metrics: Any) -> tuple[keras.metrics.Metric, ...]:
    """Returns one metric or several as a tuple.

    Raises:
        ArgumentError: One of them is not a Keras metric.
    """
    given = as_tuple(metrics)
    for metric in given:
        if not isinstance(metric, keras.metrics.Metric):
            raise ArgumentError(
                "`metrics` must be objects of keras.metrics.Metric. Received: "
                f"metrics={metrics!r}. Write for example "
                "metrics=[keras.metrics.TopKCategoricalAccuracy(2)]; accuracy and cross-entropy "
                "are always measured."
            )
    return given


def takes_one_hot(loss: keras.losses.Loss) -> bool:
    """Whether the loss takes one-hot labels, as Keras's categorical losses do."""
    categorical = (
        keras.losses.CategoricalCrossentropy,
        keras.losses.CategoricalFocalCrossentropy,
        keras.losses.CategoricalHinge,
    )
    if isinstance(loss, FocalCrossentropy):
        return loss.one_hot
    return isinstance(loss, categorical)


def metrics_of(
    model: keras.Model, *, one_hot: bool = False, prefix: str = ""
) -> list[keras.metrics.Metric]:
    """Returns the metrics "accuracy" and "cross_entropy" (unsmoothed) for the head's kind.

    Args:
        model: A classifier.
        one_hot: Whether the labels of a softmax head are one-hot.
        prefix: The prefix of both names.
    """
    from_logits = outputs_logits(model)
    accuracy = f"{prefix}accuracy"
    crossed = {"from_logits": from_logits, "name": f"{prefix}cross_entropy"}
    if head_kind(model) != "softmax":
        return [accuracy_of(model, accuracy), keras.metrics.BinaryCrossentropy(**crossed)]
    if one_hot:
        return [
            keras.metrics.CategoricalAccuracy(name=accuracy),
            keras.metrics.CategoricalCrossentropy(**crossed),
        ]
    return [accuracy_of(model, accuracy), keras.metrics.SparseCategoricalCrossentropy(**crossed)]


def targets_of(
    labels: tf.Tensor | np.ndarray, model: keras.Model, *, one_hot: bool = False
) -> tf.Tensor:
    """Returns labels in the form that the loss takes.

    Args:
        labels: Integers, shape `(n,)` or `(n, 1)`; or one row per image, `(n, num_classes)`:
            one-hot for a softmax or binary head, 0/1 for each label of a multi-label head.
        model: A classifier, for its kind of head.
        one_hot: Whether to return one-hot labels for a softmax head.

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
